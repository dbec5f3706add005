#pragma once
// Stream: where work is issued. On the CPU work runs inline; on meta only its cost is added to a virtual clock.
// Each thread has a current stream; it is changed by StreamScope only. A stream belongs to one thread at a time.
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>

#include "core/allocator.h"
#include "core/cost.h"
#include "core/device.h"

namespace tpo {

class Profiler;

// Speeds of the virtual clock of a meta stream.
struct MetaHardware {
  double flops_per_s = 80e9;  // one core of the reference machine reaches 80 % of its 102 GFLOP/s
  double bytes_per_s = 19e9;  // copy bandwidth, one thread
};

struct StreamCounters {
  int64_t launches = 0;
  int64_t flops = 0;
  int64_t read_bytes = 0;
  int64_t write_bytes = 0;
};

class Stream {
 public:
  // A stream on `device` that allocates from `allocator`. Requires: allocator->device() == device.
  Stream(Device device, std::shared_ptr<Allocator> allocator);
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  // The calling thread's stream. A thread that set none gets a CPU stream over one process-wide caching allocator.
  static Stream& current();
  static std::unique_ptr<Stream> make_cpu();
  static std::unique_ptr<Stream> make_meta(MetaHardware hardware = {});

  Device device() const { return device_; }
  const std::shared_ptr<Allocator>& allocator() const { return allocator_; }

  // Called by launch() once per kernel: counts, and on meta advances the clock by max(flops, bytes) time.
  void account(const char* kernel, const Cost& cost);
  const StreamCounters& counters() const { return counters_; }
  // Launches by kernel name since construction; recorded on every device.
  const std::map<std::string, int64_t, std::less<>>& launches_by_kernel() const { return by_kernel_; }
  double virtual_seconds() const { return clock_s_; }  // 0 except on meta

  // Called by launch() right before a kernel runs; account() is its end.
  void begin_kernel() {
    if (profiler_ != nullptr) kernel_begin_ns_ = now_ns();
  }
  int64_t now_ns() const;                           // steady clock; on meta the virtual clock
  Profiler* profiler() const { return profiler_; }  // core/profile.h; null: nothing is timed
  void set_profiler(Profiler* profiler) { profiler_ = profiler; }

 private:
  Device device_;
  std::shared_ptr<Allocator> allocator_;
  StreamCounters counters_;
  std::map<std::string, int64_t, std::less<>> by_kernel_;
  MetaHardware hardware_;
  double clock_s_ = 0;
  Profiler* profiler_ = nullptr;
  int64_t kernel_begin_ns_ = 0;
};

// Makes a stream current on this thread until the scope ends. Requires: the stream outlives the scope.
class StreamScope {
 public:
  explicit StreamScope(Stream& stream);
  ~StreamScope();
  StreamScope(const StreamScope&) = delete;
  StreamScope& operator=(const StreamScope&) = delete;

 private:
  Stream* previous_;
};

}  // namespace tpo
