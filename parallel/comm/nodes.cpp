#include "parallel/comm/nodes.h"

#include <algorithm>
#include <cstring>
#include <map>

#include "core/error.h"
#include "parallel/comm/reduce.h"

namespace tpo {
namespace {

constexpr int kScatterTag = 1, kGatherTag = 2;
constexpr int64_t kWirePieceBytes = int64_t{4} << 20;

}  // namespace

Nodes::Nodes(const std::vector<int>& node_of_rank, int rank) : rank_(rank) {
  std::map<int, int> number;
  for (size_t r = 0; r < node_of_rank.size(); ++r) {
    const auto [it, first] = number.emplace(node_of_rank[r], count());
    if (first) members_.emplace_back();
    auto& members = members_[static_cast<size_t>(it->second)];
    node_.push_back(it->second);
    place_.push_back(static_cast<int>(members.size()));
    members.push_back(static_cast<int>(r));
  }
  for (int r = 0; r < static_cast<int>(node_.size()); ++r) {
    if (node(r) != mine() && partner(mine(), r) == rank_) carried_.push_back(r);
  }
}

int Nodes::partner(int node, int rank) const {
  const auto& m = members(node);
  return m[static_cast<size_t>(place(rank)) % m.size()];
}

bool Nodes::alone() const {
  return std::all_of(members_.begin(), members_.end(), [](const auto& m) { return m.size() == 1; });
}

bool Crossing::quiet() {
  busy_ = !wire_->done();
  return !busy_;
}

void Crossing::fail(const std::string& why) {
  if (broken_.empty()) broken_ = why;
}

void Crossing::check_whole(const CommRequest& r) const {
  check<CommError>(broken_.empty(), describe(r), " cannot run: ", broken_);
}

bool Crossing::compare(const CommRequest& r) {
  if (!compares_) {
    compares_ = true;
    mine_ = make_header(r);
    headers_.resize(static_cast<size_t>(r.size));
    wire_->all_gather(reinterpret_cast<const std::byte*>(&mine_), sizeof mine_,
                      reinterpret_cast<std::byte*>(headers_.data()));
  }
  if (!quiet()) return false;
  compares_ = false;
  for (int rank = 0; rank < r.size; ++rank) {
    const std::string why = header_mismatch(r, headers_[static_cast<size_t>(rank)], rank);
    check<CommError>(why.empty(), why);
  }
  return true;
}

Exchange Crossing::cut(const CommRequest& r, std::byte* base, int64_t n, int64_t stride, std::byte* result) const {
  const auto width = static_cast<int64_t>(size_of(r.dtype));
  const bool parts = r.op == CommOp::kReduceScatter || r.op == CommOp::kAllGather;
  Exchange e;
  for (int64_t rank = 0; rank < r.size; ++rank) {
    const int64_t begin = parts ? rank * stride : share_begin(n, rank, r.size);
    e.share.push_back(base + begin * width);
    e.elements.push_back(parts ? n : share_begin(n, rank + 1, r.size) - begin);
  }
  e.result = r.op == CommOp::kReduceScatter ? result : e.share[static_cast<size_t>(r.rank)];
  if (r.op == CommOp::kBroadcast) e.from_node = nodes_.node(r.peer);
  // A barrier is over when the headers were compared; without that, empty messages stand for them.
  e.scatter = r.op == CommOp::kBarrier ? !verify_ : r.op != CommOp::kAllGather;
  e.gather = r.op != CommOp::kBarrier && r.op != CommOp::kReduceScatter;
  return e;
}

bool Crossing::advance(const CommRequest& r, const Exchange& e) {
  for (;;) {
    if (!quiet()) return false;
    switch (phase_++) {
      case 0:
        if (e.scatter) scatter(r, e);
        break;
      case 1:
        if (e.scatter) reduce(r, e);
        if (e.gather) gather(r, e);
        break;
      default:
        phase_ = 0;
        return true;
    }
  }
}

namespace {

int64_t share_bytes(const CommRequest& r, const Exchange& e, int rank) {
  return e.elements[static_cast<size_t>(rank)] * static_cast<int64_t>(size_of(r.dtype));
}

}  // namespace

void Crossing::scatter(const CommRequest& r, const Exchange& e) {
  // Both sides know that an empty share needs no message, unless the message itself is the point.
  const auto matters = [&](int owner) { return share_bytes(r, e, owner) > 0 || r.op == CommOp::kBarrier; };
  const bool has = e.from_node < 0 || e.from_node == nodes_.mine();
  received_.resize(static_cast<size_t>(nodes_.count()));
  for (int node = 0; node < nodes_.count() && matters(r.rank); ++node) {
    if (node == nodes_.mine() || (e.from_node >= 0 && e.from_node != node)) continue;
    auto& buffer = received_[static_cast<size_t>(node)];
    buffer.resize(std::max(buffer.size(), static_cast<size_t>(share_bytes(r, e, r.rank))));
    wire_->recv(e.from_node < 0 ? buffer.data() : e.result, share_bytes(r, e, r.rank), nodes_.partner(node, r.rank),
                kScatterTag);
  }
  for (const int owner : nodes_.carried()) {
    if (has && matters(owner))
      wire_->send(e.share[static_cast<size_t>(owner)], share_bytes(r, e, owner), owner, kScatterTag);
  }
}

void Crossing::reduce(const CommRequest& r, const Exchange& e) const {
  if (e.from_node >= 0 || share_bytes(r, e, r.rank) == 0) return;
  std::vector<const std::byte*> sources;
  for (int node = 0; node < nodes_.count(); ++node) {
    sources.push_back(node == nodes_.mine() ? e.share[static_cast<size_t>(r.rank)]
                                            : received_[static_cast<size_t>(node)].data());
  }
  reduce_buffers(e.result, sources, e.elements[static_cast<size_t>(r.rank)], r.dtype, r.reduce);
}

void Crossing::gather(const CommRequest& r, const Exchange& e) {
  for (const int owner : nodes_.carried()) {
    if (e.from_node != nodes_.mine() && share_bytes(r, e, owner) > 0)  // that node has everything
      wire_->recv(e.share[static_cast<size_t>(owner)], share_bytes(r, e, owner), owner, kGatherTag);
  }
  for (int node = 0; node < nodes_.count() && share_bytes(r, e, r.rank) > 0; ++node) {
    if (node == nodes_.mine() || node == e.from_node) continue;
    wire_->send(e.result, share_bytes(r, e, r.rank), nodes_.partner(node, r.rank), kGatherTag);
  }
}

namespace {

class WireTask final : public EngineTask {
 public:
  WireTask(std::shared_ptr<Crossing> crossing, std::shared_ptr<const CommRequest> request)
      : crossing_(std::move(crossing)), request_(std::move(request)), r_(*request_) {
    parts_ = r_.op == CommOp::kReduceScatter || r_.op == CommOp::kAllGather;
    width_ = static_cast<int64_t>(size_of(r_.dtype));
    piece_ = std::max<int64_t>(1, kWirePieceBytes / width_ / (parts_ ? r_.size : 1));
  }

  bool rings() const override { return false; }

  Progress poll() override {
    crossing_->check_whole(r_);
    try {
      return go_on();
    } catch (const std::exception& e) {
      crossing_->fail(e.what());
      throw;
    }
  }

 private:
  Progress go_on() {
    if (!met_) {
      if (crossing_->verifies() && !crossing_->compare(r_)) return Progress::kNone;
      met_ = true;
      begun_s = steady_seconds();
      begin_piece();
    }
    bool moved = false;
    while (crossing_->advance(r_, exchange_)) {
      moved = true;
      begin_ += piece_;
      if (begin_ >= r_.count) return Progress::kDone;
      begin_piece();
    }
    return moved ? Progress::kSome : Progress::kNone;
  }

  void begin_piece() {
    const int64_t n = std::min(piece_, r_.count - begin_);
    std::byte* out = r_.out + begin_ * width_;
    if (r_.op == CommOp::kAllGather && n > 0) {
      std::byte* mine = out + r_.rank * r_.bytes();
      if (r_.in + begin_ * width_ != mine) std::memcpy(mine, r_.in + begin_ * width_, static_cast<size_t>(n * width_));
    }
    // A reduce_scatter only reads the shares of its input.
    std::byte* base = r_.op == CommOp::kReduceScatter ? const_cast<std::byte*>(r_.in) + begin_ * width_ : out;
    exchange_ = crossing_->cut(r_, base, n, r_.count, out);
  }

  std::shared_ptr<Crossing> crossing_;
  std::shared_ptr<const CommRequest> request_;
  const CommRequest& r_;
  bool parts_ = false, met_ = false;
  int64_t width_ = 1, piece_ = 1, begin_ = 0;
  Exchange exchange_;
};

}  // namespace

std::unique_ptr<EngineTask> make_wire_task(std::shared_ptr<Crossing> crossing,
                                           std::shared_ptr<const CommRequest> request) {
  return std::make_unique<WireTask>(std::move(crossing), std::move(request));
}

}  // namespace tpo
