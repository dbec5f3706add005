#pragma once
// The parts of the nano model that part_bench times, forward and backward without an optimizer. bench/peers/parts.py
// has the same parts in PyTorch, by the same names, sizes and counts of trained parameters. No dropout.
// B samples of 160 rows, each with a clip of 4 frames of 64 x 64, one <boxes> slot and one box given by the user:
//   vision         pixels -> (256 B, 128); the gradient of the result is given
//   connector      vision tokens, which want a gradient -> Q-Former -> (16 B, 256); the gradient is given
//   language_lora  input rows, which want a gradient, -> loss; frozen base, adapters of rank 8 on all 8 targets
//   language_full  ids -> loss; no adapters, everything trained
//   region         states -> region head -> both box losses; boxes -> box encoder, whose gradient is given
//   model          all of it; frozen base of the language model, adapters, and everything else trained
// Every row of text has a label.
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "core/param.h"
#include "model/tpo_model.h"

namespace tpo {

class Part {
 public:
  virtual ~Part() = default;
  // Forward, then backward over the gradients of the step before; seconds.
  double step();
  int64_t trained() const { return store_.numel(true); }

 protected:
  Part() = default;
  // Records on `tape` and returns what is differentiated; seeds_ has the gradient of each, undefined for a loss.
  virtual std::vector<Tensor> forward(Tape& tape) = 0;

  ParamStore store_{7};
  const std::unique_ptr<ProcessGroup> alone_ = make_single();
  std::vector<Tensor> seeds_;
};

std::vector<std::string_view> part_names();
// Throws ConfigError that lists the names.
std::unique_ptr<Part> make_part(std::string_view name, int64_t batch);

}  // namespace tpo
