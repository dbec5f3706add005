#include "parallel/program/event_ring.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "core/error.h"
#include "core/rng.h"
#include "parallel/program/habit.h"

namespace tpo {
namespace {

std::atomic<EventRing*> g_ring{nullptr};  // of this process: its threads find it without being handed it

constexpr auto kRelaxed = std::memory_order_relaxed;

// A sum in which every word has its own odd factor, so that exchanged or half-written words show.
uint64_t checksum(const uint64_t* words, int n) {
  uint64_t sum = 0x9e3779b97f4a7c15ull;
  for (int i = 0; i < n; ++i)
    sum += (words[i] ^ (words[i] >> 29)) * (0xd6e8feb86659fd93ull + 2 * static_cast<uint64_t>(i));
  return sum;
}

template <size_t N>
void copy_text(char (&to)[N], std::string_view from) {
  const size_t n = std::min(from.size(), N - 1);
  std::memcpy(to, from.data(), n);
  to[n] = 0;
}

Event event_of(EventKind kind, const CommRequest& r) {
  Event e;
  e.kind = kind;
  e.seq = r.seq, e.count = r.count;
  e.op = r.op, e.dtype = r.dtype;
  e.group = static_cast<uint8_t>(r.watched);
  e.peer = r.peer, e.tag = r.tag;
  e.hash = r.hash;
  copy_text(e.text, r.what);
  return e;
}

}  // namespace

const char* name_of(EventKind kind) {
  constexpr const char* kNames[] = {
      "none",   "issued", "begun",     "done",       "failed",          "wait",        "wait over",
      "phase",  "step",   "step over", "checkpoint", "checkpoint over", "loader wait", "loader wait over",
      "reading"};
  return static_cast<size_t>(kind) < std::size(kNames) ? kNames[static_cast<size_t>(kind)] : "?";
}

template <int N>
void Sealed<N>::store(const void* value) {
  uint64_t copy[N];
  std::memcpy(copy, value, sizeof copy);
  for (int i = 0; i < N; ++i) words[static_cast<size_t>(i)].store(copy[i], kRelaxed);
  words[N].store(checksum(copy, N), std::memory_order_release);
}

template <int N>
bool Sealed<N>::load(void* value) const {
  uint64_t copy[N];
  const uint64_t sum = words[N].load(std::memory_order_acquire);
  for (int i = 0; i < N; ++i) copy[i] = words[static_cast<size_t>(i)].load(kRelaxed);
  if (copy[0] == 0 || sum != checksum(copy, N)) return false;
  std::memcpy(value, copy, sizeof copy);
  return true;
}

template struct Sealed<kEventWords>;
template struct Sealed<kSampleWords>;

int64_t steady_ns() { return std::chrono::steady_clock::now().time_since_epoch() / std::chrono::nanoseconds(1); }

ProcessState process_state(int64_t pid) {
  ProcessState state;
  char path[48], line[512] = {};
  std::snprintf(path, sizeof path, "/proc/%lld/stat", static_cast<long long>(pid));
  const int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return state;
  const ssize_t n = read(fd, line, sizeof line - 1);
  close(fd);
  const char* p = n > 0 ? std::strrchr(line, ')') : nullptr;  // the name before it may hold anything
  if (p == nullptr) return state;
  p += 2;
  state.state = *p;
  for (int field = 3; field < 22 && p != nullptr; ++field) {  // proc(5): 3 is the state, 22 the start
    p = std::strchr(p, ' ');
    if (p != nullptr) ++p;
  }
  if (p != nullptr) state.start_ticks = std::atoll(p);
  return state;
}

std::vector<RankRun> runs_of(std::span<const int> ranks) {
  std::vector<RankRun> runs;
  for (size_t i = 0; i < ranks.size();) {
    RankRun run{ranks[i], i + 1 < ranks.size() ? ranks[i + 1] - ranks[i] : 1, 1};
    while (i + 1 < ranks.size() && ranks[i + 1] - ranks[i] == run.stride) ++run.count, ++i;
    ++i;
    if (runs.size() == kRingRuns) return {};
    runs.push_back(run);
  }
  return runs;
}

std::vector<int> ranks_of(std::span<const RankRun> runs) {
  std::vector<int> ranks;
  for (const RankRun& run : runs)
    for (int i = 0; i < run.count; ++i) ranks.push_back(run.first + i * run.stride);
  return ranks;
}

uint64_t operation_hash(std::string_view group, CommOp op, DType dtype, int64_t count, std::string_view what) {
  const uint64_t kind = static_cast<uint64_t>(op) << 8 | static_cast<uint64_t>(dtype);
  const uint64_t size = static_cast<uint64_t>(count);
  return mix64(hash_name(group) ^ mix64(kind ^ hash_name(what))) >> 32 << 32 | ((size ^ size >> 32) & 0xffffffffu);
}

EventRing* EventRing::of_process() { return g_ring.load(std::memory_order_acquire); }
void EventRing::set_of_process(EventRing* ring) { g_ring.store(ring, std::memory_order_release); }

std::unique_ptr<EventRing> EventRing::create(const std::string& path, int rank, int world, const std::string& host) {
  const std::string temporary = cat(path, ".new", getpid());
  const int fd = open(temporary.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  void* at = MAP_FAILED;
  if (fd >= 0 && ftruncate(fd, sizeof(RingLayout)) == 0)
    at = mmap(nullptr, sizeof(RingLayout), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  const int reason = errno;
  if (fd >= 0) close(fd);
  check<IoError>(at != MAP_FAILED, "event ring ", temporary, ": ", std::strerror(reason));
  auto* layout = static_cast<RingLayout*>(at);
  RingHeader& h = layout->header;
  h.rank = rank, h.world = world;
  h.pid = getpid();
  h.start_ticks = process_state(h.pid).start_ticks;
  h.start_ns = steady_ns();
  h.start_wall_ns = std::chrono::system_clock::now().time_since_epoch() / std::chrono::nanoseconds(1);
  copy_text(h.host, host);
  h.step = -1;
  h.stall_seconds = 4, h.slow_phase_seconds = 300;  // until run() says otherwise
  h.magic = kRingMagic;
  if (std::rename(temporary.c_str(), path.c_str()) != 0)
    throw IoError(cat("event ring ", path, ": ", std::strerror(errno)));
  return std::unique_ptr<EventRing>(new EventRing(layout));
}

EventRing::~EventRing() { munmap(layout_, sizeof(RingLayout)); }

void EventRing::append(Event& e) {
  RingHeader& h = layout_->header;
  e.index = h.next_event.fetch_add(1, kRelaxed) + 1;
  e.time_ns = steady_ns();
  e.step = h.step.load(kRelaxed);
  layout_->events[(e.index - 1) % kRingEvents].store(&e);
}

int EventRing::add_group(std::string_view name, int rank, std::span<const int> world_ranks) {
  const auto runs = runs_of(world_ranks);
  const auto free =
      std::find_if(layout_->groups, layout_->groups + kRingGroups, [](const RingGroup& g) { return g.id == 0; });
  uint64_t id = hash_name(name);
  for (const int r : world_ranks) id = mix64(id ^ static_cast<uint64_t>(r));
  id = mix64(id + instances_[id]++) | 1;  // counted also where the slot is refused, so that ranks agree
  if (runs.empty() || free == layout_->groups + kRingGroups) return -1;
  free->issued = 0, free->completed = 0, free->wait_since_ns = 0, free->open_messages = 0, free->dropped = 0;
  copy_text(free->name, name);
  free->rank = rank, free->size = static_cast<int32_t>(world_ranks.size());
  free->run_count = static_cast<int32_t>(runs.size());
  std::copy(runs.begin(), runs.end(), free->runs);
  const Event none;
  for (auto& r : free->pending) r.store(&none);
  for (auto& r : free->messages) r.store(&none);
  free->id.store(id, std::memory_order_release);
  return static_cast<int>(free - layout_->groups);
}

void EventRing::drop_group(int slot) {
  RingGroup* g = group(slot);
  if (!g || g->wait_since_ns != 0) return;
  g->dropped = 1;
  free_if_over(*g);
}

// By the thread that drops the group and by those that complete operations: whoever comes last, and one of them only.
void EventRing::free_if_over(RingGroup& g) {
  if (g.dropped == 0 || g.issued != g.completed || g.open_messages != 0) return;
  if (g.dropped.exchange(0) == 1) g.id = 0;
}

void EventRing::issued(const CommRequest& r) {
  Event e = event_of(EventKind::kIssued, r);
  if (r.collective()) {
    const uint64_t order = layout_->header.next_order.fetch_add(1, kRelaxed);
    layout_->history[order % kRingHistory].store(habit_word(r.watched, r.hash), kRelaxed);
    e.order = static_cast<uint32_t>(order + 1);
  }
  append(e);
  layout_->header.beat_main_ns.store(e.time_ns, kRelaxed);
  RingGroup& g = *group(r.watched);
  if (r.collective()) {
    // The oldest operations are the ones that others wait for, so a full table keeps them.
    if (r.seq < g.completed.load(kRelaxed) + kRingPending) g.pending[r.seq % kRingPending].store(&e);
    g.issued.store(r.seq + 1, std::memory_order_release);
    return;
  }
  ++g.open_messages;
  for (EventRecord& slot : g.messages) {
    Event other;
    if (slot.load(&other)) continue;
    slot.store(&e);
    return;
  }
}

void EventRing::begun(const CommRequest& r) {
  Event e = event_of(EventKind::kBegun, r);
  append(e);
}

void EventRing::done(const CommRequest& r, bool failed) {
  Event e = event_of(failed ? EventKind::kFailed : EventKind::kDone, r);
  append(e);
  layout_->header.beat_engine_ns.store(e.time_ns, kRelaxed);
  RingGroup& g = *group(r.watched);
  if (failed) {  // stays pending, and the group stays: that is what the rank was in
    if (g.wait_since_ns != 0) return;
    g.wait.store(&e);
    return g.wait_since_ns.store(e.time_ns, std::memory_order_release);
  }
  if (r.collective()) {
    g.completed = r.seq + 1;
    return free_if_over(g);
  }
  const Event none;
  for (EventRecord& slot : g.messages) {
    Event other;
    if (!slot.load(&other) || other.hash != e.hash || other.peer != e.peer || other.tag != e.tag) continue;
    slot.store(&none);
    break;
  }
  --g.open_messages;
  free_if_over(g);
}

void EventRing::wait(const CommRequest& r, bool begin) {
  Event e = event_of(begin ? EventKind::kWaitBegin : EventKind::kWaitEnd, r);
  append(e);
  layout_->header.beat_main_ns.store(e.time_ns, kRelaxed);
  RingGroup& g = *group(r.watched);
  if (begin) g.wait.store(&e);
  g.wait_since_ns.store(begin ? e.time_ns : 0, std::memory_order_release);
}

void EventRing::step(int64_t step, bool begin) {
  RingHeader& h = layout_->header;
  if (begin) h.step.store(step, kRelaxed);
  Event e;
  e.kind = begin ? EventKind::kStepBegin : EventKind::kStepEnd;
  append(e);
  if (begin) return h.step_since_ns.store(e.time_ns, kRelaxed);
  h.longest_step_ns.store(std::max(h.longest_step_ns.load(kRelaxed), e.time_ns - h.step_since_ns.load(kRelaxed)),
                          kRelaxed);
  h.steps_here.fetch_add(1, kRelaxed);
}

void EventRing::phase(std::string_view name, bool slow) {
  Event e;
  e.kind = EventKind::kPhase;
  copy_text(e.text, name);
  append(e);
  RingHeader& h = layout_->header;
  h.phase.store(&e);
  h.phase_is_slow.store(slow ? 1 : 0, kRelaxed);
  h.beat_main_ns.store(e.time_ns, kRelaxed);
  h.phase_since_ns.store(e.time_ns, std::memory_order_release);
}

void EventRing::checkpoint(bool begin) {
  Event e;
  e.kind = begin ? EventKind::kCheckpointBegin : EventKind::kCheckpointEnd;
  append(e);
}

void EventRing::loader(bool begin) {
  Event e;
  e.kind = begin ? EventKind::kLoaderBegin : EventKind::kLoaderEnd;
  append(e);
  layout_->header.loader_since_ns.store(begin ? e.time_ns : 0, std::memory_order_release);
}

void EventRing::reading(int thread, std::string_view dataset, int64_t record, bool begin) {
  Event e;
  if (begin) {
    e.index = 1;
    e.kind = EventKind::kReading;
    e.count = record;
    copy_text(e.text, dataset);
  }
  e.time_ns = steady_ns();
  layout_->header.beat_loader_ns.store(e.time_ns, kRelaxed);
  if (thread < kRingReaders) layout_->header.reading[thread].store(&e);
}

void EventRing::samples(int64_t step, std::span<const std::string> ids) {
  if (step != samples_step_) samples_step_ = step, samples_parts_ = 0;
  SampleList list;
  constexpr size_t kRoom = sizeof list.text - 1;
  std::string text;
  for (size_t i = 0; i < ids.size(); ++i) {
    text += (text.empty() ? "" : ", ") + ids[i];
    if (text.size() > kRoom) text = text.substr(0, kRoom - 3) + "...";
    if (i + 1 < ids.size() && text.size() + 2 + ids[i + 1].size() <= kRoom) continue;
    list.index = layout_->header.next_samples.fetch_add(1, kRelaxed) + 1;
    list.step = step;
    list.part = samples_parts_++;
    copy_text(list.text, text);
    layout_->samples[(list.index - 1) % kRingSamples].store(&list);
    text.clear();
  }
}

void EventRing::run(std::string_view folder, double stall_seconds, double slow_phase_seconds) {
  RingHeader& h = layout_->header;
  copy_text(h.run_folder, folder);
  h.stall_seconds = stall_seconds, h.slow_phase_seconds = slow_phase_seconds;
  h.has_run.store(1, std::memory_order_release);
}

void EventRing::end(RankEnd how, int exit_code, std::string_view error) {
  RingHeader& h = layout_->header;
  copy_text(h.error, error);
  h.exit_code = exit_code;
  h.end_ns = steady_ns();
  h.end.store(static_cast<int32_t>(how), std::memory_order_release);
}

}  // namespace tpo
