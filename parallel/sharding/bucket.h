#pragma once
// Bucket: a flat run of parameters with one fate: same parameter group, trainability, storage, sharding, weight decay
// and learning-rate scale. It owns the buffers of values, in the storage of the parameters, and of gradients, masters
// and Adam moments, in fp32; Param::value and Param::grad are views into them. The bucket is the unit of reduction, of
// sharding and of the optimizer.
#include <string>
#include <unordered_map>
#include <vector>

#include "core/param.h"
#include "core/precision.h"
#include "parallel/comm/process_group.h"

namespace tpo {

// What the ranks that share a copy divide among themselves; each stage includes those before it.
// Source: Rajbhandari et al. 2020, arXiv:1910.02054 (ZeRO stages 1, 2, 3).
enum class Sharding : uint8_t { kReplicated = 0, kOptimizer = 1, kGradients = 2, kParameters = 3 };
const char* name_of(Sharding sharding);  // "replicated", "optimizer", "gradients", "parameters"

// For parameters whose name matches the glob.
struct ShardingRule {
  std::string pattern;
  Sharding sharding = Sharding::kReplicated;
  bool reshard_after_forward = true;
};

struct BucketOptions {
  // Upper size of a bucket; a larger parameter gets one of its own. 1-4 MiB stays in cache and is 4x faster than one
  // large call on the reference machine.
  int64_t bucket_bytes = int64_t{4} << 20;
  // Names in the order of use in forward, again for each further use; parameters not named follow in creation order.
  // Empty: creation order. Gradients become complete in the reverse of the order of first uses, in which buckets are
  // reduced. With kParameters it must be the program's (see Bucket::needed_from).
  std::vector<std::string> forward_order = {};
  Precision precision = {};  // weights: those of the store
  Sharding sharding = Sharding::kReplicated;
  // kParameters: values are freed after forward and gathered again for backward. false: they stay until backward is
  // done with them.
  bool reshard_after_forward = true;
  std::vector<ShardingRule> rules = {};  // over the two fields above; of several that match the last one counts
  int prefetch_buckets = 2;              // kParameters: buckets gathered ahead of the one in use, >= 0
};

struct Bucket {
  struct Entry {
    Param* param;
    int64_t begin;  // first element, a multiple of kAlign
    int64_t numel;
    int64_t end() const { return begin + numel; }
  };
  static constexpr int64_t kAlign = 16;  // elements: 64 bytes of fp32, so that views do not share a line of the cache
  // Elements [begin, begin + count).
  struct Range {
    int64_t begin = 0, count = 0;
    int64_t end() const { return begin + count; }
  };

  int index = 0;  // position in the order of reduction; its reverse is the order of first use in forward
  int group = 0;
  bool trainable = true;  // false: gathered only
  Sharding sharding = Sharding::kReplicated;
  bool reshard = false;  // kParameters only
  bool decay = true;
  float lr_scale = 1;
  std::vector<Entry> entries;
  Precision precision;    // weights: of its parameters
  int64_t numel = 0;      // with padding: a multiple of kAlign, and of the number of shards
  int64_t first_use = 0;  // places in forward of the parameter used first, and of the one used last
  int64_t last_use = 0;
  // The first place of the block (layers.N, blocks.N) that first_use lies in: its gradients need no weight whose last
  // use is before, also if the block is run again in backward.
  int64_t needed_from = 0;
  std::string what;  // "bucket 3 [heads.region.fc2.bias .. heads.region.fc1.weight]"
  Range own;         // this rank's part, which it updates: everything with kReplicated

  // The padding between entries is and stays zero.
  Tensor value;  // (numel); with kParameters its storage is released while it is not gathered
  Tensor grad;   // (numel); from kGradients on its storage is released between rounds. Undefined if frozen
  // Of the own part (own.count): values and summed gradients, views into value and grad where those persist and have
  // the dtype, and Adam's moments. Frozen: master only, in the storage of the parameters.
  Tensor master, master_grad, m, v;

  // The optimizer updates a master of another dtype than the values, which are rounded from it.
  bool has_masters() const { return trainable && precision.weights != precision.master; }
  Tensor own_value() const { return value.rows(own.begin, own.end()); }
  bool gathered() const { return sharding == Sharding::kParameters; }               // value comes and goes
  bool in_rounds() const { return trainable && sharding >= Sharding::kGradients; }  // reduced once a round, not a step
  int64_t bytes() const { return numel * static_cast<int64_t>(size_of(precision.gradients)); }
  int64_t own_bytes() const { return own.count * static_cast<int64_t>(size_of(precision.gradients)); }
  Tensor value_of(const Entry& e) const { return slice(value, e); }
  Tensor grad_of(const Entry& e) const { return slice(grad, e); }

 private:
  static Tensor slice(const Tensor& flat, const Entry& e);
};

// Elements of parameters.
using PartSizes = std::unordered_map<const Param*, int64_t>;

// Assigns parameters to buckets, without allocating: a pure function of the store, the options, the number of ranks
// that share a copy and the sizes of parts, the same on every rank. Trainable parameters all have a bucket, frozen ones
// with kParameters, cut where the block of the model (layers.N, blocks.N) changes. Order: latest used in forward first;
// a bucket stands where its last gradient arrives. Parameters with frozen rows never decay.
// widest_parts: of parameters that the tensor axis cuts unevenly, the size where it is largest, by which buckets are
// filled. Its ranks then exchange the same buckets in the same order, each with its own part in them: if one gathered
// more often than its neighbour, data ranks that meet in both would wait for each other in a circle.
// Throws ConfigError for options out of range, names and patterns without a parameter.
std::vector<Bucket> plan_buckets(const ParamStore& store, const BucketOptions& options, int shards = 1,
                                 const PartSizes& widest_parts = {});

// The part of rank `rank` of `shards`: all of it with kReplicated.
Bucket::Range own_range(const Bucket& bucket, int rank, int shards);

// Allocates the buffers on the current stream, copies the values in and points Param::value and Param::grad at them. A
// gradient that persists is a shared buffer of comm. value of kParameters stays gathered, grad of kGradients allocated;
// the caller releases them. Collective over comm.
void materialise(Bucket& bucket, ProcessGroup& comm);

// part = masters of the own part, rounded: part (own.count) of value or of memory for a gather. Requires:
// has_masters().
void write_values(const Bucket& bucket, const Tensor& part);

// Fills with zeros; nothing on meta.
void zero_fill(const Tensor& t);

}  // namespace tpo
