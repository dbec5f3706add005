#include "core/tensor.h"

#include <gtest/gtest.h>

#include <limits>

#include "core/batch.h"
#include "core/parallel_for.h"

namespace tpo {
namespace {

TEST(tensor, views_share_bytes_and_rows_select) {
  const Tensor t = Tensor::from(std::vector<float>{0, 1, 2, 3, 4, 5}, {3, 2});
  const Tensor v = t.view({2, 3});
  EXPECT_EQ(v.raw(), t.raw());
  const Tensor r = t.rows(1, 3);
  EXPECT_EQ(r.shape(), (Shape{2, 2}));
  EXPECT_EQ(r.to_vector<float>(), (std::vector<float>{2, 3, 4, 5}));
  EXPECT_FALSE(t.unique());
}

TEST(tensor, wrong_use_is_a_typed_error_with_shapes) {
  const Tensor t = Tensor::zeros({2, 3});
  EXPECT_THROW(t.view({4}), ShapeError);
  EXPECT_THROW(t.rows(1, 3), ShapeError);
  EXPECT_THROW(t.data<int32_t>(), ShapeError);
  EXPECT_THROW(t.item(), ShapeError);
  EXPECT_THROW(Tensor().raw(), ShapeError);
  EXPECT_THROW((Tensor::from(std::vector<float>{1}, {2})), ShapeError);
  try {
    t.view({4});
  } catch (const ShapeError& e) {
    EXPECT_NE(std::string(e.what()).find("(2, 3)"), std::string::npos) << e.what();
  }
}

TEST(tensor, meta_has_shape_and_bytes_but_no_data) {
  const auto stream = Stream::make_meta();
  const StreamScope scope(*stream);
  {
    const Tensor t = Tensor::zeros({1000, 1000, 1000});
    EXPECT_EQ(t.device(), Device::kMeta);
    EXPECT_GE(stream->allocator()->stats().live_bytes, 4'000'000'000);
    EXPECT_THROW(t.data<float>(), DeviceError);
    EXPECT_EQ(stream->counters().write_bytes, 4'000'000'000);
    EXPECT_GT(stream->virtual_seconds(), 0);
  }
  EXPECT_EQ(stream->allocator()->stats().live_bytes, 0);
}

TEST(tensor, bf16_rounds_to_nearest_even) {
  EXPECT_EQ(BF16(1.0f).bits, 0x3f80);
  EXPECT_EQ(BF16(std::bit_cast<float>(0x3f808000u)).bits, 0x3f80);  // tie to even, down
  EXPECT_EQ(BF16(std::bit_cast<float>(0x3f818000u)).bits, 0x3f82);  // tie to even, up
  EXPECT_EQ(BF16(std::bit_cast<float>(0x3f808001u)).bits, 0x3f81);
  EXPECT_TRUE(static_cast<float>(BF16(std::numeric_limits<float>::quiet_NaN())) !=
              static_cast<float>(BF16(std::numeric_limits<float>::quiet_NaN())));
}

TEST(batch, missing_array_is_named_with_those_present) {
  HostBatch host;
  host.arrays["tokens"] = HostArray::from(std::vector<int32_t>{1, 2, 3}, {3});
  const Batch batch = upload(host);
  EXPECT_EQ(batch.at("tokens").to_vector<int32_t>(), (std::vector<int32_t>{1, 2, 3}));
  try {
    batch.at("images");
    FAIL();
  } catch (const ShapeError& e) {
    EXPECT_NE(std::string(e.what()).find("tokens"), std::string::npos);
  }
}

TEST(parallel_for, covers_each_index_once_and_rethrows) {
  set_num_threads(2);
  std::vector<int> hits(10007, 0);
  parallel_for(10007, 10, [&](int64_t b, int64_t e) {
    for (int64_t i = b; i < e; ++i) ++hits[static_cast<size_t>(i)];
  });
  for (int h : hits) ASSERT_EQ(h, 1);
  EXPECT_THROW(parallel_for(100, 1, [](int64_t, int64_t) { throw DataError("piece"); }), DataError);
}

}  // namespace
}  // namespace tpo
