#pragma once
// Mesh: the ranks of a group as a pipe x data x tensor box, with one ProcessGroup per axis through each rank.
// The tensor axis varies fastest, so that tensor groups are neighbours on a node. Two meshes may share a world.
#include <memory>
#include <string>

#include "parallel/comm/process_group.h"

namespace tpo {

struct MeshShape {
  int pipe = 1;    // pipeline stages, >= 1
  int data = 1;    // replicas, >= 1
  int tensor = 1;  // parts of a layer, >= 1
  // Neighbouring ranks of the data axis that share one sharded copy of the parameters; 0: the whole axis. A divisor of
  // data: hybrid sharding, data / shard copies, of which each lies within a node if shard is chosen so.
  int shard = 0;
};

// Throws ConfigError naming the product, the number of ranks and a shape that fits; also for a shard that does not
// divide data.
void check_mesh(const MeshShape& shape, int ranks);

class Mesh {
 public:
  // Collective over world, which must outlive the mesh. Throws ConfigError on all ranks alike if nodes cut the data
  // axis so that two ranks of the tensor axis would add in different orders: what is whole on both would drift apart.
  Mesh(ProcessGroup& world, const MeshShape& shape);

  const MeshShape& shape() const { return shape_; }
  ProcessGroup& world() const { return world_; }
  ProcessGroup& pipe() const { return *pipe_; }
  ProcessGroup& data() const { return *data_; }
  ProcessGroup& tensor() const { return *tensor_; }
  // The data axis as shard x replica: ranks that share a copy, and ranks that hold the same part of other copies.
  ProcessGroup& shard() const { return *shard_; }
  ProcessGroup& replica() const { return *replica_; }
  int pipe_rank() const { return pipe_->rank(); }
  int data_rank() const { return data_->rank(); }
  int tensor_rank() const { return tensor_->rank(); }

 private:
  ProcessGroup& world_;
  MeshShape shape_;
  std::unique_ptr<ProcessGroup> pipe_, data_, tensor_, shard_, replica_;
};

}  // namespace tpo
