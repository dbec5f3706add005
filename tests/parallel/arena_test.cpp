// The arena and its engines inside one process, where the thread sanitizer sees both sides.
#include "parallel/comm/arena.h"

#include <gtest/gtest.h>

#include "core/error.h"
#include "parallel/comm/threads.h"
#include "tests/parallel/conformance.h"

namespace tpo {
namespace {

// What rank threads share in place of a mapped segment.
struct Shared {
  explicit Shared(int n) : bells(static_cast<size_t>(n)), memory(Arena::bytes_needed(n) + 64) {}
  std::byte* aligned() { return memory.data() + (64 - reinterpret_cast<uintptr_t>(memory.data()) % 64) % 64; }
  std::vector<Doorbell> bells;
  std::vector<std::byte> memory;
};

// Collectives through an arena; splits and messages are not its business.
class ArenaGroup final : public ProcessGroup {
 public:
  ArenaGroup(ProcessGroup& threads, Shared& shared)
      : ProcessGroup(threads.rank(), threads.size(), "arena"), engine_(shared.bells[static_cast<size_t>(rank())]) {
    std::vector<Doorbell*> bells;
    for (Doorbell& b : shared.bells) bells.push_back(&b);
    arena_ = std::make_shared<Arena>(shared.aligned(), rank(), std::move(bells));
    queue_ = engine_.add_queue();
  }

 protected:
  std::shared_ptr<WorkState> issue(std::shared_ptr<const CommRequest> r) override {
    auto task = Arena::make_task(arena_, r);
    return engine_.submit(queue_, std::move(r), std::move(task));
  }
  std::unique_ptr<ProcessGroup> do_split(int, int, std::string) override { throw CommError("an arena is not split"); }

 private:
  Engine engine_;
  std::shared_ptr<Arena> arena_;
  int queue_ = 0;
};

void on_arena(int n, void (*run)(ProcessGroup&)) {
  Shared shared(n);
  run_ranks(n, [&](ProcessGroup& threads) {
    ArenaGroup group(threads, shared);
    run(group);
    threads.barrier("engines may stop").wait_host();
  });
}

class ArenaConformance : public testing::TestWithParam<int> {};

TEST_P(ArenaConformance, holds_for_collectives) {
  for (const auto& c : conformance::cases()) {
    const std::string name = c.name;
    if (name.starts_with("messages") || name.starts_with("split") || name.starts_with("groups")) continue;
    if (name.starts_with("bad_arguments")) continue;  // the same code as on rank threads
    on_arena(GetParam(), c.run);
  }
}

TEST_P(ArenaConformance, sums_follow_rank_order) { on_arena(GetParam(), conformance::sums_follow_rank_order); }

TEST_P(ArenaConformance, ranks_that_diverge_learn_from_whom) {
  on_arena(GetParam(), conformance::ranks_that_diverge_learn_from_whom);
}

INSTANTIATE_TEST_SUITE_P(threads, ArenaConformance, testing::Values(2, 3, 4));

TEST(shared_memory, reports_what_the_system_refuses) {
  EXPECT_THROW(SharedMemory::open("/tpo_dist.test.absent", 4096), IoError);
  EXPECT_THROW(SharedMemory::create("/tpo_dist.test.huge", size_t{1} << 55), IoError);
  const auto a = SharedMemory::create("/tpo_dist.test", 4096), b = SharedMemory::open("/tpo_dist.test", 4096);
  SharedMemory::unlink("/tpo_dist.test");
  a->data()[17] = std::byte{5};
  EXPECT_EQ(b->data()[17], std::byte{5});
  EXPECT_THROW(SharedMemory::open("/tpo_dist.test", 4096), IoError);
}

TEST(engine, a_call_waits_until_nothing_is_in_flight_and_rethrows) {
  Doorbell bell;
  Engine engine(bell);
  bool ran = false;
  engine.call([&] { ran = true; });
  EXPECT_TRUE(ran);
  EXPECT_THROW(engine.call([] { throw CommError("inside"); }), CommError);
}

TEST(engine, a_stopped_engine_fails_what_is_in_flight) {
  struct Never final : EngineTask {
    Progress poll() override { return Progress::kNone; }
    bool rings() const override { return true; }
  };
  Doorbell bell;
  std::shared_ptr<WorkState> state;
  {
    Engine engine(bell);
    state = engine.submit(engine.add_queue(), std::make_shared<const CommRequest>(), std::make_unique<Never>());
  }
  EXPECT_TRUE(state->done());
  EXPECT_THROW(state->wait(), CommError);
}

}  // namespace
}  // namespace tpo
