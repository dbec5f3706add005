#include "parallel/comm/sim.h"

#include <cstring>

#include "core/error.h"

namespace tpo {

void IssuedOps::add(const CommRequest& r) {
  CommCount& c = counts_[{r.group, r.op}];
  ++c.calls;
  c.bytes += r.bytes();
  if (listing_) lines_.push_back(describe(r));
}

CommCount IssuedOps::of(const std::string& group, CommOp op) const {
  const auto it = counts_.find({group, op});
  return it == counts_.end() ? CommCount{} : it->second;
}

namespace {

class SimulatedGroup final : public ProcessGroup {
 public:
  SimulatedGroup(int rank, int size, std::shared_ptr<IssuedOps> stats, std::string name)
      : ProcessGroup(rank, size, std::move(name), true), stats_(std::move(stats)) {}

  std::unique_ptr<ProcessGroup> split_by(const ColorKey& color_key_of, std::string_view label) override {
    meet_idle("split");  // as a real split does
    const auto mine = color_key_of(rank());
    check<CommError>(mine.first >= 0, "[split] color ", mine.first, " of group ", name(), " must be >= 0");
    int new_rank = 0, new_size = 0;
    for (int r = 0; r < size(); ++r) {
      const auto [color, key] = color_key_of(r);
      if (color != mine.first) continue;
      ++new_size;
      if (std::pair(key, r) < std::pair(mine.second, rank())) ++new_rank;
    }
    auto part = std::make_unique<SimulatedGroup>(new_rank, new_size, stats_, cat(name(), ".", label));
    adopt(*part);
    return part;
  }

  std::string transport() const override { return "simulated"; }

 protected:
  std::shared_ptr<WorkState> issue(std::shared_ptr<const CommRequest> r) override {
    if (stats_) stats_->add(*r);
    // Tensors are on meta and have no address; what has one is a value of ProcessGroup's own.
    if (r->op == CommOp::kAllGather && r->in) {
      for (int k = 0; k < size(); ++k) std::memcpy(r->out + k * r->bytes(), r->in, static_cast<size_t>(r->bytes()));
    }
    return make_done(std::move(r));
  }
  std::unique_ptr<ProcessGroup> do_split(int, int, std::string new_name) override {
    throw CommError(cat("[split] ", new_name, ": the simulated group ", name(),
                        " does not know what other ranks give; use split_by"));
  }

 private:
  std::shared_ptr<IssuedOps> stats_;
};

}  // namespace

std::unique_ptr<ProcessGroup> make_simulated(int rank, int size, std::shared_ptr<IssuedOps> stats, std::string name) {
  check<CommError>(rank >= 0 && rank < size, "[make_simulated] rank ", rank, " of ", size, " ranks");
  return std::make_unique<SimulatedGroup>(rank, size, std::move(stats), std::move(name));
}

}  // namespace tpo
