#include "core/param.h"

#include <algorithm>
#include <cmath>

#include "core/kernels/storage.h"
#include "core/parallel_for.h"

namespace tpo {

namespace {

ParamHooks& no_hooks() {
  static ParamHooks hooks;
  return hooks;
}

// Values of elements [begin, end) of the full tensor. Element e takes word e % 4 of Philox block e / 4; normals come in
// pairs inside the block.
template <class T>
void fill_run(T* out, const Init& init, RngKey key, int64_t begin, int64_t end) {
  for (int64_t block = begin / 4; 4 * block < end; ++block) {
    const auto w = philox(key, static_cast<uint64_t>(block));
    float v[4];
    if (init.kind == Init::Kind::kUniform) {
      for (int j = 0; j < 4; ++j) v[j] = init.a + (init.b - init.a) * uniform01(w[static_cast<size_t>(j)]);
    } else {
      const auto lo = normal2(w[0], w[1]), hi = normal2(w[2], w[3]);
      const float z[4] = {lo[0], lo[1], hi[0], hi[1]};
      for (int j = 0; j < 4; ++j) v[j] = init.a + init.b * z[j];
    }
    for (int64_t e = std::max(begin, 4 * block); e < std::min(end, 4 * block + 4); ++e)
      *out++ = narrow<T>(v[e - 4 * block]);
  }
}

// The rectangle `part` of a tensor with `width` columns.
template <class T>
void fill(T* out, const Init& init, RngKey key, const Rect& part, int64_t width) {
  if (init.kind == Init::Kind::kConstant) {
    std::fill(out, out + part.numel(), narrow<T>(init.a));
  } else if (part.cols == width) {
    const int64_t first = part.row * width;
    parallel_for(part.numel(), 1 << 16,
                 [&](int64_t begin, int64_t end) { fill_run(out + begin, init, key, first + begin, first + end); });
  } else {
    parallel_for(part.rows, std::max<int64_t>(1, (1 << 16) / part.cols), [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) {
        const int64_t first = (part.row + r) * width + part.col;
        fill_run(out + r * part.cols, init, key, first, first + part.cols);
      }
    });
  }
}

void check_rects(const std::string& name, const Shape& full, const Shape& local, const std::vector<Rect>& rects) {
  const Rect whole = whole_of(full);
  int64_t numel = 0;
  for (const Rect& r : rects) {
    check_shape(r.row >= 0 && r.rows >= 0 && r.col >= 0 && r.cols >= 0 && r.row + r.rows <= whole.rows &&
                    r.col + r.cols <= whole.cols,
                "[param] ", name, ": rows ", r.row, " + ", r.rows, ", columns ", r.col, " + ", r.cols,
                " are no part of ", full);
    numel += r.numel();
  }
  check_shape(numel == local.numel(), "[param] ", name, ": its parts have ", numel, " elements but its value is ",
              local);
}

}  // namespace

Init Init::xavier(int64_t fan_in, int64_t fan_out) {
  const float a = std::sqrt(6.0f / static_cast<float>(fan_in + fan_out));
  return uniform(-a, a);
}

Tensor Param::use() {
  hooks_->before_use(*this);
  Tape* tape = Tape::current();
  if (tape == nullptr) return value;
  if (trainable) return tape->leaf(value, *this);
  if (hooks_->follows_uses(*this)) tape->mark(*this);
  return value;
}

GradDest Param::grad_destination() {
  hooks_->before_grad(*this);
  if (!grad.defined()) {
    const MemoryScope memory(MemoryKind::kGradients);
    grad = Tensor::empty(value.shape());
  }
  const bool accumulate = grad_written;
  grad_written = true;
  return {grad, accumulate};
}

void Param::Initial::fetch(Storage& storage) {
  storage.restore();
  if (storage.device() == Device::kMeta) return;
  with_storage(param->value.dtype(), [&]<class T>() {
    auto* out = reinterpret_cast<T*>(storage.data());
    for (const Rect& part : param->rects()) {
      fill(out, param->init, key, part, whole_of(param->full).cols);
      out += part.numel();
    }
  });
}

void Param::on_ready() { trainable ? hooks_->on_grad_ready(*this) : hooks_->on_swept(*this); }

ParamStore::ParamStore(uint64_t seed, DType storage) : seed_(seed), storage_(storage) {
  check_precision({.weights = storage});
}

Param& ParamStore::create(const std::string& name, const Shape& full, const Shape& local, ShardSpec tp,
                          const Init& init, int group, std::optional<DType> storage) {
  check<ConfigError>(find(name) == nullptr, "parameter ", name, " is created twice");
  const MemoryScope memory(MemoryKind::kWeights);
  auto p = std::make_unique<Param>();
  p->name = name;
  p->full = full;
  p->tp = std::move(tp);
  check_rects(name, full, local, p->rects());
  p->group = group;
  p->decay = full.rank() >= 2;
  p->init = init;
  p->initial_.param = p.get();
  p->initial_.key = RngKey(seed_).with("init").with(name);
  p->value = Tensor::deferred(local, storage.value_or(storage_), p->initial_);
  p->hooks_ = &no_hooks();
  params_.push_back(std::move(p));
  return *params_.back();
}

int ParamStore::group(const std::string& name) {
  const auto it = std::find(groups_.begin(), groups_.end(), name);
  if (it != groups_.end()) return static_cast<int>(it - groups_.begin());
  check<ConfigError>(groups_.size() < 64, "parameter group ", name, " would be the 65th; at most 64 exist");
  groups_.push_back(name);
  return static_cast<int>(groups_.size()) - 1;
}

Param* ParamStore::find(std::string_view name) const {
  for (const auto& p : params_)
    if (p->name == name) return p.get();
  return nullptr;
}

int64_t ParamStore::numel(bool trainable_only) const {
  int64_t n = 0;
  for (const auto& p : params_)
    if (p->trainable || !trainable_only) n += p->full.numel();
  return n;
}

int ParamStore::set_trainable(std::string_view pattern, bool trainable) {
  int matched = 0;
  for (const auto& p : params_)
    if (glob_match(pattern, p->name)) p->trainable = trainable, ++matched;
  return matched;
}

int ParamStore::set_lr_scale(std::string_view pattern, float scale) {
  int matched = 0;
  for (const auto& p : params_)
    if (glob_match(pattern, p->name)) p->lr_scale = scale, ++matched;
  return matched;
}

void ParamStore::set_hooks(ParamHooks* hooks) {
  for (const auto& p : params_) p->hooks_ = hooks != nullptr ? hooks : &no_hooks();
}

ParamScope ParamScope::operator/(std::string_view name) const {
  return {*store_, prefix_.empty() ? std::string(name) : prefix_ + "." + std::string(name), group_, storage_};
}

Param& ParamScope::param(std::string_view name, const Shape& shape, const Init& init) const {
  return store_->create((*this / name).prefix(), shape, shape, {}, init, group_, storage_);
}

Param& ParamScope::param(std::string_view name, const Shape& full, const Shape& local, ShardSpec tp,
                         const Init& init) const {
  return store_->create((*this / name).prefix(), full, local, std::move(tp), init, group_, storage_);
}

bool glob_match(std::string_view pattern, std::string_view text) {
  size_t p = 0, t = 0, star = std::string_view::npos, mark = 0;
  while (t < text.size()) {
    if (p < pattern.size() && (pattern[p] == '?' || pattern[p] == text[t])) {
      ++p, ++t;
    } else if (p < pattern.size() && pattern[p] == '*') {
      star = p++, mark = t;
    } else if (star != std::string_view::npos) {
      p = star + 1, t = ++mark;
    } else {
      return false;
    }
  }
  while (p < pattern.size() && pattern[p] == '*') ++p;
  return p == pattern.size();
}

}  // namespace tpo
