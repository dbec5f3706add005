#include "launcher/commands/bench_comm.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "core/error.h"

namespace tpo {

namespace {

constexpr int64_t kMiB = int64_t{1} << 20;
constexpr int64_t kRepeatBelow = int64_t{64}
                                 << 10;  // smaller operations take about as long as reading the clock safely
constexpr int kMinRounds = 5;
constexpr int64_t kPeriod = 61;  // a prime: a piece that lands in another place shows

// Element i of rank r before an operation. Sums over 2^18 ranks are exact in fp32.
constexpr int64_t known(int64_t i, int64_t r) { return (7 * i + 13 * r + 1) % kPeriod; }

template <class F>
void with_element(DType dtype, F&& f) {
  if (dtype == DType::kF32) return f.template operator()<float>();
  if (dtype == DType::kI32) return f.template operator()<int32_t>();
  f.template operator()<int64_t>();
}

// Of S bytes: whether S is the buffers of all ranks together.
bool counts_all_ranks(CommKind kind) { return kind == CommKind::kReduceScatter || kind == CommKind::kAllGather; }

struct Contender {
  CommTimes times;
  ProcessGroup* group;
  Tensor in, out;  // flat, as large as the largest operation
};

// One operation of one size in one group.
class Operation {
 public:
  Operation(CommKind kind, DType dtype, int64_t wanted_bytes, int ranks) : kind_(kind), n_(ranks) {
    width_ = width_of(dtype) * (counts_all_ranks(kind) ? n_ : 1);
    count = kind == CommKind::kBarrier ? 0 : std::max<int64_t>(1, wanted_bytes / width_);
    bytes = count * width_;
  }

  void run(const Contender& c) const {
    for_pieces(c, [&](int64_t begin, int64_t end) { piece(*c.group, c.in, c.out, begin, end); });
  }

  // Fills the buffers, runs, compares every element, and leaves zeros, whose sums stay small.
  template <class T>
  void check_once(const Contender& c, const std::string& group_name) const {
    const int64_t whole = bytes / static_cast<int64_t>(sizeof(T));
    T *in = c.in.data<T>(), *out = c.out.data<T>();
    const int me = c.group->rank();
    for (int64_t i = 0; i < whole; ++i) in[i] = static_cast<T>(known(i, me)), out[i] = static_cast<T>(-1);
    run(c);
    const T* result = kind_ == CommKind::kAllReduce || kind_ == CommKind::kBroadcast ? in : out;
    for_pieces(c, [&](int64_t begin, int64_t end) {
      const int64_t parts = kind_ == CommKind::kAllGather ? n_ : 1;
      for (int64_t part = 0; part < parts; ++part) {
        for (int64_t j = 0; j < end - begin; ++j) {
          const int64_t at = begin * parts + part * (end - begin) + j;
          const auto want = static_cast<T>(expected(me, begin, end, part, j));
          check<CommError>(idle(me) || result[at] == want, "bench comm: ", name_of(kind_), " of ", bytes,
                           " bytes in group ", group_name, " by ", c.times.by, ": element ", at, " on rank ", me,
                           " is ", result[at], ", expected ", want);
        }
      }
    });
    std::fill(in, in + whole, T{0});
    std::fill(out, out + whole, T{0});
  }

  int64_t bytes = 0, count = 0;

 private:
  // Calls f(begin, end) for the counts of each bucket.
  template <class F>
  void for_pieces(const Contender& c, F&& f) const {
    const int64_t step = c.times.bucket_bytes > 0 ? std::max<int64_t>(1, c.times.bucket_bytes / width_) : count;
    if (count == 0) return f(int64_t{0}, int64_t{0});
    for (int64_t begin = 0; begin < count; begin += step) f(begin, std::min(count, begin + step));
  }

  // The last of an odd number has no partner.
  bool idle(int me) const { return kind_ == CommKind::kPingPong && me == n_ - 1 && n_ % 2 == 1; }

  int64_t expected(int me, int64_t begin, int64_t end, int64_t part, int64_t j) const {
    const auto sum = [&](int64_t i) {
      int64_t all = 0;
      for (int64_t r = 0; r < n_; ++r) all += known(i % kPeriod, r);
      return all;
    };
    switch (kind_) {
      case CommKind::kAllReduce:
        return sums(begin + j, sum);
      case CommKind::kReduceScatter:
        return sums(begin * n_ + me * (end - begin) + j, sum);
      case CommKind::kAllGather:
        return known(begin + j, part);
      case CommKind::kBroadcast:
        return known(begin + j, 0);
      case CommKind::kPingPong:  // both hold what the even rank sent
        return known(begin + j, me / 2 * 2);
      case CommKind::kExchange:
        return known(begin + j, (me + n_ - 1) % n_);
      default:
        return known(begin + j, me);
    }
  }

  // sum(i) has the period of known.
  template <class F>
  int64_t sums(int64_t i, F&& sum) const {
    if (!sums_known_) {
      for (int64_t p = 0; p < kPeriod; ++p) sums_[static_cast<size_t>(p)] = sum(p);
      sums_known_ = true;
    }
    return sums_[static_cast<size_t>(i % kPeriod)];
  }

  void piece(ProcessGroup& g, const Tensor& in, const Tensor& out, int64_t begin, int64_t end) const {
    const char* what = "bench";
    const auto part = [&](const Tensor& t) { return t.rows(begin, end); };
    const auto all = [&](const Tensor& t) { return t.rows(begin * n_, end * n_); };
    switch (kind_) {
      case CommKind::kAllReduce:
        return g.all_reduce(part(in), ReduceOp::kSum, what).wait_host();
      case CommKind::kReduceScatter:
        return g.reduce_scatter(all(in), part(out), ReduceOp::kSum, what).wait_host();
      case CommKind::kAllGather:
        return g.all_gather(part(in), all(out), what).wait_host();
      case CommKind::kBroadcast:
        return g.broadcast(part(in), 0, what).wait_host();
      case CommKind::kBarrier:
        return g.barrier(what).wait_host();
      case CommKind::kPingPong:
        if (idle(g.rank())) return;
        if (g.rank() % 2 == 1) g.recv(part(out), g.rank() - 1, 0, what).wait_host();
        g.send(part(g.rank() % 2 == 0 ? in : out), g.rank() ^ 1, 0, what).wait_host();
        if (g.rank() % 2 == 0) g.recv(part(out), g.rank() + 1, 0, what).wait_host();
        return;
      case CommKind::kExchange: {
        Work receiving = g.recv(part(out), (g.rank() + n_ - 1) % n_, 0, what);
        g.send(part(in), (g.rank() + 1) % n_, 0, what).wait_host();
        return receiving.wait_host();
      }
      case CommKind::kCopy:  // what a group of one does
        return g.all_gather(part(in), part(out), what).wait_host();
    }
  }

  CommKind kind_;
  int64_t n_, width_ = 1;
  mutable std::array<int64_t, kPeriod> sums_{};
  mutable bool sums_known_ = false;
};

// Time of one sample of one contender on this rank.
double sample(const Operation& op, const Contender& c, int calls) {
  c.group->barrier("bench sample").wait_host();
  const double begin = steady_seconds();
  for (int i = 0; i < calls; ++i) op.run(c);
  return (steady_seconds() - begin) / calls;
}

// Every rank gets, element by element, the largest of all ranks.
std::vector<double> slowest(ProcessGroup& world, const std::vector<double>& mine) {
  std::vector<int64_t> ns(mine.size());
  for (size_t i = 0; i < mine.size(); ++i) ns[i] = std::llround(mine[i] * 1e9);
  const Tensor t = Tensor::from(ns, {static_cast<int64_t>(ns.size())});
  world.all_reduce(t, ReduceOp::kMax, "bench times").wait_host();
  std::vector<double> out;
  for (const int64_t v : t.to_vector<int64_t>()) out.push_back(static_cast<double>(std::max<int64_t>(1, v)) * 1e-9);
  return out;
}

void summarise(CommTimes& t, double part) {
  for (double& s : t.samples) s *= part;
  std::vector<double> sorted = t.samples;
  std::sort(sorted.begin(), sorted.end());
  t.median_s = median_of(sorted);
  t.min_s = sorted.front();
  t.p99_s = sorted[static_cast<size_t>(std::ceil(0.99 * static_cast<double>(sorted.size()))) - 1];
}

// The same contenders, in the same order, on every rank of the world: those without a partner have null groups.
std::vector<Contender> contenders_of(const BenchGroup& group, CommKind kind, int64_t wanted_bytes,
                                     const std::array<Tensor, 4>& buffers) {
  const auto& [in, out, shared_in, shared_out] = buffers;
  std::vector<Contender> all;
  const auto add = [&](const std::string& by, ProcessGroup* g, const Tensor& a, const Tensor& b, int64_t bucket) {
    all.push_back({{.by = by, .bucket_bytes = bucket}, group.ours->size() > 1 || group.ranks == 1 ? g : nullptr, a, b});
  };
  add("ours", group.ours.get(), in, out, 0);
  if (group.ranks == 1) return all;
  if (kind != CommKind::kBarrier) add("ours shared", group.ours.get(), shared_in, shared_out, 0);
  if (!group.mpi) return all;
  add("mpi", group.mpi.get(), in, out, 0);
  if (kind == CommKind::kBarrier || kind == CommKind::kPingPong || kind == CommKind::kExchange) return all;
  for (const int64_t bucket : {kMiB, 2 * kMiB, 4 * kMiB})
    if (wanted_bytes > bucket) add(cat("mpi ", bucket / kMiB, " MiB"), group.mpi.get(), in, out, bucket);
  return all;
}

CommLine measure_line(ProcessGroup& world, const BenchGroup& group, const CommBenchOptions& o, CommKind kind,
                      int64_t wanted_bytes, const std::array<Tensor, 4>& buffers) {
  const Operation op(kind, o.dtype, wanted_bytes, group.ours->size());
  const Operation reported(kind, o.dtype, wanted_bytes, group.ranks);
  CommLine line{.kind = kind, .bytes = reported.bytes, .count = reported.count, .ranks = group.ranks};
  line.calls = wanted_bytes <= kRepeatBelow || kind == CommKind::kBarrier ? 10 : 1;
  std::vector<Contender> all = contenders_of(group, kind, wanted_bytes, buffers);
  const auto round = [&](size_t first) {
    std::vector<double> times(all.size());
    for (size_t i = 0; i < all.size(); ++i) {
      const size_t k = (first + i) % all.size();
      if (all[k].group != nullptr) times[k] = sample(op, all[k], line.calls);
    }
    return times;
  };
  for (const Contender& c : all)
    if (c.group != nullptr && kind != CommKind::kBarrier)
      with_element(o.dtype, [&]<class T>() { op.check_once<T>(c, group.name); });
  round(0);  // warms up
  double round_s = 0;
  for (const double s : slowest(world, round(0))) round_s += s * line.calls;
  const int rounds = std::clamp(static_cast<int>(std::min(1e6, o.line_seconds / round_s)),
                                std::min(kMinRounds, o.iterations), o.iterations);
  std::vector<double> mine;
  for (int i = 0; i < rounds; ++i) {
    const std::vector<double> times = round(static_cast<size_t>(i));
    mine.insert(mine.end(), times.begin(), times.end());
  }
  mine = slowest(world, mine);
  for (size_t k = 0; k < all.size(); ++k) {
    for (size_t i = k; i < mine.size(); i += all.size()) all[k].times.samples.push_back(mine[i]);
    summarise(all[k].times, kind == CommKind::kPingPong ? 0.5 : 1);
    line.times.push_back(all[k].times);
  }
  return line;
}

}  // namespace

const char* name_of(CommKind kind) {
  static constexpr const char* kNames[] = {"all_reduce", "reduce_scatter", "all_gather", "broadcast",
                                           "barrier",    "ping_pong",      "exchange",   "copy"};
  return kNames[static_cast<size_t>(kind)];
}

double bus_factor(CommKind kind, int ranks) {
  const double n = ranks;
  if (kind == CommKind::kAllReduce) return 2 * (n - 1) / n;
  return counts_all_ranks(kind) ? (n - 1) / n : 1;
}

const CommTimes* CommLine::find(const std::string& by) const {
  const auto found = std::find_if(times.begin(), times.end(), [&](const CommTimes& t) { return t.by == by; });
  return found == times.end() ? nullptr : &*found;
}

const CommTimes* CommLine::best_bucketed() const {
  const CommTimes* best = nullptr;
  for (const CommTimes& t : times)
    if (t.bucket_bytes > 0 && (best == nullptr || t.median_s < best->median_s)) best = &t;
  return best;
}

double median_of(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const size_t middle = values.size() / 2;
  return values.size() % 2 == 1 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
}

double speed_ratio(const CommTimes& a, const CommTimes& b) {
  std::vector<double> ratios;
  for (size_t i = 0; i < a.samples.size(); ++i) ratios.push_back(b.samples[i] / a.samples[i]);
  return median_of(ratios);
}

BenchGroup make_bench_group(const std::string& name, ProcessGroup& world, ProcessGroup* mpi,
                            const std::vector<int>& nodes) {
  // Nodes and places on them in the order of ranks.
  std::vector<int> seen;
  int my_node = 0, my_place = 0;
  for (int r = 0; r <= world.rank(); ++r) {
    const int node = nodes[static_cast<size_t>(r)];
    const auto at = std::find(seen.begin(), seen.end(), node);
    if (r == world.rank()) my_node = static_cast<int>(at - seen.begin());
    if (at == seen.end()) seen.push_back(node);
    my_place += r < world.rank() && node == nodes[static_cast<size_t>(world.rank())] ? 1 : 0;
  }
  const bool several = std::any_of(nodes.begin(), nodes.end(), [&](int node) { return node != nodes[0]; });
  int color = 0;
  if (name == "node") color = my_node;
  if (name == "pairs") color = several ? my_node / 2 * world.size() + my_place : world.rank();
  BenchGroup group{.name = name, .ours = world.split(color, world.rank(), name), .mpi = nullptr};
  if (mpi != nullptr) group.mpi = mpi->split(color, world.rank(), name);
  group.ranks = static_cast<int>(world.all_reduce_value(int64_t{group.ours->size()}, ReduceOp::kMax));
  group.smallest = -static_cast<int>(world.all_reduce_value(-int64_t{group.ours->size()}, ReduceOp::kMax));
  return group;
}

void measure_comm(ProcessGroup& world, const BenchGroup& group, const CommBenchOptions& o,
                  const std::function<void(const CommLine&)>& done) {
  const int64_t largest = *std::max_element(o.sizes.begin(), o.sizes.end());
  const Shape shape{std::max<int64_t>(group.ranks, largest / width_of(o.dtype))};
  std::array<Tensor, 4> buffers{Tensor::zeros(shape, o.dtype), Tensor::zeros(shape, o.dtype), {}, {}};
  if (group.ranks > 1) {
    buffers[2] = group.ours->shared_buffer(shape, o.dtype);
    buffers[3] = group.ours->shared_buffer(shape, o.dtype);
  }
  for (const CommKind kind : o.kinds) {
    const size_t sizes = kind == CommKind::kBarrier ? 1 : o.sizes.size();
    for (size_t i = 0; i < sizes; ++i)
      done(measure_line(world, group, o, kind, kind == CommKind::kBarrier ? 0 : o.sizes[i], buffers));
  }
}

}  // namespace tpo
