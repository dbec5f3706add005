#include "model/metrics/box.h"

#include <algorithm>
#include <numeric>
#include <utility>
#include <vector>

#include "core/error.h"

namespace tpo {

namespace {

double area(const Box& b) {
  return std::max(0.0, static_cast<double>(b[2]) - b[0]) * std::max(0.0, static_cast<double>(b[3]) - b[1]);
}

using Score = std::pair<double, double>;  // accuracy, then mean IoU

Score score(const Box& answer, std::span<const Box> truth, double threshold) {
  double hits = 0, sum = 0;
  for (const Box& t : truth) {
    const double iou = box_iou(answer, t);
    hits += iou >= threshold;
    sum += iou;
  }
  const double n = static_cast<double>(truth.size());
  return {hits / n, sum / n};
}

Box median_box(std::span<const Box> boxes) {
  Box median{};
  for (size_t edge = 0; edge < 4; ++edge) {
    std::vector<float> v;
    for (const Box& b : boxes) v.push_back(b[edge]);
    std::nth_element(v.begin(), v.begin() + static_cast<std::ptrdiff_t>(v.size() / 2), v.end());
    median[edge] = v[v.size() / 2];
  }
  return median;
}

// Moves one edge at a time while that helps, with steps that halve from a quarter of the largest extent.
std::pair<Score, Box> refine(Box box, std::span<const Box> train, double threshold) {
  Score best = score(box, train, threshold);
  float step = 0.25f * std::max(box[2] - box[0], box[3] - box[1]);
  for (int round = 0; round < 6; ++round, step *= 0.5f) {
    for (size_t edge = 0; edge < 4; ++edge) {
      for (const float sign : {-1.0f, 1.0f}) {
        Box moved = box;
        moved[edge] += sign * step;
        if (const Score s = score(moved, train, threshold); s > best) best = s, box = moved;
      }
    }
  }
  return {best, box};
}

}  // namespace

double box_iou(const Box& a, const Box& b) {
  const Box common{std::max(a[0], b[0]), std::max(a[1], b[1]), std::min(a[2], b[2]), std::min(a[3], b[3])};
  const double both = area(a) > 0 && area(b) > 0 ? area(common) : 0;
  const double either = area(a) + area(b) - both;
  return either > 0 ? both / either : 0;
}

double box_accuracy(std::span<const Box> predicted, std::span<const Box> truth, double threshold) {
  check_shape(predicted.size() == truth.size(), "[box_accuracy] ", predicted.size(), " predictions for ", truth.size());
  double hits = 0;
  for (size_t i = 0; i < truth.size(); ++i) hits += box_iou(predicted[i], truth[i]) >= threshold;
  return truth.empty() ? 0 : hits / static_cast<double>(truth.size());
}

double box_mean_iou(std::span<const Box> predicted, std::span<const Box> truth) {
  check_shape(predicted.size() == truth.size(), "[box_mean_iou] ", predicted.size(), " predictions for ", truth.size());
  std::vector<double> iou;
  for (size_t i = 0; i < truth.size(); ++i) iou.push_back(box_iou(predicted[i], truth[i]));
  std::sort(iou.begin(), iou.end());
  return iou.empty() ? 0 : std::accumulate(iou.begin(), iou.end(), 0.0) / static_cast<double>(iou.size());
}

Box best_constant_box(std::span<const Box> train, double threshold) {
  check_shape(!train.empty(), "[best_constant_box] no boxes to learn from");
  constexpr size_t kStarts = 512, kRefined = 8;
  std::vector<std::pair<Score, Box>> starts;
  const auto start = [&](const Box& b) { starts.emplace_back(score(b, train, threshold), b); };
  start(median_box(train));
  const size_t n = std::min(kStarts, train.size());
  for (size_t i = 0; i < n; ++i) start(train[i * train.size() / n]);
  std::stable_sort(starts.begin(), starts.end(), [](const auto& a, const auto& b) { return a.first > b.first; });
  std::pair<Score, Box> best = starts.front();
  for (size_t i = 0; i < std::min(kRefined, starts.size()); ++i)
    if (const auto refined = refine(starts[i].second, train, threshold); refined.first > best.first) best = refined;
  return best.second;
}

}  // namespace tpo
