#include "core/param.h"

#include <gtest/gtest.h>

namespace tpo {
namespace {

TEST(param, names_groups_and_freezing) {
  ParamStore store(1);
  const ParamScope root(store);
  Param& a = (root / "vision" / 0).param("weight", {4, 3}, Init::normal(0, 1));
  Param& b = (root / "heads").in_group("head.region").param("bias", {4}, Init::constant(0.5f));
  EXPECT_EQ(a.name, "vision.0.weight");
  EXPECT_TRUE(a.decay);
  EXPECT_FALSE(b.decay);
  EXPECT_EQ(store.group_names()[static_cast<size_t>(b.group)], "head.region");
  EXPECT_EQ(b.value.to_vector<float>(), std::vector<float>(4, 0.5f));
  EXPECT_EQ(store.set_trainable("vision.*", false), 1);
  EXPECT_FALSE(a.trainable);
  EXPECT_EQ(store.numel(), 16);
  EXPECT_EQ(store.numel(true), 4);
  EXPECT_THROW(root.param("heads.bias", {1}, {}), ConfigError);
}

TEST(param, initial_values_depend_on_name_and_seed_only) {
  ParamStore s1(5), s2(5), s3(6);
  (void)ParamScope(s2).param("other", {100}, Init::normal(0, 1));  // creation order does not matter
  const auto v1 = ParamScope(s1).param("w", {33, 7}, Init::normal(0, 1)).value.to_vector<float>();
  const auto v2 = ParamScope(s2).param("w", {33, 7}, Init::normal(0, 1)).value.to_vector<float>();
  const auto v3 = ParamScope(s3).param("w", {33, 7}, Init::normal(0, 1)).value.to_vector<float>();
  EXPECT_EQ(v1, v2);
  EXPECT_NE(v1, v3);
  // A longer tensor of the same name starts with the same elements: values are per element of the full tensor.
  ParamStore s4(5);
  const auto v4 = ParamScope(s4).param("w", {66, 7}, Init::normal(0, 1)).value.to_vector<float>();
  EXPECT_TRUE(std::equal(v1.begin(), v1.end(), v4.begin()));
}

TEST(param, in_bf16_initial_values_are_rounded_and_a_scope_may_stay_fp32) {
  for (const Init& init : {Init::normal(1, 2), Init::uniform(-1, 3), Init::constant(0.1f)}) {
    ParamStore wide(5), narrow(5, DType::kBF16);
    const auto want = ParamScope(wide).param("w", {7, 9}, init).value.to_vector<float>();
    const Param& p = ParamScope(narrow).param("w", {7, 9}, init);
    ASSERT_EQ(p.value.dtype(), DType::kBF16);
    for (size_t i = 0; i < want.size(); ++i) EXPECT_EQ(p.value.data<BF16>()[i].bits, BF16(want[i]).bits) << i;
    const ParamScope exact = ParamScope(narrow).in_f32();
    EXPECT_EQ((exact / "a").in_group("g").param("w", {7, 9}, init).value.dtype(), DType::kF32);
    // A part of it.
    const Param& part = narrow.create("p", {7, 9}, {2, 9}, {{{3, 2, 0, 9}}, true}, init, 0);
    const Param& full = wide.create("p", {7, 9}, init, 0);
    for (int64_t i = 0; i < 18; ++i)
      EXPECT_EQ(part.value.data<BF16>()[i].bits, BF16(full.value.data<float>()[27 + i]).bits) << i;
  }
  EXPECT_THROW(ParamStore(1, DType::kI32), ConfigError);
}

TEST(param, glob) {
  EXPECT_TRUE(glob_match("*", ""));
  EXPECT_TRUE(glob_match("language.*.lora_?", "language.layers.0.attn.q.lora_a"));
  EXPECT_FALSE(glob_match("language.*.lora_?", "language.layers.0.attn.q.weight"));
  EXPECT_TRUE(glob_match("a*b*c", "aXbYbZc"));
  EXPECT_FALSE(glob_match("a*b*c", "aXbYbZ"));
}

// A rank that holds a part starts with the values that one rank would have there.
TEST(param, parts_start_with_the_values_of_the_whole) {
  constexpr int64_t kRows = 7, kCols = 9;
  const std::vector<std::vector<Rect>> cuts = {{{0, 7, 0, 9}}, {{2, 3, 0, 9}}, {{0, 7, 4, 5}},
                                               {{1, 1, 8, 1}}, {{3, 0, 0, 9}}, {{0, 2, 0, 9}, {4, 2, 0, 9}}};
  for (const Init& init : {Init::normal(1, 2), Init::uniform(-1, 3), Init::constant(4)}) {
    ParamStore one(5);
    const auto full = one.create("w", {kRows, kCols}, init, 0).value.to_vector<float>();
    for (const auto& rects : cuts) {
      ParamStore store(5);
      std::vector<float> want;
      for (const Rect& r : rects)
        for (int64_t i = 0; i < r.rows; ++i)
          for (int64_t j = 0; j < r.cols; ++j)
            want.push_back(full[static_cast<size_t>((r.row + i) * kCols + r.col + j)]);
      const Shape local{static_cast<int64_t>(want.size())};
      EXPECT_EQ(store.create("w", {kRows, kCols}, local, {rects, true}, init, 0).value.to_vector<float>(), want);
    }
  }
  ParamStore store(5);
  EXPECT_THROW(store.create("w", {7, 9}, {9}, {{{7, 1, 0, 9}}, true}, Init::constant(0), 0), ShapeError);
  EXPECT_THROW(store.create("w", {7, 9}, {9}, {{{0, 2, 0, 9}}, true}, Init::constant(0), 0), ShapeError);
}

}  // namespace
}  // namespace tpo
