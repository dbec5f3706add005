#pragma once
// Bucket: a flat run of parameters with one fate: same parameter group, same weight decay, same learning-rate scale.
// It owns the fp32 buffers of values, gradients and Adam moments; Param::value and Param::grad are views into them.
// The bucket is the unit of reduction and of the optimizer.
#include <string>
#include <vector>

#include "core/param.h"
#include "core/precision.h"
#include "parallel/comm/process_group.h"

namespace tpo {

struct BucketOptions {
  // Upper size of a bucket; a larger parameter gets one of its own. 1-4 MiB stays in cache and is 4x faster than one
  // large call on the reference machine.
  int64_t bucket_bytes = int64_t{4} << 20;
  // Names in the order of first use in forward; parameters not named follow in creation order. Empty: creation order.
  // Gradients become complete in the reverse of it, which is the order in which buckets are reduced.
  std::vector<std::string> forward_order = {};
  Precision precision = {};
};

struct Bucket {
  struct Entry {
    Param* param;
    int64_t begin;  // first element, a multiple of kAlign
    int64_t numel;
  };
  static constexpr int64_t kAlign = 16;  // elements: 64 bytes, so that every view is aligned for vector loads

  int index = 0;  // position in the order of reduction
  int group = 0;
  bool decay = true;
  float lr_scale = 1;
  std::vector<Entry> entries;
  Precision precision;
  Tensor value, grad, m, v;  // (numel); the padding between entries is and stays zero
  int64_t numel = 0;
  std::string what;  // "bucket 3 [heads.region.fc2.bias .. heads.region.fc1.weight]"

  int64_t bytes() const { return numel * static_cast<int64_t>(size_of(precision.gradients)); }  // on the wire
  Tensor value_of(const Entry& e) const { return slice(value, e); }
  Tensor grad_of(const Entry& e) const { return slice(grad, e); }
  Tensor m_of(const Entry& e) const { return slice(m, e); }
  Tensor v_of(const Entry& e) const { return slice(v, e); }

 private:
  static Tensor slice(const Tensor& flat, const Entry& e);
};

// Assigns the trainable parameters of a store to buckets, without allocating: a pure function of the store and the
// options, the same on every rank. Order: latest used in forward first; a bucket stands where its last gradient
// arrives. Parameters with frozen rows never decay.
std::vector<Bucket> plan_buckets(const ParamStore& store, const BucketOptions& options);

// Allocates the four buffers on the current stream, the gradient as a shared buffer of comm, copies the values in and
// points Param::value and grad at them. Collective over comm.
void materialise(Bucket& bucket, ProcessGroup& comm);

// Fills with zeros; nothing on meta.
void zero_fill(const Tensor& t);

}  // namespace tpo
