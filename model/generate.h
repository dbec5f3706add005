#pragma once
// Greedy generation with a KV cache and dispatch on trigger tokens. When the model writes a trigger, the trigger is
// fed, then the task token at the slot that follows; the state at the slot goes to the head of the task. Training sees
// the same order, so the cache holds what training saw.
#include <array>
#include <functional>
#include <vector>

#include "model/tpo_model.h"

namespace tpo {

struct GenerateOptions {
  int64_t max_new_tokens = 20;  // tokens that the model chooses; slots that follow a trigger come on top
  int32_t eos_id = 2;           // generation stops after it; it is kept in the output
  // Called once per region trigger, e (1, C) -> (1, 4). Empty: the model's own head.
  std::function<Tensor(const Tensor& e_1C)> region_head;
};

struct GeneratedBox {
  int64_t token = 0;           // index of its slot in Generation::tokens
  std::array<float, 4> raw{};  // as the head gave it
  std::array<float, 4> box{};  // x1, y1, x2, y2 clamped to [0, 1]
};

struct Generation {
  std::vector<int32_t> tokens;      // all new ids: text, triggers, slots, eos
  std::vector<int32_t> text;        // the same without triggers, slots and eos: what a tokenizer decodes
  std::vector<GeneratedBox> boxes;  // in order of their slots
  bool stopped = false;             // eos was written, not the length limit reached
};

// `prompt` is a Batch of one sequence as TpoModel describes it, without targets.
// Throws ShapeError if it has no row or more than one sequence. Not recorded; draws no dropout.
// Triggers of tasks without a head in this model feed their task token and yield no box.
Generation generate(const TpoModel& model, const Batch& prompt, const GenerateOptions& options);

}  // namespace tpo
