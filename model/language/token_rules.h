#pragma once
// What is done to the scores of the next token before one is chosen, and how one is drawn. Rules and their order are
// those of transformers' logits processors (4.46); V scores of one sequence, minus infinity excludes an id.
#include <span>
#include <vector>

#include "core/rng.h"

namespace tpo {

struct TokenRules {
  // Scores of ids in the history are divided by it if positive, else multiplied: above 1 discourages repetition, 1 does
  // nothing. Source: Keskar et al. 2019, arXiv:1909.05858.
  float repetition_penalty = 1;
  int64_t no_repeat_ngram = 0;  // no sequence of so many ids occurs twice in the history; 0: may
  // Drawing only: scores are divided by temperature, then the top_k largest stay (all that tie with the last; 0: all),
  // then the fewest most probable whose probabilities reach top_p. Source: Holtzman et al. 2020, arXiv:1904.09751.
  float temperature = 1;
  int64_t top_k = 0;
  float top_p = 1;
};

// Scores become logarithms of probabilities.
void log_softmax(std::span<float> scores);

// repetition_penalty, then no_repeat_ngram. Requires: ids of history in [0, V).
void restrain(std::span<float> scores, std::span<const int32_t> history, const TokenRules& rules);

// temperature, top_k, top_p; at least min_kept of the largest scores stay.
void narrow(std::span<float> scores, const TokenRules& rules, int64_t min_kept);

// Adding gumbel(key, step, beam, id) to every score and taking the n largest sums draws n ids without replacement with
// the probabilities of softmax(scores). Source: Kool et al. 2019, arXiv:1903.06059.
double gumbel(RngKey key, uint64_t step, uint64_t beam, uint64_t id);

}  // namespace tpo
