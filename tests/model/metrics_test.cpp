#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "core/error.h"
#include "model/metrics/box.h"
#include "model/metrics/text.h"

namespace tpo {
namespace {

TEST(BoxMetrics, iou_of_known_boxes) {
  const Box a{0, 0, 2, 2};
  EXPECT_DOUBLE_EQ(box_iou(a, a), 1);
  EXPECT_DOUBLE_EQ(box_iou(a, {1, 0, 3, 2}), 1.0 / 3);
  EXPECT_DOUBLE_EQ(box_iou(a, {2, 0, 4, 2}), 0);
  EXPECT_DOUBLE_EQ(box_iou(a, {1, 1, 1, 2}), 0);
  EXPECT_DOUBLE_EQ(box_iou(a, {2, 2, 0, 0}), 0);  // inverted
  EXPECT_DOUBLE_EQ(box_iou({1, 1, 1, 1}, {1, 1, 1, 1}), 0);
}

TEST(BoxMetrics, accuracy_and_mean) {
  const std::vector<Box> truth{{0, 0, 2, 2}, {0, 0, 2, 2}, {0, 0, 2, 2}, {0, 0, 2, 2}};
  const std::vector<Box> pred{{0, 0, 2, 2}, {0, 0, 2, 1}, {0, 0, 1, 1}, {5, 5, 6, 6}};
  EXPECT_DOUBLE_EQ(box_accuracy(pred, truth, 0.5), 0.5);
  EXPECT_DOUBLE_EQ(box_accuracy(pred, truth, 0.75), 0.25);
  EXPECT_DOUBLE_EQ(box_mean_iou(pred, truth), (1 + 0.5 + 0.25) / 4);
  EXPECT_EQ(box_accuracy({}, {}, 0.5), 0);
  EXPECT_THROW(box_accuracy({pred.data(), 2}, truth, 0.5), ShapeError);
}

TEST(BoxMetrics, the_mean_has_the_same_bits_in_any_order) {
  std::vector<Box> truth, pred;
  for (int i = 0; i < 40; ++i) {
    truth.push_back({0, 0, 1, 1});
    pred.push_back({0, 0, 1, 1.0f / static_cast<float>(3 + i * 7 % 40)});
  }
  const double mean = box_mean_iou(pred, truth);
  for (int i = 0; i < 40; ++i) {
    std::rotate(pred.begin(), pred.begin() + 1, pred.end());
    EXPECT_EQ(box_mean_iou(pred, truth), mean);
  }
}

TEST(BoxMetrics, constant_box_finds_the_crowd_and_not_the_median) {
  // Seven boxes near one place, three elsewhere that pull the median of one edge.
  std::vector<Box> train;
  for (int i = 0; i < 7; ++i) train.push_back({0.1f, 0.1f, 0.4f, 0.4f + 0.005f * static_cast<float>(i)});
  for (int i = 0; i < 3; ++i) train.push_back({0.6f, 0.6f, 0.9f, 0.9f});
  const Box best = best_constant_box(train, 0.5);
  const std::vector<Box> answer(train.size(), best);
  EXPECT_DOUBLE_EQ(box_accuracy(answer, train, 0.5), 0.7);
  EXPECT_EQ(best, best_constant_box(train, 0.5));
  EXPECT_THROW(best_constant_box({}, 0.5), ShapeError);
}

TEST(BoxMetrics, constant_box_beats_every_training_box) {
  // No training box covers both kinds at IoU 0.5; one between them does.
  const std::vector<Box> train{{0, 0, 1, 0.45f}, {0, 0, 1, 0.95f}, {0, 0, 1, 0.45f}, {0, 0, 1, 0.95f}};
  const std::vector<Box> answer(train.size(), best_constant_box(train, 0.5));
  EXPECT_DOUBLE_EQ(box_accuracy(answer, train, 0.5), 1);
}

TEST(TextMetrics, answers_are_compared_after_normalisation) {
  EXPECT_EQ(normalize_answer("  The Red\t circle. "), "the red circle");
  EXPECT_EQ(normalize_answer(""), "");
  const std::vector<std::string> truth{"Red.", "two", "a b"}, pred{"red", "three", "A  b"};
  EXPECT_DOUBLE_EQ(exact_match(pred, truth), 2.0 / 3);
}

TEST(TextMetrics, most_frequent_answer_breaks_ties_by_alphabet) {
  const std::vector<std::string> train{"yes", "Red", "red.", "Yes", "no"};
  EXPECT_EQ(most_frequent_answer(train), "red");
  EXPECT_EQ(most_frequent_answer({}), "");
}

}  // namespace
}  // namespace tpo
