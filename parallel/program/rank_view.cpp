#include "parallel/program/rank_view.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <type_traits>

#include "core/error.h"

namespace tpo {
namespace {

static_assert(std::is_trivially_copyable_v<RankFacts> && std::is_trivially_copyable_v<GroupView>);

constexpr double kSoon_s = 0.1;  // operations that get done in this time are not looked at

double age(int64_t since_ns) { return static_cast<double>(steady_ns() - since_ns) * 1e-9; }

OpView op_view(const EventRecord& record) {
  OpView v;
  if (record.load(&v.e)) v.age_s = age(v.e.time_ns);
  return v;
}

GroupView group_view(const RingGroup& g) {
  GroupView v;
  v.id = g.id.load(std::memory_order_acquire);
  v.completed = g.completed.load(std::memory_order_acquire);
  v.issued = g.issued.load(std::memory_order_acquire);
  std::memcpy(v.name, g.name, sizeof v.name);
  v.rank = g.rank, v.size = g.size, v.run_count = g.run_count;
  std::copy(std::begin(g.runs), std::end(g.runs), v.runs);
  v.oldest = op_view(g.pending[v.completed % kRingPending]);
  if (v.oldest.e.seq != v.completed) v.oldest = {};
  if (const int64_t since = g.wait_since_ns.load(std::memory_order_acquire); since != 0) {
    v.wait = op_view(g.wait);
    v.wait.age_s = age(since);
  }
  for (const EventRecord& m : g.messages)
    if (const OpView o = op_view(m); o.e.index != 0) v.messages[v.message_count++] = o;
  return v;
}

}  // namespace

const GroupView* RankView::group(uint64_t id) const {
  const auto it = std::find_if(groups.begin(), groups.end(), [&](const GroupView& g) { return g.id == id; });
  return it == groups.end() ? nullptr : &*it;
}

std::string pack_views(const std::vector<RankView>& views) {
  std::string out(reinterpret_cast<const char*>(&kRingMagic), sizeof kRingMagic);
  for (const RankView& v : views) {
    out.append(reinterpret_cast<const char*>(&v.facts), sizeof v.facts);
    out.append(reinterpret_cast<const char*>(v.groups.data()), v.groups.size() * sizeof(GroupView));
  }
  return out;
}

std::vector<RankView> parse_views(const std::string& bytes) {
  std::vector<RankView> views;
  const char *p = bytes.data(), *end = p + bytes.size();
  const auto take = [&](void* to, size_t n) {
    if (static_cast<size_t>(end - p) < n) return false;
    std::memcpy(to, p, n);
    p += n;
    return true;
  };
  uint64_t magic = 0;
  if (!take(&magic, sizeof magic) || magic != kRingMagic) return {};
  while (p < end) {
    RankView& v = views.emplace_back();
    if (!take(&v.facts, sizeof v.facts) || v.facts.group_count < 0 || v.facts.group_count > kRingGroups) return {};
    v.groups.resize(static_cast<size_t>(v.facts.group_count));
    if (!v.groups.empty() && !take(v.groups.data(), v.groups.size() * sizeof(GroupView))) return {};
  }
  return views;
}

std::unique_ptr<RingReader> RingReader::open(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return nullptr;
  struct stat info {};
  void* at = MAP_FAILED;
  if (fstat(fd, &info) == 0 && info.st_size == static_cast<off_t>(sizeof(RingLayout)))
    at = mmap(nullptr, sizeof(RingLayout), PROT_READ, MAP_SHARED, fd, 0);
  close(fd);
  if (at == MAP_FAILED) return nullptr;
  auto reader = std::unique_ptr<RingReader>(new RingReader(static_cast<const RingLayout*>(at)));
  return reader->header().magic == kRingMagic ? std::move(reader) : nullptr;
}

RingReader::~RingReader() { munmap(const_cast<RingLayout*>(layout_), sizeof(RingLayout)); }

RankView RingReader::view() const {
  const RingHeader& h = layout_->header;
  RankView v;
  RankFacts& f = v.facts;
  f.rank = h.rank, f.world = h.world, f.pid = h.pid;
  f.step = h.step, f.steps_here = h.steps_here;
  f.longest_step_s = static_cast<double>(h.longest_step_ns.load()) * 1e-9;
  std::memcpy(f.host, h.host, sizeof f.host);
  f.end = static_cast<RankEnd>(h.end.load(std::memory_order_acquire));
  f.exit_code = h.exit_code, f.signal = h.signal;
  if (f.end == RankEnd::kError) std::memcpy(f.error, h.error, sizeof f.error);
  if (f.end == RankEnd::kFinished) f.life = Life::kFinished;
  if (f.end == RankEnd::kError) f.life = Life::kFailed;
  if (const OpView phase = op_view(h.phase); phase.e.index != 0) {
    std::memcpy(f.phase, phase.e.text, sizeof f.phase);
    f.phase_s = phase.age_s;
  }
  f.slow_phase = h.phase_is_slow != 0;
  if (const int64_t since = h.loader_since_ns; since != 0) f.loader_s = age(since);
  for (const EventRecord& r : h.reading) {
    const OpView o = op_view(r);
    if (o.e.index != 0 && (f.reading.e.index == 0 || o.age_s > f.reading.age_s)) f.reading = o;
  }
  for (int slot = 0; slot < kRingGroups; ++slot) {
    const RingGroup& g = layout_->groups[slot];
    if (g.id.load(std::memory_order_acquire) == 0) continue;
    GroupView& view = v.groups.emplace_back(group_view(g));
    if (view.oldest.age_s > kSoon_s || f.end == RankEnd::kError) view.fit = fit(view.oldest.e);
  }
  f.group_count = static_cast<int32_t>(v.groups.size());
  return v;
}

Fit RingReader::fit(const Event& issued) const {
  if (issued.order == 0) return {};
  const auto& next = layout_->header.next_order;
  const uint64_t all = next.load(std::memory_order_acquire);
  const uint64_t end = all - (static_cast<uint32_t>(all) - issued.order);
  std::vector<uint64_t> words;
  for (uint64_t i = end - std::min(end, kRingHistory); i < end; ++i)
    words.push_back(layout_->history[i % kRingHistory].load(std::memory_order_acquire));
  // The rank writes on: what lies before the history of now may be of now.
  const uint64_t now = next.load(std::memory_order_acquire), first = end - words.size();
  const uint64_t lost = now > kRingHistory + first ? now - kRingHistory - first : 0;
  if (lost >= words.size()) return {};
  return fit_of(std::span(words).subspan(lost));
}

std::vector<Event> RingReader::events() const {
  std::vector<Event> all;
  for (uint64_t i = 0; i < kRingEvents; ++i) {
    Event e;
    if (layout_->events[i].load(&e) && (e.index - 1) % kRingEvents == i) all.push_back(e);
  }
  std::sort(all.begin(), all.end(), [](const Event& a, const Event& b) { return a.index < b.index; });
  return all;
}

std::vector<SampleList> RingReader::samples() const {
  std::vector<SampleList> all;
  for (const auto& record : layout_->samples)
    if (SampleList s; record.load(&s)) all.push_back(s);
  std::sort(all.begin(), all.end(), [](const SampleList& a, const SampleList& b) { return a.index < b.index; });
  return all;
}

std::string text_of_op(const Event& e, bool with_size) {
  std::string s = name_of(e.op);
  s += e.collective()
           ? cat(" #", e.seq)
           : cat(e.op == CommOp::kSend ? " to" : " from", " rank ", e.peer, " of the group, tag ", e.tag, ",");
  if (e.hash == 0) return s + " (not remembered)";
  s += cat(" of '", e.text, "'");
  if (with_size) s += cat(" (", e.count, " ", e.dtype, ")");
  return s;
}

std::string RingReader::text_of(const Event& e) const {
  const RingHeader& h = layout_->header;
  const int64_t wall_ms = (h.start_wall_ns + e.time_ns - h.start_ns) / 1000000;
  const std::time_t seconds = wall_ms / 1000;
  std::tm utc{};
  gmtime_r(&seconds, &utc);
  char clock[64];
  std::snprintf(clock, sizeof clock, "%02d:%02d:%02d.%03d +%.6f", utc.tm_hour, utc.tm_min, utc.tm_sec,
                static_cast<int>(wall_ms % 1000), static_cast<double>(e.time_ns - h.start_ns) * 1e-9);
  std::string s = cat(clock, " step ", e.step, " ", name_of(e.kind));
  if (e.group == 255) return e.text[0] != 0 ? cat(s, " ", e.text) : s;
  const std::string group = e.group < kRingGroups ? layout_->groups[e.group].name : "?";
  return cat(s, " ", text_of_op(e, true), " in ", group);
}

}  // namespace tpo
