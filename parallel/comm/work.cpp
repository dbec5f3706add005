#include "parallel/comm/work.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <exception>

#include "core/error.h"
#include "core/rng.h"
#include "parallel/comm/comm_log.h"
#include "parallel/comm/wire_header.h"
#include "parallel/program/event_ring.h"

namespace tpo {

const char* name_of(CommOp op) {
  switch (op) {
    case CommOp::kAllReduce:
      return "all_reduce";
    case CommOp::kBroadcast:
      return "broadcast";
    case CommOp::kAllGather:
      return "all_gather";
    case CommOp::kReduceScatter:
      return "reduce_scatter";
    case CommOp::kBarrier:
      return "barrier";
    case CommOp::kSend:
      return "send";
    case CommOp::kRecv:
      return "recv";
  }
  return "?";
}

namespace {

bool reduces(CommOp op) { return op == CommOp::kAllReduce || op == CommOp::kReduceScatter; }

std::string describe_header(const WireHeader& h) {
  const auto op = static_cast<CommOp>(h.op);
  const auto dtype = static_cast<DType>(h.dtype);
  std::string s = cat(name_of(op), " #", h.seq, " of '", h.what, "' (");
  const bool sum = h.reduce == static_cast<uint8_t>(ReduceOp::kSum);
  if (reduces(op) || !sum) s += sum ? "sum, " : "max, ";  // all_reduce_value gathers, then reduces
  if (op == CommOp::kBroadcast) s += cat("root ", h.peer, ", ");
  return cat(s, h.count, " ", dtype, ", ", h.count * static_cast<int64_t>(size_of(dtype)), " bytes)");
}

}  // namespace

std::string describe(const CommRequest& r) {
  std::string s = describe_header(make_header(r));
  if (!r.collective()) {
    s = cat(name_of(r.op), " of '", r.what, "' ", r.op == CommOp::kSend ? "to" : "from", " rank ", r.peer, " with tag ",
            r.tag, " (", r.count, " ", r.dtype, ", ", r.bytes(), " bytes)");
  }
  return cat(s, " in group ", r.group, ", rank ", r.rank, " of ", r.size);
}

WireHeader make_header(const CommRequest& r) {
  WireHeader h;
  h.seq = r.seq;
  h.what_hash = hash_name(r.what);
  h.count = r.count;
  h.peer = r.peer;
  h.op = static_cast<uint8_t>(r.op);
  h.reduce = static_cast<uint8_t>(r.reduce);
  h.dtype = static_cast<uint8_t>(r.dtype);
  std::memcpy(h.what, r.what.data(), std::min(r.what.size(), sizeof(h.what) - 1));
  return h;
}

std::string header_mismatch(const CommRequest& mine, const WireHeader& theirs, int their_rank) {
  const WireHeader h = make_header(mine);
  const char* field = h.seq != theirs.seq               ? "number"
                      : h.op != theirs.op               ? "operation"
                      : h.dtype != theirs.dtype         ? "dtype"
                      : h.count != theirs.count         ? "size"
                      : h.reduce != theirs.reduce       ? "reduction"
                      : h.peer != theirs.peer           ? "root"
                      : h.what_hash != theirs.what_hash ? "tensor name"
                                                        : nullptr;
  if (!field) return "";
  return cat("ranks disagree in group ", mine.group, " (", field, "): rank ", mine.rank, " is in ", describe_header(h),
             " but rank ", their_rank, " is in ", describe_header(theirs),
             "; every rank must issue the same collectives in the same order");
}

namespace {
std::atomic<CommDrill> g_drill{nullptr};
}

void set_comm_drill(CommDrill drill) { g_drill = drill; }
CommDrill comm_drill() { return g_drill.load(std::memory_order_relaxed); }

double steady_seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

namespace {

void count_open(const std::shared_ptr<DropLog>& drops, const WorkState& state, int n) {
  if (drops && state.request().size > 1) drops->world->open += n;
}

}  // namespace

Work::Work(std::shared_ptr<WorkState> state, std::shared_ptr<DropLog> drops)
    : state_(std::move(state)), drops_(std::move(drops)) {
  count_open(drops_, *state_, 1);
}

Work& Work::operator=(Work&& o) noexcept {
  if (this != &o) {
    drop();
    state_ = std::move(o.state_);
    drops_ = std::move(o.drops_);
    times_ = o.times_;
  }
  return *this;
}

Work::~Work() { drop(); }

void Work::drop() noexcept {
  if (state_) count_open(drops_, *state_, -1);
#ifdef TPO_DEBUG
  // While an exception unwinds the stack, abandoning what is in flight is the only thing to do.
  if (state_ && drops_ && std::uncaught_exceptions() == 0) {
    std::scoped_lock lock(drops_->mutex);
    if (drops_->first.empty()) drops_->first = describe(state_->request());
  }
#endif
  state_.reset();
}

void Work::wait(Stream& stream) {
  // On the CPU a kernel runs when it is called, so the result must be there before this returns.
  static_cast<void>(stream);
  wait_host();
}

void Work::wait_host() {
  const auto state = std::move(state_);
  if (!state) return;
  const CommRequest& r = state->request();
  EventRing* ring = r.watched >= 0 ? EventRing::of_process() : nullptr;
  const double begin = steady_seconds();
  const bool waits = ring && !state->done();
  if (waits) ring->wait(r, true);
  try {
    state->wait();
  } catch (...) {
    count_open(drops_, *state, -1);
    if (ring) ring->wait(r, true);  // says from now on where it failed
    throw;
  }
  count_open(drops_, *state, -1);
  if (waits) ring->wait(r, false);
  times_ = state->times;
  if (drops_ && state->request().size > 1)
    drops_->world->times->add(state->request(), times_, begin, steady_seconds(), state->blocked_before_s);
  state->keep.clear();  // here and not when the backend lets go: memory is freed at a point of the program
}

}  // namespace tpo
