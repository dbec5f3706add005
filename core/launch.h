#pragma once
// The one device switch. A kernel is a struct of raw pointers and sizes with `static constexpr const char* kName`
// and `Cost cost() const`; a backend is an overload `void run(const K&, Cpu|Cuda, Stream&)` in namespace tpo.
// `run` is called unqualified so that argument-dependent lookup finds kernels declared after this header.
// A missing backend kernel is a link error; on meta only the cost is counted.
#include "core/error.h"
#include "core/stream.h"

namespace tpo {

template <class K>
void launch(const K& kernel, Stream& stream = Stream::current()) {
  stream.begin_kernel();
  switch (stream.device()) {
    case Device::kCpu:
      run(kernel, Cpu{}, stream);
      break;
    case Device::kMeta:
      break;
    case Device::kCuda:
      if constexpr (kHasCuda) {
        run(kernel, Cuda{}, stream);
      } else {
        throw DeviceError(cat("[", K::kName, "] this build has no CUDA backend; use device: cpu"));
      }
      break;
  }
  stream.account(K::kName, kernel.cost());
}

}  // namespace tpo
