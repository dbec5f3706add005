#include "core/profile.h"

#include <algorithm>
#include <map>
#include <tuple>

#include "core/error.h"

namespace tpo {

using Kind = ProfileEvent::Kind;

void Profiler::begin(Kind kind, std::string_view name, int64_t now_ns) {
  ProfileEvent event;
  event.kind = kind;
  event.name = name;
  event.parent = open_.empty() ? -1 : open_.back();
  event.begin_ns = now_ns;
  open_.push_back(static_cast<int32_t>(events_.size()));
  events_.push_back(event);
  unnamed_ = events_.size();
}

void Profiler::end(int64_t now_ns) {
  TPO_ASSERT(!open_.empty());
  ProfileEvent& event = events_[static_cast<size_t>(open_.back())];
  event.duration_ns = now_ns - event.begin_ns;
  open_.pop_back();
  unnamed_ = events_.size();
}

void Profiler::add_kernel(std::string_view name, int64_t begin_ns, int64_t end_ns, const Cost& cost) {
  const int32_t parent = open_.empty() ? -1 : open_.back();
  std::string_view op;
  if (parent >= 0 && events_[static_cast<size_t>(parent)].kind == Kind::kBackward)
    op = events_[static_cast<size_t>(parent)].name;
  events_.push_back({Kind::kKernel, name, op, parent, begin_ns, end_ns - begin_ns, cost});
}

void Profiler::op_ended(std::string_view op) {
  for (; unnamed_ < events_.size(); ++unnamed_) events_[unnamed_].op = op;  // kernels only, of one region
}

ProfilerScope::ProfilerScope(Profiler* profiler, Stream& stream) : stream_(stream), previous_(stream.profiler()) {
  if (profiler != nullptr) stream_.set_profiler(profiler);
}

ProfilerScope::~ProfilerScope() { stream_.set_profiler(previous_); }

namespace {

ProfileRow::Kind row_kind(Kind kind) {
  if (kind == Kind::kKernel) return ProfileRow::Kind::kKernel;
  return kind == Kind::kWait ? ProfileRow::Kind::kWait : ProfileRow::Kind::kOutside;
}

// "linear (backward)": in the closure of the op's own node. An op that ran again inside a node was recomputed.
std::string op_of(const ProfileEvent& kernel, std::span<const ProfileEvent> events) {
  std::string op(kernel.op);
  if (op.empty() || kernel.parent < 0) return op;
  const ProfileEvent& around = events[static_cast<size_t>(kernel.parent)];
  if (around.kind == Kind::kBackward) op += around.name == kernel.op ? " (backward)" : " (recomputed)";
  return op;
}

// Per event, the event whose name is its phase.
std::vector<size_t> phases_of(std::span<const ProfileEvent> events) {
  std::vector<size_t> phase(events.size());
  for (size_t i = 0; i < events.size(); ++i) {
    const auto parent = static_cast<size_t>(events[i].parent);
    const bool divides = events[i].kind == Kind::kRegion || events[i].kind == Kind::kWait;
    const bool below_outermost = events[i].parent >= 0 && events[parent].parent < 0;
    phase[i] = events[i].parent < 0 || (divides && below_outermost) ? i : phase[parent];
  }
  return phase;
}

}  // namespace

std::vector<ProfileRow> profile_rows(std::span<const ProfileEvent> events) {
  std::vector<int64_t> self_ns(events.size());
  for (size_t i = 0; i < events.size(); ++i) {
    self_ns[i] = events[i].duration_ns;
    if (events[i].parent >= 0) self_ns[static_cast<size_t>(events[i].parent)] -= events[i].duration_ns;
  }
  const std::vector<size_t> phase = phases_of(events);
  std::map<std::tuple<ProfileRow::Kind, std::string, std::string, std::string>, ProfileRow> rows;
  for (size_t i = 0; i < events.size(); ++i) {
    const ProfileEvent& e = events[i];
    ProfileRow key;
    key.kind = row_kind(e.kind);
    key.phase = events[phase[i]].name;
    key.op = e.kind == Kind::kKernel ? op_of(e, events) : "";
    key.name = key.kind == ProfileRow::Kind::kOutside ? "outside kernels" : e.name;
    ProfileRow& row = rows.try_emplace({key.kind, key.phase, key.op, key.name}, key).first->second;
    row.calls += key.kind != ProfileRow::Kind::kOutside;
    row.ns += self_ns[i];
    row.cost.flops += e.cost.flops;
    row.cost.read_bytes += e.cost.read_bytes;
    row.cost.write_bytes += e.cost.write_bytes;
  }
  std::vector<ProfileRow> out;
  for (auto& [key, row] : rows) out.push_back(std::move(row));
  std::stable_sort(out.begin(), out.end(), [](const ProfileRow& a, const ProfileRow& b) { return a.ns > b.ns; });
  return out;
}

int64_t total_ns(std::span<const ProfileEvent> events) {
  int64_t total = 0;
  for (const ProfileEvent& e : events) total += e.parent < 0 ? e.duration_ns : 0;
  return total;
}

}  // namespace tpo
