#include "core/param.h"

#include <algorithm>
#include <cmath>

#include "core/parallel_for.h"

namespace tpo {

namespace {

ParamHooks& no_hooks() {
  static ParamHooks hooks;
  return hooks;
}

// Element e takes word e % 4 of Philox block e / 4; normals come in pairs inside the block.
void fill(const Tensor& t, const Init& init, RngKey key) {
  if (t.device() == Device::kMeta) return;
  float* out = t.data<float>();
  const int64_t n = t.numel();
  if (init.kind == Init::Kind::kConstant) {
    std::fill(out, out + n, init.a);
    return;
  }
  parallel_for((n + 3) / 4, 1 << 14, [&](int64_t begin, int64_t end) {
    for (int64_t block = begin; block < end; ++block) {
      const auto w = philox(key, static_cast<uint64_t>(block));
      float v[4];
      if (init.kind == Init::Kind::kUniform) {
        for (int j = 0; j < 4; ++j) v[j] = init.a + (init.b - init.a) * uniform01(w[static_cast<size_t>(j)]);
      } else {
        const auto lo = normal2(w[0], w[1]), hi = normal2(w[2], w[3]);
        const float z[4] = {lo[0], lo[1], hi[0], hi[1]};
        for (int j = 0; j < 4; ++j) v[j] = init.a + init.b * z[j];
      }
      for (int64_t j = 0; j < 4 && 4 * block + j < n; ++j) out[4 * block + j] = v[j];
    }
  });
}

}  // namespace

Init Init::xavier(int64_t fan_in, int64_t fan_out) {
  const float a = std::sqrt(6.0f / static_cast<float>(fan_in + fan_out));
  return uniform(-a, a);
}

Tensor Param::use() {
  hooks_->before_use(*this);
  Tape* tape = Tape::current();
  if (!trainable || tape == nullptr) return value;
  return tape->leaf(value, *this);
}

GradDest Param::grad_destination() {
  if (!grad.defined()) {
    const MemoryScope memory(MemoryKind::kGradients);
    grad = Tensor::empty(value.shape());
  }
  const bool accumulate = grad_written;
  grad_written = true;
  return {grad, accumulate};
}

void Param::on_ready() { hooks_->on_grad_ready(*this); }

Param& ParamStore::create(const std::string& name, const Shape& shape, const Init& init, int group) {
  check<ConfigError>(find(name) == nullptr, "parameter ", name, " is created twice");
  const MemoryScope memory(MemoryKind::kWeights);
  auto p = std::make_unique<Param>();
  p->name = name;
  p->full = shape;
  p->group = group;
  p->decay = shape.rank() >= 2;
  p->init = init;
  p->value = Tensor::empty(shape);
  p->hooks_ = &no_hooks();
  fill(p->value, init, RngKey(seed_).with("init").with(name));
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
  return {*store_, prefix_.empty() ? std::string(name) : prefix_ + "." + std::string(name), group_};
}

Param& ParamScope::param(std::string_view name, const Shape& shape, const Init& init) const {
  return store_->create((*this / name).prefix(), shape, init, group_);
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
