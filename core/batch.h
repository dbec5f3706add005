#pragma once
// HostBatch: named arrays in plain host memory, made by loader threads. Batch: the same names as tensors on a device,
// made by the trainer's thread, so that allocation order, and with it peak memory, does not depend on the loader.
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "core/tensor.h"

namespace tpo {

struct HostArray {
  Shape shape;
  DType dtype = DType::kF32;
  std::vector<std::byte> bytes;

  template <class T>
  static HostArray from(const std::vector<T>& v, const Shape& shape) {
    check_shape(static_cast<int64_t>(v.size()) == shape.numel(), "[batch] ", v.size(), " values for ", shape);
    HostArray a{shape, DTypeOf<T>::value, {}};
    const auto raw = std::as_bytes(std::span<const T>(v));
    a.bytes.assign(raw.begin(), raw.end());
    return a;
  }
  template <class T>
  std::span<const T> as() const {
    check_shape(dtype == DTypeOf<T>::value, "[batch] array of ", dtype, " read as ", DTypeOf<T>::value);
    return {reinterpret_cast<const T*>(bytes.data()), bytes.size() / sizeof(T)};
  }
};

struct HostBatch {
  int dataset = 0;  // index in the mixture
  int64_t samples = 0;
  std::vector<std::string> sample_ids;  // for error messages
  std::map<std::string, HostArray> arrays;
  // Integers that decide shapes: kept on the host, so that they are known on every device, meta too.
  std::map<std::string, std::vector<int64_t>> extents;
};

// Tensors by name. at() throws ShapeError that lists the names present.
class Batch {
 public:
  bool has(const std::string& name) const { return tensors_.count(name) != 0; }
  const Tensor& at(const std::string& name) const;
  void set(const std::string& name, Tensor t) { tensors_[name] = std::move(t); }
  const std::map<std::string, Tensor>& tensors() const { return tensors_; }
  // HostBatch::extents; empty if there are none of that name.
  std::span<const int64_t> extents(const std::string& name) const;
  void set_extents(const std::string& name, std::vector<int64_t> v) { extents_[name] = std::move(v); }

 private:
  std::map<std::string, Tensor> tensors_;
  std::map<std::string, std::vector<int64_t>> extents_;
};

// Copies extents, and every array to the stream's device, in name order.
Batch upload(const HostBatch& host, Stream& stream = Stream::current());

// Which parameter groups a step touches, by rounds: round j is the j-th microbatch of every rank. Bit g is group g.
struct StepUse {
  std::vector<uint64_t> local;   // touched by this rank's j-th microbatch
  std::vector<uint64_t> global;  // touched by the j-th microbatch of any rank; at least as long as local

  uint64_t global_groups() const;           // touched in any round: these are reduced and updated
  int local_microbatches(int group) const;  // of this rank, that touch the group
};

}  // namespace tpo
