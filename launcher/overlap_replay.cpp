#include "launcher/overlap_replay.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <numeric>
#include <thread>

#include "core/error.h"
#include "launcher/step_plan.h"

namespace tpo {

namespace {

constexpr double kShortestSleep_s = 1e-4;

// Between the parameters and their sync: notes what passes, and when.
class Recorder final : public ParamHooks {
 public:
  Recorder(Trainer& trainer) : store_(trainer.store()), sync_(trainer.sync()) {  // NOLINT(google-explicit-constructor)
    store_.set_hooks(this);
  }
  ~Recorder() override { store_.set_hooks(&sync_); }

  void before_use(Param& p) override {
    note(ReplayEvent::Kind::kUse, p);
    sync_.before_use(p);
    last_s_ = steady_seconds();
  }
  void before_grad(Param& p) override { sync_.before_grad(p); }
  void on_grad_ready(Param& p) override {
    note(ReplayEvent::Kind::kGradReady, p);
    sync_.on_grad_ready(p);
    last_s_ = steady_seconds();
  }
  void on_swept(Param& p) override {
    note(ReplayEvent::Kind::kSwept, p);
    sync_.on_swept(p);
    last_s_ = steady_seconds();
  }
  bool follows_uses(const Param& p) const override { return sync_.follows_uses(p); }

  void begin() { events.clear(), last_s_ = steady_seconds(); }
  std::vector<ReplayEvent> events;

 private:
  void note(ReplayEvent::Kind kind, Param& p) { events.push_back({kind, &p, steady_seconds() - last_s_}); }

  ParamStore& store_;
  BucketSync& sync_;
  double last_s_ = 0;
};

// A microbatch that can be computed: rows that are named must differ.
LocalStep make_computable(const MicrobatchSize& size, const Trainer& trainer) {
  LocalStep local = make_local_step({&size, 1}, trainer.model(), trainer.mesh().shape().data);
  for (const char* name : {"visual_rows", "region_rows", "box_in_rows"}) {
    const auto at = local.batches[0].arrays.find(name);
    if (at == local.batches[0].arrays.end()) continue;
    std::vector<int32_t> rows(static_cast<size_t>(at->second.shape.numel()));
    std::iota(rows.begin(), rows.end(), 0);
    at->second = HostArray::from(rows, at->second.shape);
  }
  return local;
}

double median(std::vector<double> v) {
  std::sort(v.begin(), v.end());
  return v[v.size() / 2];
}

}  // namespace

double ReplayMicrobatch::compute_s() const {
  double sum = 0;
  for (const ReplayEvent& e : events) sum += e.compute_s;
  return sum;
}

ReplayMicrobatch record_microbatch(Trainer& trainer, const MicrobatchSize& size, ProcessGroup& world, int runs) {
  const LocalStep local = make_computable(size, trainer);
  ReplayMicrobatch out;
  std::vector<std::vector<ReplayEvent>> all;
  {
    const CommStub stub(world);
    Recorder recorder(trainer);
    for (int run = 0; run <= runs; ++run) {  // the first takes memory from the system
      recorder.begin();
      trainer.run_again(local);
      if (run > 0) all.push_back(recorder.events);
    }
  }
  out.events = all[0];
  std::vector<double> seconds;
  for (size_t i = 0; i < out.events.size(); ++i) {
    std::vector<double> times;
    for (const auto& events : all) times.push_back(events.at(i).compute_s);
    seconds.push_back(median(std::move(times)));
  }
  const auto shared = world.broadcast_bytes(std::as_bytes(std::span(seconds)), 0, "times of a microbatch");
  check<CommError>(shared.size() == seconds.size() * sizeof(double), "[bench overlap] rank 0 saw another microbatch");
  std::memcpy(seconds.data(), shared.data(), shared.size());
  for (size_t i = 0; i < seconds.size(); ++i) out.events[i].compute_s = seconds[i];
  const auto first = std::find_if(out.events.begin(), out.events.end(),
                                  [](const ReplayEvent& e) { return e.kind != ReplayEvent::Kind::kUse; });
  out.backward = static_cast<size_t>(first - out.events.begin());
  out.groups =
      trainer.model().groups_used(size.media > 0, size.regions > 0, size.box_inputs > 0, !size.connector_texts.empty());
  return out;
}

OverlapReplay::OverlapReplay(Trainer& trainer, ReplayMicrobatch microbatch, int microbatches, ProcessGroup& world)
    : sync_(trainer.sync()), microbatch_(std::move(microbatch)), microbatches_(microbatches), world_(world) {
  check<ConfigError>(trainer.mesh().shape().tensor == 1,
                     "bench overlap: layout.tensor = ", trainer.mesh().shape().tensor,
                     " must be 1; sums of a tensor axis lie inside of layers, which ", "sleep here");
}

void OverlapReplay::compute(double seconds) {
  // To those who free memory when a kernel has passed, this was one.
  Stream::current().account("sleep", {});
  debt_s_ += seconds;
  if (debt_s_ < kShortestSleep_s) return;
  const double begin = steady_seconds();
  std::this_thread::sleep_for(std::chrono::duration<double>(debt_s_));
  debt_s_ -= steady_seconds() - begin;  // the system sleeps longer than it is asked
}

void OverlapReplay::run_gradients() {
  const auto n = static_cast<size_t>(microbatches_);
  sync_.begin_step(
      {.local = std::vector<uint64_t>(n, microbatch_.groups), .global = std::vector<uint64_t>(n, microbatch_.groups)});
  for (size_t m = 0; m < n; ++m) {
    sync_.begin_microbatch();
    for (size_t i = 0; i < microbatch_.events.size(); ++i) {
      const ReplayEvent& e = microbatch_.events[i];
      if (i == microbatch_.backward) sync_.end_forward();
      compute(e.compute_s);
      if (e.kind == ReplayEvent::Kind::kUse) {
        e.param->use();
      } else if (e.kind == ReplayEvent::Kind::kGradReady) {
        const double begin = steady_seconds();
        if (const GradDest d = e.param->grad_destination(); !d.accumulate) zero_fill(d.grad);
        debt_s_ -= steady_seconds() - begin;  // writing the gradient is part of its layer's time
        e.param->on_ready();
      } else {
        sync_.on_swept(*e.param);
      }
    }
  }
  sync_.finish_grads(Stream::current());
}

void OverlapReplay::step() {
  world_.barrier("step").wait_host();
  world_.log().take();
  const double begin = steady_seconds();
  run_gradients();
  const double gradients_s = steady_seconds() - begin;
  const double update_blocked = world_.log().blocked_s();
  sync_.clip(1);
  sync_.step({.lr = 0});
  const double step_s = steady_seconds() - begin, update_blocked_s = world_.log().blocked_s() - update_blocked;
  ++meter_.steps, meter_.seconds += step_s;
  meter_.add_uses(world_.log().take());
  pair_next_ = !pair_next_;
  if (pair_next_) return;
  const double blocked = world_.log().blocked_s(), again = steady_seconds();
  {
    const CommStub stub(world_);
    run_gradients();
    sync_.discard_grads();
  }
  const double alone_s = steady_seconds() - again - (world_.log().blocked_s() - blocked);
  meter_.pairs.push_back({step_s, gradients_s + update_blocked_s, alone_s});
  meter_.add_uses(world_.log().take());
}

}  // namespace tpo
