#pragma once
// Profiler: what the time of a stream went to. Attached to a stream it receives one event per kernel launch, region,
// wait and backward of an op; a stream without one pays a branch per launch. Times are those of Stream::now_ns, so a
// meta stream gives the profile of its virtual clock.
//
// Forward kernels get their op's name when the op ends in `record`: all kernels since the previous `record` or region
// boundary belong to it. Backward kernels get the name of the tape's node.
// Thread rule: that of the stream. Attach and detach outside of any region.
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/cost.h"
#include "core/stream.h"

namespace tpo {

struct ProfileEvent {
  enum class Kind : uint8_t {
    kRegion,    // a ProfileScope: step, forward, optimizer, ...
    kWait,      // a ProfileScope around waiting for somebody else
    kBackward,  // a node of a tape
    kKernel,
  };
  Kind kind = Kind::kRegion;
  std::string_view name;  // a literal
  std::string_view op;    // of a kernel; empty if launched by no op
  int32_t parent = -1;    // index of the event around this one, always smaller; -1: none
  int64_t begin_ns = 0, duration_ns = 0;
  Cost cost;  // of a kernel
};

// A communication in flight beside the stream.
struct ProfileTransfer {
  std::string what;
  int64_t begin_ns = 0, duration_ns = 0, bytes = 0;
};

class Profiler {
 public:
  Profiler() { events_.reserve(1 << 16); }  // growing would take the time of somebody's event

  void begin(ProfileEvent::Kind kind, std::string_view name, int64_t now_ns);
  void end(int64_t now_ns);  // of the innermost open event
  void add_kernel(std::string_view name, int64_t begin_ns, int64_t end_ns, const Cost& cost);
  void op_ended(std::string_view op);
  void add_transfer(ProfileTransfer transfer) { transfers_.push_back(std::move(transfer)); }

  // In order of their begin; complete once every scope was left.
  const std::vector<ProfileEvent>& events() const { return events_; }
  const std::vector<ProfileTransfer>& transfers() const { return transfers_; }

 private:
  std::vector<ProfileEvent> events_;
  std::vector<int32_t> open_;
  size_t unnamed_ = 0;  // first event that the next op_ended may name
  std::vector<ProfileTransfer> transfers_;
};

// Attaches `profiler` (null: nothing happens) to a stream until the scope ends.
class ProfilerScope {
 public:
  ProfilerScope(Profiler* profiler, Stream& stream);
  ~ProfilerScope();
  ProfilerScope(const ProfilerScope&) = delete;
  ProfilerScope& operator=(const ProfilerScope&) = delete;

 private:
  Stream& stream_;
  Profiler* previous_;
};

// A named region of the current stream's profile, if it has one. `name` must be a literal.
class ProfileScope {
 public:
  using Kind = ProfileEvent::Kind;
  explicit ProfileScope(std::string_view name, Kind kind = Kind::kRegion, Stream& stream = Stream::current())
      : stream_(stream), profiler_(stream.profiler()) {
    if (profiler_ != nullptr) profiler_->begin(kind, name, stream_.now_ns());
  }
  ~ProfileScope() {
    if (profiler_ != nullptr) profiler_->end(stream_.now_ns());
  }
  ProfileScope(const ProfileScope&) = delete;
  ProfileScope& operator=(const ProfileScope&) = delete;

 private:
  Stream& stream_;
  Profiler* profiler_;
};

// All time of one kernel in one op, of one wait, or of one phase outside kernels and waits.
struct ProfileRow {
  enum class Kind : uint8_t { kKernel, kWait, kOutside };
  Kind kind = Kind::kKernel;
  std::string phase;  // the region right below the outermost one, or the outermost one
  std::string op;     // "linear", "linear (backward)", "linear (recomputed)"; empty unless a kernel of an op
  std::string name;   // of the kernel or wait
  int64_t calls = 0, ns = 0;
  Cost cost;
};

// Longest first. The rows' ns add up exactly to total_ns.
std::vector<ProfileRow> profile_rows(std::span<const ProfileEvent> events);
// Duration of the outermost events.
int64_t total_ns(std::span<const ProfileEvent> events);

}  // namespace tpo
