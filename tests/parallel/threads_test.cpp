// Rank threads: the conformance cases, and what happens when ranks fail.
#include "parallel/comm/threads.h"

#include <gtest/gtest.h>

#include "core/error.h"
#include "tests/parallel/conformance.h"

namespace tpo {
namespace {

class Conformance : public testing::TestWithParam<std::tuple<size_t, int>> {};

TEST_P(Conformance, holds_on_rank_threads) {
  const auto [index, ranks] = GetParam();
  run_ranks(ranks, conformance::cases()[index].run);
}

INSTANTIATE_TEST_SUITE_P(threads, Conformance,
                         testing::Combine(testing::Range(size_t{0}, conformance::cases().size()),
                                          testing::Values(1, 2, 3, 4)),
                         [](const auto& info) {
                           return cat(conformance::cases()[std::get<0>(info.param)].name, "_", std::get<1>(info.param));
                         });

TEST(threads, sums_follow_rank_order) {
  for (int n : {1, 2, 3, 4}) run_ranks(n, conformance::sums_follow_rank_order);
}

TEST(threads, ranks_that_diverge_learn_from_whom) {
  for (const auto& c : conformance::divergences()) {
    SCOPED_TRACE(c.name);
    for (int n : {2, 3, 4}) run_ranks(n, c.run);
  }
}

// Sums of bf16 among them, where the fixed values of four ranks would be rounded.
TEST(threads, nine_ranks_reduce_every_dtype) {
  for (size_t i = 0; i < 3; ++i) run_ranks(9, conformance::cases()[i].run);
}

TEST(single, passes_the_conformance_cases) {
  const auto group = make_single();
  for (const auto& c : conformance::cases()) c.run(*group);
}

// The message of the exception that f throws, with its type checked.
template <class E>
std::string message_of(const std::function<void()>& f) {
  try {
    f();
  } catch (const E& e) {
    return e.what();
  }
  return "nothing was thrown";
}

TEST(threads, a_mismatch_names_both_operations_sizes_and_tensors) {
  const std::string m = message_of<CommError>([] {
    run_ranks(2, [](ProcessGroup& g) {
      g.barrier("start").wait_host();
      const Tensor t = Tensor::zeros({g.rank() == 0 ? 10 : 12});
      if (g.rank() == 0) {
        g.all_reduce(t, ReduceOp::kSum, "region.fc1.weight").wait_host();
      } else {
        g.broadcast(t, 1, "mask.fc1.weight").wait_host();
      }
    });
  });
  for (const char* part :
       {"all_reduce #1 of 'region.fc1.weight' (sum, 10 f32, 40 bytes)",
        "broadcast #1 of 'mask.fc1.weight' (root 1, 12 f32, 48 bytes)", "rank 0", "rank 1", "world"}) {
    EXPECT_NE(m.find(part), std::string::npos) << m << "\n lacks: " << part;
  }
}

TEST(threads, equal_sizes_under_different_names_are_a_mismatch) {
  const std::string m = message_of<CommError>([] {
    run_ranks(2, [](ProcessGroup& g) {
      g.all_reduce(Tensor::zeros({4}), ReduceOp::kSum, g.rank() == 0 ? "bucket 1" : "bucket 2").wait_host();
    });
  });
  EXPECT_NE(m.find("(tensor name)"), std::string::npos) << m;
}

TEST(threads, a_failing_rank_releases_the_others_and_keeps_its_type_and_number) {
  const std::string m = message_of<DataError>([] {
    run_ranks(4, [](ProcessGroup& g) {
      if (g.rank() == 2) throw DataError("sample 17 is broken");
      EXPECT_THROW(g.all_reduce(Tensor::zeros({4}), ReduceOp::kSum, "loss").wait_host(), CommError);
      g.barrier("after the end").wait_host();  // the world stays down
    });
  });
  EXPECT_EQ(m, "rank 2: sample 17 is broken");
}

TEST(threads, a_rank_that_returns_early_is_named_to_those_who_wait_for_it) {
  const std::string m = message_of<CommError>([] {
    run_ranks(3, [](ProcessGroup& g) {
      if (g.rank() != 1) g.barrier("end of epoch").wait_host();
    });
  });
  EXPECT_NE(m.find("rank 1 has returned"), std::string::npos) << m;
  EXPECT_NE(m.find("rank 0 waits in barrier #0 of 'end of epoch'"), std::string::npos) << m;
}

TEST(threads, a_cycle_of_waits_over_two_groups_is_found) {
  const std::string m = message_of<CommError>([] {
    run_ranks(2, [](ProcessGroup& g) {
      const auto data = g.split(0, g.rank(), "data"), tensor = g.split(0, g.rank(), "tensor");
      (g.rank() == 0 ? data : tensor)->barrier("one").wait_host();
      (g.rank() == 0 ? tensor : data)->barrier("two").wait_host();
    });
  });
  EXPECT_NE(m.find("no rank can go on"), std::string::npos) << m;
  EXPECT_NE(m.find("world.data"), std::string::npos) << m;
  EXPECT_NE(m.find("world.tensor"), std::string::npos) << m;
}

TEST(threads, a_message_of_another_size_fails_on_both_sides) {
  run_ranks(2, [](ProcessGroup& g) {
    const Tensor t = Tensor::zeros({g.rank() == 0 ? 3 : 4});
    Work w = g.rank() == 0 ? g.send(t, 1, 7, "activations") : g.recv(t, 0, 7, "activations");
    EXPECT_THROW(w.wait_host(), CommError);
  });
}

#ifdef TPO_DEBUG
TEST(work, dropping_one_is_reported_by_the_next_call) {
  run_ranks(2, [](ProcessGroup& g) {
    { Work w = g.all_reduce(Tensor::zeros({4}), ReduceOp::kSum, "forgotten"); }
    EXPECT_NE(message_of<CommError>([&] { g.barrier("next").wait_host(); }).find("'forgotten'"), std::string::npos);
  });
}
#endif

}  // namespace
}  // namespace tpo
