#include "parallel/sharding/bucket.h"

#include <gtest/gtest.h>

#include "core/error.h"

namespace tpo {
namespace {

std::string plan_text(const ParamStore& store, const BucketOptions& options) {
  std::string s;
  for (const Bucket& b : plan_buckets(store, options)) {
    s += s.empty() ? "" : " | ";
    for (size_t i = 0; i < b.entries.size(); ++i) s += (i ? " " : "") + b.entries[i].param->name;
  }
  return s;
}

TEST(bucket, gradients_that_come_first_go_first_and_a_full_bucket_is_closed) {
  ParamStore store(1);
  for (const char* name : {"a", "b", "c", "d"}) store.create(name, {512, 1}, Init::constant(1), 0);
  EXPECT_EQ(plan_text(store, {.bucket_bytes = 4096}), "d c | b a");
  EXPECT_EQ(plan_text(store, {.bucket_bytes = 8192}), "d c b a");
  EXPECT_EQ(plan_text(store, {.bucket_bytes = 4096, .forward_order = {"d", "b"}}), "c a | b d");
}

TEST(bucket, a_large_parameter_gets_one_of_its_own) {
  ParamStore store(1);
  store.create("small", {8, 8}, Init::constant(1), 0);
  store.create("large", {100, 100}, Init::constant(1), 0);
  store.create("last", {8, 8}, Init::constant(1), 0);
  EXPECT_EQ(plan_text(store, {.bucket_bytes = 4096}), "last | large | small");
}

// Three ranks of the tensor axis hold 3, 3 and 4 of ten columns of 128: filled by their own sizes, the first two would
// have buckets of three parts.
TEST(bucket, ranks_of_the_tensor_axis_cut_alike_where_their_parts_differ) {
  for (const int64_t columns : {3, 4}) {
    ParamStore store(1);
    PartSizes widest;
    for (const char* name : {"a", "b", "c", "d"}) {
      const ShardSpec part{.rects = {{0, 128, 0, columns}}};
      widest[&store.create(name, {128, 10}, {128, columns}, part, Init::constant(1), 0)] = 128 * 4;
    }
    const BucketOptions options{.bucket_bytes = 128 * 4 * 9};
    EXPECT_EQ(plan_text(store, options), columns == 3 ? "d c b | a" : "d c | b a");
    const auto buckets = plan_buckets(store, options, 1, widest);
    ASSERT_EQ(buckets.size(), 2u);
    EXPECT_EQ(buckets[0].what, "bucket 0 [d .. c]");
    EXPECT_EQ(buckets[0].numel, 2 * 128 * columns) << "a rank has its own parts only";
  }
}

TEST(bucket, never_mixes_groups_decay_or_learning_rates_and_skips_frozen_parameters) {
  ParamStore store(1);
  const int head = store.group("head");
  store.create("w0", {8, 8}, Init::constant(1), 0);
  store.create("b0", {8}, Init::constant(1), 0);
  store.create("frozen", {8, 8}, Init::constant(1), 0).trainable = false;
  store.create("slow", {8, 8}, Init::constant(1), 0).lr_scale = 0.1f;
  store.create("w1", {8, 8}, Init::constant(1), 0);
  store.create("table", {8, 8}, Init::constant(1), 0).frozen_rows_begin = 6;
  store.create("head.w", {8, 8}, Init::constant(1), head);
  // table does not decay, since its frozen rows must not.
  EXPECT_EQ(plan_text(store, {}), "head.w | slow | table b0 | w1 w0");
}

TEST(bucket, a_precision_that_nothing_computes_with_is_refused_by_name) {
  ParamStore store(1);
  store.create("a", {3, 5}, Init::constant(2), 0);
  for (const auto& [precision, message] :
       {std::pair{Precision{.gradients = DType::kBF16}, "precision of gradients is bf16; legal: f32"},
        {Precision{.master = DType::kBF16}, "precision of master is bf16; legal: f32"},
        {Precision{.weights = DType::kU8}, "precision of weights is u8; legal: f32, bf16"}}) {
    try {
      plan_buckets(store, {.precision = precision});
      ADD_FAILURE() << message;
    } catch (const ConfigError& e) {
      EXPECT_STREQ(e.what(), message);
    }
  }
}

TEST(bucket, storages_do_not_mix) {
  ParamStore store(1, DType::kBF16);
  const ParamScope root(store);
  for (const char* name : {"a", "b"}) root.param(name, {3, 5}, Init::constant(2));
  root.in_f32().param("wide", {3, 5}, Init::constant(2));
  root.param("c", {3, 5}, Init::constant(2));
  EXPECT_EQ(plan_text(store, {.precision = {.weights = DType::kBF16}}), "wide | c b a");
}

TEST(bucket, values_move_in_and_padding_is_zero) {
  ParamStore store(1);
  Param& a = store.create("a", {3, 5}, Init::constant(2), 0);
  Param& b = store.create("b", {7, 1}, Init::constant(3), 0);
  auto buckets = plan_buckets(store, {});
  ASSERT_EQ(buckets.size(), 1u);
  const auto alone = make_single();
  materialise(buckets[0], *alone);
  std::vector<float> expected(32, 0.0f);
  std::fill_n(expected.begin(), 7, 3.0f);
  std::fill_n(expected.begin() + 16, 15, 2.0f);
  EXPECT_EQ(buckets[0].value.to_vector<float>(), expected);
  EXPECT_EQ(b.value.raw(), buckets[0].value.raw());
  EXPECT_EQ(a.value.shape(), (Shape{3, 5}));
  a.grad.data<float>()[0] = 9;
  EXPECT_EQ(buckets[0].grad.data<float>()[16], 9);
  EXPECT_EQ(buckets[0].what, "bucket 0 [b .. a]");
}

TEST(bucket, frozen_parameters_have_buckets_where_values_are_sharded_and_end_with_their_block) {
  ParamStore store(1);
  for (const char* name : {"embed", "layers.0.a", "layers.0.b", "layers.1.a", "layers.1.b", "norm"})
    store.create(name, {512, 1}, Init::constant(1), 0);
  store.set_trainable("layers.*", false);
  const BucketOptions all{.bucket_bytes = 8192, .sharding = Sharding::kParameters};
  EXPECT_EQ(plan_text(store, all), "layers.1.b layers.1.a | layers.0.b layers.0.a | norm embed");
  // Frozen parameters stay as they are under the other policies; the last rule wins.
  EXPECT_EQ(plan_text(store, {.bucket_bytes = 8192, .sharding = Sharding::kGradients}), "norm embed");
  EXPECT_EQ(plan_text(store, {.bucket_bytes = 8192,
                              .rules = {{"layers.*", Sharding::kParameters}, {"*.0.*", Sharding::kOptimizer}}}),
            "layers.1.b layers.1.a | norm embed");
  const auto parts = plan_buckets(store, all, 3);
  EXPECT_EQ(parts[0].numel, 1056);  // 1024 and padding to 3 x 16
  EXPECT_EQ(parts[0].first_use, 3);
  EXPECT_EQ(parts[0].last_use, 4);
  EXPECT_EQ(own_range(parts[0], 2, 3).begin, 704);
  EXPECT_EQ(own_range(parts[0], 2, 3).end(), 1056);
}

TEST(bucket, bad_options_are_refused) {
  ParamStore store(1);
  EXPECT_THROW(plan_buckets(store, {.bucket_bytes = 100}), ConfigError);
  EXPECT_THROW(plan_buckets(store, {.forward_order = {"nowhere"}}), ConfigError);
}

}  // namespace
}  // namespace tpo
