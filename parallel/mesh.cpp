#include "parallel/mesh.h"

#include <cstring>

#include "core/error.h"
#include "core/rng.h"

namespace tpo {

void check_mesh(const MeshShape& s, int ranks) {
  for (const auto& [axis, extent] : {std::pair{"pipe", s.pipe}, {"data", s.data}, {"tensor", s.tensor}}) {
    check<ConfigError>(extent >= 1, "mesh ", axis, " = ", extent, " must be >= 1");
  }
  check<ConfigError>(s.shard >= 0 && (s.shard == 0 || s.data % s.shard == 0), "mesh shard = ", s.shard,
                     " must divide data = ", s.data, ", or be 0 for all of it");
  const int64_t product = int64_t{s.pipe} * s.data * s.tensor;
  if (product == ranks) return;
  const int64_t rest = int64_t{s.pipe} * s.tensor;
  const auto legal = [&](int64_t data) { return s.shard == 0 || data % s.shard == 0; };
  const std::string hint =
      ranks % rest == 0 && legal(ranks / rest) ? cat("set data = ", ranks / rest, " or start ", product, " ranks")
      : ranks % rest == 0
          ? cat("set data = ", ranks / rest, " and shard to a divisor of it, or start ", product, " ranks")
          : cat("start ", product, " ranks, or choose pipe and tensor so that pipe * tensor divides ", ranks);
  throw ConfigError(cat("mesh pipe ", s.pipe, " * data ", s.data, " * tensor ", s.tensor, " = ", product, " but ",
                        ranks, ranks == 1 ? " rank was" : " ranks were", " started (mpirun -n ", ranks, "); ", hint));
}

namespace {

// Gradients of what is whole on the tensor axis are the same bits on its ranks, and so must be their sums over data.
void check_sums(const Mesh& mesh) {
  RngKey key(0);
  for (const ProcessGroup* group : {&mesh.data(), &mesh.shard(), &mesh.replica()}) {
    const std::vector<int> order = group->order_of_sums();
    key = key.with(order.size());
    for (const int node : order) key = key.with(static_cast<uint64_t>(node));
  }
  const uint64_t mine = key.value;
  const auto all = mesh.world().all_gather_bytes(std::as_bytes(std::span(&mine, 1)), "order of sums");
  const auto n = static_cast<size_t>(mesh.shape().tensor);
  for (size_t r = 0; r < all.size(); ++r)
    check<ConfigError>(all[r] == all[r / n * n], "nodes cut the data axis of ", mesh.shape().data,
                       " differently for ranks ", r / n * n, " and ", r,
                       ", which hold parts of one model: their sums would differ in the last bits. Ranks per node must "
                       "be a multiple or a divisor of layout.tensor = ",
                       n);
}

}  // namespace

Mesh::Mesh(ProcessGroup& world, const MeshShape& shape) : world_(world), shape_(shape) {
  check_mesh(shape, world.size());
  const int t = shape.tensor, d = shape.data, s = shape.shard > 0 ? shape.shard : shape.data;
  using Place = std::pair<int, int>;  // color and key
  tensor_ = world.split_by([=](int rank) { return Place{rank / t, rank % t}; }, "tensor");
  data_ = world.split_by([=](int rank) { return Place{rank / (t * d) * t + rank % t, rank / t % d}; }, "data");
  pipe_ = world.split_by([=](int rank) { return Place{rank % (t * d), rank / (t * d)}; }, "pipe");
  shard_ = data_->split_by([=](int rank) { return Place{rank / s, rank % s}; }, "shard");
  replica_ = data_->split_by([=](int rank) { return Place{rank % s, rank / s}; }, "replica");
  if (t > 1 && d > 1) check_sums(*this);
}

}  // namespace tpo
