// Simulated groups: sizes of splits, values, and the same collectives as the same program on rank threads.
#include "parallel/comm/sim.h"

#include <gtest/gtest.h>

#include "core/error.h"
#include "parallel/comm/threads.h"
#include "parallel/mesh.h"

namespace tpo {
namespace {

TEST(sim, a_mesh_has_the_places_of_the_real_one) {
  const MeshShape shape{.pipe = 2, .data = 2, .tensor = 2};
  run_ranks(8, [&](ProcessGroup& world) {
    const auto sim = make_simulated(world.rank(), 8);
    const Mesh real(world, shape), simulated(*sim, shape);
    for (const auto& [a, b] : {std::pair(&real.pipe(), &simulated.pipe()),
                               {&real.data(), &simulated.data()},
                               {&real.tensor(), &simulated.tensor()}}) {
      EXPECT_EQ(a->rank(), b->rank());
      EXPECT_EQ(a->size(), b->size());
      EXPECT_EQ(a->name(), b->name());
    }
    EXPECT_EQ(sim->collectives_issued(), 5u);  // three splits, and lengths and contents of the order of sums
  });
}

TEST(sim, thousands_of_ranks_cost_nothing) {
  const auto sim = make_simulated(4097, 8192);
  const Mesh mesh(*sim, {.pipe = 4, .data = 256, .tensor = 8});
  EXPECT_EQ(mesh.pipe_rank(), 2);
  EXPECT_EQ(mesh.data_rank(), 0);
  EXPECT_EQ(mesh.tensor_rank(), 1);
}

TEST(sim, values_are_those_of_equal_ranks) {
  const auto sim = make_simulated(3, 5);
  EXPECT_EQ(sim->all_reduce_value(int64_t{7}, ReduceOp::kSum), 35);
  EXPECT_EQ(sim->all_reduce_value(0.5, ReduceOp::kMax), 0.5);
  const std::vector<std::byte> mine{std::byte{1}, std::byte{2}};
  EXPECT_EQ(sim->all_gather_bytes(mine), std::vector(5, mine));
}

TEST(sim, counts_calls_and_bytes_by_group_and_operation) {
  const auto stats = std::make_shared<IssuedOps>();
  const auto world = make_simulated(1, 4, stats);
  const auto half = world->split_by([](int rank) { return std::pair(rank % 2, -rank); }, "half");
  EXPECT_EQ(half->size(), 2);
  EXPECT_EQ(half->rank(), 1);
  stats->list(true);
  const auto meta = Stream::make_meta();
  const Tensor t = Tensor::zeros({6}, DType::kF32, *meta), part = Tensor::zeros({3}, DType::kF32, *meta);
  half->all_reduce(t, ReduceOp::kSum, "bucket").wait_host();
  half->all_reduce(t, ReduceOp::kMax, "bucket").wait_host();
  half->reduce_scatter(t, part, ReduceOp::kSum, "bucket").wait_host();
  half->send(t, 0, 3, "activations").wait_host();
  EXPECT_EQ(stats->of("world.half", CommOp::kAllReduce), (CommCount{2, 48}));
  EXPECT_EQ(stats->of("world.half", CommOp::kReduceScatter), (CommCount{1, 12}));
  EXPECT_EQ(stats->of("world.half", CommOp::kSend), (CommCount{1, 24}));
  EXPECT_EQ(stats->of("world", CommOp::kBarrier), (CommCount{1, 0}));
  ASSERT_EQ(stats->lines().size(), 4u);
  EXPECT_EQ(stats->lines()[0], "all_reduce #0 of 'bucket' (sum, 6 f32, 24 bytes) in group world.half, rank 1 of 2");
}

TEST(sim, refuses_what_a_real_group_refuses_and_what_it_cannot_know) {
  const auto sim = make_simulated(0, 4);
  const auto meta = Stream::make_meta();
  const Tensor t = Tensor::zeros({6}, DType::kF32, *meta);
  EXPECT_THROW(static_cast<void>(sim->all_gather(t, t, "w")), CommError);
  EXPECT_THROW(static_cast<void>(sim->send(t, 0, 0, "w")), CommError);
  EXPECT_THROW(static_cast<void>(sim->broadcast(Tensor::zeros({6}), 0, "w")), CommError);  // on the cpu
  EXPECT_THROW(static_cast<void>(sim->split(0, 0, "w")), CommError);
  EXPECT_THROW(make_simulated(4, 4), CommError);
}

}  // namespace
}  // namespace tpo
