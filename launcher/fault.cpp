#include "launcher/fault.h"

#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <map>
#include <sstream>
#include <thread>

#include "core/error.h"
#include "parallel/comm/work.h"

namespace tpo {
namespace {

struct Fault {
  int rank = -1;
  int64_t step = -1;
  std::string kind, phase, log;
  int op = 0;          // skip, size: after so many collectives of the step
  double seconds = 8;  // of a delay
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

void announce(const std::string& where) {
  const Fault& f = fault();
  char at[40];
  std::snprintf(at, sizeof at, "%.3f", wall_seconds());
  std::string line =
      cat("tpo_dist fault: rank ", f.rank, " step ", f.step, " ", f.kind, " ", where, " at ", at, "; next:");
  for (const auto& [group, seq] : f.next) line += cat(" ", group, " #", seq);
  line += "\n";
  [[maybe_unused]] const auto n = write(STDERR_FILENO, line.data(), line.size());
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

}  // namespace

void arm_fault(int rank) {
  const char* text = std::getenv("TPO_FAULT");
  if (text == nullptr) return;
  Fault& f = fault();
  std::istringstream words(text);
  for (std::string word; std::getline(words, word, ',');) {
    const size_t equals = word.find('=');
    const std::string key = word.substr(0, equals), value = equals == std::string::npos ? "" : word.substr(equals + 1);
    if (key == "rank")
      f.rank = std::atoi(value.c_str());
    else if (key == "step")
      f.step = std::atoll(value.c_str());
    else if (key == "kind")
      f.kind = value;
    else if (key == "phase")
      f.phase = value;
    else if (key == "op")
      f.op = std::atoi(value.c_str());
    else if (key == "seconds")
      f.seconds = std::atof(value.c_str());
    else if (key == "log")
      f.log = value;
    else
      throw ConfigError(cat("TPO_FAULT: unknown '", word, "'; legal: rank step kind phase op seconds log"));
  }
  const std::string legal = " kill sigstop crash delay throw skip size loader none ";
  check<ConfigError>(legal.find(" " + f.kind + " ") != std::string::npos, "TPO_FAULT: kind '", f.kind, "' is none of",
                     legal);
  f.mine = f.rank == rank;
  if (!f.log.empty()) f.out.open(cat(f.log, ".", rank));
  set_comm_drill(drill);
}

void fault_in_phase(int64_t step, const char* phase) {
  Fault& f = fault();
  f.step_now = step;
  if (!f.mine || f.done || step != f.step || (!f.phase.empty() && f.phase != phase)) return;
  if (f.kind == "skip" || f.kind == "size" || f.kind == "loader" || f.kind == "none") return;
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
