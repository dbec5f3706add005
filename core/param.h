#pragma once
// Param, ParamScope, ParamStore: names, initial values, freezing, grouping. Param::use() is the only door to a weight.
// A parameter group is the set of parameters used under the same condition (a head, a task token, an optional path);
// a step that touches no sample of a group leaves its weights, moments and step count bit-identical.
// Thread rule: a store belongs to one rank thread.
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/precision.h"
#include "core/rng.h"
#include "core/tape.h"

namespace tpo {

// Which part of a parameter this rank of the tensor axis holds.
struct ShardSpec {
  // Rectangles of the full tensor whose elements, one rectangle after the other, are those of the value. Empty: all of
  // it, on every rank of the axis. Several: a fused weight such as (q; k; v), each cut by itself.
  std::vector<Rect> rects;
  // Of the ranks of the axis that hold the same part, the one that counts it in norms. Without rects, rank 0 does.
  bool owner = true;
};

// Initial value, a pure function of (seed, parameter name, element of the full tensor): the same under every layout.
struct Init {
  enum class Kind { kConstant, kNormal, kUniform } kind = Kind::kConstant;
  float a = 0;  // constant: the value; normal: the mean; uniform: the lower bound
  float b = 0;  // normal: the standard deviation; uniform: the upper bound
  static Init constant(float v) { return {Kind::kConstant, v, 0}; }
  static Init normal(float mean, float stddev) { return {Kind::kNormal, mean, stddev}; }
  static Init uniform(float lo, float hi) { return {Kind::kUniform, lo, hi}; }
  // U(-a, a) with a = sqrt(6 / (fan_in + fan_out)). Source: Glorot and Bengio 2010.
  static Init xavier(int64_t fan_in, int64_t fan_out);
};

class Param;

// What parallel/ hangs on parameters. The default does nothing: one rank, no sharding.
class ParamHooks {
 public:
  virtual ~ParamHooks() = default;
  virtual void before_use(Param&) {}     // waits for a gather in flight
  virtual void before_grad(Param&) {}    // its gradient is about to be written: waits for a reduction of the one before
  virtual void on_grad_ready(Param&) {}  // one microbatch's contribution is complete
  // For frozen parameters of which follows_uses is true: the sweep of a tape has passed all its uses on that tape.
  virtual void on_swept(Param&) {}
  virtual bool follows_uses(const Param&) const { return false; }
};

class Param final : public LeafSink {
 public:
  std::string name;  // dotted, unique: "language.layers.0.attn.q.weight"
  Shape full;        // logical shape; value may be a part of it, as `tp` says
  ShardSpec tp;
  int group = 0;  // index into ParamStore::group_names()
  bool trainable = true;
  bool decay = true;               // weight decay applies (matrices yes; norms, biases, tokens no)
  int64_t frozen_rows_begin = -1;  // rows from here on never change (new vocabulary rows); -1: none
  float lr_scale = 1;              // multiplies the learning rate
  Init init;
  // A view into a bucket once a ParamSync owns it. Until it is accessed first it takes no memory, so that a model of
  // which every rank keeps a part only is never there as a whole.
  Tensor value;
  Tensor grad;                // fp32 view into a bucket; undefined while frozen or before a ParamSync exists
  bool grad_written = false;  // this step's first contribution overwrites, later ones add

  // The rectangles of the full tensor that value is made of, in order.
  std::vector<Rect> rects() const { return tp.rects.empty() ? std::vector{whole_of(full)} : tp.rects; }

  // The weight on the current tape. Frozen: a plain tensor, no leaf, so no gradient GEMM.
  Tensor use();

  GradDest grad_destination() override;
  void on_ready() override;

 private:
  friend class ParamStore;
  // Gives the initial values.
  struct Initial final : StorageSource {
    void fetch(Storage& storage) override;
    Param* param = nullptr;
    RngKey key{0};
  };
  ParamHooks* hooks_ = nullptr;
  Initial initial_;
};

class ParamStore {
 public:
  // storage: f32 or bf16, of parameters that do not say otherwise; initial values are drawn in fp32 and rounded.
  explicit ParamStore(uint64_t seed, DType storage = DType::kF32);
  ParamStore(const ParamStore&) = delete;
  ParamStore& operator=(const ParamStore&) = delete;

  // Allocates and initialises. Throws ConfigError if the name exists. References stay valid for the store's life.
  Param& create(const std::string& name, const Shape& shape, const Init& init, int group) {
    return create(name, shape, shape, {}, init, group);
  }
  // The same for a part of a tensor of shape `full`, whose values are those that `full` would have there.
  // Without `storage` it has the store's.
  // Throws ShapeError if the rectangles lie outside of `full` or do not add up to `local`.
  Param& create(const std::string& name, const Shape& full, const Shape& local, ShardSpec tp, const Init& init,
                int group, std::optional<DType> storage = {});
  // Index of a group, created on first mention. Group 0 is "trunk". At most 64 groups.
  int group(const std::string& name);
  const std::vector<std::string>& group_names() const { return groups_; }

  const std::vector<std::unique_ptr<Param>>& params() const { return params_; }
  Param* find(std::string_view name) const;  // null if absent
  int64_t numel(bool trainable_only = false) const;

  // Sets trainable on every parameter whose name matches the glob (* matches any run of characters, ? one).
  // Returns how many matched. Requires: no ParamSync holds the buckets (release it before, build another afterwards).
  int set_trainable(std::string_view pattern, bool trainable);
  int set_lr_scale(std::string_view pattern, float scale);
  void set_hooks(ParamHooks* hooks);  // null restores the default
  uint64_t seed() const { return seed_; }
  DType storage() const { return storage_; }

 private:
  uint64_t seed_;
  DType storage_;
  std::vector<std::unique_ptr<Param>> params_;
  std::vector<std::string> groups_{"trunk"};
};

// A prefix, a group and a storage inside a store; passed by value through constructors.
class ParamScope {
 public:
  ParamScope(ParamStore& store, std::string prefix = "") : ParamScope(store, std::move(prefix), 0, store.storage()) {}
  ParamScope operator/(std::string_view name) const;  // "a" / "b" names "a.b"
  ParamScope operator/(int index) const { return *this / std::to_string(index); }
  ParamScope in_group(const std::string& group) const { return {*store_, prefix_, store_->group(group), storage_}; }
  ParamScope in_f32() const { return {*store_, prefix_, group_, DType::kF32}; }  // whatever the store's storage
  Param& param(std::string_view name, const Shape& shape, const Init& init) const;
  Param& param(std::string_view name, const Shape& full, const Shape& local, ShardSpec tp, const Init& init) const;
  ParamStore& store() const { return *store_; }
  const std::string& prefix() const { return prefix_; }

 private:
  ParamScope(ParamStore& store, std::string prefix, int group, DType storage)
      : store_(&store), prefix_(std::move(prefix)), group_(group), storage_(storage) {}
  ParamStore* store_;
  std::string prefix_;
  int group_;
  DType storage_;
};

// Glob match used for freezing, allow lists and lr scales.
bool glob_match(std::string_view pattern, std::string_view text);

}  // namespace tpo
