#include "checkpoint/diff.h"

#include <cmath>
#include <limits>

#include "tests/checkpoint/checkpoint_support.h"

namespace tpo {
namespace {

class Diff : public testing::Test {
 protected:
  std::string save_one(int64_t step, const TrainState& s) {
    const auto single = make_single();
    return save(dir_.path(), step, s, *single);
  }
  std::string save_cut(int64_t step, const Tensor& w, const std::vector<Rect>& rects) {
    run_ranks(static_cast<int>(rects.size()), [&](ProcessGroup& world) {
      const Rect& r = rects[static_cast<size_t>(world.rank())];
      save(dir_.path(), step, TrainState{{part_of_tensor("w", w, r, 0, r.numel())}, {}, "", ""}, world);
    });
    return list_checkpoints(dir_.path()).back();
  }
  TempFolder dir_;
};

TrainState one(const std::string& name, const Tensor& t) { return {{{name, t, t.shape(), 0}}, {}, "", ""}; }

TEST_F(Diff, equal_under_any_layout_and_configuration) {
  TrainState s = make_state(3);
  const std::string a = save_one(1, s);
  s.config_text = "another", s.model_fingerprint = "another";
  save_ranks(3, dir_.path(), 2, 3);
  const CheckpointDifference d = diff(a, dir_.path() + "/step_00000002");
  EXPECT_TRUE(d.none());
  EXPECT_EQ(d.compared, static_cast<int64_t>(s.tensors.size()));
  EXPECT_EQ(lines_of(d), std::vector<std::string>{});
  run_ranks(3, [&](ProcessGroup& world) { save(dir_.path(), 3, cut_state(world.rank()), world); });
  EXPECT_TRUE(diff(dir_.path() + "/step_00000003", save_one(4, one("w", ramp({6, 4, 5}, 3)))).none());
}

// 4.9 MB, more than the slab of a comparison, in pieces whose rows cross its end.
TEST_F(Diff, the_first_element_is_found_across_pieces_and_slabs) {
  Tensor w = ramp({1201, 1021}, 0);
  const std::string a = save_cut(1, w, {{0, 1201, 0, 501}, {0, 1201, 501, 520}});
  const std::string b = save_cut(2, w, {{0, 700, 0, 1021}, {700, 501, 0, 1021}});
  EXPECT_TRUE(diff(a, b).none());
  w.data<float>()[1100 * 1021 + 500] += 0.5f;  // beyond element 4 MiB / 4
  w.data<float>()[1200 * 1021 + 1020] -= 64;
  const CheckpointDifference d = diff(a, save_cut(3, w, {{0, 1201, 0, 502}, {0, 1201, 502, 519}}));
  ASSERT_EQ(d.tensors.size(), 1u);
  EXPECT_EQ(d.tensors[0].elements, 2);
  EXPECT_EQ(d.tensors[0].first, 1100 * 1021 + 500);
  EXPECT_EQ(std::stod(d.tensors[0].first_b) - std::stod(d.tensors[0].first_a), 0.5);
  EXPECT_EQ(d.tensors[0].largest, 64);
}

TEST_F(Diff, names_shapes_and_counters) {
  TrainState s = make_state(3);
  const std::string a = save_one(1, s);
  s.tensors[0] = {"trunk.w", ramp({129, 37}, 3), {129, 37}, 0};
  s.tensors[1].name = "trunk.gain";
  s.tensors[5] = {"exact_block", Tensor::zeros({1024}, DType::kI32), {1024}, 0};
  s.counters = {{"epoch", 8}, {"optim.steps.head", 3}};
  EXPECT_EQ(lines_of(diff(a, save_one(2, s))),
            (std::vector<std::string>{
                "only in a: counter:optim.steps.trunk", "only in a: trunk.b", "only in b: counter:optim.steps.head",
                "only in b: trunk.gain", "other shape or type: exact_block f32(1024) and i32(1024)",
                "other shape or type: trunk.w f32(37, 129) and f32(129, 37)", "counter epoch 7 and 8"}));
}

template <class T>
std::pair<Tensor, Tensor> pair_of(const std::vector<T>& a, const std::vector<T>& b) {
  return {Tensor::from(a, {2, 2}), Tensor::from(b, {2, 2})};
}

TEST_F(Diff, every_type) {
  const float nan = std::numeric_limits<float>::quiet_NaN(), inf = std::numeric_limits<float>::infinity();
  constexpr int64_t kLow = std::numeric_limits<int64_t>::min(), kHigh = std::numeric_limits<int64_t>::max();
  const struct {
    std::pair<Tensor, Tensor> values;
    const char* text;  // behind "w "; empty: equal
  } cases[] = {
      {pair_of<float>({1, 2, 3, 4}, {1, 2, 3.25f, 4}),
       "f32(2, 2): 1 of 4 elements differ, the first at (1, 0): 3 and 3.25; largest difference 0.25"},
      {pair_of<float>({0, 2, 3, 4}, {-0.0f, 2, 3, 4}),
       "f32(2, 2): 1 of 4 elements differ, the first at (0, 0): 0 and -0; largest difference 0"},
      {pair_of<float>({nan, inf, 3, 4}, {nan, inf, 3, 4}), ""},
      {pair_of<float>({1, nan, 3, 4}, {2, 2, 9, 4}),
       "f32(2, 2): 3 of 4 elements differ, the first at (0, 0): 1 and 2; largest difference nan"},
      {pair_of<float>({1, inf, 3, 4}, {1, 2, 9, 4}),
       "f32(2, 2): 2 of 4 elements differ, the first at (0, 1): inf and 2; largest difference inf"},
      {pair_of<BF16>({BF16(1), BF16(2), BF16(3), BF16(4)}, {BF16(1), BF16(2), BF16(3), BF16(6)}),
       "bf16(2, 2): 1 of 4 elements differ, the first at (1, 1): 4 and 6; largest difference 2"},
      {pair_of<int32_t>({1, 2, -3, 4}, {1, 2, 1234567891, 4}),
       "i32(2, 2): 1 of 4 elements differ, the first at (1, 0): -3 and 1234567891; largest difference 1234567894"},
      {pair_of<int64_t>({1, kLow, 3, 4}, {1, kHigh, 3, 4}),
       "i64(2, 2): 1 of 4 elements differ, the first at (0, 1): -9223372036854775808 and 9223372036854775807; "
       "largest difference 18446744073709551615"},
      {pair_of<uint8_t>({1, 2, 3, 4}, {201, 2, 3, 4}),
       "u8(2, 2): 1 of 4 elements differ, the first at (0, 0): 1 and 201; largest difference 200"},
  };
  for (const auto& c : cases) {
    const std::string a = save_one(1, one("w", c.values.first)), b = save_one(2, one("w", c.values.second));
    const std::vector<std::string> want =
        *c.text ? std::vector{std::string("w ") + c.text} : std::vector<std::string>{};
    EXPECT_EQ(lines_of(diff(a, b)), want);
  }
}

TEST_F(Diff, a_damaged_checkpoint_is_an_error_and_not_a_difference) {
  const std::string a = save_one(1, one("w", ramp({64, 64}, 0))), b = save_one(2, one("w", ramp({64, 64}, 0)));
  const std::string shard = b + "/shard_00000.h5";
  std::string bytes = slurp(shard);
  bytes[bytes.size() - 1] ^= 1;
  spit(shard, bytes);
  EXPECT_NE(message_of<DataError>([&] { diff(a, b); }).find("of tensor w have checksum"), std::string::npos);
  EXPECT_THROW(diff(b, a), DataError);
  EXPECT_THROW(diff(a, dir_.path() + "/none"), IoError);
}

}  // namespace
}  // namespace tpo
