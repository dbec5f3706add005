#pragma once
// Devices and the empty tags by which `run(kernel, tag, stream)` is overloaded.
#include <cstdint>
#include <ostream>

namespace tpo {

enum class Device : uint8_t { kCpu = 0, kMeta = 1, kCuda = 2 };

struct Cpu {};
struct Cuda {};

#ifdef TPO_HAS_CUDA
inline constexpr bool kHasCuda = true;
#else
inline constexpr bool kHasCuda = false;
#endif

inline std::ostream& operator<<(std::ostream& out, Device d) {
  switch (d) {
    case Device::kCpu:
      return out << "cpu";
    case Device::kMeta:
      return out << "meta";
    case Device::kCuda:
      return out << "cuda";
  }
  return out;
}

}  // namespace tpo
