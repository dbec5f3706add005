#include "core/profile.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "core/kernels/basic.h"
#include "core/launch.h"
#include "core/ops/matmul.h"
#include "core/ops/pointwise.h"
#include "core/ops/reduce.h"
#include "core/param.h"

namespace tpo {
namespace {

using Kind = ProfileEvent::Kind;

// A step with a plain and a recomputed part, a wait and work outside any op, on the current stream.
struct Step {
  ParamStore store{5};
  Param& w = ParamScope(store).param("w", {24, 24}, Init::normal(0, 0.2f));
  Param& b = ParamScope(store).param("b", {24}, Init::constant(0.1f));
  Tensor x = Tensor::zeros({16, 24});

  Tensor forward() {
    const ProfileScope region("forward");
    const Tensor h = linear(x, w.use(), b.use(), Activation::kGelu);
    const Tensor again =
        recompute_block([&](std::span<const Tensor> in) { return mul(in[0], linear(in[0], w.use())); }, {h});
    return sum_all(again);
  }
  void run(Tape::Mode mode = Tape::Mode::kFull) {
    const ProfileScope step("step");
    for (const auto& p : store.params()) p->grad_written = false;
    { const ProfileScope waiting("wait", ProfileScope::Kind::kWait); }
    Tape tape;
    Tensor loss;
    {
      const TapeScope scope(tape);
      loss = forward();
    }
    {
      const ProfileScope region("backward");
      const Tensor out[1] = {loss}, seed[1] = {};
      tape.backward(out, seed, mode);
      tape.run_weight_grads();
    }
    const ProfileScope region("optimizer");
    launch(FillZero{b.value.raw(), b.value.nbytes()});
  }
};

std::set<std::string> ops_of(const std::vector<ProfileRow>& rows) {
  std::set<std::string> ops;
  for (const ProfileRow& r : rows) ops.insert(r.phase + "/" + r.op + "/" + r.name);
  return ops;
}

TEST(profile, events_nest_and_add_up_to_the_counters_of_the_stream) {
  for (const bool meta : {false, true}) {
    const auto stream = meta ? Stream::make_meta() : Stream::make_cpu();
    const StreamScope current(*stream);
    Step step;
    const StreamCounters before = stream->counters();
    const double clock_before = stream->virtual_seconds();
    Profiler profiler;
    const int64_t begin = stream->now_ns();
    {
      const ProfilerScope scope(&profiler, *stream);
      step.run();
      step.run();
    }
    const int64_t end = stream->now_ns();
    Cost sum;
    int64_t kernels = 0, kernel_ns = 0;
    const auto& events = profiler.events();
    std::vector<int64_t> free_from(events.size(), begin);  // end of the latest child
    for (size_t i = 0; i < events.size(); ++i) {
      const ProfileEvent& e = events[i];
      ASSERT_LT(e.parent, static_cast<int32_t>(i));
      EXPECT_GE(e.duration_ns, 0);
      if (e.parent >= 0) {
        const ProfileEvent& around = events[static_cast<size_t>(e.parent)];
        EXPECT_NE(around.kind, Kind::kKernel);
        EXPECT_GE(e.begin_ns, std::max(around.begin_ns, free_from[static_cast<size_t>(e.parent)]));
        EXPECT_LE(e.begin_ns + e.duration_ns, around.begin_ns + around.duration_ns);
        free_from[static_cast<size_t>(e.parent)] = e.begin_ns + e.duration_ns;
      } else {
        EXPECT_EQ(e.name, "step");
      }
      if (e.kind != Kind::kKernel) continue;
      ++kernels, kernel_ns += e.duration_ns;
      sum.flops += e.cost.flops, sum.read_bytes += e.cost.read_bytes, sum.write_bytes += e.cost.write_bytes;
    }
    EXPECT_EQ(kernels, stream->counters().launches - before.launches);
    EXPECT_EQ(sum.flops, stream->counters().flops - before.flops);
    EXPECT_EQ(sum.read_bytes, stream->counters().read_bytes - before.read_bytes);
    EXPECT_EQ(sum.write_bytes, stream->counters().write_bytes - before.write_bytes);
    EXPECT_GT(sum.flops, 0);
    EXPECT_LE(total_ns(events), end - begin);
    int64_t rows_ns = 0, rows_flops = 0, calls = 0;
    for (const ProfileRow& r : profile_rows(events)) {
      EXPECT_GE(r.ns, 0) << r.name;
      EXPECT_TRUE(!meta || r.kind == ProfileRow::Kind::kKernel || r.ns == 0)
          << "a virtual clock stands between kernels";
      rows_ns += r.ns, rows_flops += r.cost.flops;
      calls += r.kind == ProfileRow::Kind::kKernel ? r.calls : 0;
    }
    EXPECT_EQ(rows_ns, total_ns(events)) << "shares add up to the whole";
    EXPECT_EQ(rows_flops, sum.flops);
    EXPECT_EQ(calls, kernels);
    // Both ends of the interval are cut to whole ns.
    if (meta) {
      EXPECT_NEAR(static_cast<double>(kernel_ns), (stream->virtual_seconds() - clock_before) * 1e9, 1);
    }
  }
}

TEST(profile, kernels_carry_their_op_in_both_directions) {
  for (const auto mode : {Tape::Mode::kFull, Tape::Mode::kInputOnly}) {  // weight gradients at once or later
    Step step;
    Profiler profiler;
    {
      const ProfilerScope scope(&profiler, Stream::current());
      step.run(mode);
    }
    const auto seen = ops_of(profile_rows(profiler.events()));
    for (const char* want :
         {"forward/linear/gemm", "forward/linear/broadcast_rows", "forward/mul/binary", "forward/sum_all/sum_all",
          "backward/linear (backward)/gemm", "backward/linear (backward)/column_sums",
          "backward/linear (recomputed)/gemm", "optimizer//fill_zero", "wait//wait", "step//outside kernels",
          "backward//outside kernels"})
      EXPECT_TRUE(seen.count(want)) << want << " is not among " << ::testing::PrintToString(seen);
    EXPECT_FALSE(seen.count("backward//gemm")) << "a product without its op";
    EXPECT_FALSE(seen.count("forward/linear (backward)/gemm"));
  }
  // Without a tape ops are named too.
  Step step;
  Profiler profiler;
  {
    const ProfilerScope scope(&profiler, Stream::current());
    step.forward();
  }
  EXPECT_TRUE(ops_of(profile_rows(profiler.events())).count("forward/linear/gemm"));
}

TEST(profile, a_stream_without_a_profiler_does_the_same_work) {
  std::vector<float> gradients[2];
  StreamCounters counters[2];
  Profiler profiler;
  for (const bool profiled : {false, true}) {
    const auto stream = Stream::make_cpu();
    const StreamScope current(*stream);
    Step step;
    {
      const ProfilerScope scope(profiled ? &profiler : nullptr, *stream);
      EXPECT_EQ(stream->profiler(), profiled ? &profiler : nullptr);
      step.run();
      EXPECT_EQ(profiler.events().empty(), !profiled);
    }
    EXPECT_EQ(stream->profiler(), nullptr);
    const size_t seen = profiler.events().size();
    gradients[profiled] = step.w.grad.to_vector<float>();
    counters[profiled] = stream->counters();
    step.run();
    EXPECT_EQ(profiler.events().size(), seen) << "detached";
  }
  EXPECT_EQ(gradients[0], gradients[1]);
  EXPECT_EQ(counters[0].launches, counters[1].launches);
  EXPECT_EQ(counters[0].flops, counters[1].flops);
}

struct Refused {
  static constexpr const char* kName = "refused";
  Cost cost() const { return {1, 1, 1}; }
};
void run(const Refused&, Cpu, Stream&) { throw DataError("refused"); }

TEST(profile, a_kernel_that_throws_leaves_no_event_and_closes_its_regions) {
  Profiler profiler;
  const ProfilerScope scope(&profiler, Stream::current());
  EXPECT_THROW(
      {
        const ProfileScope region("step");
        launch(Refused{});
      },
      DataError);
  ASSERT_EQ(profiler.events().size(), 1u);
  const Tensor t = Tensor::empty({4});
  launch(FillZero{t.raw(), t.nbytes()});
  ASSERT_EQ(profiler.events().size(), 2u);
  EXPECT_EQ(profiler.events()[1].parent, -1) << "the region has ended";
}

}  // namespace
}  // namespace tpo
