#pragma once
// RankView: what the ring of one rank says at one moment, as plain values: what the verdict reads, what supervisors of
// several nodes exchange. Times are ages, so that no clock is shared between nodes.
#include <memory>
#include <string>
#include <vector>

#include "parallel/program/event_ring.h"
#include "parallel/program/habit.h"

namespace tpo {

enum class Life : int32_t {
  kRunning,
  kStopped,   // SIGSTOP, or held by a debugger
  kDead,      // gone without a finish mark
  kFailed,    // an error ended it, which it told
  kTornDown,  // gone because another rank's end ended the job
  kFinished
};

struct OpView {
  Event e;           // index 0: none
  double age_s = 0;  // since e
};

struct GroupView {
  uint64_t id = 0, issued = 0, completed = 0;
  char name[64] = {};
  int32_t rank = 0, size = 0, run_count = 0, message_count = 0;
  RankRun runs[kRingRuns];
  OpView oldest;  // the collective number `completed`, if issued and remembered
  OpView wait;    // what a thread waits for
  Fit fit;        // of `oldest`, once that is 0.1 s old or the rank has failed
  OpView messages[kRingMessages];
  bool waiting() const { return wait.e.index != 0; }
  std::vector<int> members() const { return ranks_of({runs, static_cast<size_t>(run_count)}); }
};

struct RankFacts {
  int32_t rank = 0, world = 1;
  int64_t pid = 0, step = -1, steps_here = 0;
  char host[64] = {};
  char phase[88] = {};
  double phase_s = 0, longest_step_s = 0;
  bool slow_phase = false;
  double loader_s = -1;  // the main thread waits for a batch; below 0: it does not
  OpView reading;        // the oldest read of the loader's threads
  Life life = Life::kRunning;
  double life_s = 0;  // how long it has been so, as far as was seen
  RankEnd end = RankEnd::kRunning;
  int32_t exit_code = 0, signal = 0;
  char error[512] = {};
  int32_t group_count = 0;
};

struct RankView {
  RankFacts facts;
  std::vector<GroupView> groups;
  const GroupView* group(uint64_t id) const;
};

// Bytes that parse_views reads back on another node of the same build.
std::string pack_views(const std::vector<RankView>& views);
// Empty if the bytes are cut or of another build.
std::vector<RankView> parse_views(const std::string& bytes);

// The reading side: a mapped ring file. The file may be removed while it is mapped.
class RingReader {
 public:
  // Null if there is no ring of this build at path.
  static std::unique_ptr<RingReader> open(const std::string& path);
  ~RingReader();
  RingReader(const RingReader&) = delete;
  RingReader& operator=(const RingReader&) = delete;

  const RingHeader& header() const { return layout_->header; }
  // life is kRunning, kFinished or kFailed by the ring's own mark; whoever looks at processes knows better.
  RankView view() const;
  std::vector<Event> events() const;  // whole ones, oldest first
  std::vector<SampleList> samples() const;
  // "12:01:02.345 +1.234567 step 7 issued all_reduce #12 of 'bucket 3' (1024 f32) in world.data"
  std::string text_of(const Event& e) const;

 private:
  explicit RingReader(const RingLayout* layout) : layout_(layout) {}
  Fit fit(const Event& issued) const;
  const RingLayout* layout_;
};

// "all_reduce #12 of 'bucket 3'"; with the size if asked for: "all_reduce #12 of 'bucket 3' (1024 f32)".
std::string text_of_op(const Event& e, bool with_size);

}  // namespace tpo
