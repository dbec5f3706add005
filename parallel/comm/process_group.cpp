#include "parallel/comm/process_group.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <exception>

#include "core/error.h"
#include "parallel/program/event_ring.h"

namespace tpo {
namespace {

constexpr int kMaxTag = 32767;  // the smallest upper bound that MPI guarantees

// Already over: where nobody else takes part.
class DoneWork final : public WorkState {
 public:
  explicit DoneWork(std::shared_ptr<const CommRequest> r) : WorkState(std::move(r)) {
    times.begun_s = times.done_s = steady_seconds();
  }
  bool done() override { return true; }
  void wait() override {}
};

class SingleGroup final : public ProcessGroup {
 public:
  explicit SingleGroup(std::string name) : ProcessGroup(0, 1, std::move(name)) {}

 protected:
  std::shared_ptr<WorkState> issue(std::shared_ptr<const CommRequest> r) override {
    // The tensors are null where nothing may be touched: on meta.
    if (r->in && r->out && r->in != r->out) std::memcpy(r->out, r->in, static_cast<size_t>(r->bytes()));
    return make_done(std::move(r));
  }
  std::unique_ptr<ProcessGroup> do_split(int, int, std::string name) override { return make_single(std::move(name)); }
};

// `part` may be the part of this rank in `whole`, and nothing else of it.
bool overlap(const CommRequest& r, const std::byte* part, const std::byte* whole) {
  if (!part || part == whole + r.rank * r.bytes()) return false;
  return part < whole + r.size * r.bytes() && whole < part + r.bytes();
}

}  // namespace

CommStub::CommStub(ProcessGroup& group) : world_(group.drops_->world) {
  check<CommError>(!world_->stubbed.exchange(true), "a CommStub of group ", group.name(), " inside another");
}

std::shared_ptr<WorkState> ProcessGroup::make_done(std::shared_ptr<const CommRequest> request) {
  return std::make_shared<DoneWork>(std::move(request));
}

std::unique_ptr<ProcessGroup> make_single(std::string name) { return std::make_unique<SingleGroup>(std::move(name)); }

ProcessGroup::ProcessGroup(int rank, int size, std::string name, bool simulated)
    : rank_(rank), size_(size), simulated_(simulated), name_(std::move(name)), drops_(std::make_shared<DropLog>()) {
  drops_->world = std::make_shared<CommWorld>();
  drops_->world->times = std::make_shared<CommLog>();
}

ProcessGroup::~ProcessGroup() {
  // While an exception unwinds, the ring goes on saying where each group stood.
  EventRing* ring = watched_ >= 0 && std::uncaught_exceptions() == 0 ? EventRing::of_process() : nullptr;
  if (ring) ring->drop_group(watched_);
}

void ProcessGroup::watch(std::span<const int> world_ranks) {
  if (EventRing* ring = EventRing::of_process()) watched_ = ring->add_group(name_, rank_, world_ranks);
}

CommRequest ProcessGroup::request(CommOp op, const Tensor& in, const Tensor& out, int64_t count,
                                  std::string_view what) const {
  CommRequest r;
  r.op = op;
  r.count = count;
  r.rank = rank_, r.size = size_;
  r.what = what, r.group = name_;
  r.seq = next_seq_;
  r.watched = watched_;
  if (in.defined()) r.dtype = in.dtype();
  for (const Tensor* t : {&in, &out}) {
    if (!t->defined()) continue;
    check_tensor(r, *t);
    check<CommError>(t->dtype() == r.dtype, "[", name_of(op), "] '", what, "': dtypes ", r.dtype, " and ", t->dtype(),
                     " differ");
  }
  const auto address = [](const Tensor& t) {
    return t.defined() && t.device() == Device::kCpu ? static_cast<std::byte*>(t.raw()) : nullptr;
  };
  r.in = address(in), r.out = address(out);
  return r;
}

void ProcessGroup::check_tensor(const CommRequest& r, const Tensor& t) const {
  const bool meta = t.device() == Device::kMeta;
  const bool usable = simulated_ ? meta : t.device() == Device::kCpu || (meta && size_ == 1);
  check<CommError>(usable, "[", name_of(r.op), "] '", r.what, "' is on ", t.device(), " but ",
                   simulated_ ? "simulated " : "", "group ", name_, " of ", size_, " ranks moves ",
                   simulated_ ? "meta" : "cpu", " tensors");
}

void ProcessGroup::check_peer(const CommRequest& r, int peer, bool may_be_self) const {
  check<CommError>(peer >= 0 && peer < size_ && (may_be_self || peer != rank_), "[", name_of(r.op), "] '", r.what,
                   "': rank ", peer, " is not a partner of rank ", rank_, " in group ", name_, " of ", size_, " ranks");
}

Work ProcessGroup::start(CommRequest request, std::initializer_list<Tensor> keep) {
  {
    std::scoped_lock lock(drops_->mutex);
    check<CommError>(drops_->first.empty(), "a Work was dropped without a wait: ", drops_->first);
  }
  if (const CommDrill drill = comm_drill(); drill && drill(request))
    return Work(std::make_shared<DoneWork>(std::make_shared<const CommRequest>(std::move(request))), drops_);
  if (drops_->world->stubbed && size_ > 1) {
    auto state = make_done(std::make_shared<const CommRequest>(std::move(request)));
    state->times.issued_s = state->times.begun_s;
    return Work(std::move(state), nullptr);  // counts for nothing
  }
  if (request.collective()) ++next_seq_;
  EventRing* ring = request.watched >= 0 ? EventRing::of_process() : nullptr;
  if (ring) {
    request.hash = operation_hash(name_, request.op, request.dtype, request.count, request.what);
    ring->issued(request);
  }
  const double now = steady_seconds();
  auto state = issue(std::make_shared<const CommRequest>(std::move(request)));
  state->times.issued_s = now;
  state->blocked_before_s = drops_->world->times->blocked_s();
  state->keep = keep;
  return Work(std::move(state), drops_);
}

Work ProcessGroup::all_reduce(const Tensor& t, ReduceOp op, std::string_view what) {
  CommRequest r = request(CommOp::kAllReduce, t, t, t.numel(), what);
  r.reduce = op;
  return start(std::move(r), {t});
}

Work ProcessGroup::broadcast(const Tensor& t, int root, std::string_view what) {
  CommRequest r = request(CommOp::kBroadcast, t, t, t.numel(), what);
  check_peer(r, root, true);
  r.peer = root;
  return start(std::move(r), {t});
}

Work ProcessGroup::all_gather(const Tensor& in, const Tensor& out, std::string_view what) {
  CommRequest r = request(CommOp::kAllGather, in, out, in.numel(), what);
  check<CommError>(out.numel() == in.numel() * size_, "[all_gather] '", what, "': out ", out.shape(), " must have ",
                   size_, " x the elements of in ", in.shape());
  check<CommError>(!overlap(r, r.in, r.out), "[all_gather] '", what,
                   "': in and out overlap, and in is not this rank's part of out");
  return start(std::move(r), {in, out});
}

Work ProcessGroup::reduce_scatter(const Tensor& in, const Tensor& out, ReduceOp op, std::string_view what) {
  CommRequest r = request(CommOp::kReduceScatter, in, out, out.numel(), what);
  check<CommError>(in.numel() == out.numel() * size_, "[reduce_scatter] '", what, "': in ", in.shape(), " must have ",
                   size_, " x the elements of out ", out.shape());
  check<CommError>(!overlap(r, r.out, r.in), "[reduce_scatter] '", what,
                   "': in and out overlap, and out is not this rank's part of in");
  r.reduce = op;
  return start(std::move(r), {in, out});
}

Work ProcessGroup::send(const Tensor& t, int peer, int tag, std::string_view what) {
  CommRequest r = request(CommOp::kSend, t, {}, t.numel(), what);
  check_peer(r, peer, false);
  check<CommError>(tag >= 0 && tag <= kMaxTag, "[send] '", what, "': tag ", tag, " is not in 0..", kMaxTag);
  r.peer = peer, r.tag = tag;
  return start(std::move(r), {t});
}

Work ProcessGroup::recv(const Tensor& t, int peer, int tag, std::string_view what) {
  CommRequest r = request(CommOp::kRecv, t, t, t.numel(), what);
  check_peer(r, peer, false);
  check<CommError>(tag >= 0 && tag <= kMaxTag, "[recv] '", what, "': tag ", tag, " is not in 0..", kMaxTag);
  r.peer = peer, r.tag = tag;
  return start(std::move(r), {t});
}

Work ProcessGroup::barrier(std::string_view what) { return start(request(CommOp::kBarrier, {}, {}, 0, what), {}); }

// For values in plain memory that outlive the wait, whatever the current stream's device is.
Work ProcessGroup::start_raw(CommOp op, const void* in, void* out, int64_t count, DType dtype, int root,
                             std::string_view what, ReduceOp reduce) {
  check<CommError>(!drops_->world->stubbed || size_ == 1, "[", name_of(op), "] '", what, "' of group ", name_,
                   " returns a value, which a CommStub cannot");
  CommRequest r = request(op, {}, {}, count, what);
  r.in = static_cast<const std::byte*>(in), r.out = static_cast<std::byte*>(out);
  r.dtype = dtype, r.peer = root, r.reduce = reduce;
  return start(std::move(r), {});
}

std::unique_ptr<ProcessGroup> ProcessGroup::split(int color, int key, std::string_view label) {
  check<CommError>(color >= 0, "[split] color ", color, " of group ", name_, " must be >= 0");
  meet_idle("split");
  auto part = do_split(color, key, cat(name_, ".", label));
  adopt(*part);
  return part;
}

Tensor ProcessGroup::shared_buffer(const Shape& shape, DType dtype) {
  meet_idle(cat("shared_buffer of ", shape.numel(), " ", dtype));
  return do_shared_buffer(shape, dtype);
}

void ProcessGroup::meet_idle(std::string_view what) {
  check<CommError>(!drops_->world->stubbed || size_ == 1, "[", what, "] of group ", name_, " inside a CommStub");
  const int open = drops_->world->open;
  check<CommError>(open == 0, "[", what, "] of group ", name_, ": ", open,
                   " operations of this rank are in flight; wait for the Works of all groups before");
  barrier(what).wait_host();  // a rank that does something else is found here, with names
}

std::unique_ptr<ProcessGroup> ProcessGroup::split_by(const ColorKey& color_key_of, std::string_view label) {
  const auto [color, key] = color_key_of(rank_);
  return split(color, key, label);
}

namespace {

template <class T>
T reduce_values(const std::vector<T>& values, ReduceOp op) {
  T acc = values[0];
  for (size_t i = 1; i < values.size(); ++i) {
    // A NaN on any rank is the result on all of them.
    acc = op == ReduceOp::kSum ? acc + values[i] : (values[i] > acc || values[i] != values[i] ? values[i] : acc);
  }
  return acc;
}

}  // namespace

double ProcessGroup::all_reduce_value(double value, ReduceOp op, std::string_view what) {
  std::vector<double> all(static_cast<size_t>(size_));
  // As bytes, so that no rank takes a double for an integer unnoticed.
  start_raw(CommOp::kAllGather, &value, all.data(), sizeof value, DType::kU8, -1, what, op).wait_host();
  return reduce_values(all, op);
}

int64_t ProcessGroup::all_reduce_value(int64_t value, ReduceOp op, std::string_view what) {
  std::vector<int64_t> all(static_cast<size_t>(size_));
  start_raw(CommOp::kAllGather, &value, all.data(), 1, DType::kI64, -1, what, op).wait_host();
  return reduce_values(all, op);
}

std::vector<std::vector<std::byte>> ProcessGroup::all_gather_bytes(std::span<const std::byte> mine,
                                                                   std::string_view what) {
  const auto n = static_cast<size_t>(size_);
  const int64_t length = static_cast<int64_t>(mine.size());
  std::vector<int64_t> lengths(n);
  start_raw(CommOp::kAllGather, &length, lengths.data(), 1, DType::kI64, -1, what).wait_host();
  const auto widest = static_cast<size_t>(*std::max_element(lengths.begin(), lengths.end()));
  std::vector<std::byte> padded(widest), all(widest * n);
  std::copy(mine.begin(), mine.end(), padded.begin());
  start_raw(CommOp::kAllGather, padded.data(), all.data(), static_cast<int64_t>(widest), DType::kU8, -1, what)
      .wait_host();
  std::vector<std::vector<std::byte>> out(n);
  for (size_t r = 0; r < n; ++r) {
    const auto begin = all.begin() + static_cast<std::ptrdiff_t>(r * widest);
    out[r].assign(begin, begin + static_cast<std::ptrdiff_t>(lengths[r]));
  }
  return out;
}

std::vector<std::byte> ProcessGroup::broadcast_bytes(std::span<const std::byte> from_root, int root,
                                                     std::string_view what) {
  check<CommError>(root >= 0 && root < size_, "[broadcast] '", what, "': root ", root, " is not in group ", name_);
  int64_t length = rank_ == root ? static_cast<int64_t>(from_root.size()) : 0;
  start_raw(CommOp::kBroadcast, &length, &length, 1, DType::kI64, root, what).wait_host();
  std::vector<std::byte> data(static_cast<size_t>(length));
  if (rank_ == root) std::copy(from_root.begin(), from_root.end(), data.begin());
  start_raw(CommOp::kBroadcast, data.data(), data.data(), length, DType::kU8, root, what).wait_host();
  return data;
}

}  // namespace tpo
