// guard_bench: what the event ring costs. Nanoseconds per recorded operation (issued, begun, done, wait begun, wait
// over: five events) and per event, on one thread; the median of several rounds.
#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <vector>

#include "parallel/program/event_ring.h"

int main() {
  using namespace tpo;
  const auto path = std::filesystem::temp_directory_path() / "tpo_guard_bench.ring";
  const auto ring = EventRing::create(path, 0, 2, "bench");
  CommRequest r;
  r.op = CommOp::kAllReduce, r.dtype = DType::kF32, r.count = 1 << 18;
  r.what = "bucket 3 [language.lm_head.weight .. language.embed_tokens.weight]", r.group = "world.data.buckets";
  r.watched = ring->add_group(r.group, 0, std::vector<int>{0, 1});
  constexpr int kRounds = 21, kOps = 100000, kEvents = 5;
  std::vector<double> ns;
  for (int round = 0; round < kRounds; ++round) {
    const int64_t begin = steady_ns();
    for (int i = 0; i < kOps; ++i, ++r.seq) {
      r.hash = operation_hash(r.group, r.op, r.dtype, r.count, r.what);
      ring->issued(r);
      ring->begun(r);
      ring->wait(r, true);
      ring->done(r, false);
      ring->wait(r, false);
    }
    ns.push_back(static_cast<double>(steady_ns() - begin) / kOps);
  }
  std::filesystem::remove(path);
  std::nth_element(ns.begin(), ns.begin() + kRounds / 2, ns.end());
  std::printf("%.0f ns an operation, %.0f ns an event\n", ns[kRounds / 2], ns[kRounds / 2] / kEvents);
}
