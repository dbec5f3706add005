#include "parallel/comm/engine.h"

#include <linux/futex.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <climits>
#include <ctime>
#include <future>

#include "core/error.h"
#include "parallel/program/event_ring.h"

namespace tpo {
namespace {

// Not FUTEX_PRIVATE: the word may be shared by processes.
void futex(std::atomic<uint32_t>* word, int op, uint32_t value, const timespec* timeout) {
  syscall(SYS_futex, reinterpret_cast<uint32_t*>(word), op, value, timeout, nullptr, 0);
}

// Tasks without a doorbell are looked at every 20 us at first, every 200 us after a while: a message takes some tens of
// microseconds, a 1 MiB piece 150.
constexpr int64_t kShortestSleep_us = 20, kLongestSleep_us = 200;
constexpr int kShortSleeps = 16;

}  // namespace

void Doorbell::ring() {
  rings.fetch_add(1);
  // Either the sleeper is seen here, or it sees the new count before it sleeps.
  if (sleepers.load() > 0) futex(&rings, FUTEX_WAKE, INT_MAX, nullptr);
}

void Doorbell::sleep(uint32_t seen, int64_t timeout_us) {
  const timespec t{timeout_us / 1000000, timeout_us % 1000000 * 1000};
  sleepers.fetch_add(1);
  if (rings.load() == seen) futex(&rings, FUTEX_WAIT, seen, timeout_us < 0 ? nullptr : &t);
  sleepers.fetch_sub(1);
}

class Engine::State final : public WorkState {
 public:
  using WorkState::WorkState;
  bool done() override {
    std::scoped_lock lock(mutex_);
    return finished_;
  }
  void wait() override {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return finished_; });
    if (!error_.empty()) throw CommError(error_);
  }
  // The error travels as text and is thrown afresh: an exception object is not shared between threads.
  void finish(double begun_s, const std::string& error) {
    {
      std::scoped_lock lock(mutex_);
      times.begun_s = begun_s;
      times.done_s = steady_seconds();
      error_ = error;
      finished_ = true;
    }
    changed_.notify_all();
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool finished_ = false;
  std::string error_;
};

Engine::Engine(Doorbell& bell) : bell_(bell), thread_([this] { run(); }) {}

Engine::~Engine() {
  {
    std::scoped_lock lock(mutex_);
    stop_ = true;
  }
  bell_.ring();
  thread_.join();
}

int Engine::add_queue() {
  std::scoped_lock lock(mutex_);
  return next_queue_++;
}

std::shared_ptr<WorkState> Engine::submit(int queue, std::shared_ptr<const CommRequest> request,
                                          std::unique_ptr<EngineTask> task) {
  auto state = std::make_shared<State>(std::move(request));
  {
    std::scoped_lock lock(mutex_);
    inbox_.push_back({queue, {state, std::move(task), false}});
  }
  bell_.ring();
  return state;
}

void Engine::call(const std::function<void()>& fn) {
  std::promise<std::string> result;
  {
    std::scoped_lock lock(mutex_);
    calls_.emplace_back([&] {
      std::string error;
      try {
        fn();
      } catch (const std::exception& e) {
        error = e.what();
      }
      result.set_value(error);
    });
  }
  bell_.ring();
  const std::string error = result.get_future().get();
  check<CommError>(error.empty(), error);
}

void Engine::take_inbox() {
  std::scoped_lock lock(mutex_);
  for (Submission& s : inbox_) {
    if (s.queue == kNoQueue) {
      loose_.push_back(std::move(s.entry));
    } else {
      queues_[s.queue].push_back(std::move(s.entry));
    }
  }
  inbox_.clear();
}

EngineTask::Progress Engine::poll_one(Entry& e) {
  std::string error;
  auto progress = EngineTask::Progress::kDone;
  try {
    progress = e.task->poll();
  } catch (const std::exception& failure) {
    error = failure.what();
  }
  const CommRequest& request = e.state->request();
  EventRing* ring = request.watched >= 0 ? EventRing::of_process() : nullptr;
  if (ring && !e.begun && e.task->begun_s > 0) ring->begun(request), e.begun = true;
  if (progress == EngineTask::Progress::kDone) {
    if (ring) ring->done(request, !error.empty());
    const double begun = e.task->begun_s;
    e.task.reset();  // before the waiter may go on: nothing of the task outlives the wait
    e.state->finish(begun > 0 ? begun : steady_seconds(), error);
  }
  return progress;
}

bool Engine::poll_all() {
  using enum EngineTask::Progress;
  bool moved = false;
  for (auto it = loose_.begin(); it != loose_.end();) {
    const auto progress = poll_one(*it);
    moved |= progress != kNone;
    it = progress == kDone ? loose_.erase(it) : std::next(it);
  }
  for (auto it = queues_.begin(); it != queues_.end();) {
    auto& queue = it->second;
    auto progress = kDone;
    while (!queue.empty() && (progress = poll_one(queue.front())) == kDone) {
      queue.pop_front();
      moved = true;
    }
    moved |= progress == kSome;
    it = queue.empty() ? queues_.erase(it) : std::next(it);
  }
  return moved;
}

void Engine::sleep(uint32_t seen, int idle_rounds) {
  if (queues_.empty() && loose_.empty()) return bell_.sleep(seen, -1);
  bool all_ring = std::all_of(loose_.begin(), loose_.end(), [](const Entry& e) { return e.task->rings(); });
  for (const auto& [id, queue] : queues_) all_ring &= queue.front().task->rings();
  const int64_t growing = kShortestSleep_us * std::max(1, idle_rounds - kShortSleeps);
  bell_.sleep(seen, all_ring ? -1 : std::min(growing, kLongestSleep_us));
}

void Engine::stop_all() {
  const std::string error = "the communication engine of this rank was stopped";
  take_inbox();
  for (Entry& e : loose_) e.state->finish(0, error);
  for (auto& [id, queue] : queues_) {
    for (Entry& e : queue) e.state->finish(0, error);
  }
}

void Engine::run() {
  prctl(PR_SET_TIMERSLACK, 1000UL);  // ns; by default every sleep takes 50 us longer
  int idle_rounds = 0;
  for (;;) {
    const uint32_t seen = bell_.rings.load();  // before looking: what comes after it ends the sleep below
    take_inbox();
    std::function<void()> call;
    {
      std::scoped_lock lock(mutex_);
      if (stop_) break;
      if (queues_.empty() && loose_.empty() && !calls_.empty()) {
        call = std::move(calls_.front());
        calls_.pop_front();
      }
    }
    if (call) call();
    if (poll_all() || call) {
      idle_rounds = 0;
    } else {
      sleep(seen, ++idle_rounds);
    }
  }
  stop_all();
}

}  // namespace tpo
