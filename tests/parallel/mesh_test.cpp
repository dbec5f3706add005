#include "parallel/mesh.h"

#include <gtest/gtest.h>

#include "core/error.h"
#include "parallel/comm/threads.h"

namespace tpo {
namespace {

TEST(mesh, gives_every_rank_its_place_with_tensor_fastest) {
  run_ranks(8, [](ProcessGroup& world) {
    const Mesh mesh(world, {.pipe = 2, .data = 2, .tensor = 2});
    EXPECT_EQ(world.rank(), (mesh.pipe_rank() * 2 + mesh.data_rank()) * 2 + mesh.tensor_rank());
    const auto sum = [&](ProcessGroup& g) { return g.all_reduce_value(int64_t{world.rank()}, ReduceOp::kSum); };
    EXPECT_EQ(sum(mesh.tensor()), world.rank() / 2 * 4 + 1);
    EXPECT_EQ(sum(mesh.data()), 2 * (world.rank() & ~2) + 2);
    EXPECT_EQ(sum(mesh.pipe()), 2 * (world.rank() & ~4) + 4);
    EXPECT_EQ(mesh.data().name(), "world.data");
  });
}

TEST(mesh, the_data_axis_falls_into_copies_and_their_shards) {
  run_ranks(8, [](ProcessGroup& world) {
    const Mesh mesh(world, {.data = 4, .tensor = 2, .shard = 2});
    EXPECT_EQ(mesh.shard().size(), 2);
    EXPECT_EQ(mesh.replica().size(), 2);
    EXPECT_EQ(mesh.data_rank(), mesh.replica().rank() * 2 + mesh.shard().rank());
    // Neighbours in data are 2 apart in the world, since tensor is fastest.
    const auto sum = [&](ProcessGroup& g) { return g.all_reduce_value(int64_t{world.rank()}, ReduceOp::kSum); };
    EXPECT_EQ(sum(mesh.shard()), 2 * (world.rank() & ~2) + 2);
    EXPECT_EQ(sum(mesh.replica()), 2 * (world.rank() & ~4) + 4);
    const Mesh whole(world, {.data = 8});
    EXPECT_EQ(whole.shard().size(), 8);
    EXPECT_EQ(whole.replica().size(), 1);
  });
}

TEST(mesh, two_meshes_share_a_world) {
  run_ranks(4, [](ProcessGroup& world) {
    const Mesh language(world, {.data = 2, .tensor = 2}), encoder(world, {.data = 4});
    EXPECT_EQ(language.data().size(), 2);
    EXPECT_EQ(encoder.data().size(), 4);
    EXPECT_EQ(encoder.tensor().size(), 1);
  });
}

std::string refusal(const MeshShape& shape, int ranks) {
  try {
    check_mesh(shape, ranks);
  } catch (const ConfigError& e) {
    return e.what();
  }
  return "accepted";
}

TEST(mesh, a_wrong_product_is_refused_with_a_shape_that_fits) {
  EXPECT_EQ(
      refusal({2, 3, 2}, 8),
      "mesh pipe 2 * data 3 * tensor 2 = 12 but 8 ranks were started (mpirun -n 8); set data = 2 or start 12 ranks");
  EXPECT_EQ(refusal({1, 1, 3}, 4),
            "mesh pipe 1 * data 1 * tensor 3 = 3 but 4 ranks were started (mpirun -n 4); start 3 ranks, or choose pipe "
            "and tensor so that pipe * tensor divides 4");
  EXPECT_EQ(refusal({1, 0, 1}, 1), "mesh data = 0 must be >= 1");
  EXPECT_EQ(refusal({1, 4, 2}, 8), "accepted");
  EXPECT_EQ(refusal({.data = 4, .shard = 3}, 4), "mesh shard = 3 must divide data = 4, or be 0 for all of it");
  EXPECT_EQ(refusal({.data = 4, .shard = 2}, 4), "accepted");
  EXPECT_EQ(refusal({.data = 4, .shard = 4}, 6),
            "mesh pipe 1 * data 4 * tensor 1 = 4 but 6 ranks were started (mpirun -n 6); set data = 6 and shard to a "
            "divisor of it, or start 4 ranks");
  EXPECT_NE(refusal({.data = 4, .shard = 2}, 6).find("; set data = 6 or start 4 ranks"), std::string::npos);
}

}  // namespace
}  // namespace tpo
