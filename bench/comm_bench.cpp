// Collectives through ProcessGroup: latency of small ones, time of gradient buckets, and how much of it hides behind
// compute; before that, in place on shared buffers beside MPI's own calls. Under mpirun; --oversubscribe past the
// cores:
//   mpirun -n 2 comm_bench [MiB of gradients = 64] [MiB per bucket = 4]
// Medians over 9 rounds of the slowest rank. "hidden" = (reduction alone + compute alone - both) / reduction alone,
// with a compute that sleeps (as with a GPU, the core is free) and one that keeps the core busy.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <thread>
#include <vector>

#include "parallel/comm/mpi.h"
#include "parallel/comm/mpi_reference.h"

namespace tpo {
namespace {

constexpr int kRounds = 9;

double median_of_slowest(ProcessGroup& g, const std::function<void()>& body) {
  std::vector<double> times;
  for (int i = 0; i <= kRounds; ++i) {
    g.barrier("round").wait_host();
    const double begin = steady_seconds();
    body();
    const double t = g.all_reduce_value(steady_seconds() - begin, ReduceOp::kMax);
    if (i > 0) times.push_back(t);  // the first touches the memory
  }
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

// A fixed amount of arithmetic, so that a core taken away shows as time.
void busy(int64_t iterations) {
  volatile double x = 2;
  for (int64_t i = 0; i < iterations; ++i) x = x * 0.999 + 0.001;
}

struct Buckets {
  Buckets(int64_t total_bytes, int64_t bucket_bytes) {
    for (int64_t b = 0; b < total_bytes; b += bucket_bytes) tensors.push_back(Tensor::zeros({bucket_bytes / 4}));
  }
  // Reduces all, with a part of the compute after each launch, as backward does.
  double reduce(ProcessGroup& g, const std::function<void()>& compute_part) const {
    std::vector<Work> works;
    for (const Tensor& t : tensors) {
      works.push_back(g.all_reduce(t, ReduceOp::kSum, "bucket"));
      compute_part();
    }
    const double begin = steady_seconds();
    for (Work& w : works) w.wait_host();
    return steady_seconds() - begin;
  }
  std::vector<Tensor> tensors;
};

void report(const char* transport, ProcessGroup& g, int64_t total, int64_t bucket) {
  const bool speaks = g.rank() == 0;
  for (const int64_t n : {1, 256, 4096, 65536, 262144}) {
    const Tensor t = Tensor::zeros({n});
    const int repeats = 50;
    const double s = median_of_slowest(g, [&] {
      for (int i = 0; i < repeats; ++i) g.all_reduce(t, ReduceOp::kSum, "small").wait_host();
    });
    if (speaks) std::printf("%-5s all_reduce %8ld bytes  %9.1f us\n", transport, n * 4, s / repeats * 1e6);
  }
  const Buckets buckets(total, bucket);
  const double alone = median_of_slowest(g, [&] { buckets.reduce(g, [] {}); });
  const auto parts = static_cast<int64_t>(buckets.tensors.size());
  if (speaks) {
    const double n = g.size();
    std::printf("%-5s %ld MiB in %ld buckets of %ld KiB  %7.2f ms  bus %.2f GB/s\n", transport, total >> 20, parts,
                bucket >> 10, alone * 1e3, 2 * (n - 1) / n * static_cast<double>(total) / alone * 1e-9);
  }
  const double target = 2 * alone / static_cast<double>(parts);
  const double probe = median_of_slowest(g, [] { busy(1000000); });
  const auto iterations = static_cast<int64_t>(1e6 * target / probe);
  const std::pair<const char*, std::function<void()>> computes[] = {
      {"sleeping", [&] { std::this_thread::sleep_for(std::chrono::duration<double>(target)); }},
      {"busy", [&] { busy(iterations); }}};
  for (const auto& [name, part] : computes) {
    const double compute = median_of_slowest(g, [&] {
      for (int64_t i = 0; i < parts; ++i) part();
    });
    double left = 0;
    const double both = median_of_slowest(g, [&] { left = buckets.reduce(g, part); });
    if (speaks) {
      std::printf("%-5s behind %-8s compute of %7.2f ms: both %7.2f ms, hidden %4.0f %%, left in waits %.2f ms\n",
                  transport, name, compute * 1e3, both * 1e3, 100 * (alone + compute - both) / alone, left * 1e3);
    }
  }
}

// Least seconds of each body over the rounds, the slowest rank's; bodies take turns, so that whatever else the machine
// does meets all of them.
std::vector<double> least_of_turns(ProcessGroup& g, const std::vector<std::function<void()>>& bodies) {
  std::vector<double> least(bodies.size(), 1e9);
  for (int round = 0; round < 3 * kRounds; ++round) {
    for (size_t i = 0; i < bodies.size(); ++i) {
      g.barrier("turn").wait_host();
      const double begin = steady_seconds();
      bodies[i]();
      least[i] = std::min(least[i], g.all_reduce_value(steady_seconds() - begin, ReduceOp::kMax));
    }
  }
  return least;
}

// In place on shared buffers, against MPI's own calls on ordinary memory: one call, and in buckets of 1 to 4 MiB.
void compare_with_mpi(ProcessGroup& g, int64_t total) {
  const int64_t n = total / 4, part = n / g.size();
  const Tensor shared = g.shared_buffer({n}), own = Tensor::zeros({n}), slots = Tensor::zeros({n});
  const auto mpi = make_mpi_reference();
  const auto mpi_reduce = [&](int64_t b, int64_t k) {
    mpi->all_reduce(own.rows(b, b + k), ReduceOp::kSum, "b").wait_host();
  };
  const auto mpi_scatter = [&](int64_t b, int64_t k) {  // k elements of the whole
    const int64_t to = b / g.size(), each = k / g.size();
    mpi->reduce_scatter(own.rows(b, b + each * g.size()), slots.rows(to, to + each), ReduceOp::kSum, "b").wait_host();
  };
  const auto in_buckets = [&](int64_t bytes, const std::function<void(int64_t, int64_t)>& call) {
    for (int64_t b = 0; b < n; b += bytes / 4) call(b, std::min(bytes / 4, n - b));
  };
  const auto own_part = [&](const Tensor& t) { return t.rows(g.rank() * part, (g.rank() + 1) * part); };
  struct Row {
    const char* name;
    std::function<void()> run;
  };
  std::vector<Row> rows = {
      {"all_reduce, shared buffer", [&] { g.all_reduce(shared, ReduceOp::kSum, "b").wait_host(); }},
      {"all_reduce, ordinary memory", [&] { g.all_reduce(slots, ReduceOp::kSum, "b").wait_host(); }},
      {"MPI_Allreduce, one call", [&] { mpi_reduce(0, n); }}};
  for (const int64_t mib : {1, 2, 4}) {
    rows.push_back({"MPI_Allreduce, buckets", [&, mib] { in_buckets(mib << 20, mpi_reduce); }});
  }
  const size_t scatters = rows.size();
  rows.push_back({"reduce_scatter, shared buffer",
                  [&] { g.reduce_scatter(shared, own_part(shared), ReduceOp::kSum, "b").wait_host(); }});
  rows.push_back({"reduce_scatter, ordinary memory",
                  [&] { g.reduce_scatter(slots, own_part(slots), ReduceOp::kSum, "b").wait_host(); }});
  rows.push_back({"MPI_Reduce_scatter_block, one call", [&] { mpi_scatter(0, part * g.size()); }});
  for (const int64_t mib : {1, 2, 4}) {
    rows.push_back({"MPI_Reduce_scatter_block, buckets", [&, mib] { in_buckets(mib << 20, mpi_scatter); }});
  }
  const size_t gathers = rows.size();
  rows.push_back({"all_gather, shared buffer", [&] { g.all_gather(own_part(shared), shared, "b").wait_host(); }});
  rows.push_back({"all_gather, ordinary memory", [&] { g.all_gather(own_part(slots), slots, "b").wait_host(); }});
  std::vector<std::function<void()>> bodies;
  for (const Row& r : rows) bodies.push_back(r.run);
  const auto least = least_of_turns(g, bodies);
  for (size_t i = 0; i < rows.size() && g.rank() == 0; ++i) {
    const size_t ours = i < scatters ? 0 : i < gathers ? scatters : gathers;
    std::printf("%-36s %8.2f ms  %5.2f x\n", rows[i].name, least[i] * 1e3, least[i] / least[ours]);
  }
}

}  // namespace
}  // namespace tpo

int main(int argc, char** argv) {
  tpo::MpiWorld mpi(&argc, &argv);
  const int64_t total = int64_t{argc > 1 ? std::atoi(argv[1]) : 64} << 20;
  const int64_t bucket = argc > 2 ? static_cast<int64_t>(std::atof(argv[2]) * (1 << 20)) : int64_t{4} << 20;
  try {
    for (const bool arena : {true, false}) {
      const auto world = tpo::make_mpi_world({.arena = arena, .verify = true});
      if (arena) tpo::compare_with_mpi(*world, total);
      tpo::report(arena ? "arena" : "mpi", *world, total, bucket);
      world->barrier("end").wait_host();
    }
  } catch (const std::exception& e) {
    std::fprintf(stderr, "rank %d: %s\n", mpi.rank(), e.what());
    tpo::MpiWorld::abort(1);
  }
  return 0;
}
