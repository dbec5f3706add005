#pragma once
// EventRing: what one rank did last and what it is in, in a mapped file that another process can read at any moment,
// also after the rank was killed. The threads of the rank write it without locks: an event takes one counter, one clock
// reading and a copy of 160 bytes, below 100 ns (bench/guard_bench). A reader recognises a record that is being
// written, or that two writers tore, by its checksum; it never waits and never disturbs the writers.
//
// File: Header | kRingGroups groups | kRingSamples lists of sample ids | kRingHistory collectives, a word each |
// kRingEvents events. All of a record's words are relaxed atomics, zero bytes are a valid empty ring, and pages that
// nobody touched take no memory.
#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "parallel/comm/work.h"

namespace tpo {

constexpr uint64_t kRingMagic = 0x33676e6972707474ull;  // changes with the layout
constexpr uint64_t kRingEvents = 1024;
constexpr int kRingGroups = 64;        // groups beyond are not watched
constexpr uint64_t kRingPending = 64;  // operations in flight that a group remembers: those next to be completed
constexpr int kRingMessages = 8;       // sends and receives in flight per group
constexpr int kRingRuns = 24;          // (first, stride, count) of a group's world ranks
constexpr int kRingReaders = 8;        // loader threads
constexpr uint64_t kRingSamples = 256;
constexpr uint64_t kRingHistory = 8192;  // collectives, for habits: 64 KiB

enum class EventKind : uint8_t {
  kNone,
  kIssued,
  kBegun,
  kDone,
  kFailed,
  kWaitBegin,
  kWaitEnd,
  kPhase,
  kStepBegin,
  kStepEnd,
  kCheckpointBegin,
  kCheckpointEnd,
  kLoaderBegin,
  kLoaderEnd,
  kReading
};
const char* name_of(EventKind kind);

// One event; of an operation where `kind` says so. 19 words; the ring adds a checksum.
struct Event {
  uint64_t index = 0;   // of the event in its ring, from 1; 0: empty
  int64_t time_ns = 0;  // steady clock
  uint64_t seq = 0;     // collective: number in its group
  int64_t count = 0;    // elements
  uint64_t hash = 0;    // operation_hash
  int64_t step = -1;
  EventKind kind = EventKind::kNone;
  CommOp op = CommOp::kBarrier;
  DType dtype = DType::kU8;
  uint8_t group = 255;  // slot; 255: none
  int32_t peer = -1;    // rank in the group: root, or partner of a message
  int32_t tag = 0;
  uint32_t order = 0;  // of an issued collective among all of this rank, from 1, modulo 2^32
  char text[88] = {};  // tensor or bucket, phase, dataset, cut
  bool collective() const { return op != CommOp::kSend && op != CommOp::kRecv; }
};

// N words and their checksum.
template <int N>
struct Sealed {
  std::array<std::atomic<uint64_t>, N + 1> words;
  void store(const void* value);
  bool load(void* value) const;  // false: empty, or in the middle of a change
};
constexpr int kEventWords = sizeof(Event) / 8;
using EventRecord = Sealed<kEventWords>;
static_assert(sizeof(Event) == 152 && sizeof(EventRecord) == 160);

struct RankRun {
  int32_t first = 0, stride = 1, count = 0;
};
// Sorted world ranks as runs; empty if they take more than kRingRuns.
std::vector<RankRun> runs_of(std::span<const int> ranks);
std::vector<int> ranks_of(std::span<const RankRun> runs);

struct RingGroup {
  std::atomic<uint64_t> id;  // hash of name, ranks and how many groups of both were before; 0: slot is free
  std::atomic<uint64_t> issued, completed;  // collectives
  std::atomic<int64_t> wait_since_ns;       // 0: nobody waits
  char name[64];
  int32_t rank, size, run_count;
  std::atomic<int32_t> open_messages;
  std::atomic<int32_t> dropped, spare;  // dropped: the slot is free when nothing is in flight
  RankRun runs[kRingRuns];
  EventRecord wait;                   // what is waited for
  EventRecord pending[kRingPending];  // issued and not completed, by number
  EventRecord messages[kRingMessages];
};

// Whole sample ids of a step, "a, b". A step has as many lists as it needs, of which the ring keeps the last ones.
struct SampleList {
  uint64_t index = 0;
  int64_t step = -1;
  int64_t part = 0;  // lists of this step before it
  char text[224] = {};
};
constexpr int kSampleWords = sizeof(SampleList) / 8;

enum class RankEnd : int32_t { kRunning = 0, kFinished = 1, kError = 2, kSignal = 3 };

// Single words that the rank sets and the supervisor reads.
struct RingHeader {
  uint64_t magic;
  int32_t rank, world;
  int64_t pid, start_ticks;  // start_ticks: field 22 of /proc/PID/stat, so that a reused pid is not taken for the rank
  int64_t start_wall_ns, start_ns;  // the same moment on both clocks
  char host[64];
  std::atomic<int64_t> step, step_since_ns, longest_step_ns, steps_here;  // steps_here: finished since the start
  std::atomic<int64_t> phase_since_ns;
  std::atomic<int32_t> phase_is_slow;
  std::atomic<int32_t> end;  // RankEnd
  std::atomic<int32_t> exit_code, signal;
  std::atomic<int64_t> end_ns, terminated_ns;  // terminated: SIGTERM came
  std::atomic<int64_t> loader_since_ns;        // the main thread waits for a batch; 0: it does not
  std::atomic<int64_t> beat_main_ns, beat_engine_ns, beat_loader_ns;
  std::atomic<uint64_t> next_event, next_samples, next_order;
  std::atomic<double> stall_seconds, slow_phase_seconds;
  std::atomic<int32_t> has_run;  // run_folder is valid
  EventRecord phase;
  EventRecord reading[kRingReaders];  // what each loader thread reads: dataset in text, record in count
  char error[512];                    // valid once `end` is kError
  char run_folder[512];               // valid once has_run is set
};

struct RingLayout {
  RingHeader header;
  RingGroup groups[kRingGroups];
  Sealed<kSampleWords> samples[kRingSamples];
  std::atomic<uint64_t> history[kRingHistory];  // habit_word of the collective with this order, modulo
  EventRecord events[kRingEvents];
};

// The writing side, one per process.
class EventRing {
 public:
  // Makes the file under a temporary name and renames it, so that no reader meets half a header. Throws IoError.
  static std::unique_ptr<EventRing> create(const std::string& path, int rank, int world, const std::string& host);
  ~EventRing();
  EventRing(const EventRing&) = delete;
  EventRing& operator=(const EventRing&) = delete;
  // The ring of this process, or null: nothing is recorded. Set before groups and threads, cleared after them.
  static EventRing* of_process();
  static void set_of_process(EventRing* ring);

  RingHeader& header() { return layout_->header; }

  // Slot of a group from now on, or -1 if the table is full or the ranks cannot be said in kRingRuns runs. One thread.
  int add_group(std::string_view name, int rank, std::span<const int> world_ranks);
  // Its slot is another group's when nothing of it is in flight. A group in which a wait failed stays, as evidence.
  void drop_group(int slot);

  // Any thread; r.watched names the slot.
  void issued(const CommRequest& r);
  void begun(const CommRequest& r);
  void done(const CommRequest& r, bool failed);
  void wait(const CommRequest& r, bool begin);

  void step(int64_t step, bool begin);
  void phase(std::string_view name, bool slow);
  void checkpoint(bool begin);
  void loader(bool begin);                                                         // the main thread waits
  void reading(int thread, std::string_view dataset, int64_t record, bool begin);  // a loader thread
  // More ids that the step is made of. One thread. What does not fit a list of its own is cut and ends in "...".
  void samples(int64_t step, std::span<const std::string> ids);
  // Of the run that this process is part of; limits as in verdict.h.
  void run(std::string_view folder, double stall_seconds, double slow_phase_seconds);
  void end(RankEnd how, int exit_code, std::string_view error);

 private:
  EventRing(RingLayout* layout) : layout_(layout) {}
  void append(Event& e);
  static void free_if_over(RingGroup& g);
  RingGroup* group(int slot) { return slot >= 0 ? &layout_->groups[slot] : nullptr; }
  RingLayout* layout_;
  int64_t samples_step_ = -1, samples_parts_ = 0;
  std::map<uint64_t, uint64_t> instances_;  // groups of one name and ranks, so far
};

int64_t steady_ns();

// What /proc says of a process: its state letter, 0 if there is none, and when it started.
struct ProcessState {
  char state = 0;
  int64_t start_ticks = 0;
};
ProcessState process_state(int64_t pid);

// What ranks must agree on: a hash of group, operation, element type and name in the upper half, the size in the lower.
uint64_t operation_hash(std::string_view group, CommOp op, DType dtype, int64_t count, std::string_view what);

}  // namespace tpo
