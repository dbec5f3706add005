#include "checkpoint/assignment.h"

#include <algorithm>
#include <map>
#include <numeric>
#include <set>
#include <utility>

#include "core/error.h"

namespace tpo {
namespace {

// Elements (or columns) [begin, end) with the ranks that hold them.
struct Segment {
  int64_t begin = 0, end = 0;
  std::vector<int> holders;  // ascending
};
struct Held {
  Part part;
  int rank = 0;
};
// A part of the tensor that a set of ranks holds as a whole.
struct Fragment {
  Part part;
  std::vector<int> holders;
};

// Cuts the line where the set of holders changes; what nobody holds is left out.
class Line {
 public:
  void add(int64_t begin, int64_t end, int rank) {
    changes_[begin].emplace_back(rank, 1);
    changes_[end].emplace_back(rank, -1);
  }
  std::vector<Segment> segments() const {
    std::vector<Segment> out;
    std::map<int, int> active;  // rank -> intervals that are open
    int64_t begin = 0;
    for (const auto& [at, list] : changes_) {
      std::vector<int> holders;
      for (const auto& [rank, open] : active) holders.push_back(rank);
      if (!out.empty() && out.back().end == begin && out.back().holders == holders) {
        out.back().end = at;
      } else if (!holders.empty()) {
        out.push_back({begin, at, holders});
      }
      for (const auto& [rank, change] : list) active[rank] += change;
      std::erase_if(active, [](const auto& a) { return a.second == 0; });
      begin = at;
    }
    return out;
  }

 private:
  std::map<int64_t, std::vector<std::pair<int, int>>> changes_;
};

std::vector<Held> held_of(const LogicalTensor& t) {
  std::vector<Held> held;
  for (size_t r = 0; r < t.held.size(); ++r) {
    for (const Part& p : t.held[r]) {
      check<ConfigError>(lies_in(p, t.full), "[checkpoint] rank ", r, " holds ", text_of(p, t.full), " of tensor ",
                         t.name, ", which is ", t.full);
      if (p.count > 0) held.push_back({normalised(p, t.full), static_cast<int>(r)});
    }
  }
  return held;
}

// For rectangles that are disjoint: each is a line of its elements.
std::vector<Fragment> cut_lines(const std::map<Rect, Line>& lines) {
  std::vector<Fragment> out;
  for (const auto& [rect, line] : lines) {
    for (Segment& s : line.segments()) out.push_back({{rect, s.begin, s.end - s.begin}, std::move(s.holders)});
  }
  return out;
}

// For rectangles that overlap without being equal: bands of rows in which nothing changes, each a line of columns.
std::vector<Fragment> cut_bands(const std::vector<Held>& held, const Shape& full) {
  std::vector<std::pair<Rect, int>> rects;
  std::set<int64_t> rows;
  for (const Held& h : held) {
    for (const Rect& r : rects_of(h.part)) {
      rects.emplace_back(r, h.rank);
      rows.insert({r.row, r.row + r.rows});
    }
  }
  std::vector<Fragment> out;
  std::map<std::pair<int64_t, int64_t>, size_t> above;  // columns -> fragment of the band before
  for (auto row = rows.begin(); std::next(row) != rows.end(); ++row) {
    const int64_t end = *std::next(row);
    Line line;
    for (const auto& [r, rank] : rects) {
      if (r.row <= *row && *row < r.row + r.rows) line.add(r.col, r.col + r.cols, rank);
    }
    std::map<std::pair<int64_t, int64_t>, size_t> band;
    for (Segment& s : line.segments()) {
      const auto it = above.find({s.begin, s.end});
      if (it != above.end() && out[it->second].holders == s.holders) {
        band.insert(*it);
        out[it->second].part.rect.rows += end - *row;
      } else {
        band.emplace(std::pair(s.begin, s.end), out.size());
        out.push_back({{{*row, end - *row, s.begin, s.end - s.begin}, 0, 0}, std::move(s.holders)});
      }
    }
    above = std::move(band);
  }
  for (Fragment& f : out) f.part = normalised({f.part.rect, 0, f.part.rect.numel()}, full);
  return out;
}

// Fragments that together are the tensor.
std::vector<Fragment> cut(const LogicalTensor& t) {
  const std::vector<Held> held = held_of(t);
  std::map<Rect, Line> lines;
  for (const Held& h : held) lines[h.part.rect].add(h.part.begin, h.part.begin + h.part.count, h.rank);
  std::vector<Rect> rects;
  for (const auto& [rect, line] : lines) rects.push_back(rect);
  std::vector<Fragment> out = first_shared(rects) ? cut_bands(held, t.full) : cut_lines(lines);
  std::sort(out.begin(), out.end(), [](const Fragment& a, const Fragment& b) { return a.part < b.part; });
  int64_t covered = 0;
  for (const Fragment& f : out) covered += f.part.count;
  if (covered != t.full.numel()) {
    std::vector<Rect> all;
    for (const Fragment& f : out) {
      for (const Rect& r : rects_of(f.part)) all.push_back(r);
    }
    throw ConfigError(cat("[checkpoint] no rank holds element ", first_missing(all, t.full).value(), " of tensor ",
                          t.name, " ", t.full));
  }
  return out;
}

}  // namespace

std::vector<PieceTask> assign_pieces(const std::vector<LogicalTensor>& tensors, int ranks) {
  std::vector<PieceTask> pieces;
  std::vector<std::vector<int>> holder_sets;
  std::vector<size_t> set_of;  // by piece
  for (size_t i = 0; i < tensors.size(); ++i) {
    const int64_t most = kMaxPieceBytes / tensors[i].element_bytes;
    for (Fragment& f : cut(tensors[i])) {
      const int64_t end = f.part.begin + f.part.count;
      for (int64_t at = f.part.begin; at < end; at += most) {
        pieces.push_back({static_cast<int>(i), {f.part.rect, at, std::min(most, end - at)}, -1});
        set_of.push_back(holder_sets.size());
      }
      holder_sets.push_back(std::move(f.holders));
    }
  }
  const auto bytes = [&](const PieceTask& p) { return p.part.count * tensors[p.tensor].element_bytes; };
  std::vector<size_t> order(pieces.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return bytes(pieces[a]) > bytes(pieces[b]); });
  std::vector<int64_t> load(ranks, 0);
  for (size_t i : order) {
    PieceTask& p = pieces[i];
    for (int r : holder_sets[set_of[i]]) {
      if (p.rank < 0 || load[r] < load[p.rank]) p.rank = r;
    }
    load[p.rank] += bytes(p);
  }
  return pieces;
}

}  // namespace tpo
