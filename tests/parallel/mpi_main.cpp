// The conformance cases and replicated training under mpirun; started by run_mpi.sh through ctest.
//   parallel_mpi            every case, over the arena and over MPI alone
//   parallel_mpi hosts N    every case, where the ranks must be on N nodes
//   parallel_mpi mesh       on hosts of 3 and 3 ranks: which meshes they can have
//   parallel_mpi fail       rank 1 throws while the others wait: the world must end with exit code 7
#include <sys/resource.h>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <stdexcept>

#include "core/error.h"
#include "parallel/comm/mpi.h"
#include "parallel/comm/mpi_reference.h"
#include "parallel/mesh.h"
#include "parallel/sharding/bucket_sync.h"
#include "tests/parallel/conformance.h"
#include "tests/parallel/toy_model.h"

namespace tpo {
namespace {

const AdamWParams kAdam{.lr = 0.01f, .eps = 1e-3f, .weight_decay = 0.1f};

std::vector<float> train(ProcessGroup& data) {
  ParamStore store(7);
  ToyModel model(store);
  BucketSync sync(store, data, {.bucket_bytes = 4096});
  for (uint64_t step = 0; step < 4; ++step) {
    std::vector<ToyMicrobatch> mbs;
    for (uint64_t j = 0; j < 5; ++j) mbs.push_back({step * 10 + j, static_cast<unsigned>((step * 3 + j * 5) % 8)});
    toy_grads(model, sync, mbs, data.rank(), data.size());
    sync.clip(1.0);
    sync.step(kAdam);
  }
  std::vector<float> values;
  for (const auto& p : store.params()) {
    const auto v = p->value.to_vector<float>();
    values.insert(values.end(), v.begin(), v.end());
  }
  return values;
}

// The same steps on all ranks and on one; then once more: the same bits.
void training_equals_one_rank(ProcessGroup& world) {
  const Mesh mesh(world, {.data = world.size()});
  const auto together = train(mesh.data()), again = train(mesh.data()), alone = train(*make_single());
  if (together != again) throw std::runtime_error("two runs differ");
  const auto all = world.all_gather_bytes(std::as_bytes(std::span(together)), "values");
  for (const auto& other : all) {
    if (other != all[0]) throw std::runtime_error("replicas have different bits");
  }
  for (size_t i = 0; i < alone.size(); ++i) {
    // As in bucket_sync_test.cpp: rounding of sums over a few steps; the values are of order 1.
    if (std::abs(together[i] - alone[i]) > 2e-5f) throw std::runtime_error(cat("value ", i, " differs from one rank"));
  }
}

// MPI's own calls, in both places of their operands.
void reference_agrees(ProcessGroup& ours) {
  const auto mpi = make_mpi_reference();
  const int64_t n = 1000, size = ours.size(), begin = ours.rank() * n;
  for (const bool in_place : {false, true}) {
    std::vector<std::vector<float>> results;
    for (ProcessGroup* g : {&ours, mpi.get()}) {
      const Tensor whole = Tensor::empty({size * n}), other = Tensor::zeros({size * n});
      for (int64_t i = 0; i < size * n; ++i) whole.data<float>()[i] = static_cast<float>(i % 50 + ours.rank());
      const Tensor part = (in_place ? whole : other).rows(begin, begin + n);
      g->reduce_scatter(whole, part, ReduceOp::kSum, "t").wait_host();
      g->all_gather(part, in_place ? whole : other.rows(0, size * n), "t").wait_host();
      g->all_reduce(whole, ReduceOp::kMax, "t").wait_host();
      results.push_back(whole.to_vector<float>());
      results.push_back(other.to_vector<float>());
    }
    if (results[0] != results[2] || results[1] != results[3]) throw std::runtime_error("MPI's own results are others");
  }
  const Tensor bf16 = Tensor::zeros({4}, DType::kBF16);
  mpi->broadcast(bf16, 0, "moved").wait_host();
  try {
    mpi->all_reduce(bf16, ReduceOp::kSum, "reduced").wait_host();
  } catch (const CommError&) {
    return;
  }
  throw std::runtime_error("MPI's own reduction of bf16 was not refused");
}

// The ranks of each node, nodes in the order of their first rank.
std::vector<std::vector<int>> nodes_of(ProcessGroup& world, const std::string& here) {
  const auto names = world.all_gather_bytes(std::as_bytes(std::span(here)), "node");
  std::vector<std::vector<int>> nodes;
  for (int r = 0; r < world.size(); ++r) {
    const auto same = [&](const std::vector<int>& n) {
      return names[static_cast<size_t>(n[0])] == names[static_cast<size_t>(r)];
    };
    const auto it = std::find_if(nodes.begin(), nodes.end(), same);
    (it == nodes.end() ? nodes.emplace_back() : *it).push_back(r);
  }
  return nodes;
}

void expect(bool ok, const std::string& what) {
  if (!ok) throw std::runtime_error(what);
}

// As where /dev/shm is small: no new file of it may be longer than 64 KiB.
void refused_memory_is_told(ProcessGroup& world, const std::vector<std::string>& told) {
  expect(world.transport() == "shared memory", world.transport());
  rlimit old{};
  getrlimit(RLIMIT_FSIZE, &old);
  std::signal(SIGXFSZ, SIG_IGN);
  rlimit small = old;
  small.rlim_cur = 1 << 16;
  setrlimit(RLIMIT_FSIZE, &small);
  const Tensor t = world.shared_buffer({1 << 20});
  const auto part = world.split(0, world.rank(), "part");
  setrlimit(RLIMIT_FSIZE, &old);
  expect(part->transport().starts_with("MPI messages: cannot reserve"), part->transport());
  expect(told.size() == (world.rank() == 0 ? 2u : 0u), "rank 0 learns of both, nobody else");
  if (world.rank() == 0) {
    expect(told[0].starts_with("group world of") && told[1].starts_with("group world.part of"), told[0] + told[1]);
    expect(told[0].find("cannot reserve") != std::string::npos, told[0]);
  }
  t.data<float>()[77] = 1;
  world.all_reduce(t, ReduceOp::kSum, "t").wait_host();
  part->all_reduce(t, ReduceOp::kSum, "t").wait_host();
  expect(t.data<float>()[77] == static_cast<float>(world.size() * world.size()), "sums without shared memory");
}

void run_all(const std::string& here, bool arena, size_t expected_nodes) {
  std::vector<std::string> told;
  // Short parts, so that some messages take several.
  const auto world = make_mpi_world(
      {.arena = arena, .verify = true, .message_bytes = 1 << 20, .on_fallback = [&](const std::string& what) {
         told.push_back(what);
       }});
  const auto nodes = nodes_of(*world, arena ? here : cat("every rank alone: ", world->rank()));
  if (arena && nodes.size() != expected_nodes) throw std::runtime_error(cat("ranks are on ", nodes.size(), " nodes"));
  const auto run = [&](const char* name, const std::function<void()>& body) {
    try {
      body();
    } catch (const std::exception& e) {
      throw std::runtime_error(cat(arena ? "arena " : "mpi ", name, ": ", e.what()));
    }
    if (world->rank() == 0) std::printf("ok %d ranks %s %s\n", world->size(), arena ? "arena" : "mpi", name);
  };
  for (const auto& c : conformance::cases()) run(c.name, [&] { c.run(*world); });
  run("reference_agrees", [&] { reference_agrees(*world); });
  run("training_equals_one_rank", [&] { training_equals_one_rank(*world); });
  run("sums_follow_the_order_of_nodes", [&] { conformance::sums_follow_order(*world, nodes); });
  expect(told.empty(), "shared memory was refused");
  if (arena && nodes.size() == 1) run("refused_memory_is_told", [&] { refused_memory_is_told(*world, told); });
  for (const auto& c : conformance::divergences()) {
    const auto spoiled = world->split(0, world->rank(), "spoiled");
    run(c.name, [&] { c.run(*spoiled); });
  }
  world->barrier("end").wait_host();
}

// Tensor ranks 0 and 1 would add over data as (0 + 2) + 4 and 1 + (3 + 5): refused, on all ranks before any goes on.
void meshes_of_three_and_three() {
  const auto world = make_mpi_world();
  std::string why;
  try {
    const Mesh mesh(*world, {.data = 3, .tensor = 2});
  } catch (const ConfigError& e) {
    why = e.what();
  }
  if (why.find("a multiple or a divisor of layout.tensor = 2") == std::string::npos)
    throw std::runtime_error("3 x 2 was accepted: " + why);
  const Mesh within(*world, {.data = 2, .tensor = 3}), across(*world, {.data = 1, .tensor = 6});
  if (!within.data().order_of_sums().empty()) throw std::runtime_error("two ranks have no order but their own");
  if (across.tensor().order_of_sums() != std::vector{0, 0, 0, 1, 1, 1}) throw std::runtime_error("nodes add first");
  world->barrier("end").wait_host();
}

void fail_while_others_wait() {
  const auto world = make_mpi_world();
  world->barrier("start").wait_host();
  if (world->rank() == 1) throw DataError("sample 17 is broken");
  world->barrier("never").wait_host();
}

}  // namespace
}  // namespace tpo

int main(int argc, char** argv) {
  tpo::MpiWorld mpi(&argc, &argv);
  try {
    if (argc > 1 && std::strcmp(argv[1], "fail") == 0) {
      tpo::fail_while_others_wait();
    } else if (argc > 1 && std::strcmp(argv[1], "mesh") == 0) {
      tpo::meshes_of_three_and_three();
    } else if (argc > 2 && std::strcmp(argv[1], "hosts") == 0) {
      tpo::run_all(mpi.node(), true, static_cast<size_t>(std::atoi(argv[2])));
    } else {
      tpo::run_all(mpi.node(), true, 1);
      tpo::run_all(mpi.node(), false, 1);
    }
  } catch (const std::exception& e) {
    std::fprintf(stderr, "rank %d: %s\n", mpi.rank(), e.what());
    tpo::MpiWorld::abort(7);
  }
  return 0;
}
