#pragma once
// Engine: the one thread of a rank that moves bytes for it. It polls the head of one queue per ProcessGroup, so that no
// group blocks another (a rank that waits in `data` while its peer waits in `tensor` would be a deadlock otherwise),
// and messages independently of queues. It sleeps when nothing is in flight; with work in flight it sleeps until its
// doorbell rings, or for short, growing times when a task has no way to ring.
// Thread rule: submit and call from any thread; tasks run on the engine thread only.
#include <condition_variable>
#include <deque>
#include <functional>
#include <list>
#include <map>
#include <mutex>
#include <thread>

#include "parallel/comm/work.h"

namespace tpo {

// A word that wakes one sleeping engine. It may live in memory shared by processes; zero bytes are a valid Doorbell.
struct alignas(64) Doorbell {
  std::atomic<uint32_t> rings{0};
  std::atomic<uint32_t> sleepers{0};
  void ring();
  // Returns when rings != seen, after timeout_us (-1: never), or without a reason.
  void sleep(uint32_t seen, int64_t timeout_us);
};
static_assert(std::atomic<uint32_t>::is_always_lock_free);

// One operation in flight.
class EngineTask {
 public:
  enum class Progress { kNone, kSome, kDone };
  virtual ~EngineTask() = default;
  // Does what can be done without waiting. Throws when the operation failed.
  virtual Progress poll() = 0;
  // True if whatever this task waits for rings the doorbell of this rank.
  virtual bool rings() const = 0;
  double begun_s = 0;  // set by the task when every rank has arrived
};

class Engine {
 public:
  // `bell` must outlive the engine.
  explicit Engine(Doorbell& bell);
  // Works still in flight fail with a CommError.
  ~Engine();
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  static constexpr int kNoQueue = -1;
  int add_queue();
  // Tasks of one queue run one after the other in the order of submission; those of kNoQueue at once.
  std::shared_ptr<WorkState> submit(int queue, std::shared_ptr<const CommRequest> request,
                                    std::unique_ptr<EngineTask> task);
  // Runs fn on the engine thread at a moment when nothing is in flight, and waits for it. Throws CommError if it threw.
  // While fn blocks nothing else moves, so its peers must not wait for an operation of this rank.
  void call(const std::function<void()>& fn);

 private:
  class State;
  struct Entry {
    std::shared_ptr<State> state;
    std::unique_ptr<EngineTask> task;
    bool begun = false;  // told to the EventRing
  };
  struct Submission {
    int queue;
    Entry entry;
  };

  void run();
  void take_inbox();
  bool poll_all();
  static EngineTask::Progress poll_one(Entry& e);
  void sleep(uint32_t seen, int idle_rounds);
  void stop_all();

  Doorbell& bell_;
  std::mutex mutex_;  // guards inbox_, calls_, next_queue_, stop_
  std::vector<Submission> inbox_;
  std::deque<std::function<void()>> calls_;
  int next_queue_ = 0;
  bool stop_ = false;
  // Engine thread only:
  std::map<int, std::deque<Entry>> queues_;
  std::list<Entry> loose_;
  std::thread thread_;
};

}  // namespace tpo
