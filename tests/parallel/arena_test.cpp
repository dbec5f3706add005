// The arena and its engines inside one process, where the thread sanitizer sees both sides.
#include "parallel/comm/arena.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <mutex>

#include "core/error.h"
#include "parallel/comm/threads.h"
#include "tests/parallel/conformance.h"

namespace tpo {
namespace {

constexpr int64_t kPiece = 1 << 20;

// What rank threads share in place of a mapped segment.
struct Shared {
  explicit Shared(int n) : bells(static_cast<size_t>(n)), memory(Arena::bytes_needed(n, kPiece) + 64) {}
  std::byte* aligned() { return memory.data() + (64 - reinterpret_cast<uintptr_t>(memory.data()) % 64) % 64; }
  // Shared buffer number k, made by the first rank that asks.
  std::shared_ptr<SharedMemory> buffer(size_t k, size_t bytes) {
    std::scoped_lock lock(mutex);
    if (buffers.size() <= k) {
      const std::string name = cat("/tpo_arena_test.", getpid(), ".", k);
      buffers.push_back(SharedMemory::create(name, bytes));
      SharedMemory::unlink(name);
    }
    return buffers[k];
  }
  std::vector<Doorbell> bells;
  std::vector<std::byte> memory;
  std::mutex mutex;
  std::vector<std::shared_ptr<SharedMemory>> buffers;
};

class Part final : public Allocator {
 public:
  Part(std::shared_ptr<SharedMemory> memory, size_t begin) : memory_(std::move(memory)), begin_(begin) {}
  void* allocate(size_t, MemoryKind) override { return memory_->data() + begin_; }
  void free(void*, size_t, MemoryKind) override {}
  AllocatorStats stats() const override { return {}; }
  void reset_peak() override {}
  Device device() const override { return Device::kCpu; }

 private:
  std::shared_ptr<SharedMemory> memory_;
  size_t begin_;
};

// Collectives through an arena; splits and messages are not its business.
class ArenaGroup final : public ProcessGroup {
 public:
  ArenaGroup(ProcessGroup& threads, Shared& shared)
      : ProcessGroup(threads.rank(), threads.size(), "arena"),
        shared_(shared),
        engine_(shared.bells[static_cast<size_t>(rank())]) {
    std::vector<Doorbell*> bells;
    for (Doorbell& b : shared.bells) bells.push_back(&b);
    arena_ = std::make_shared<Arena>(shared.aligned(), kPiece, rank(), std::move(bells));
    queue_ = engine_.add_queue();
  }

  Tensor shared_buffer(const Shape& shape, DType dtype) override {
    const size_t part = (static_cast<size_t>(shape.numel()) * size_of(dtype) + 63) / 64 * 64;
    const auto memory = shared_.buffer(buffers_++, part * static_cast<size_t>(size()));
    engine_.call([&] { arena_->add_shared(memory, part); });
    Stream stream(Device::kCpu, std::make_shared<Part>(memory, part * static_cast<size_t>(rank())));
    return Tensor::zeros(shape, dtype, stream);
  }

 protected:
  std::shared_ptr<WorkState> issue(std::shared_ptr<const CommRequest> r) override {
    auto task = Arena::make_task(arena_, nullptr, r);
    return engine_.submit(queue_, std::move(r), std::move(task));
  }
  std::unique_ptr<ProcessGroup> do_split(int, int, std::string) override { throw CommError("an arena is not split"); }

 private:
  Shared& shared_;
  size_t buffers_ = 0;
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

TEST_P(ArenaConformance, a_shared_buffer_on_some_ranks_only_goes_through_slots) {
  on_arena(GetParam(), [](ProcessGroup& g) {
    const Tensor shared = g.shared_buffer({64}, DType::kF32), own = Tensor::zeros({64});
    for (const int other : {0, 1}) {
      const Tensor& t = g.rank() == other ? own : shared;
      for (int64_t i = 0; i < 64; ++i) t.data<float>()[i] = static_cast<float>(g.rank() + i);
      g.all_reduce(t, ReduceOp::kSum, "bucket").wait_host();
      const int n = g.size();
      for (int64_t i = 0; i < 64; ++i) {
        EXPECT_EQ(t.data<float>()[i], static_cast<float>(n * i) + static_cast<float>(n * (n - 1) / 2));
      }
    }
  });
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
