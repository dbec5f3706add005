#pragma once
// Tape: what one microbatch did, owned by that microbatch. Several may be in flight, each with its own lifetime.
// Nodes are a vector in creation order, so reverse order is topological: there is no graph search, and on every rank
// that runs the same program leaves become ready in the same order.
//
// An op ends in `record`. Its backward closure gets the gradients of its outputs and a GradSink for its inputs.
// A closure is destroyed right after it ran, which frees what it saved.
// Thread rule: a tape is used by one thread at a time.
#include <cstdint>
#include <functional>
#include <initializer_list>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "core/tensor.h"

namespace tpo {

// Where a gradient is to be written. accumulate == false: the first writer overwrites (GEMM with beta 0);
// true: it adds (beta 1).
struct GradDest {
  Tensor grad;  // fp32 for a leaf (its bucket), else the dtype of the value
  bool accumulate = false;
};

// A leaf (a trainable parameter). Each use on a tape is one expected contribution.
class LeafSink {
 public:
  virtual ~LeafSink() = default;
  virtual GradDest grad_destination() = 0;  // the bucket view; the caller must write all of it
  virtual void on_ready() = 0;              // every use on this tape, deferred and recomputed ones included, arrived
};

class Tape;
struct KeptProducts;
enum class Keep;

// Destination of the gradients of one node's inputs, valid during its backward closure only.
class GradSink {
 public:
  // False for frozen weights, data and undefined inputs: the op then skips that product.
  bool wants(int input) const;
  // Adds g (same element count as the input; f32 or bf16). The sink may keep g; the op must not write it afterwards.
  void add(int input, const Tensor& g);
  // For kernels that write or accumulate themselves; has the shape of the op's input. Requires: wants(input).
  GradDest destination(int input);
  // Runs fn now, or with Mode::kInputOnly later in run_weight_grads (zero-bubble schedules).
  // destination() and add() of leaves may be called inside fn.
  void defer(std::function<void(GradSink&)> fn);

 private:
  friend class Tape;
  friend Tensor recompute_block(std::function<Tensor(std::span<const Tensor>)>, std::vector<Tensor>, Keep);
  GradSink(Tape& tape, std::vector<int32_t> slots, std::vector<Shape> shapes)
      : tape_(tape), slots_(std::move(slots)), shapes_(std::move(shapes)) {}
  Tape& tape_;
  std::vector<int32_t> slots_;
  std::vector<Shape> shapes_;  // of the inputs as the op saw them: a view of a value shares its slot
};

// dy[k] is the gradient of output k; undefined if nothing used that output.
using Backward = std::function<void(std::span<const Tensor> dy, GradSink& dx)>;

// What a recomputed block keeps of its first run besides its inputs and its result.
enum class Keep {
  kNothing,   // everything is computed again
  kProducts,  // results of matrix products: dear to compute. What lies between them is computed again.
};

class Tape {
 public:
  enum class Mode {
    kFull,       // everything
    kInputOnly,  // deferred work is kept for run_weight_grads
  };

  Tape();
  ~Tape();
  Tape(const Tape&) = delete;
  Tape& operator=(const Tape&) = delete;

  // The tape of this thread's innermost TapeScope, or null when nothing is recorded.
  static Tape* current();

  // Marks a tensor as wanting a gradient (a pipeline stage's input, a test's input) and returns the marked handle.
  Tensor watch(const Tensor& t);
  // Registers a use of a leaf: returns `value` with a slot whose gradient goes to sink. Called by Param::use().
  Tensor leaf(const Tensor& value, LeafSink& sink);
  // Registers a use that wants no gradient: sink hears on_ready() as a leaf does, once the sweep has passed all its
  // uses.
  void mark(LeafSink& sink);

  // Runs the recorded nodes in reverse. grads[i] is dL/doutputs[i]; an undefined grad means 1, in the
  // dtype of the output, which has one element.
  // Every leaf with all its uses behind the sweep gets on_ready(), in reverse order of first use.
  // Throws ShapeError if an output was not computed on this tape. May be called once.
  void backward(std::span<const Tensor> outputs, std::span<const Tensor> grads, Mode mode = Mode::kFull);
  void backward(const Tensor& loss) {
    const Tensor out[1] = {loss}, none[1] = {};
    backward(out, none);
  }
  // Runs the work deferred by Mode::kInputOnly, in order.
  void run_weight_grads();
  // Gradient of a watched tensor after backward; undefined if nothing reached it.
  Tensor grad(const Tensor& watched) const;

  size_t size() const { return nodes_.size(); }
  uint64_t id() const { return id_; }

 private:
  friend class GradSink;
  friend void record(std::string_view, std::initializer_list<Tensor>, std::initializer_list<Tensor*>, Backward);
  friend void record(std::string_view, std::span<const Tensor>, std::span<Tensor* const>, Backward);
  friend Tensor recompute_block(std::function<Tensor(std::span<const Tensor>)>, std::vector<Tensor>, Keep);
  friend Tensor take_kept();
  friend void keep(const Tensor&, bool);
  friend void keep_instead(const Tensor&, const Tensor&);

  struct Slot {
    Shape shape;
    DType dtype;
    Tensor grad;
    LeafSink* leaf = nullptr;
    bool keep = false;  // watched: the gradient outlives the sweep
  };
  struct Node {
    std::string_view name;
    std::vector<int32_t> in, out;
    std::vector<Shape> in_shapes;
    Backward backward;
    LeafSink* leaf = nullptr;       // a use of a leaf: reached in reverse, this use is complete
    std::vector<LeafSink*> probed;  // a recomputed block's uses: complete without a replay if no gradient arrives
  };
  using UseCounts = std::unordered_map<LeafSink*, int>;

  int32_t new_slot(const Tensor& value, LeafSink* leaf = nullptr);
  bool owns(const Tensor& t) const { return t.slot() >= 0 && t.tape_id() == id_; }
  void accumulate(int32_t slot, const Tensor& g);
  GradDest destination(int32_t slot);
  void run_node(Node& node);
  void leaf_use_done(LeafSink* leaf);

  uint64_t id_;
  std::vector<Node> nodes_;
  std::vector<Slot> slots_;
  std::shared_ptr<UseCounts> uses_;  // shared with the tapes that replay recomputed blocks
  // What a use of a leaf does: a normal tape counts and records it; the probe of a recomputed block only counts; the
  // replay of that block only records, since its uses were counted by the probe.
  enum class Uses { kCountAndRecord, kCountOnly, kRecordOnly };
  Uses leaf_mode_ = Uses::kCountAndRecord;
  std::vector<LeafSink*> probed_;       // uses seen by a probe, one entry a use
  std::vector<LeafSink*> marked_;       // the same, of uses that want no gradient
  std::shared_ptr<KeptProducts> kept_;  // of the block whose probe or replay this is; null unless it keeps products
  Mode mode_ = Mode::kFull;
  bool swept_ = false;
  struct Deferred {
    std::vector<int32_t> slots;
    std::vector<Shape> shapes;
    std::function<void(GradSink&)> fn;
    LeafSink* leaf;
    std::string_view name;  // of the node that deferred
  };
  std::vector<Deferred> deferred_;
  std::string_view running_;  // name of the node whose closure runs
};

// Makes a tape current on this thread. Memory allocated inside counts as activations.
class TapeScope {
 public:
  explicit TapeScope(Tape& tape);
  ~TapeScope();
  TapeScope(const TapeScope&) = delete;
  TapeScope& operator=(const TapeScope&) = delete;

 private:
  Tape* previous_;
  MemoryScope memory_{MemoryKind::kActivations};
};

// Nothing is recorded inside (evaluation, generation, KV cache).
class NoGradScope {
 public:
  NoGradScope();
  ~NoGradScope();
  NoGradScope(const NoGradScope&) = delete;
  NoGradScope& operator=(const NoGradScope&) = delete;

 private:
  Tape* previous_;
};

// Records an op: `out` get slots if the current tape exists and any input wants a gradient, otherwise nothing happens
// and the closure is dropped. `name` must be a literal. Inputs may be undefined (an absent bias).
void record(std::string_view name, std::initializer_list<Tensor> in, std::initializer_list<Tensor*> out, Backward fn);
void record(std::string_view name, std::span<const Tensor> in, std::span<Tensor* const> out, Backward fn);

// True if the current tape would record an op with these inputs: lets an op skip saving.
bool any_wants_grad(std::initializer_list<Tensor> in);

// Runs block(inputs) without saving its intermediates and runs it again during backward. Parameters used inside fire
// after the second run, once. The block must be deterministic (dropout here is: its masks are counter-based).
// With Keep::kProducts the second run takes results of products from the first (take_kept), and a product whose result
// is the block's own result is neither kept nor formed again, since no backward reads it.
// Blocks may be nested: the outermost decides, since inside its two runs an inner block simply runs.
Tensor recompute_block(std::function<Tensor(std::span<const Tensor>)> block, std::vector<Tensor> inputs,
                       Keep keep = Keep::kNothing);

// For ops whose result is dear to compute:
//   Tensor y = take_kept();
//   if (!y.defined()) { y = Tensor::empty(..); launch(..); keep(y, false); }
//   record(..);
// take_kept is defined in the second run of a block that keeps products only; keep does nothing outside the first.
// y may be written once more by another op that does the same (linear_add_into, add_into). `read`: the op's own
// backward reads y.
Tensor take_kept();
void keep(const Tensor& y, bool read);
// keep(y, false) for an op with input x, where the result of a product in x has served its purpose: y is its sum over
// ranks. Of that product only the shape is kept.
void keep_instead(const Tensor& x, const Tensor& y);

}  // namespace tpo
