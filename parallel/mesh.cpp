#include "parallel/mesh.h"

#include "core/error.h"

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

Mesh::Mesh(ProcessGroup& world, const MeshShape& shape) : world_(world), shape_(shape) {
  check_mesh(shape, world.size());
  const int t = shape.tensor, d = shape.data, s = shape.shard > 0 ? shape.shard : shape.data;
  using Place = std::pair<int, int>;  // color and key
  tensor_ = world.split_by([=](int rank) { return Place{rank / t, rank % t}; }, "tensor");
  data_ = world.split_by([=](int rank) { return Place{rank / (t * d) * t + rank % t, rank / t % d}; }, "data");
  pipe_ = world.split_by([=](int rank) { return Place{rank % (t * d), rank / (t * d)}; }, "pipe");
  shard_ = data_->split_by([=](int rank) { return Place{rank / s, rank % s}; }, "shard");
  replica_ = data_->split_by([=](int rank) { return Place{rank % s, rank / s}; }, "replica");
}

}  // namespace tpo
