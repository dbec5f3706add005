// Collectives through ProcessGroup: latency of small ones, time of gradient buckets, and how much of it hides behind
// compute. Under mpirun; --oversubscribe past the number of cores:
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

}  // namespace
}  // namespace tpo

int main(int argc, char** argv) {
  tpo::MpiWorld mpi(&argc, &argv);
  const int64_t total = int64_t{argc > 1 ? std::atoi(argv[1]) : 64} << 20;
  const int64_t bucket = argc > 2 ? static_cast<int64_t>(std::atof(argv[2]) * (1 << 20)) : int64_t{4} << 20;
  try {
    for (const bool arena : {true, false}) {
      const auto world = tpo::make_mpi_world({.arena = arena, .verify = true});
      tpo::report(arena ? "arena" : "mpi", *world, total, bucket);
      world->barrier("end").wait_host();
    }
  } catch (const std::exception& e) {
    std::fprintf(stderr, "rank %d: %s\n", mpi.rank(), e.what());
    tpo::MpiWorld::abort(1);
  }
  return 0;
}
