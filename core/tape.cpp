#include "core/tape.h"

#include <atomic>
#include <utility>

#include "core/kernels/basic.h"
#include "core/kernels/cast.h"
#include "core/launch.h"
#include "core/profile.h"

namespace tpo {

namespace {

thread_local Tape* t_tape = nullptr;

uint64_t next_tape_id() {
  static std::atomic<uint64_t> id{0};
  return ++id;
}

void copy_into(const Tensor& dst, const Tensor& src) {
  if (dst.dtype() != src.dtype()) return launch(Cast{src.raw(), dst.raw(), dst.numel(), src.dtype(), dst.dtype()});
  launch(CopyBytes{dst.raw(), src.raw(), dst.nbytes()});
}

void add_into(const Tensor& dst, const Tensor& src) {
  launch(Cast{src.raw(), dst.raw(), dst.numel(), src.dtype(), dst.dtype(), true});
}

Tensor clone(const Tensor& t) {
  Tensor c = empty_like(t);
  copy_into(c, t);
  return c;
}

}  // namespace

// ---- GradSink

bool GradSink::wants(int input) const { return slots_[static_cast<size_t>(input)] >= 0; }

void GradSink::add(int input, const Tensor& g) {
  if (wants(input)) tape_.accumulate(slots_[static_cast<size_t>(input)], g);
}

GradDest GradSink::destination(int input) {
  TPO_ASSERT(wants(input));
  GradDest dest = tape_.destination(slots_[static_cast<size_t>(input)]);
  dest.grad = dest.grad.view(shapes_[static_cast<size_t>(input)]);
  return dest;
}

void GradSink::defer(std::function<void(GradSink&)> fn) {
  if (tape_.mode_ == Tape::Mode::kFull) {
    fn(*this);
  } else {
    tape_.deferred_.push_back({slots_, shapes_, std::move(fn), nullptr, tape_.running_});
  }
}

// ---- Tape

Tape::Tape() : id_(next_tape_id()), uses_(std::make_shared<UseCounts>()) {}
Tape::~Tape() = default;

Tape* Tape::current() { return t_tape; }

int32_t Tape::new_slot(const Tensor& value, LeafSink* leaf) {
  slots_.push_back({value.shape(), value.dtype(), {}, leaf, false});
  return static_cast<int32_t>(slots_.size()) - 1;
}

Tensor Tape::watch(const Tensor& t) {
  Tensor marked = t.detach();
  marked.set_slot(id_, new_slot(t));
  slots_.back().keep = true;
  return marked;
}

Tensor Tape::leaf(const Tensor& value, LeafSink& sink) {
  if (leaf_mode_ != Uses::kRecordOnly) {
    ++(*uses_)[&sink];
  }
  if (leaf_mode_ == Uses::kCountOnly) {
    probed_.push_back(&sink);
    return value.detach();
  }
  Tensor t = value.detach();
  const int32_t slot = new_slot(value, &sink);
  t.set_slot(id_, slot);
  Node node;
  node.name = "leaf";
  node.leaf = &sink;
  nodes_.push_back(std::move(node));
  return t;
}

void Tape::mark(LeafSink& sink) {
  if (leaf_mode_ != Uses::kRecordOnly) ++(*uses_)[&sink];
  if (leaf_mode_ == Uses::kCountOnly) {
    marked_.push_back(&sink);
    return;
  }
  Node node;
  node.name = "mark";
  node.leaf = &sink;
  nodes_.push_back(std::move(node));
}

void Tape::accumulate(int32_t slot, const Tensor& g) {
  Slot& s = slots_[static_cast<size_t>(slot)];
  check_shape(g.defined() && g.numel() == s.shape.numel(), "[tape] gradient ", g.shape(), " for a value ", s.shape);
  check_shape(s.leaf != nullptr ? is_float(g.dtype()) : g.dtype() == s.dtype, "[tape] gradient of dtype ", g.dtype(),
              " for a value of ", s.dtype);
  if (s.leaf != nullptr) {
    const GradDest dest = s.leaf->grad_destination();
    dest.accumulate ? add_into(dest.grad, g) : copy_into(dest.grad, g);
  } else if (!s.grad.defined()) {
    s.grad = g.detach().view(s.shape);
  } else {
    if (!s.grad.unique()) s.grad = clone(s.grad);  // another slot or a closure shares the bytes
    add_into(s.grad, g);
  }
}

GradDest Tape::destination(int32_t slot) {
  Slot& s = slots_[static_cast<size_t>(slot)];
  if (s.leaf != nullptr) return s.leaf->grad_destination();
  if (!s.grad.defined()) {
    s.grad = Tensor::empty(s.shape, s.dtype);
    return {s.grad, false};
  }
  if (!s.grad.unique()) s.grad = clone(s.grad);
  return {s.grad, true};
}

void Tape::leaf_use_done(LeafSink* leaf) {
  const auto it = uses_->find(leaf);
  TPO_ASSERT(it != uses_->end() && it->second > 0);
  if (--it->second == 0) leaf->on_ready();
}

void Tape::run_node(Node& node) {
  if (node.leaf != nullptr) {
    if (mode_ == Mode::kInputOnly) {
      deferred_.push_back({{}, {}, nullptr, node.leaf, node.name});
    } else {
      leaf_use_done(node.leaf);
    }
    return;
  }
  std::vector<Tensor> dy;
  dy.reserve(node.out.size());
  bool any = false;
  for (int32_t slot : node.out) {
    Slot& s = slots_[static_cast<size_t>(slot)];
    dy.push_back(s.keep ? s.grad : std::move(s.grad));
    if (!s.keep) s.grad = Tensor();
    any = any || dy.back().defined();
  }
  Backward backward = std::move(node.backward);
  node.backward = nullptr;
  if (!any) {
    for (LeafSink* leaf : node.probed) leaf_use_done(leaf);
    return;
  }
  const ProfileScope scope(node.name, ProfileEvent::Kind::kBackward);
  running_ = node.name;
  GradSink sink(*this, node.in, node.in_shapes);
  backward(dy, sink);
}

void Tape::backward(std::span<const Tensor> outputs, std::span<const Tensor> grads, Mode mode) {
  check_shape(!swept_, "[tape] backward was already run on this tape");
  check_shape(outputs.size() == grads.size(), "[tape] ", outputs.size(), " outputs but ", grads.size(), " gradients");
  for (const Tensor& out : outputs)
    check_shape(owns(out), "[tape] output ", out.shape(), " was not computed from anything that wants a gradient here");
  swept_ = true;
  mode_ = mode;
  for (size_t i = 0; i < outputs.size(); ++i) {
    Tensor g = grads[i];
    if (!g.defined()) {
      check_shape(outputs[i].numel() == 1, "[tape] output ", outputs[i].shape(), " needs an explicit gradient");
      const Slot& slot = slots_[static_cast<size_t>(outputs[i].slot())];
      g = Tensor::from(std::vector<float>{1.0f}, outputs[i].shape());
      if (slot.leaf == nullptr && slot.dtype != DType::kF32) {
        const Tensor one = std::exchange(g, Tensor::empty(g.shape(), slot.dtype));
        copy_into(g, one);
      }
    }
    accumulate(outputs[i].slot(), g);
  }
  // Gradients are made outside any tape: there is no double backward.
  const NoGradScope no_grad;
  const MemoryScope memory(MemoryKind::kWorkspace);
  for (size_t i = nodes_.size(); i-- > 0;) run_node(nodes_[i]);
}

void Tape::run_weight_grads() {
  const NoGradScope no_grad;
  const MemoryScope memory(MemoryKind::kWorkspace);
  std::vector<Deferred> work = std::move(deferred_);
  deferred_.clear();
  for (Deferred& d : work) {
    if (d.leaf != nullptr) {
      leaf_use_done(d.leaf);
    } else {
      const ProfileScope scope(d.name, ProfileEvent::Kind::kBackward);
      GradSink sink(*this, d.slots, d.shapes);
      d.fn(sink);
      d.fn = nullptr;
    }
  }
}

Tensor Tape::grad(const Tensor& watched) const {
  check_shape(owns(watched), "[tape] grad of a tensor ", watched.shape(), " that is not on this tape");
  return slots_[static_cast<size_t>(watched.slot())].grad;
}

// ---- scopes and free functions

TapeScope::TapeScope(Tape& tape) : previous_(t_tape) { t_tape = &tape; }
TapeScope::~TapeScope() { t_tape = previous_; }
NoGradScope::NoGradScope() : previous_(t_tape) { t_tape = nullptr; }
NoGradScope::~NoGradScope() { t_tape = previous_; }

bool any_wants_grad(std::initializer_list<Tensor> in) {
  if (t_tape == nullptr) return false;
  for (const Tensor& t : in)
    if (t.slot() >= 0 && t.tape_id() == t_tape->id()) return true;
  return false;
}

void record(std::string_view name, std::span<const Tensor> in, std::span<Tensor* const> out, Backward fn) {
  if (Profiler* profiler = Stream::current().profiler()) profiler->op_ended(name);
  Tape* tape = t_tape;
  if (tape == nullptr) return;
  Tape::Node node;
  node.name = name;
  bool wanted = false;
  for (const Tensor& t : in) {
    node.in.push_back(tape->owns(t) ? t.slot() : -1);
    node.in_shapes.push_back(t.shape());
    wanted = wanted || node.in.back() >= 0;
  }
  if (!wanted) return;
  for (Tensor* t : out) {
    node.out.push_back(tape->new_slot(*t));
    t->set_slot(tape->id(), node.out.back());
  }
  node.backward = std::move(fn);
  tape->nodes_.push_back(std::move(node));
}

void record(std::string_view name, std::initializer_list<Tensor> in, std::initializer_list<Tensor*> out, Backward fn) {
  record(name, std::span<const Tensor>(in.begin(), in.size()), std::span<Tensor* const>(out.begin(), out.size()),
         std::move(fn));
}

// Results of the products of a recomputed block, in the order of the program.
struct KeptProducts {
  struct Product {
    Tensor y;  // undefined: the block's result, which nobody reads again
    Shape shape;
    DType dtype;
    bool read;
  };
  std::vector<Product> products;
  size_t next = 0;
  Tensor result_grad;  // during the second run

  // Bytes for a result that is only asked for its shape: those of the block's gradient, if they are as many.
  Tensor stand_in(const Product& p) const {
    const bool fits = result_grad.dtype() == p.dtype && result_grad.numel() == p.shape.numel();
    return fits ? result_grad.view(p.shape) : Tensor::empty(p.shape, p.dtype);
  }

  // After the first run.
  void drop(const Tensor& result) {
    for (Product& p : products)
      if (!p.read && p.y.storage_id() == result.storage_id() && p.y.numel() == result.numel()) p.y = Tensor();
  }
};

Tensor take_kept() {
  if (t_tape == nullptr || t_tape->kept_ == nullptr || t_tape->leaf_mode_ != Tape::Uses::kRecordOnly) return {};
  KeptProducts& kept = *t_tape->kept_;
  TPO_ASSERT(kept.next < kept.products.size());
  KeptProducts::Product& p = kept.products[kept.next++];
  return p.y.defined() ? std::move(p.y) : kept.stand_in(p);
}

void keep(const Tensor& y, bool read) {
  if (t_tape != nullptr && t_tape->kept_ != nullptr && t_tape->leaf_mode_ == Tape::Uses::kCountOnly)
    t_tape->kept_->products.push_back({y.detach(), y.shape(), y.dtype(), read});
}

void keep_instead(const Tensor& x, const Tensor& y) {
  if (t_tape == nullptr || t_tape->kept_ == nullptr || t_tape->leaf_mode_ != Tape::Uses::kCountOnly) return;
  for (KeptProducts::Product& p : t_tape->kept_->products)
    if (!p.read && p.y.defined() && p.y.storage_id() == x.storage_id()) p.y = Tensor();
  keep(y, false);
}

Tensor recompute_block(std::function<Tensor(std::span<const Tensor>)> block, std::vector<Tensor> inputs, Keep what) {
  Tape* tape = t_tape;
  // Without a tape, and inside the probe or the replay of an outer recomputed block, the block simply runs.
  if (tape == nullptr || tape->leaf_mode_ != Tape::Uses::kCountAndRecord) return block(inputs);
  Tape probe;
  probe.uses_ = tape->uses_;
  probe.leaf_mode_ = Tape::Uses::kCountOnly;
  if (what == Keep::kProducts) probe.kept_ = std::make_shared<KeptProducts>();
  std::vector<Tensor> plain;
  bool wanted = false;
  for (const Tensor& t : inputs) {
    plain.push_back(t.detach());
    wanted = wanted || tape->owns(t);
  }
  Tensor y;
  {
    const TapeScope scope(probe);
    y = block(plain);
  }
  if (!wanted && probe.probed_.empty()) {
    for (LeafSink* sink : probe.marked_) tape->leaf_use_done(sink);  // nothing will run again
    return y;
  }
  probe.probed_.insert(probe.probed_.end(), probe.marked_.begin(), probe.marked_.end());
  if (probe.kept_) probe.kept_->drop(y);
  Tape::Node node;
  node.name = "recompute";
  node.probed = std::move(probe.probed_);
  for (const Tensor& t : inputs) {
    node.in.push_back(tape->owns(t) ? t.slot() : -1);
    node.in_shapes.push_back(t.shape());
  }
  node.out.push_back(tape->new_slot(y));
  y.set_slot(tape->id(), node.out.back());
  node.backward = [block = std::move(block), plain = std::move(plain), uses = tape->uses_,
                   kept = std::move(probe.kept_)](std::span<const Tensor> dy, GradSink& dx) {
    const auto replay = std::make_shared<Tape>();
    replay->uses_ = uses;
    replay->leaf_mode_ = Tape::Uses::kRecordOnly;
    replay->kept_ = kept;
    if (kept) kept->result_grad = dy[0].detach();
    std::vector<Tensor> watched = plain;
    for (size_t i = 0; i < watched.size(); ++i)
      if (dx.wants(static_cast<int>(i))) watched[i] = replay->watch(watched[i]);
    Tensor again;
    {
      const TapeScope scope(*replay);
      again = block(watched);
    }
    if (kept) kept->result_grad = Tensor();
    const Tensor outputs[1] = {again}, grads[1] = {dy[0]};
    const bool later = dx.tape_.mode_ == Tape::Mode::kInputOnly;
    replay->backward(outputs, grads, dx.tape_.mode_);
    for (size_t i = 0; i < watched.size(); ++i)
      if (dx.wants(static_cast<int>(i)))
        if (const Tensor g = replay->grad(watched[i]); g.defined()) dx.add(static_cast<int>(i), g);
    if (later) dx.defer([replay](GradSink&) { replay->run_weight_grads(); });
  };
  tape->nodes_.push_back(std::move(node));
  return y;
}

}  // namespace tpo
