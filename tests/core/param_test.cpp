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

TEST(param, glob) {
  EXPECT_TRUE(glob_match("*", ""));
  EXPECT_TRUE(glob_match("language.*.lora_?", "language.layers.0.attn.q.lora_a"));
  EXPECT_FALSE(glob_match("language.*.lora_?", "language.layers.0.attn.q.weight"));
  EXPECT_TRUE(glob_match("a*b*c", "aXbYbZc"));
  EXPECT_FALSE(glob_match("a*b*c", "aXbYbZ"));
}

}  // namespace
}  // namespace tpo
