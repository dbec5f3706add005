#pragma once
// The training steps that step_bench times: a Mistral-style decoder and a vision transformer, built from the layers of
// model/ and stepped as the trainer does. bench/peers has the same models in PyTorch, by the same names and sizes.
#include <memory>
#include <string>
#include <string_view>

#include "core/kernels/attention.h"
#include "core/tensor.h"
#include "parallel/comm/process_group.h"
#include "parallel/sharding/bucket.h"

namespace tpo {

struct StepConfig {
  std::string_view name;
  bool decoder = true;
  int64_t width = 0, layers = 0, heads = 0, kv_heads = 0, head_dim = 0, hidden = 0;
  int64_t outputs = 0;            // rows of the vocabulary, or classes
  int64_t batch = 0, tokens = 0;  // sequences or images; rows of one, the class token included
  int64_t image = 0, patch = 0;   // pixels, of the vision transformer

  AttentionShape attention() const;  // of one layer
  double linear_flops() const;       // products of linear layers, patches and outputs, forward and backward
  double attention_flops() const;    // products as executed: two forward, five backward, causal halved
  double nominal_flops() const;      // as model papers count them: attention three times its forward, and whole
};

// Throws ConfigError that lists the names.
StepConfig step_config(std::string_view name);

// Who steps the model together; null: nobody else. `batch` is what each rank of the data axis brings; ranks of the
// tensor axis share it.
struct StepLayout {
  ProcessGroup *data = nullptr, *tensor = nullptr;
  Sharding sharding = Sharding::kReplicated;  // over data
  bool sequence_parallel = false;             // over tensor
};

struct StepTimes {
  double forward_s = 0, backward_s = 0, optimizer_s = 0;
  double loss = 0;
  double total_s() const { return forward_s + backward_s + optimizer_s; }
};

class StepModel {
 public:
  virtual ~StepModel() = default;
  // Step `index` (from 0): draws the data of that step untimed, then forward, backward and AdamW (lr 1e-3, betas 0.9
  // and 0.95, decay 0.1 on everything, no clipping) over flat buffers.
  virtual StepTimes step(int64_t index) = 0;
  virtual int64_t parameters() const = 0;
};
// Collective over the groups of `layout`, which must outlive the model. Throws ConfigError for a ViT and a tensor axis.
std::unique_ptr<StepModel> make_step_model(const StepConfig& config, const StepLayout& layout = {});

}  // namespace tpo
