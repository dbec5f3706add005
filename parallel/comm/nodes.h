#pragma once
// Collectives of ranks that do not all share memory. Every rank owns a share of each piece. A reduction goes
//   within each node (comm/arena.h):  the node's ranks reduce a piece into memory that they share
//   between nodes, scatter:           the owner of a share gets it from every other node and reduces, in node order
//   between nodes, gather:            the owner sends the reduced share to every other node
//   within each node:                 every rank copies the piece out
// and while one piece is between nodes the next one is reduced within. Every rank carries its own share, so that all
// ranks of a node use the wire: a node receives (M - 1) / M of the bytes per phase with M nodes of equal size, which
// is the least possible. On a node with fewer ranks, each talks to several owners of a larger one.
// Order of sums: within a node by rank, then the nodes' sums by the first rank of the node. bf16 is rounded after each
// of the two. Where every rank is a node of its own, that is the order of ranks.
#include <span>

#include "parallel/comm/engine.h"
#include "parallel/comm/wire_header.h"

namespace tpo {

// Which ranks of a group share a node.
class Nodes {
 public:
  // node_of_rank[r]: any number that is equal for ranks of one node. Nodes are numbered by their first rank.
  Nodes(const std::vector<int>& node_of_rank, int rank);
  int rank() const { return rank_; }
  int count() const { return static_cast<int>(members_.size()); }
  int mine() const { return node(rank_); }
  int node(int rank) const { return node_[static_cast<size_t>(rank)]; }
  int place(int rank) const { return place_[static_cast<size_t>(rank)]; }  // among the ranks of its node
  const std::vector<int>& members(int node) const { return members_[static_cast<size_t>(node)]; }
  const std::vector<int>& here() const { return members(mine()); }
  // The rank of `node` that talks to `rank` of another node: to and from.
  int partner(int node, int rank) const;
  // The ranks of other nodes whose partner here is this rank.
  const std::vector<int>& carried() const { return carried_; }
  bool alone() const;  // every rank is a node of its own

 private:
  int rank_;
  std::vector<int> carried_;
  std::vector<int> node_, place_;
  std::vector<std::vector<int>> members_;
};

// Non-blocking messages between the ranks of one group, in order per (sender, receiver, tag).
class Wire {
 public:
  virtual ~Wire() = default;
  virtual void send(const std::byte* data, int64_t bytes, int to, int tag) = 0;
  virtual void recv(std::byte* data, int64_t bytes, int from, int tag) = 0;
  virtual void all_gather(const std::byte* mine, int64_t bytes, std::byte* all) = 0;
  virtual bool done() = 0;  // everything started is over
};

// One piece of a collective, cut into shares.
struct Exchange {
  std::vector<std::byte*> share;  // per rank of the group: its share as this node has it
  std::vector<int64_t> elements;  // per rank: of its share
  std::byte* result = nullptr;    // this rank's share when it is reduced; may be share[rank]
  int from_node = -1;             // the only node that has something to scatter; -1: all
  bool scatter = false, gather = false;
};

// What one rank does between nodes. Engine thread only; one collective at a time.
class Crossing {
 public:
  Crossing(Nodes nodes, std::unique_ptr<Wire> wire, bool verify)
      : nodes_(std::move(nodes)), wire_(std::move(wire)), verify_(verify) {}
  const Nodes& nodes() const { return nodes_; }
  bool verifies() const { return verify_; }
  bool busy() const { return busy_; }  // waits for a message

  // No further collective can run: after an exception half of one is under way.
  void fail(const std::string& why);
  // Throws CommError if one failed before.
  void check_whole(const CommRequest& r) const;
  // Compares the headers of all ranks. False: not yet. Throws CommError naming both sides if they differ.
  bool compare(const CommRequest& r);
  // Elements [0, n) of the tensor (all_reduce, broadcast) or of each rank's part, the parts `stride` elements apart.
  // `result` is where a reduce_scatter leaves this rank's part.
  Exchange cut(const CommRequest& r, std::byte* base, int64_t n, int64_t stride, std::byte* result) const;
  // Goes on with a piece. True: over for this rank; the next call begins the next piece.
  bool advance(const CommRequest& r, const Exchange& e);

 private:
  bool quiet();
  void scatter(const CommRequest& r, const Exchange& e);
  void reduce(const CommRequest& r, const Exchange& e) const;
  void gather(const CommRequest& r, const Exchange& e);

  Nodes nodes_;
  std::unique_ptr<Wire> wire_;
  bool verify_, busy_ = false;
  int phase_ = 0;
  bool compares_ = false;
  std::string broken_;  // why no further collective can run
  WireHeader mine_;
  std::vector<WireHeader> headers_;
  std::vector<std::vector<std::byte>> received_;  // per node: its contribution to this rank's share
};

// A collective of a group in which every rank is a node of its own, straight from and to the tensors.
std::unique_ptr<EngineTask> make_wire_task(std::shared_ptr<Crossing> crossing,
                                           std::shared_ptr<const CommRequest> request);

// Where the share of `rank` begins among n elements: at cache lines, so that no two ranks write one.
inline int64_t share_begin(int64_t n, int64_t rank, int64_t ranks) {
  return rank == ranks ? n : n * rank / ranks / 64 * 64;
}

}  // namespace tpo
