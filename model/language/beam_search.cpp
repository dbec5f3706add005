#include "model/language/beam_search.h"

namespace tpo {

std::vector<BeamCandidate> best_candidates(const std::vector<double>& sums,
                                           const std::vector<std::vector<float>>& scores, size_t n,
                                           const std::function<double(int beam, int32_t id)>& noise) {
  using Keyed = std::pair<double, BeamCandidate>;
  const auto before = [](double a, const BeamCandidate& x, double b, const BeamCandidate& y) {
    return a != b ? a > b : std::pair(x.beam, x.id) < std::pair(y.beam, y.id);
  };
  const auto better = [&](const Keyed& a, const Keyed& b) { return before(a.first, a.second, b.first, b.second); };
  std::vector<Keyed> heap;  // the worst of the best n on top
  for (size_t beam = 0; beam < scores.size() && n > 0; ++beam)
    for (size_t id = 0; id < scores[beam].size(); ++id) {
      if (!std::isfinite(scores[beam][id])) continue;
      const BeamCandidate c{sums[beam] + static_cast<double>(scores[beam][id]), static_cast<int>(beam),
                            static_cast<int32_t>(id)};
      const Keyed keyed{c.score + (noise ? noise(c.beam, c.id) : 0), c};
      if (heap.size() == n && !better(keyed, heap.front())) continue;
      if (heap.size() == n) std::pop_heap(heap.begin(), heap.end(), better), heap.pop_back();
      heap.push_back(keyed);
      std::push_heap(heap.begin(), heap.end(), better);
    }
  std::vector<BeamCandidate> best;
  for (const auto& [key, c] : heap) best.push_back(c);
  std::sort(best.begin(), best.end(),
            [&](const BeamCandidate& a, const BeamCandidate& b) { return before(a.score, a, b.score, b); });
  return best;
}

}  // namespace tpo
