#include "parallel/mesh.h"

#include "core/error.h"

namespace tpo {

void check_mesh(const MeshShape& s, int ranks) {
  for (const auto& [axis, extent] : {std::pair{"pipe", s.pipe}, {"data", s.data}, {"tensor", s.tensor}}) {
    check<ConfigError>(extent >= 1, "mesh ", axis, " = ", extent, " must be >= 1");
  }
  const int64_t product = int64_t{s.pipe} * s.data * s.tensor;
  if (product == ranks) return;
  const int64_t rest = int64_t{s.pipe} * s.tensor;
  const std::string hint =
      ranks % rest == 0
          ? cat("set data = ", ranks / rest, " or start ", product, " ranks")
          : cat("start ", product, " ranks, or choose pipe and tensor so that pipe * tensor divides ", ranks);
  throw ConfigError(cat("mesh pipe ", s.pipe, " * data ", s.data, " * tensor ", s.tensor, " = ", product, " but ",
                        ranks, ranks == 1 ? " rank was" : " ranks were", " started (mpirun -n ", ranks, "); ", hint));
}

Mesh::Mesh(ProcessGroup& world, const MeshShape& shape) : world_(world), shape_(shape) {
  check_mesh(shape, world.size());
  const int t = world.rank() % shape.tensor;
  const int d = world.rank() / shape.tensor % shape.data;
  const int p = world.rank() / (shape.tensor * shape.data);
  tensor_ = world.split(p * shape.data + d, t, "tensor");
  data_ = world.split(p * shape.tensor + t, d, "data");
  pipe_ = world.split(d * shape.tensor + t, p, "pipe");
}

}  // namespace tpo
