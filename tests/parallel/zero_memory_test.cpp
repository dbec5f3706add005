// What sharding is for: bytes by kind, to the byte of the allocator, at rest and at the peak of a step.
#include <gtest/gtest.h>

#include <deque>
#include <set>

#include "parallel/comm/sim.h"
#include "parallel/comm/threads.h"
#include "parallel/mesh.h"
#include "tests/parallel/zero_model.h"

namespace tpo {
namespace {

constexpr Sharding kAll[] = {Sharding::kReplicated, Sharding::kOptimizer, Sharding::kGradients, Sharding::kParameters};
constexpr int kW = static_cast<int>(MemoryKind::kWeights), kG = static_cast<int>(MemoryKind::kGradients),
              kO = static_cast<int>(MemoryKind::kOptimizer);

int64_t held(int64_t elements) {
  return static_cast<int64_t>(Allocator::size_class(static_cast<size_t>(elements) * 4));
}
MemoryUse memory() { return Stream::current().allocator()->memory(); }

// Elements of a bucket by its definition: every parameter a multiple of 16, the whole one of 16 n.
int64_t padded_size(const Bucket& b, int64_t n) {
  const int64_t unit = b.sharding == Sharding::kReplicated ? 16 : 16 * n;
  int64_t sum = 0;
  for (const auto& e : b.entries) sum += (e.param->full.numel() + 15) / 16 * 16;
  return (sum + unit - 1) / unit * unit;
}

BytesByKind at_rest(const ZeroRank& r, Sharding sharding, int64_t n) {
  BytesByKind bytes{};
  for (const Bucket& b : r.sync.buckets()) {
    const int64_t all = padded_size(b, n);
    bytes[kW] += held(sharding == Sharding::kParameters ? all / n : all);
    if (!b.trainable) continue;
    bytes[kG] += held(sharding >= Sharding::kGradients ? all / n : all);
    bytes[kO] += 2 * held(sharding >= Sharding::kOptimizer ? all / n : all);
  }
  for (const auto& p : r.store.params()) {
    if (!p->trainable && sharding != Sharding::kParameters) bytes[kW] += held(p->full.numel());
  }
  return bytes;
}

// The rules of gatherer.h and of rounds (ORDER.md 8 to 10) as a simulation of bytes: the trunk of a LayeredModel,
// `rounds` microbatches on every rank.
class Simulation {
 public:
  Simulation(const ZeroRank& r, const BucketOptions& options, bool replays)
      : gathers_(options.sharding == Sharding::kParameters),
        reshard_(options.reshard_after_forward),
        replays_(replays),
        prefetch_(static_cast<size_t>(options.prefetch_buckets)) {
    const int64_t n = r.shard.size();
    for (const Bucket& b : r.sync.buckets()) {
      if (b.group != 0) continue;
      All a{&b, held(padded_size(b, n)), held(padded_size(b, n) / n), {}, {}, false, false, 0, -1};
      for (const auto& e : b.entries) bucket_of_[e.param->name] = buckets_.size();
      buckets_.push_back(a);
    }
    for (size_t i = buckets_.size(); i-- > 0;) forward_.push_back(i);
    std::vector<size_t> again = forward_;  // the table trains, so backward needs all
    std::stable_sort(again.begin(), again.end(),
                     [&](size_t a, size_t b) { return buckets_[a].bucket->last_use > buckets_[b].bucket->last_use; });
    last_ = again.front();
    if (reshard_) backward_.assign(again.begin() + 1, again.end());
  }

  // Peaks of values and of gradients above what is there at rest.
  std::pair<int64_t, int64_t> run(int rounds) {
    for (round_ = 0; round_ < rounds; ++round_) {
      turned_ = false, over_ = false, issued_ = 0;
      issue_until(prefetch_, forward_.size());
      for (All& a : buckets_) a.pending = static_cast<int>(a.bucket->entries.size());
      next_ = 0;
      forward();
      turn();
      backward();
      over_ = true;
      issue_until(forward_.size() + backward_.size(), forward_.size() + backward_.size());
    }
    return {values_peak_, grads_peak_};
  }

 private:
  struct All {
    const Bucket* bucket;
    int64_t whole, part;
    std::set<std::string> used, open;
    bool here, grad;
    int pending, last_op;
    int reduced = 0;
  };
  struct Flying {
    size_t bucket;
    int round;
    int64_t part;
  };
  using Names = std::vector<std::string>;

  All& of(const std::string& name) { return buckets_[bucket_of_.at(name)]; }
  size_t place(const std::vector<size_t>& order, const All& a) const {
    const auto i = static_cast<size_t>(&a - buckets_.data());
    return static_cast<size_t>(std::find(order.begin(), order.end(), i) - order.begin());
  }
  static Names layer(int i) {
    Names names;
    for (const char* name : {"base", "down", "up", "w", "b"}) names.push_back(cat("trunk.layers.", i, ".", name));
    return names;
  }

  // ---- values
  void value_bytes(int64_t change) { values_peak_ = std::max(values_peak_, values_ += change); }
  void free(All& a) {
    value_bytes(-a.whole);
    a.here = false;
  }
  // Of forward gathers, then those of backward: `until` of them, but not past `limit`.
  void issue_until(size_t until, size_t limit) {
    for (; gathers_ && issued_ < std::min(until, limit); ++issued_) {
      const bool second = issued_ >= forward_.size();
      All& a = buckets_[second ? backward_[issued_ - forward_.size()] : forward_[issued_]];
      if (!over_ && second == turned_ && (!second || !a.open.empty())) {
        a.here = true;
      } else {  // dropped: prefetch + 1 at most
        if (dropped_.size() > prefetch_) value_bytes(-dropped_.front()), dropped_.pop_front();
        dropped_.push_back(a.whole);
      }
      value_bytes(a.whole);
    }
  }
  void use(const std::string& name) {
    if (!gathers_) return;
    All& a = of(name);
    const size_t at = place(forward_, a);
    for (All& b : buckets_) {
      if (b.here && reshard_ && &b != &buckets_[last_] && place(forward_, b) + 2 <= at && b.last_op < op_ &&
          b.used.size() == b.bucket->entries.size())
        free(b);
    }
    a.used.insert(name), a.open.insert(name), a.last_op = op_;
    if (!a.here) issue_until(at + 1 + prefetch_, forward_.size());
  }
  void forward() {
    const auto op = [&](const Names& names) {
      for (const std::string& name : names) use(name);
      ++op_;
    };
    op({"trunk.table"});
    for (int i = 0; i < LayeredModel::kLayers; ++i) {
      const Names n = layer(i);
      op({n[0]}), op({n[1]}), op({n[2]}), op({n[3], n[4]});
    }
  }
  void turn() {
    turned_ = true;
    for (All& a : buckets_) {
      a.used.clear();
      if (a.here && reshard_ && &a != &buckets_[last_]) free(a);
    }
    issue_until(forward_.size() + prefetch_, forward_.size() + backward_.size());
  }
  void read(const std::string& name) {
    if (!gathers_) return;
    All& a = of(name);
    if (!a.here) issue_until(forward_.size() + place(backward_, a) + 1 + prefetch_, forward_.size() + backward_.size());
  }
  void sweep(const std::string& name) {
    if (!gathers_) return;
    All& a = of(name);
    a.open.erase(name);
    if (a.here && a.open.empty()) free(a);
  }

  // ---- gradients
  void grad_bytes(int64_t change) { grads_peak_ = std::max(grads_peak_, grads_ += change); }
  void retire() {
    const Flying f = flying_.front();
    All& a = buckets_[f.bucket];
    size_t until = forward_.size();
    while (until - forward_.size() < backward_.size() &&
           buckets_[backward_[until - forward_.size()]].bucket->last_use >= a.bucket->needed_from)
      ++until;
    if (f.round == round_) issue_until(until, until);
    grad_bytes(-a.whole - f.part);
    a.grad = false;
    flying_.pop_front();
  }
  bool flies(const All& a) const {
    return std::any_of(flying_.begin(), flying_.end(), [&](const auto& f) { return &buckets_[f.bucket] == &a; });
  }
  void make(All& a) {
    if (!a.grad) grad_bytes(a.whole);
    a.grad = true;
  }
  void write(const std::string& name) {
    while (flies(of(name))) retire();
    make(of(name));
  }
  void ready(const std::string& name) {
    sweep(name);
    --of(name).pending;
    for (; next_ < buckets_.size(); ++next_) {
      All& a = buckets_[next_];
      if (!a.bucket->trainable) continue;
      if (a.pending > 0) return;
      while (flying_.size() == 2 || flies(a)) retire();
      make(a);
      const int64_t part = a.reduced++ > 0 ? a.part : 0;  // later rounds are added
      grad_bytes(part);
      flying_.push_back({next_, round_, part});
    }
  }
  void backward() {
    for (int i = LayeredModel::kLayers; i-- > 0;) {
      const Names n = layer(i);
      for (size_t k = 0; replays_ && k < n.size(); ++k) read(n[k]);  // the layer is run again
      read(n[3]), write(n[3]), write(n[4]), ready(n[4]), ready(n[3]);
      read(n[2]), write(n[2]), ready(n[2]);
      read(n[1]), write(n[1]), ready(n[1]);
      read(n[0]), sweep(n[0]);
    }
    write("trunk.table"), ready("trunk.table");
  }

  bool gathers_, reshard_, replays_;
  size_t prefetch_;
  std::vector<All> buckets_;
  std::map<std::string, size_t> bucket_of_;
  std::vector<size_t> forward_, backward_;
  size_t last_ = 0, issued_ = 0, next_ = 0;
  bool turned_ = false, over_ = false;
  int op_ = 0, round_ = 0;
  std::deque<int64_t> dropped_;
  std::deque<Flying> flying_;
  int64_t values_ = 0, values_peak_ = 0, grads_ = 0, grads_peak_ = 0;
};

void expect_bytes(const SyncGroups& groups, const BucketOptions& options, Rerun recompute, int rounds) {
  const Sharding sharding = options.sharding;
  const int n = groups.data->size();
  const std::string what = cat(name_of(sharding), ", ", n, " ranks, ", groups.shard->size(), " shards, reshard ",
                               options.reshard_after_forward, ", prefetch ", options.prefetch_buckets, ", recompute ",
                               static_cast<int>(recompute), ", ", rounds, " rounds");
  const BytesByKind before = memory().live;
  ZeroRank r(groups, options, 2, recompute);
  BytesByKind rest = at_rest(r, sharding, groups.shard->size()), peak = rest;
  if (sharding >= Sharding::kGradients) {
    const auto [values, grads] = Simulation(r, options, recompute != Rerun::kNone).run(rounds);
    peak[kW] += values, peak[kG] += grads;
  }
  std::vector<ToyMicrobatch> mbs;
  std::vector<int> owner;
  for (int i = 0; i < n * rounds; ++i) mbs.push_back({static_cast<uint64_t>(i + 1), 0}), owner.push_back(i % n);
  Stream::current().allocator()->reset_peak();
  r.step(mbs, owner);
  const MemoryUse use = memory();
  for (const int kind : {kW, kG, kO}) {
    const auto k = static_cast<size_t>(kind);
    EXPECT_EQ(use.live[k] - before[k], rest[k]) << "at rest, kind " << kind << ", " << what;
    EXPECT_EQ(use.peak[k] - before[k], peak[k]) << "peak, kind " << kind << ", " << what;
  }
  r.sync.for_each_state([](const StateEntry&) {});  // nothing is in flight when it goes
}

TEST(zero_memory, every_rank_holds_its_part_and_what_the_rules_say_to_the_byte) {
  for (const int n : {1, 2, 4}) {
    for (const Sharding sharding : kAll) {
      run_ranks(n, [&](ProcessGroup& world) {
        for (const int rounds : {1, 3}) {
          for (const bool reshard : {true, false}) {
            for (const int prefetch : {0, 1, 2, 3, 1000}) {
              if (sharding != Sharding::kParameters && !(reshard && prefetch == 2)) continue;
              const BucketOptions options{.bucket_bytes = 4096,
                                          .sharding = sharding,
                                          .reshard_after_forward = reshard,
                                          .prefetch_buckets = prefetch};
              for (const Rerun recompute : {Rerun::kNone, Rerun::kSelective, Rerun::kFull})
                expect_bytes(world, options, recompute, rounds);
              if (n == 4) expect_bytes(Mesh(world, {.data = 4, .shard = 2}), options, Rerun::kFull, rounds);
            }
          }
        }
      });
    }
  }
}

// ---- meta

thread_local std::vector<std::string>* t_issued = nullptr;
bool note(CommRequest& r) {
  // How ranks find each other in a split is the transport's matter.
  if (t_issued != nullptr && r.what != "split") t_issued->push_back(describe(r));
  return false;
}

struct Forecast {
  std::vector<std::string> issued;
  BytesByKind live{}, peak{};
  int64_t peak_bytes = 0;
  bool operator==(const Forecast&) const = default;
};

// Two steps: unequal numbers of microbatches and heads on some ranks only, under a policy for each part.
Forecast train(ProcessGroup& world, Sharding sharding) {
  Forecast f;
  t_issued = &f.issued;
  {
    BucketOptions options{.bucket_bytes = 4096, .sharding = sharding};
    if (sharding == Sharding::kParameters) options.rules = {{"heads.1.*", Sharding::kGradients}};
    const auto allocator = Stream::current().allocator();
    ZeroRank r(world, options, 2, Rerun::kSelective);
    allocator->reset_peak();
    const int n = world.size();
    r.step({{1, 3}, {2, 1}, {3, 0}, {4, 2}, {5, 1}}, {0, 1 % n, 0, 2 % n, 0});
    r.step({{6, 2}, {7, 0}}, {n - 1, 0});
    f.live = memory().live, f.peak = memory().peak, f.peak_bytes = allocator->stats().peak_bytes;
  }
  t_issued = nullptr;
  return f;
}

TEST(zero_memory, meta_predicts_bytes_and_collectives_of_every_rank) {
  set_comm_drill(note);
  for (const int n : {1, 2, 3}) {
    for (const Sharding sharding : kAll) {
      std::vector<Forecast> real(static_cast<size_t>(n));
      run_ranks(n, [&](ProcessGroup& world) { real[static_cast<size_t>(world.rank())] = train(world, sharding); });
      for (int rank = 0; rank < n; ++rank) {
        const auto meta = Stream::make_meta();
        const StreamScope scope(*meta);
        const Forecast forecast = train(*make_simulated(rank, n), sharding);
        const Forecast& seen = real[static_cast<size_t>(rank)];
        const std::string what = cat(name_of(sharding), ", rank ", rank, " of ", n);
        EXPECT_EQ(forecast.issued, seen.issued) << what;
        EXPECT_GT(seen.issued.size(), 16u) << what;
        EXPECT_EQ(forecast.live, seen.live) << what;
        EXPECT_EQ(forecast.peak, seen.peak) << what;
        EXPECT_EQ(forecast.peak_bytes, seen.peak_bytes) << what;
      }
    }
  }
  set_comm_drill(nullptr);
}

}  // namespace
}  // namespace tpo
