#include "core/stream.h"

#include <algorithm>
#include <chrono>

#include "core/error.h"
#include "core/profile.h"

namespace tpo {

namespace {

thread_local Stream* t_current = nullptr;

const std::shared_ptr<Allocator>& process_allocator() {
  static const std::shared_ptr<Allocator> allocator = make_cpu_allocator();
  return allocator;
}

}  // namespace

Stream::Stream(Device device, std::shared_ptr<Allocator> allocator)
    : device_(device), allocator_(std::move(allocator)) {
  check<DeviceError>(allocator_->device() == device_, "[stream] allocator of ", allocator_->device(),
                     " on a stream of ", device_);
}

Stream& Stream::current() {
  if (t_current != nullptr) return *t_current;
  thread_local Stream fallback(Device::kCpu, process_allocator());
  return fallback;
}

std::unique_ptr<Stream> Stream::make_cpu() { return std::make_unique<Stream>(Device::kCpu, make_cpu_allocator()); }

std::unique_ptr<Stream> Stream::make_meta(MetaHardware hardware) {
  auto stream = std::make_unique<Stream>(Device::kMeta, make_meta_allocator());
  stream->hardware_ = hardware;
  return stream;
}

void Stream::account(const char* kernel, const Cost& cost) {
  allocator_->launched(kernel);
  if (device_ == Device::kMeta) {
    const double bytes = static_cast<double>(cost.read_bytes + cost.write_bytes);
    clock_s_ += std::max(static_cast<double>(cost.flops) / hardware_.flops_per_s, bytes / hardware_.bytes_per_s);
  }
  if (profiler_ != nullptr) profiler_->add_kernel(kernel, kernel_begin_ns_, now_ns(), cost);
  ++counters_.launches;
  counters_.flops += cost.flops;
  counters_.read_bytes += cost.read_bytes;
  counters_.write_bytes += cost.write_bytes;
  if (const auto it = by_kernel_.find(kernel); it != by_kernel_.end()) {
    ++it->second;
  } else {
    by_kernel_.emplace(kernel, 1);
  }
}

int64_t Stream::now_ns() const {
  if (device_ == Device::kMeta) return static_cast<int64_t>(clock_s_ * 1e9);
  return std::chrono::nanoseconds(std::chrono::steady_clock::now().time_since_epoch()).count();
}

StreamScope::StreamScope(Stream& stream) : previous_(t_current) { t_current = &stream; }
StreamScope::~StreamScope() { t_current = previous_; }

}  // namespace tpo
