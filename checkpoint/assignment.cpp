#include "checkpoint/assignment.h"

#include <algorithm>
#include <numeric>
#include <set>
#include <tuple>

#include "core/error.h"

namespace tpo {
namespace {

bool holds(const HeldRange& r, int64_t begin, int64_t end) { return r.begin <= begin && end <= r.begin + r.count; }

// The points at which the set of holders changes.
std::set<int64_t> boundaries(const LogicalTensor& t) {
  std::set<int64_t> points{0, t.numel};
  for (size_t r = 0; r < t.held.size(); ++r) {
    const HeldRange& h = t.held[r];
    check<ConfigError>(h.begin >= 0 && h.count >= 0 && h.begin <= t.numel && h.count <= t.numel - h.begin,
                       "[checkpoint] rank ", r, " holds ", h.count, " elements from ", h.begin, " of tensor ", t.name,
                       ", which has ", t.numel);
    points.insert({h.begin, h.begin + h.count});
  }
  return points;
}

void cut(const LogicalTensor& t, int index, std::vector<PieceTask>& out) {
  const int64_t most = kMaxPieceBytes / t.element_bytes;
  int64_t begin = 0;
  for (int64_t end : boundaries(t)) {
    if (end == begin) continue;
    const bool held =
        std::any_of(t.held.begin(), t.held.end(), [&](const HeldRange& h) { return holds(h, begin, end); });
    check<ConfigError>(held, "[checkpoint] no rank holds element ", begin, " of tensor ", t.name);
    for (; begin < end; begin += std::min(most, end - begin)) {
      out.push_back({index, begin, std::min(most, end - begin), -1});
    }
  }
}

}  // namespace

std::vector<PieceTask> assign_pieces(const std::vector<LogicalTensor>& tensors, int ranks) {
  std::vector<PieceTask> pieces;
  for (size_t i = 0; i < tensors.size(); ++i) cut(tensors[i], static_cast<int>(i), pieces);
  const auto bytes = [&](const PieceTask& p) { return p.count * tensors[p.tensor].element_bytes; };
  std::vector<size_t> order(pieces.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return bytes(pieces[a]) > bytes(pieces[b]); });
  std::vector<int64_t> load(ranks, 0);
  for (size_t i : order) {
    PieceTask& p = pieces[i];
    const std::vector<HeldRange>& held = tensors[p.tensor].held;
    for (int r = 0; r < ranks; ++r) {
      if (holds(held[r], p.begin, p.begin + p.count) && (p.rank < 0 || load[r] < load[p.rank])) p.rank = r;
    }
    load[p.rank] += bytes(p);
  }
  return pieces;
}

}  // namespace tpo
