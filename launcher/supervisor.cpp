#include "launcher/supervisor.h"

#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <set>

#include "core/error.h"
#include "launcher/black_box.h"
#include "launcher/exit_codes.h"
#include "launcher/node_exchange.h"
#include "launcher/stall_log.h"
#include "launcher/usual_waits.h"
#include "parallel/program/verdict.h"

namespace tpo {
namespace {

constexpr int kTick_ms = 150;
constexpr double kLook_s = 0.8;        // waits below are not worth a diagnosis
constexpr double kGone_s = 0.3;        // a stall that two looks do not show is over
constexpr double kGoneOnOthers_s = 3;  // where other nodes are part of it, who say more seldom what they know
constexpr double kOthers_s = 1.5;    // until other nodes have said what they know; stalls are told later, by one of us
constexpr double kTeardown_s = 0.6;  // until the launcher has ended the others, who then stand in what they wait for
constexpr double kFailure_s = 0.2;   // until the ranks of a disagreement have all failed
constexpr double kStart_s = 60;      // without any ring

double now_s() { return static_cast<double>(steady_ns()) * 1e-9; }

// One write, so that lines of several processes do not mix.
void say(const std::string& text) {
  const std::string line = "tpo_dist guard: " + text + "\n";
  [[maybe_unused]] const auto n = write(STDERR_FILENO, line.data(), line.size());
}

struct Rank {
  std::unique_ptr<RingReader> ring;
  int pidfd = -1;
  bool gone = false, answered = false;
  Life life = Life::kRunning;
  double life_since = 0;
};

class Supervisor {
 public:
  explicit Supervisor(const SupervisedJob& job) : job_(job), begin_(now_s()) {}

  void run() {
    for (;;) {
      find_rings();
      for (auto& [number, rank] : ranks_) look(rank);
      const bool none_left = std::all_of(ranks_.begin(), ranks_.end(), [](const auto& r) { return r.second.gone; });
      const bool starting = ranks_.empty() && process_state(job_.starter_pid).state != 0 && now_s() - begin_ < kStart_s;
      if (none_left && !starting) break;
      judge(false);
      answer();
      sleep();
    }
    last_words();
  }

 private:
  void find_rings() {
    DIR* dir = opendir(job_.folder.c_str());
    if (dir == nullptr) return;
    while (const dirent* entry = readdir(dir)) {
      const std::string name = entry->d_name;
      if (!name.starts_with("ring.") || name.find(".new") != std::string::npos) continue;
      const int number = std::atoi(name.c_str() + 5);
      if (ranks_.count(number) != 0) continue;
      auto ring = RingReader::open(job_.folder + "/" + name);
      if (!ring) continue;
      Rank& rank = ranks_[number];
      rank.pidfd = static_cast<int>(syscall(SYS_pidfd_open, ring->header().pid, 0));  // -1: polling alone will do
      rank.ring = std::move(ring);
      rank.life_since = now_s();
    }
    closedir(dir);
  }

  // Until the tick is over or a rank dies.
  void sleep() {
    std::vector<pollfd> fds;
    for (const auto& [number, rank] : ranks_)
      if (!rank.gone && rank.pidfd >= 0) fds.push_back({rank.pidfd, POLLIN, 0});
    poll(fds.data(), fds.size(), kTick_ms);
  }

  void look(Rank& rank) {
    if (rank.gone) return;
    const RingHeader& h = rank.ring->header();
    const ProcessState p = process_state(h.pid);
    const auto end = static_cast<RankEnd>(h.end.load(std::memory_order_acquire));
    const bool alive = p.state != 0 && p.state != 'Z' && p.state != 'X' && p.start_ticks == h.start_ticks;
    Life life = p.state == 'T' || p.state == 't' ? Life::kStopped : Life::kRunning;
    if (end == RankEnd::kError) life = Life::kFailed;
    if (!alive) {
      rank.gone = true;
      if (rank.pidfd >= 0) close(rank.pidfd);
      // A rank that had SIGTERM, or goes after another one failed, was ended with the job.
      const bool torn = h.terminated_ns != 0 || failed_;
      if (end == RankEnd::kRunning || end == RankEnd::kSignal)
        life = torn && h.signal == 0 ? Life::kTornDown : Life::kDead;
      if (end == RankEnd::kFinished) life = Life::kFinished;
    }
    failed_ = failed_ || life == Life::kFailed || life == Life::kDead;
    if (life == Life::kFailed && h.exit_code == kExitFixConfig) refused_ = true;  // nothing to explain
    if (life != rank.life) rank.life = life, rank.life_since = now_s();
  }

  // After the first failure: the black box, while mpirun still listens, then the ranks that wait to end the job.
  void answer() {
    if (!failed_) return;
    bool settled = log_.alarmed();
    for (const auto& [number, rank] : ranks_) {
      const double age = now_s() - rank.life_since;
      settled = settled || (rank.life == Life::kFailed && age > kFailure_s) ||
                (rank.life == Life::kDead && age > kTeardown_s);
    }
    if (!settled) return;
    if (!boxed_) leave_box(true);
    for (auto& [number, rank] : ranks_) {
      if (rank.life != Life::kFailed || rank.answered) continue;
      rank.answered = true;
      close(open(cat(job_.folder, "/heard.", number).c_str(), O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
    }
  }

  RankView view_of(const Rank& rank) const {
    RankView v = rank.ring->view();
    v.facts.life = rank.life;
    v.facts.life_s = now_s() - rank.life_since;
    return v;
  }

  std::vector<RankView> local_views() const {
    std::vector<RankView> views;
    for (const auto& [number, rank] : ranks_) views.push_back(view_of(rank));
    return views;
  }

  VerdictLimits limits(bool post_mortem) const {
    VerdictLimits l;
    for (const auto& [number, rank] : ranks_) {
      l.stall_seconds = rank.ring->header().stall_seconds;
      l.slow_phase_seconds = rank.ring->header().slow_phase_seconds;
    }
    l.post_mortem = post_mortem;
    l.longest_healthy_wait = [this](uint64_t group) { return usual_.longest(group); };
    return l;
  }

  std::string run_folder() const {
    for (const auto& [number, rank] : ranks_)
      if (rank.ring->header().has_run != 0) return rank.ring->header().run_folder;
    return "";
  }

  void judge(bool post_mortem) {
    std::vector<RankView> views = local_views();
    if (views.empty()) return;
    const bool silent = limits(false).stall_seconds <= 0;
    usual_.look(views, [this](uint64_t group) { return log_.told_in(group); });
    const bool suspicious = std::any_of(views.begin(), views.end(), [](const RankView& v) {
      const bool still = v.facts.life == Life::kStopped || v.facts.life == Life::kDead || v.facts.life == Life::kFailed;
      return still || std::any_of(v.groups.begin(), v.groups.end(),
                                  [](const GroupView& g) { return g.waiting() && g.wait.age_s > kLook_s; });
    });
    const std::string folder = run_folder();
    const bool nodes = !folder.empty() && views[0].facts.world > static_cast<int>(views.size());
    std::set<int> local;
    for (const RankView& v : views) local.insert(v.facts.rank);
    if (nodes) {
      for (RankView& v : exchange_.turn(folder, views, suspicious, now_s())) views.push_back(std::move(v));
    }
    if (!suspicious) suspicious_since_ = now_s();
    const bool part = nodes && views.size() < static_cast<size_t>(views[0].facts.world);
    const bool hold = part && !failed_ && now_s() - suspicious_since_ < kOthers_s;
    std::vector<Finding> found;
    if (suspicious && !silent) found = diagnose(views, limits(post_mortem));
    StallLog::Look look{now_s(), post_mortem, failed_, nodes ? kGoneOnOthers_s : kGone_s, {}};
    look.tells = [&](const Finding& f) { return !hold && ours(f, local) && !too_early(f, post_mortem); };
    for (const std::string& line : log_.look(found, look)) say(line);
  }

  // One supervisor tells: that of the lowest rank that waits, or of the rank itself.
  static bool ours(const Finding& f, const std::set<int>& local) {
    return local.count(f.waiting.empty() ? f.culprit : f.waiting.front()) != 0;
  }

  // Whoever waits for a dead rank will stand in it in a moment. An error without a waiter was told by the rank.
  bool too_early(const Finding& f, bool post_mortem) const {
    if (f.group != 0) return false;
    if (f.cause == Cause::kFailed) return true;
    const auto it = ranks_.find(f.culprit);
    return !post_mortem && f.cause == Cause::kDead && it != ranks_.end() &&
           now_s() - it->second.life_since < kTeardown_s;
  }

  void last_words() {
    const bool finished =
        std::all_of(ranks_.begin(), ranks_.end(), [](const auto& r) { return r.second.life == Life::kFinished; });
    if (!finished && !refused_) {
      judge(true);
      leave_box(!boxed_);
    }
    exchange_.leave();
    remove_job_folder(job_.folder);
  }

  // Written at the first failure and again when all ranks are gone.
  void leave_box(bool aloud) {
    boxed_ = true;
    const std::string folder = run_folder();
    if (folder.empty() || refused_) return;
    std::vector<std::string> verdict = log_.verdict();
    std::vector<BoxRank> boxes;
    for (const auto& [number, rank] : ranks_) {
      boxes.push_back({rank.ring.get(), view_of(rank)});
      if (rank.life == Life::kFailed)
        verdict.push_back(cat("rank ", number, " failed: ", boxes.back().view.facts.error));
    }
    if (verdict.empty()) verdict.emplace_back("the job was ended from outside before its ranks had finished");
    try {
      const std::string box = write_black_box(folder, job_.id, job_.folder + "/config.textproto", verdict, boxes);
      if (aloud) say("black box: " + box);
    } catch (const std::exception& e) {
      if (aloud) say(cat("no black box: ", e.what()));
    }
  }

  const SupervisedJob job_;
  const double begin_;
  std::map<int, Rank> ranks_;
  NodeExchange exchange_;
  bool failed_ = false, refused_ = false, boxed_ = false;
  StallLog log_;
  double suspicious_since_ = 0;
  UsualWaits usual_;
};

}  // namespace

void supervise(const SupervisedJob& job) { Supervisor(job).run(); }

void remove_job_folder(const std::string& folder) noexcept {
  DIR* dir = opendir(folder.c_str());
  if (dir == nullptr) return;
  while (const dirent* entry = readdir(dir)) {
    const std::string name = entry->d_name;
    if (name.starts_with("ring.") || name.starts_with("config.textproto") || name.starts_with("heard.") ||
        name == "lock")
      unlink((folder + "/" + name).c_str());
  }
  closedir(dir);
  rmdir(folder.c_str());
}

}  // namespace tpo
