#pragma once
// Box metrics and the baseline that looks at no picture. Boxes are x1, y1, x2, y2 in any one unit.
#include <array>
#include <span>

namespace tpo {

using Box = std::array<float, 4>;

// Intersection over union in [0, 1]; a box with x2 <= x1 or y2 <= y1 has no area, and two boxes without area give 0.
double box_iou(const Box& a, const Box& b);

// Share of pairs with IoU >= threshold, and mean IoU, the same bits in any order of the pairs. 0 for no pairs. Throw
// ShapeError if the counts differ.
double box_accuracy(std::span<const Box> predicted, std::span<const Box> truth, double threshold);
double box_mean_iou(std::span<const Box> predicted, std::span<const Box> truth);

// The one box that scores best on `train` when given as the answer to everything: first by accuracy at `threshold`,
// then by mean IoU. Starts: the median box and up to 512 evenly spaced training boxes; the best few are refined by
// moving one edge at a time with halving steps. Deterministic. Throws ShapeError if train is empty.
Box best_constant_box(std::span<const Box> train, double threshold);

}  // namespace tpo
