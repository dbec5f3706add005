#include "launcher/fault.h"

#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <charconv>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <map>
#include <set>
#include <sstream>
#include <thread>

#include "core/error.h"
#include "parallel/comm/work.h"

namespace tpo {
namespace {

struct Fault : FaultPlan {
  bool mine = false;
  std::atomic<bool> done{false};
  std::atomic<int64_t> step_now{-1};
  int64_t op_step = -1;  // counts collectives of a step
  int ops = 0;
  std::map<std::string, uint64_t> next;  // per group; the program's thread only
  std::ofstream out;
};

Fault& fault() {
  static Fault f;
  return f;
}

double wall_seconds() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

void say(const std::string& what) {
  const Fault& f = fault();
  const std::string line = cat("tpo_dist fault: rank ", f.rank, " step ", f.step, " ", f.kind, " ", what, "\n");
  [[maybe_unused]] const auto n = write(STDERR_FILENO, line.data(), line.size());
}

void announce(const std::string& where) {
  char at[40];
  std::snprintf(at, sizeof at, "%.3f", wall_seconds());
  std::string line = cat(where, " at ", at, "; next:");
  for (const auto& [group, seq] : fault().next) line += cat(" ", group, " #", seq);
  say(line);
}

// True: leave it out.
bool drill(CommRequest& r) {
  Fault& f = fault();
  if (f.op_step != f.step_now) f.op_step = f.step_now, f.ops = 0;
  const bool sized = f.kind == "size";
  const bool now = f.mine && r.collective() && r.size > 1 && !f.done && f.step_now == f.step && f.ops++ >= f.op &&
                   (sized ? r.count > 1 : f.kind == "skip");
  if (now) {
    f.done = true;
    announce(cat(name_of(r.op), " #", r.seq, " of '", r.what, "' in ", r.group));
    if (!sized) return true;
    --r.count;
  }
  if (r.collective() && r.size > 1) {
    f.next[r.group] = r.seq + 1;
    if (f.out.is_open())
      f.out << r.group << "\t" << r.seq << "\t" << name_of(r.op) << "\t" << r.what << "\t" << r.count << std::endl;
  }
  return false;
}

void misbehave(const Fault& f) {
  if (f.kind == "kill") raise(SIGKILL);
  if (f.kind == "sigstop") raise(SIGSTOP);
  if (f.kind == "crash") raise(SIGSEGV);
  if (f.kind == "delay") std::this_thread::sleep_for(std::chrono::duration<double>(f.seconds));
  if (f.kind == "throw") throw DataError("a drill");
}

const std::set<std::string> kKinds{"kill", "sigstop", "crash", "delay", "throw", "skip", "size", "loader", "none"};
const std::set<std::string> kPhases{"load",      "forward",    "backward", "reduce",
                                    "optimizer", "checkpoint", "resume",   "evaluation"};

std::string listed(const std::set<std::string>& words) {
  std::string out;
  for (const std::string& w : words) out += (out.empty() ? "" : " ") + w;
  return out;
}

template <class T>
void take_number(const std::string& key, const std::string& value, T least, T& to) {
  const char* end = value.data() + value.size();
  const auto [stop, error] = std::from_chars(value.data(), end, to);
  check<ConfigError>(error == std::errc() && stop == end && to >= least && to < T(1e15), "TPO_FAULT: ", key, " is '",
                     value, "' but must be a number of at least ", least);
}

}  // namespace

FaultPlan parse_fault(const std::string& text, int world) {
  FaultPlan f;
  std::istringstream words(text);
  for (std::string word; std::getline(words, word, ',');) {
    const size_t equals = word.find('=');
    const std::string key = word.substr(0, equals), value = equals == std::string::npos ? "" : word.substr(equals + 1);
    check<ConfigError>(!value.empty(), "TPO_FAULT: ", key, " is ''");
    int64_t n = 0;
    if (key == "rank" || key == "op") {
      take_number<int64_t>(key, value, 0, n);
      check<ConfigError>(n < INT32_MAX, "TPO_FAULT: ", key, " is ", n, ", which is too many");
      (key == "rank" ? f.rank : f.op) = static_cast<int>(n);
    } else if (key == "step") {
      take_number<int64_t>(key, value, 0, f.step);
    } else if (key == "seconds") {
      take_number<double>(key, value, 0, f.seconds);
    } else if (key == "kind" || key == "phase" || key == "log") {
      (key == "kind" ? f.kind : key == "phase" ? f.phase : f.log) = value;
    } else {
      throw ConfigError(cat("TPO_FAULT: unknown '", word, "'; legal: rank step kind phase op seconds log"));
    }
  }
  check<ConfigError>(kKinds.count(f.kind) != 0, "TPO_FAULT: kind is '", f.kind, "'; legal: ", listed(kKinds));
  if (f.kind == "none") return f;
  check<ConfigError>(f.rank >= 0 && f.rank < world, "TPO_FAULT: rank is ", f.rank, " but there are ", world, " ranks");
  check<ConfigError>(f.step >= 0, "TPO_FAULT: no step is given");
  check<ConfigError>(f.phase.empty() || kPhases.count(f.phase) != 0, "TPO_FAULT: phase is '", f.phase,
                     "'; legal: ", listed(kPhases));
  return f;
}

void arm_fault(int rank, int world) {
  const char* text = std::getenv("TPO_FAULT");
  if (text == nullptr) return;
  Fault& f = fault();
  static_cast<FaultPlan&>(f) = parse_fault(text, world);
  f.mine = f.rank == rank && f.kind != "none";
  if (!f.log.empty()) f.out.open(cat(f.log, ".", rank));
  set_comm_drill(drill);
}

void fault_over() {
  const Fault& f = fault();
  if (f.mine && !f.done) say(cat(f.phase.empty() ? "" : cat("in ", f.phase, " "), "never happened"));
}

void fault_in_phase(int64_t step, const char* phase) {
  Fault& f = fault();
  f.step_now = std::max<int64_t>(step, 0);
  if (!f.mine || f.done || f.step_now != f.step || (!f.phase.empty() && f.phase != phase)) return;
  if (f.kind == "skip" || f.kind == "size" || f.kind == "loader") return;
  f.done = true;
  announce(cat("in ", phase));
  misbehave(f);
}

void fault_in_loader(int64_t step) {
  Fault& f = fault();
  if (!f.mine || f.kind != "loader" || step < f.step || f.done.exchange(true)) return;
  announce("in the loader");
  for (;;) std::this_thread::sleep_for(std::chrono::seconds(1));
}

}  // namespace tpo
