#include "core/batch.h"

namespace tpo {

const Tensor& Batch::at(const std::string& name) const {
  const auto it = tensors_.find(name);
  if (it == tensors_.end()) {
    std::string have;
    for (const auto& [n, t] : tensors_) have += (have.empty() ? "" : ", ") + n;
    throw ShapeError(cat("[batch] no array '", name, "'; present: ", have));
  }
  return it->second;
}

std::span<const int64_t> Batch::extents(const std::string& name) const {
  const auto found = extents_.find(name);
  return found == extents_.end() ? std::span<const int64_t>() : found->second;
}

Batch upload(const HostBatch& host, Stream& stream) {
  const MemoryScope memory(MemoryKind::kBatch);
  Batch batch;
  for (const auto& [name, array] : host.arrays)
    batch.set(name, Tensor::from_bytes(array.bytes, array.shape, array.dtype, stream));
  for (const auto& [name, values] : host.extents) batch.set_extents(name, values);
  return batch;
}

uint64_t StepUse::global_groups() const {
  uint64_t groups = 0;
  for (uint64_t g : global) groups |= g;
  return groups;
}

int StepUse::local_microbatches(int group) const {
  int n = 0;
  for (uint64_t g : local) n += static_cast<int>((g >> group) & 1);
  return n;
}

}  // namespace tpo
