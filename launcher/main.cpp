// tpo_dist: one binary, subcommands. See launcher/README.md.
#include <gflags/gflags.h>
#include <glog/logging.h>
#include <sys/resource.h>

#include <csignal>
#include <cstdio>
#include <iostream>
#include <string>
#include <vector>

#include "core/cpu_features.h"
#include "core/error.h"
#include "launcher/commands/commands.h"
#include "launcher/config.h"
#include "launcher/exit_codes.h"
#include "launcher/world.h"

namespace {

constexpr const char* kUsage =
    "tpo_dist trains MLLM-TPO models.\n"
    "usage: [mpirun -n N] tpo_dist [--v=1 --minloglevel=1 --log_dir=...] <command> [--help] ...\n"
    "  train    train from a configuration; resumes by itself\n"
    "  eval     score a checkpoint on held-out datasets\n"
    "  predict  ask a checkpoint about one picture; draws boxes\n"
    "  plan     what a step of a configuration needs: bytes by kind, operations\n"
    "  data     synth | import | index | inspect | verify datasets\n"
    "  ckpt     ls | verify | diff checkpoints; import | export public weights\n"
    "  report   a run folder as one HTML page\n"
    "  bench    comm | overlap: these ranks' collectives beside MPI's own; what hides behind compute\n"
    "  doctor   what these machines and this MPI can do, with remedies\n"
    "exit codes: 0 done; 2 fix flags or configuration; 3 fix data or checkpoint; 4 loss or gradient not finite;\n"
    "            5 bad machine (files, communication, memory); 6 ckpt diff found differences; 75 stopped by SIGTERM "
    "after\n"
    "            saving, start again; 1 bug\n"
    "example: mpirun -n 2 tpo_dist train --config examples/quickstart.textproto\n";

int dispatch(const std::string& command, std::span<const std::string> args, tpo::ProcessGroup& world) {
  if (command == "train") return tpo::run_train(args, world);
  if (command == "eval") return tpo::run_eval(args, world);
  if (command == "bench") return tpo::run_bench(args, world);
  if (command == "doctor") return tpo::run_doctor(args, world);
  if (command == "ckpt") return tpo::run_ckpt(args, world);
  tpo::check<tpo::ConfigError>(world.size() == 1, "tpo_dist ", command, " runs as one process; leave mpirun away");
  if (command == "predict") return tpo::run_predict(args);
  if (command == "plan") return tpo::run_plan(args);
  if (command == "data") return tpo::run_data(args);
  if (command == "report") return tpo::run_report(args);
  const std::vector<std::string> legal{"train", "eval", "predict", "plan", "data", "ckpt", "report", "bench", "doctor"};
  const std::string near = tpo::nearest(command, legal);
  throw tpo::ConfigError(tpo::cat("unknown command ", command, near.empty() ? "" : "; did you mean " + near + "?",
                                  "; legal: train, eval, predict, plan, data, ckpt, report, bench, doctor"));
}

// Every shard of a dataset is one open file; the usual soft limit of 1,024 is no limit of the machine.
void raise_open_files() {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
}

// Flags before the command belong to the process and are kept by gflags: those of glog. Commands have flags of their
// own (commands/args.h): they repeat, differ from command to command and are checked together with the configuration,
// while gflags keeps one flat list. Returns how many words were taken.
size_t take_process_flags(const std::vector<std::string>& words) {
  size_t taken = 0;
  for (; taken < words.size() && words[taken].starts_with("--") && words[taken] != "--help"; ++taken) {
    const std::string& word = words[taken];
    const size_t equals = word.find('=');
    const std::string name = word.substr(2, equals == std::string::npos ? std::string::npos : equals - 2);
    gflags::CommandLineFlagInfo info;
    tpo::check<tpo::ConfigError>(
        gflags::GetCommandLineFlagInfo(name.c_str(), &info), "unknown flag --", name,
        " before the command; legal are glog's, such as --v=1, --minloglevel=1, --log_dir=DIR");
    const std::string value = equals == std::string::npos ? "true" : word.substr(equals + 1);
    tpo::check<tpo::ConfigError>(!gflags::SetCommandLineOption(name.c_str(), value.c_str()).empty(), "--", name, "=",
                                 value, ": the value must be of type ", info.type);
  }
  return taken;
}

}  // namespace

int main(int argc, char** argv) {
  if (const char* feature = tpo::missing_cpu_feature()) {
    std::fprintf(stderr, "tpo_dist: compiled for a processor with %s, which this machine lacks; build with %s\n",
                 feature, "-DTPO_NATIVE=OFF or on this machine");
    return tpo::kExitBadMachine;
  }
  raise_open_files();
  std::signal(SIGXFSZ, SIG_IGN);  // a file beyond the limit of ulimit -f is an error of the write, as a full disk is
  FLAGS_logtostderr = true;
  std::vector<std::string> words(argv + 1, argv + argc);
  try {
    words.erase(words.begin(), words.begin() + static_cast<int64_t>(take_process_flags(words)));
  } catch (const tpo::ConfigError& e) {
    std::cerr << "tpo_dist: " << e.what() << "\n";
    return tpo::kExitFixConfig;
  }
  if (!FLAGS_log_dir.empty()) FLAGS_logtostderr = false;
  google::InitGoogleLogging(argv[0]);
  if (words.empty() || words[0] == "--help" || words[0] == "help") {
    std::cout << kUsage;
    return words.empty() ? tpo::kExitFixConfig : tpo::kExitDone;
  }
  return tpo::run_world(
      &argc, &argv, [&](tpo::ProcessGroup& world) { return dispatch(words[0], std::span(words).subspan(1), world); },
      words[0] == "train");
}
