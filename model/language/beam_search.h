#pragma once
// The bookkeeping of beam search: the best continuations of a step, and the best hypotheses that ended. Scores, length
// penalty and early stopping are those of transformers' BeamSearchScorer (4.46).
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <utility>
#include <vector>

#include "core/error.h"

namespace tpo {

struct BeamCandidate {
  double score = 0;  // sum of a hypothesis and its continuation
  int beam = 0;
  int32_t id = 0;
};

// The n best finite ones of sums[beam] + scores[beam][id], best first; of equal ones the smaller beam, then id. With
// `noise`, those whose score + noise(beam, id) is largest, still ordered by score: drawn, not best.
std::vector<BeamCandidate> best_candidates(const std::vector<double>& sums,
                                           const std::vector<std::vector<float>>& scores, size_t n,
                                           const std::function<double(int beam, int32_t id)>& noise = {});

// When a search stops although hypotheses are alive, once num_beams have ended:
enum class EarlyStopping {
  kNo,    // if the best alive, stopped now, would not beat the worst that ended
  kYes,   // at once
  kNever  // if the best alive could not beat it at any length up to the limit
};

struct BeamRules {
  int num_beams = 1;
  // A hypothesis counts sum / length^penalty, length in chosen tokens, its end included: 0 ranks by the sum, larger
  // values favour long answers.
  float length_penalty = 1;
  EarlyStopping early_stopping = EarlyStopping::kNo;
  int64_t max_new_tokens = 20;
};

// The num_beams best hypotheses that ended.
template <class Hypothesis>
class EndedBeams {
 public:
  explicit EndedBeams(const BeamRules& rules) : rules_(rules) {}

  void add(Hypothesis hypothesis, double sum, int64_t length) {
    const double score = penalized(sum, length);
    if (full() && !(score > worst_)) return;
    beams_.emplace_back(score, std::move(hypothesis));
    const auto less = [](const auto& a, const auto& b) { return a.first < b.first; };
    if (beams_.size() > static_cast<size_t>(rules_.num_beams))
      beams_.erase(std::min_element(beams_.begin(), beams_.end(), less));
    worst_ = std::min_element(beams_.begin(), beams_.end(), less)->first;
  }
  // Given the largest sum of this step's continuations, of `length` tokens.
  bool done(double best_sum, int64_t length) const {
    if (!full()) return false;
    if (rules_.early_stopping == EarlyStopping::kYes) return true;
    const bool longest = rules_.early_stopping == EarlyStopping::kNever && rules_.length_penalty > 0;
    return worst_ >= penalized(best_sum, longest ? rules_.max_new_tokens : length);
  }
  // Score and hypothesis; of equal ones the latest. Requires: something was added.
  std::pair<double, Hypothesis> best() const {
    check<ConfigError>(!beams_.empty(), "[beam_search] no hypothesis was added");
    size_t best = 0;
    for (size_t i = 1; i < beams_.size(); ++i)
      if (beams_[i].first >= beams_[best].first) best = i;
    return beams_[best];
  }

 private:
  bool full() const { return beams_.size() >= static_cast<size_t>(rules_.num_beams); }
  double penalized(double sum, int64_t length) const {
    return sum / std::pow(static_cast<double>(length), static_cast<double>(rules_.length_penalty));
  }

  BeamRules rules_;
  std::vector<std::pair<double, Hypothesis>> beams_;
  double worst_ = 0;
};

}  // namespace tpo
