// The arena, its engines and several "nodes" inside one process, where the thread sanitizer sees all sides.
#include "parallel/comm/arena.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <deque>
#include <map>
#include <mutex>
#include <thread>
#include <tuple>

#include "core/error.h"
#include "parallel/comm/threads.h"
#include "tests/parallel/conformance.h"

namespace tpo {
namespace {

constexpr int64_t kPiece = 1 << 20;

// What rank threads share in place of a mapped segment.
struct Shared {
  Shared(int n, int64_t piece) : bells(static_cast<size_t>(n)), memory(Arena::bytes_needed(n, piece) + 64) {}
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

// Messages on their way between "nodes", by (from, to, tag).
struct Post {
  std::mutex mutex;
  std::map<std::tuple<int, int, int>, std::deque<std::vector<std::byte>>> messages;
  std::atomic<bool> down{false};  // shares of tensors do not arrive; headers, of tag 0, do
};

class PostWire final : public Wire {
 public:
  PostWire(Post& post, int rank, int size) : post_(post), rank_(rank), size_(size) {}
  void send(const std::byte* data, int64_t bytes, int to, int tag) override {
    std::scoped_lock lock(post_.mutex);
    post_.messages[{rank_, to, tag}].emplace_back(data, data + bytes);
  }
  void recv(std::byte* data, int64_t bytes, int from, int tag) override {
    expected_.push_back({data, bytes, from, tag});
  }
  void all_gather(const std::byte* mine, int64_t bytes, std::byte* all) override {
    for (int r = 0; r < size_; ++r) {
      send(mine, bytes, r, 0);
      recv(all + r * bytes, bytes, r, 0);
    }
  }
  bool done() override {
    std::scoped_lock lock(post_.mutex);
    const auto lost = [&](const Expected& e) { return post_.down && e.tag != 0; };
    if (std::any_of(expected_.begin(), expected_.end(), lost)) throw CommError("the link is down");
    std::erase_if(expected_, [&](const Expected& e) {
      auto& queue = post_.messages[{e.from, rank_, e.tag}];
      // Messages of one sender and tag arrive in order: an earlier expectation, if any, took the front.
      if (queue.empty()) return false;
      if (queue.front().size() != static_cast<size_t>(e.bytes)) throw CommError("a message of another size");
      std::copy(queue.front().begin(), queue.front().end(), e.data);
      queue.pop_front();
      return true;
    });
    return expected_.empty();
  }

 private:
  struct Expected {
    std::byte* data;
    int64_t bytes;
    int from, tag;
  };
  Post& post_;
  int rank_, size_;
  std::vector<Expected> expected_;
};

// What the ranks of a world share: memory per node, and the post. Pieces of piece_bytes; 0: as long as MPI's groups
// have them.
struct World {
  explicit World(const std::vector<int>& node_of_rank, bool verify = true, int64_t piece_bytes = kPiece)
      : placement(node_of_rank), verify(verify), piece_bytes(piece_bytes) {
    for (int r = 0; r < static_cast<int>(placement.size()); ++r) {
      const Nodes nodes(placement, r);
      auto& memory = memories[static_cast<size_t>(nodes.mine())];
      if (!memory) memory = std::make_unique<Shared>(static_cast<int>(nodes.here().size()), piece(nodes));
    }
  }
  int64_t piece(const Nodes& nodes) const { return piece_bytes > 0 ? piece_bytes : Arena::piece_bytes(nodes); }
  std::vector<int> placement;
  bool verify;
  int64_t piece_bytes;
  std::array<std::unique_ptr<Shared>, 4> memories;  // per node
  Post post;
};

// Collectives through an arena and, with several nodes, the wire; splits and messages are not its business.
class ArenaGroup final : public ProcessGroup {
 public:
  ArenaGroup(ProcessGroup& threads, World& world)
      : ProcessGroup(threads.rank(), threads.size(), "arena"),
        nodes_(world.placement, rank()),
        shared_(*world.memories[static_cast<size_t>(nodes_.mine())]),
        engine_(shared_.bells[static_cast<size_t>(nodes_.place(rank()))]) {
    std::vector<Doorbell*> bells;
    for (Doorbell& b : shared_.bells) bells.push_back(&b);
    arena_ = std::make_shared<Arena>(shared_.aligned(), world.piece(nodes_), nodes_.place(rank()), std::move(bells));
    if (nodes_.count() > 1) {
      auto wire = std::make_unique<PostWire>(world.post, rank(), size());
      crossing_ = std::make_shared<Crossing>(nodes_, std::move(wire), world.verify);
    }
    queue_ = engine_.add_queue();
  }

  const Arena& arena() const { return *arena_; }

 protected:
  Tensor do_shared_buffer(const Shape& shape, DType dtype) override {
    if (crossing_) return ProcessGroup::do_shared_buffer(shape, dtype);
    const size_t part = (static_cast<size_t>(shape.numel()) * size_of(dtype) + 63) / 64 * 64;
    const auto memory = shared_.buffer(buffers_++, part * static_cast<size_t>(size()));
    engine_.call([&] { arena_->add_shared(memory, part); });
    Stream stream(Device::kCpu, std::make_shared<Part>(memory, part * static_cast<size_t>(rank())));
    return Tensor::zeros(shape, dtype, stream);
  }

  std::shared_ptr<WorkState> issue(std::shared_ptr<const CommRequest> r) override {
    auto task = nodes_.alone() ? make_wire_task(crossing_, r) : Arena::make_task(arena_, crossing_, r);
    return engine_.submit(queue_, std::move(r), std::move(task));
  }
  std::unique_ptr<ProcessGroup> do_split(int, int, std::string) override { throw CommError("an arena is not split"); }

 private:
  Nodes nodes_;
  Shared& shared_;
  size_t buffers_ = 0;
  Engine engine_;
  std::shared_ptr<Arena> arena_;
  std::shared_ptr<Crossing> crossing_;
  int queue_ = 0;
};

void on_nodes(const std::vector<int>& node_of_rank, const std::function<void(ProcessGroup&)>& run, bool verify = true,
              int64_t piece_bytes = kPiece) {
  World world(node_of_rank, verify, piece_bytes);
  run_ranks(static_cast<int>(node_of_rank.size()), [&](ProcessGroup& threads) {
    ArenaGroup group(threads, world);
    run(group);
    threads.barrier("engines may stop").wait_host();
  });
}

// The node of each rank.
class ArenaConformance : public testing::TestWithParam<std::vector<int>> {};

void holds_for_collectives(const std::vector<int>& node_of_rank, bool verify) {
  for (const auto& c : conformance::cases()) {
    const std::string name = c.name;
    if (name.starts_with("messages") || name.starts_with("split") || name.starts_with("groups")) continue;
    if (name.starts_with("bad_arguments")) continue;  // the same code as on rank threads
    on_nodes(node_of_rank, c.run, verify);
  }
}

TEST_P(ArenaConformance, holds_for_collectives) { holds_for_collectives(GetParam(), true); }

TEST(arena, holds_over_nodes_without_headers) { holds_for_collectives({5, 3, 5, 3}, false); }

TEST_P(ArenaConformance, sums_follow_the_order_of_nodes) {
  const Nodes nodes(GetParam(), 0);
  std::vector<std::vector<int>> order;
  for (int i = 0; i < nodes.count(); ++i) order.push_back(nodes.members(i));
  on_nodes(GetParam(), [&](ProcessGroup& g) { conformance::sums_follow_order(g, order); });
}

TEST_P(ArenaConformance, ranks_that_diverge_learn_from_whom) {
  for (const auto& c : conformance::divergences()) {
    SCOPED_TRACE(c.name);
    on_nodes(GetParam(), c.run);
  }
}

TEST_P(ArenaConformance, a_barrier_waits_for_the_last_rank) {
  std::atomic<int> arrived{0};
  const auto body = [&](ProcessGroup& g) {
    for (int late = 0; late < g.size(); ++late) {
      if (g.rank() == late) std::this_thread::sleep_for(std::chrono::milliseconds(3));
      ++arrived;
      g.barrier("b").wait_host();
      EXPECT_GE(arrived.load(), (late + 1) * g.size());
    }
  };
  on_nodes(GetParam(), body);
  arrived = 0;
  on_nodes(GetParam(), body, false);
}

TEST_P(ArenaConformance, a_shared_buffer_on_some_ranks_only_goes_through_slots) {
  on_nodes(GetParam(), [](ProcessGroup& g) {
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

INSTANTIATE_TEST_SUITE_P(threads, ArenaConformance,
                         testing::Values(std::vector{0, 0}, std::vector{0, 0, 0}, std::vector{0, 0, 0, 0},
                                         std::vector{0, 1}, std::vector{2, 1, 0}));
INSTANTIATE_TEST_SUITE_P(nodes, ArenaConformance, testing::Values(std::vector{0, 1, 1, 1}, std::vector{0, 1, 2, 1}));

// Nine ranks take smaller pieces than eight do; both ends of the wire must cut by the larger node.
TEST(arena, a_large_node_and_a_small_one_cut_alike) {
  std::vector<int> placement(10, 0);
  placement[9] = 1;
  constexpr int64_t kPart = 200003, kCount = 10 * kPart;  // over two pieces, in both kinds
  on_nodes(
      placement,
      [](ProcessGroup& g) {
        const Tensor t = Tensor::empty({kCount}), part = Tensor::empty({kPart});
        const auto value = [](int64_t i, int64_t rank) { return static_cast<float>((i * 7 + rank) % 61); };
        const auto sum = [&](int64_t i) {
          float s = 0;
          for (int r = 0; r < 10; ++r) s += value(i, r);
          return s;
        };
        for (int64_t i = 0; i < kCount; ++i) t.data<float>()[i] = value(i, g.rank());
        g.reduce_scatter(t, part, ReduceOp::kSum, "t").wait_host();
        g.all_reduce(t, ReduceOp::kSum, "t").wait_host();
        int64_t wrong = 0;
        for (int64_t i = 0; i < kCount; ++i) wrong += t.data<float>()[i] != sum(i) ? 1 : 0;
        for (int64_t i = 0; i < kPart; ++i) wrong += part.data<float>()[i] != sum(g.rank() * kPart + i) ? 1 : 0;
        EXPECT_EQ(wrong, 0);
      },
      true, 0);
}

// Of a shared buffer every collective works on the buffers themselves; of other memory none does.
TEST(arena, shared_buffers_take_no_slots) {
  const std::vector<int> placement(3, 0);
  World world(placement);
  run_ranks(3, [&](ProcessGroup& threads) {
    ArenaGroup g(threads, world);
    const Tensor shared = g.shared_buffer({3 * 7919}), own = Tensor::zeros({3 * 7919});
    uint64_t in_place = 0;
    for (const Tensor& t : {shared, own}) {
      const Tensor part = t.rows(g.rank() * 7919, (g.rank() + 1) * 7919);
      const bool expected = t.raw() == shared.raw();
      const std::function<void()> collectives[] = {
          [&] { g.all_reduce(t, ReduceOp::kSum, "t").wait_host(); },
          [&] { g.broadcast(t, 1, "t").wait_host(); },
          [&] { g.reduce_scatter(t, part, ReduceOp::kSum, "t").wait_host(); },
          [&] { g.all_gather(part, t, "t").wait_host(); },
      };
      for (const auto& run : collectives) {
        run();
        if (expected) ++in_place;
        EXPECT_EQ(g.arena().in_place(), in_place);
      }
    }
    threads.barrier("engines may stop").wait_host();
  });
}

// A message between the nodes fails in the middle of a collective: what follows must not go on where that one stopped.
TEST(arena, after_a_failed_message_nothing_runs) {
  for (const auto& placement : {std::vector{0, 0, 1, 1}, std::vector{0, 1, 2}}) {
    World world(placement);
    run_ranks(static_cast<int>(placement.size()), [&](ProcessGroup& threads) {
      ArenaGroup g(threads, world);
      const Tensor t = Tensor::zeros({600011});
      const auto reduce = [&] { g.all_reduce(t, ReduceOp::kSum, "t").wait_host(); };
      reduce();
      threads.barrier("all are through").wait_host();
      world.post.down = true;
      EXPECT_THROW(reduce(), CommError);
      threads.barrier("all have failed").wait_host();
      world.post.down = false;
      try {
        g.barrier("next").wait_host();
        ADD_FAILURE() << "it went on";
      } catch (const CommError& e) {
        EXPECT_NE(std::string(e.what()).find("cannot run: the link is down"), std::string::npos) << e.what();
      }
      threads.barrier("engines may stop").wait_host();
    });
  }
}

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
