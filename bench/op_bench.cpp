// Times every op case, forward alone and forward with backward. Counters come from the kernels' own cost():
// GFLOP/s of executed operations and GB/s of operands moved once.
//   op_bench --benchmark_filter='attention.*d64'     TPO_THREADS=1 sets the threads (default: all)
#include <benchmark/benchmark.h>

#include <cstdlib>

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

void time_case(benchmark::State& state, const CaseEntry& entry, Pass pass) {
  const OpCase c = entry.build();
  if (pass == Pass::kBoth && c.grads.empty()) return state.SkipWithError("the op has no gradient");
  const Shape shape = c.run(c.in).shape();
  const Tensor dy = Tensor::from(std::vector<float>(static_cast<size_t>(shape.numel()), 1.0f), shape);
  step(c, pass, dy);
  const StreamCounters before = Stream::current().counters();
  for (auto _ : state) step(c, pass, dy);
  const StreamCounters after = Stream::current().counters();
  const auto rate = [](int64_t from, int64_t to) {
    return benchmark::Counter(static_cast<double>(to - from) / 1e9, benchmark::Counter::kIsRate);
  };
  state.counters["GFLOP/s"] = rate(before.flops, after.flops);
  state.counters["GB/s"] = rate(before.read_bytes + before.write_bytes, after.read_bytes + after.write_bytes);
}

}  // namespace
}  // namespace tpo::optest

int main(int argc, char** argv) {
  using namespace tpo::optest;
  if (const char* threads = std::getenv("TPO_THREADS")) tpo::set_num_threads(std::atoi(threads));
  for (const CaseEntry& e : all_cases().entries) {
    if (e.size == Size::kSmall) continue;
    benchmark::RegisterBenchmark((e.name + "/forward").c_str(), [&e](benchmark::State& s) {
      time_case(s, e, Pass::kForward);
    })->UseRealTime();
    benchmark::RegisterBenchmark((e.name + "/forward_backward").c_str(), [&e](benchmark::State& s) {
      time_case(s, e, Pass::kBoth);
    })->UseRealTime();
  }
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::RunSpecifiedBenchmarks();
}
