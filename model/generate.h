#pragma once
// Generation with a KV cache and dispatch on trigger tokens: greedy, drawn, by beam search, or by beams that are drawn.
// When the model writes a trigger, the trigger is fed, then the task token at the slot that follows; the state at the
// slot goes to the head of the task. Training sees the same order, so the cache holds what training saw. Every beam
// has triggers and states of its own; heads see those of the hypothesis that won.
//
// Beams share one cache, in which nothing is copied or reordered: rows of all of them follow those of the prompt, and a
// mask says which are the ancestors of a new row. The prompt is read once for all beams.
#include <array>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "model/language/beam_search.h"
#include "model/language/token_rules.h"
#include "model/tpo_model.h"

namespace tpo {

struct GenerateOptions {
  int64_t max_new_tokens = 20;  // tokens that the model chooses; slots that follow a trigger come on top
  int64_t min_new_tokens = 0;   // no eos before
  int32_t eos_id = 2;           // generation stops after it; it is kept in the output. -1: never
  // Further ends: ids of a stop string, or another end token. Kept in the output too.
  std::vector<std::vector<int32_t>> stop_sequences;
  // Ids that are never written, as [first, second): those without a token, whose rows nothing trained.
  std::vector<std::pair<int32_t, int32_t>> never;

  bool sample = false;  // false: the best continuation, true: a drawn one
  RngKey key;           // of what is drawn: the same key, prompt and weights give the same answer under every layout
  int num_beams = 1;    // above 1: beam search; with `sample`, num_beams continuations are drawn each step
  float length_penalty = 1;
  EarlyStopping early_stopping = EarlyStopping::kNo;

  // As in the released code, whose prompts are embeddings without ids, rules look at what was generated only.
  TokenRules rules;
  bool rules_see_prompt = false;  // true: at the ids of the prompt too, as when transformers is given ids

  // As the released code reads the state of a task: the task token is tried in place of the trigger, in a step of its
  // own that leaves no trace; then the trigger is fed, and the slot is a token like others that the model may write.
  // For imported weights; a model trained here has seen the trigger before its slot.
  bool state_without_trigger = false;

  // Called once per region trigger, e (1, C) -> (1, 4). Empty: the model's own head.
  std::function<Tensor(const Tensor& e_1C)> region_head;
};

// Every illegal value as one sentence that names the option and what would be legal.
std::vector<std::string> generate_problems(const GenerateOptions& options);

struct GeneratedBox {
  int64_t token = 0;           // index in Generation::tokens of its slot; with state_without_trigger, of its trigger
  std::array<float, 4> raw{};  // as the head gave it
  std::array<float, 4> box{};  // x1, y1, x2, y2 clamped to [0, 1]
};

struct Generation {
  std::vector<int32_t> tokens;      // all new ids: text, triggers, slots, and what ended it
  std::vector<int32_t> text;        // the same without triggers, slots and end: what a tokenizer decodes
  std::vector<GeneratedBox> boxes;  // in order of their slots
  bool stopped = false;             // eos or a stop sequence was written, not the length limit reached
  double score = 0;                 // beams only: sum of log probabilities / length^length_penalty
};

// `prompt` is a Batch of one sequence as TpoModel describes it, without targets.
// Throws ConfigError with every problem of the options and for ids beyond the model's, ShapeError if the prompt has no
// row or more than one sequence, DataError if the model gives a NaN. Not recorded; draws no dropout. Spare rows of the
// vocabulary are never written. Triggers of tasks without a head in this model feed their task token and yield no box.
Generation generate(const TpoModel& model, const Batch& prompt, const GenerateOptions& options);

}  // namespace tpo
