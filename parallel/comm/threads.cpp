#include "parallel/comm/threads.h"

#include <algorithm>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <map>
#include <mutex>
#include <thread>
#include <tuple>

#include "core/error.h"
#include "core/parallel_for.h"
#include "parallel/comm/reduce.h"
#include "parallel/comm/wire_header.h"

namespace tpo {
namespace {

class ThreadsWork;

// What the rank threads of one run share. One mutex orders everything; data moves outside of it.
struct World {
  explicit World(int n) : waiting(n), finished(n) {}
  std::mutex mutex;
  std::condition_variable changed;
  std::vector<ThreadsWork*> waiting;  // per rank: what it is blocked in
  std::vector<bool> finished;         // per rank: fn returned or threw
  std::string failure;                // non-empty: nobody may wait any longer
  int culprit = -1;                   // the rank whose error explains the failure, if one does
  std::exception_ptr culprit_error, first_error;
  int first_rank = -1;  // of first_error
  std::map<std::tuple<const void*, uint64_t, int>, std::shared_ptr<struct Meeting>> splits;

  // All with the mutex held.
  void fail(const std::string& why, int rank = -1) {
    if (failure.empty()) failure = why, culprit = rank;
    changed.notify_all();
  }
  void check_deadlock();
};

class ThreadsWork final : public WorkState {
 public:
  ThreadsWork(std::shared_ptr<const CommRequest> r, std::shared_ptr<World> world, int world_rank)
      : WorkState(std::move(r)), world_(std::move(world)), world_rank_(world_rank) {}

  bool done() override {
    std::scoped_lock lock(world_->mutex);
    return finished_;
  }
  void wait() override {
    std::unique_lock lock(world_->mutex);
    if (!finished_) {
      world_->waiting[world_rank_] = this;
      world_->check_deadlock();
      // A failure elsewhere ends the wait, but not while another rank's thread copies from or into our buffers.
      world_->changed.wait(lock, [&] { return finished_ || (!moving_ && !world_->failure.empty()); });
      world_->waiting[world_rank_] = nullptr;
    }
    if (!finished_) throw CommError(cat(describe(request()), " was abandoned: ", world_->failure));
    if (!error_.empty()) throw CommError(error_);
  }
  bool finished() const { return finished_; }
  // With the mutex held, like finish(): from here on until then the buffers are in use.
  void begin_move() { moving_ = true; }
  void finish(const std::string& error = "") {
    error_ = error;
    moving_ = false;
    times.done_s = steady_seconds();
    finished_ = true;
  }

 private:
  std::shared_ptr<World> world_;
  int world_rank_;
  bool finished_ = false, moving_ = false;
  std::string error_;
};

void World::check_deadlock() {
  std::string who;
  for (size_t r = 0; r < waiting.size(); ++r) {
    if (finished[r]) {
      who += cat("\n  rank ", r, " has returned");
    } else if (waiting[r] && !waiting[r]->finished()) {
      who += cat("\n  rank ", r, " waits in ", describe(waiting[r]->request()));
    } else {
      return;
    }
  }
  fail(cat("no rank can go on:", who));
}

// The members of one group and what they have brought so far.
struct Meeting {
  std::vector<int> world_ranks;
  std::map<uint64_t, std::vector<std::shared_ptr<ThreadsWork>>> collectives;  // by number; null: not arrived
  std::map<std::tuple<int, int, int>, std::deque<std::shared_ptr<ThreadsWork>>> sends, recvs;  // by (from, to, tag)
  // What never met keeps its world, and the world its meetings: at the end someone must let go.
  void forget() { collectives.clear(), sends.clear(), recvs.clear(); }
};

void copy_bytes(std::byte* to, const std::byte* from, int64_t bytes) {
  if (bytes > 0 && to != from) std::memcpy(to, from, static_cast<size_t>(bytes));
}

// Everyone has arrived and waits: the caller owns all buffers.
void carry_out(const std::vector<std::shared_ptr<ThreadsWork>>& works) {
  const CommRequest& first = works[0]->request();
  const int64_t bytes = first.bytes();
  std::vector<const std::byte*> sources;
  for (const auto& w : works) sources.push_back(w->request().in);
  switch (first.op) {
    case CommOp::kAllReduce:
      if (first.count > 0) reduce_buffers(works[0]->request().out, sources, first.count, first.dtype, first.reduce);
      for (const auto& w : works) copy_bytes(w->request().out, works[0]->request().out, bytes);
      break;
    case CommOp::kBroadcast:
      for (const auto& w : works)
        copy_bytes(w->request().out, works[static_cast<size_t>(first.peer)]->request().in, bytes);
      break;
    case CommOp::kAllGather:
      for (const auto& w : works) {
        for (size_t r = 0; r < works.size(); ++r)
          copy_bytes(w->request().out + static_cast<int64_t>(r) * bytes, sources[r], bytes);
      }
      break;
    case CommOp::kReduceScatter:
      for (const auto& w : works) {
        if (first.count > 0) reduce_buffers(w->request().out, sources, first.count, first.dtype, first.reduce);
        for (auto& s : sources) s += bytes;
      }
      break;
    default:
      break;
  }
}

class ThreadsGroup final : public ProcessGroup {
 public:
  ThreadsGroup(int rank, std::shared_ptr<World> world, std::shared_ptr<Meeting> meeting, std::string name)
      : ProcessGroup(rank, static_cast<int>(meeting->world_ranks.size()), std::move(name)),
        world_(std::move(world)),
        meeting_(std::move(meeting)) {}

 protected:
  std::shared_ptr<WorkState> issue(std::shared_ptr<const CommRequest> r) override {
    auto work = std::make_shared<ThreadsWork>(r, world_, meeting_->world_ranks[static_cast<size_t>(rank())]);
    std::unique_lock lock(world_->mutex);
    check<CommError>(world_->failure.empty(), describe(*r), " cannot start: ", world_->failure);
    if (r->collective()) {
      meet(work, lock);
    } else {
      match(work, lock);
    }
    return work;
  }

  std::unique_ptr<ProcessGroup> do_split(int color, int key, std::string name) override {
    const int64_t mine[2] = {color, key};
    const auto all = all_gather_bytes(std::as_bytes(std::span<const int64_t>(mine)), "split");
    std::vector<std::pair<int64_t, int>> members;  // (key, rank), sorted
    for (int r = 0; r < size(); ++r) {
      int64_t theirs[2];
      std::memcpy(theirs, all[static_cast<size_t>(r)].data(), sizeof theirs);
      if (theirs[0] == color) members.emplace_back(theirs[1], r);
    }
    std::sort(members.begin(), members.end());
    std::scoped_lock lock(world_->mutex);
    auto& meeting = world_->splits[{meeting_.get(), collectives_issued(), color}];
    if (!meeting) {
      meeting = std::make_shared<Meeting>();
      for (const auto& m : members)
        meeting->world_ranks.push_back(meeting_->world_ranks[static_cast<size_t>(m.second)]);
    }
    const auto me = std::find(members.begin(), members.end(), std::pair<int64_t, int>(key, rank()));
    return std::make_unique<ThreadsGroup>(static_cast<int>(me - members.begin()), world_, meeting, std::move(name));
  }

 private:
  void meet(const std::shared_ptr<ThreadsWork>& work, std::unique_lock<std::mutex>& lock) {
    auto& arrived = meeting_->collectives[work->request().seq];
    arrived.resize(static_cast<size_t>(size()));
    for (const auto& other : arrived) {
      if (!other) continue;
      const std::string why = header_mismatch(work->request(), make_header(other->request()), other->request().rank);
      if (why.empty()) continue;
      world_->fail(why, meeting_->world_ranks[static_cast<size_t>(rank())]);
      throw CommError(why);
    }
    arrived[static_cast<size_t>(rank())] = work;
    for (const auto& w : arrived) {
      if (!w) return;
    }
    const auto works = std::move(arrived);
    meeting_->collectives.erase(work->request().seq);
    for (const auto& w : works) w->begin_move();
    lock.unlock();
    const double begun = steady_seconds();
    carry_out(works);
    lock.lock();
    for (const auto& w : works) {
      w->times.begun_s = begun;
      w->finish();
    }
    world_->changed.notify_all();
  }

  void match(const std::shared_ptr<ThreadsWork>& work, std::unique_lock<std::mutex>& lock) {
    const CommRequest& r = work->request();
    const bool sending = r.op == CommOp::kSend;
    const auto key = sending ? std::tuple(rank(), r.peer, r.tag) : std::tuple(r.peer, rank(), r.tag);
    auto& partners = (sending ? meeting_->recvs : meeting_->sends)[key];
    if (partners.empty()) {
      (sending ? meeting_->sends : meeting_->recvs)[key].push_back(work);
      return;
    }
    const auto partner = partners.front();
    partners.pop_front();
    const CommRequest& from = sending ? r : partner->request();
    const CommRequest& to = sending ? partner->request() : r;
    std::string error;
    if (from.count != to.count || from.dtype != to.dtype) {
      error = cat("sizes differ: ", describe(from), " meets ", describe(to));
    }
    work->begin_move(), partner->begin_move();
    lock.unlock();
    const double begun = steady_seconds();
    if (error.empty()) copy_bytes(to.out, from.in, from.bytes());
    lock.lock();
    work->times.begun_s = partner->times.begun_s = begun;
    work->finish(error);
    partner->finish(error);
    world_->changed.notify_all();
  }

  std::shared_ptr<World> world_;
  std::shared_ptr<Meeting> meeting_;
};

template <class E>
[[noreturn]] void throw_prefixed(const std::string& prefix, const E& e) {
  throw E(prefix + e.what());
}

[[noreturn]] void rethrow_with_rank(int rank, const std::exception_ptr& error) {
  const std::string prefix = cat("rank ", rank, ": ");
  try {
    std::rethrow_exception(error);
  } catch (const ConfigError& e) {
    throw_prefixed(prefix, e);
  } catch (const ShapeError& e) {
    throw_prefixed(prefix, e);
  } catch (const DeviceError& e) {
    throw_prefixed(prefix, e);
  } catch (const CommError& e) {
    throw_prefixed(prefix, e);
  } catch (const IoError& e) {
    throw_prefixed(prefix, e);
  } catch (const DataError& e) {
    throw_prefixed(prefix, e);
  } catch (const std::exception& e) {
    throw Error(prefix + e.what());
  }
}

}  // namespace

void run_ranks(int n, const std::function<void(ProcessGroup& world)>& fn) {
  check<ConfigError>(n >= 1, "[run_ranks] ", n, " ranks; start at least one");
  auto world = std::make_shared<World>(n);
  auto meeting = std::make_shared<Meeting>();
  for (int r = 0; r < n; ++r) meeting->world_ranks.push_back(r);

  const auto rank_main = [&](int rank) {
    const auto stream = Stream::make_cpu();
    StreamScope scope(*stream);
    set_num_threads(1);
    std::exception_ptr error;
    std::string why;
    try {
      ThreadsGroup group(rank, world, meeting, "world");
      fn(group);
    } catch (const std::exception& e) {
      error = std::current_exception();
      why = e.what();
    }
    std::scoped_lock lock(world->mutex);
    world->finished[static_cast<size_t>(rank)] = true;
    if (error) {
      world->fail(cat("rank ", rank, " failed: ", why), rank);
      if (world->culprit == rank) world->culprit_error = error;
      if (!world->first_error) world->first_error = error, world->first_rank = rank;
    } else {
      world->check_deadlock();
    }
  };
  std::vector<std::thread> threads;
  for (int r = 0; r < n; ++r) threads.emplace_back(rank_main, r);
  for (auto& t : threads) t.join();
  meeting->forget();
  for (const auto& [key, split] : world->splits) split->forget();
  if (world->culprit_error) rethrow_with_rank(world->culprit, world->culprit_error);
  if (world->first_error) rethrow_with_rank(world->first_rank, world->first_error);
}

}  // namespace tpo
