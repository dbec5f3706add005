// Times every op case, forward alone and forward with backward. Counters come from the kernels' own cost():
// GFLOP/s of executed operations and GB/s of operands moved once; share is the larger part of the two limits of this
// machine, measured at the start on as many threads (above 1 where operands stay in cache).
//   op_bench --benchmark_filter='attention.*d64'     TPO_THREADS=1 sets the threads (default: all)
// At the end the cases below half of their limit are listed on standard error: each needs a line that says why.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <iostream>
#include <map>

#include "bench/limits.h"
#include "core/parallel_for.h"
#include "tests/op_case.h"

namespace tpo::optest {
namespace {

enum class Pass { kForward, kBoth };

// One forward, and for kBoth a backward of a gradient of ones.
void step(const OpCase& c, Pass pass, const Tensor& dy) {
  if (pass == Pass::kForward) {
    const NoGradScope no_grad;
    benchmark::DoNotOptimize(c.run(c.in).raw());
    return;
  }
  Tape tape;
  std::vector<Tensor> in = c.in;
  Tensor y;
  {
    const TapeScope scope(tape);
    for (int i : c.grads) in[static_cast<size_t>(i)] = tape.watch(in[static_cast<size_t>(i)]);
    y = c.run(in);
  }
  tape.backward(std::span(&y, 1), std::span(&dy, 1));
}

// Share of the limit of each run of a benchmark that was long enough to be reported, by name.
class Shares {
 public:
  void add(const std::string& name, int64_t iterations, double share) {
    auto& [most, shares] = runs_[name];
    if (iterations > most) shares.clear();  // the shorter ones only found out how many are enough
    if (iterations >= most) most = iterations, shares.push_back(share);
  }
  void print_low(std::ostream& out, const Limits& limits) const {
    out << "limits on " << limits.threads << " threads: " << limits.gflops << " GFLOP/s, " << limits.gb_per_s
        << " GB/s\n";
    for (const auto& [name, run] : runs_) {
      std::vector<double> shares = run.second;
      std::sort(shares.begin(), shares.end());
      const double share = shares[shares.size() / 2];
      if (share < 0.5) out << "below half of its limit: " << name << ' ' << share << '\n';
    }
  }

 private:
  std::map<std::string, std::pair<int64_t, std::vector<double>>> runs_;
};

void time_case(benchmark::State& state, const CaseEntry& entry, Pass pass, const Limits& limits, Shares& shares) {
  const OpCase c = entry.build();
  if (pass == Pass::kBoth && c.grads.empty()) return state.SkipWithError("the op has no gradient");
  const Shape shape = c.run(c.in).shape();
  const Tensor dy = Tensor::from(std::vector<float>(static_cast<size_t>(shape.numel()), 1.0f), shape);
  step(c, pass, dy);
  const StreamCounters before = Stream::current().counters();
  const auto begin = std::chrono::steady_clock::now();
  for (auto _ : state) step(c, pass, dy);
  const double elapsed_s = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  const StreamCounters after = Stream::current().counters();
  const double gflop = static_cast<double>(after.flops - before.flops) * 1e-9;
  const double gb =
      static_cast<double>(after.read_bytes + after.write_bytes - before.read_bytes - before.write_bytes) * 1e-9;
  const double share = std::max(gflop / limits.gflops, gb / limits.gb_per_s) / elapsed_s;
  state.counters["GFLOP/s"] = benchmark::Counter(gflop, benchmark::Counter::kIsRate);
  state.counters["GB/s"] = benchmark::Counter(gb, benchmark::Counter::kIsRate);
  state.counters["share"] = share;
  shares.add(entry.name + (pass == Pass::kForward ? "/forward" : "/forward_backward"), state.iterations(), share);
}

}  // namespace
}  // namespace tpo::optest

int main(int argc, char** argv) {
  using namespace tpo::optest;
  if (const char* threads = std::getenv("TPO_THREADS")) tpo::set_num_threads(std::atoi(threads));
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  const tpo::Limits limits = tpo::measure_limits();
  benchmark::AddCustomContext("limit GFLOP/s", std::to_string(limits.gflops));
  benchmark::AddCustomContext("limit GB/s", std::to_string(limits.gb_per_s));
  Shares shares;
  for (const CaseEntry& e : all_cases().entries) {
    if (e.size == Size::kSmall) continue;
    for (const Pass pass : {Pass::kForward, Pass::kBoth}) {
      const std::string name = e.name + (pass == Pass::kForward ? "/forward" : "/forward_backward");
      benchmark::RegisterBenchmark(name.c_str(), [&e, pass, &limits, &shares](benchmark::State& s) {
        time_case(s, e, pass, limits, shares);
      })->UseRealTime();
    }
  }
  benchmark::RunSpecifiedBenchmarks();
  shares.print_low(std::cerr, limits);
}
