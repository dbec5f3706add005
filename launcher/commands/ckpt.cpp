#include <ctime>
#include <filesystem>
#include <iostream>

#include "checkpoint/checkpointer.h"
#include "checkpoint/diff.h"
#include "launcher/commands/args.h"
#include "launcher/commands/checkpoint_model.h"
#include "launcher/commands/ckpt_weights.h"
#include "launcher/commands/commands.h"
#include "launcher/exit_codes.h"

namespace tpo {

namespace {

const CommandHelp kList{
    "ckpt ls",
    "Lists the checkpoints of a run or checkpoint folder: step, size, tensors, ranks that wrote it, time.",
    "<folder>",
    "tpo_dist ckpt ls runs/quickstart",
    {}};
const CommandHelp kVerify{"ckpt verify",
                          "Reads a whole checkpoint, compares every checksum and opens every shard with HDF5. A run "
                          "folder stands for its latest\ncheckpoint.",
                          "<checkpoint folder>",
                          "tpo_dist ckpt verify runs/quickstart/checkpoints/step_00000100",
                          {}};

const CommandHelp kDiff{
    "ckpt diff",
    "Compares the tensors and counters of two checkpoints bit for bit, whatever layouts wrote them: what only one "
    "has,\n"
    "then per tensor the first element that differs and the largest difference. A run folder stands for its latest\n"
    "checkpoint. Exit status: 0 equal, 6 different, others as always.",
    "<checkpoint folder a> <checkpoint folder b>",
    "tpo_dist ckpt diff runs/one_rank runs/eight_ranks/checkpoints/step_00000100",
    {}};

std::string time_text(int64_t unix_ns) {
  const std::time_t t = unix_ns / 1'000'000'000;
  std::tm tm{};
  gmtime_r(&t, &tm);
  char text[40];
  std::strftime(text, sizeof text, "%Y-%m-%d %H:%M:%S UTC", &tm);
  return text;
}

int list(const Args& args, ProcessGroup&) {
  std::string dir = args.words(1)[0];
  std::error_code none;
  if (std::filesystem::is_directory(dir + "/checkpoints", none)) dir += "/checkpoints";
  check<DataError>(std::filesystem::is_directory(dir, none), dir, " is not a folder");
  const auto folders = list_checkpoints(dir);
  const std::string newest = latest(dir);
  ExitCode code = kExitDone;
  for (const auto& folder : folders) {
    std::cout << folder << (folder == newest ? "  (latest)" : "");
    try {
      const CheckpointInfo i = describe(folder);
      std::cout << "  step " << i.step << "  " << i.bytes / 1048576.0 << " MiB  " << i.tensors
                << " tensors  written by " << i.world << (i.world == 1 ? " rank  " : " ranks  ")
                << time_text(i.created_unix_ns) << "\n";
    } catch (const Error& e) {
      std::cout << "  damaged: " << e.what() << "\n";
      code = kExitFixData;
    }
  }
  if (folders.empty()) std::cout << dir << ": no checkpoints\n";
  return code;
}

int verify_all(const Args& args, ProcessGroup&) {
  const std::string folder = resolve_checkpoint(args.words(1)[0]);
  const auto faults = verify(folder);
  for (const auto& f : faults) std::cout << f << "\n";
  std::cout << folder << ": "
            << (faults.empty() ? "sound" : cat(faults.size(), faults.size() == 1 ? " fault" : " faults")) << "\n";
  return faults.empty() ? kExitDone : kExitFixData;
}

int compare(const Args& args, ProcessGroup&) {
  const std::string a = resolve_checkpoint(args.words(2)[0]), b = resolve_checkpoint(args.words(2)[1]);
  const CheckpointDifference d = diff(a, b);
  std::cout << "a = " << a << "\nb = " << b << "\n";
  for (const std::string& line : lines_of(d)) std::cout << line << "\n";
  std::cout << (d.none() ? "equal" : "different") << ": " << d.compared - static_cast<int64_t>(d.tensors.size())
            << " tensors have the same bits\n";
  return d.none() ? kExitDone : kExitDifferent;
}

struct Verb {
  const char* name;
  const CommandHelp& help;
  int (*run)(const Args&, ProcessGroup& world);
};
const std::vector<Verb>& verbs() {
  static const std::vector<Verb> all{{"ls", kList, list},
                                     {"verify", kVerify, verify_all},
                                     {"diff", kDiff, compare},
                                     {"import", import_help(), ckpt_import},
                                     {"export", export_help(), ckpt_export}};
  return all;
}

}  // namespace

int run_ckpt(std::span<const std::string> words, ProcessGroup& world) {
  if (!words.empty() && words[0] == "--help") {
    for (const Verb& v : verbs()) std::cout << (&v == verbs().data() ? "" : "\n") << Args(v.help, {}).usage();
    return kExitDone;
  }
  for (const Verb& v : verbs()) {
    if (words.empty() || words[0] != v.name) continue;
    const Args args(v.help, words.subspan(1));
    if (args.help()) {
      std::cout << args.usage();
      return kExitDone;
    }
    check<ConfigError>(world.size() == 1 || words[0] == "import", "tpo_dist ckpt ", words[0],
                       " runs as one process; leave mpirun away");
    return v.run(args, world);
  }
  throw ConfigError(cat("tpo_dist ckpt: ", words.empty() ? "no verb" : "unknown verb " + words[0],
                        "; legal: ls, verify, diff, import, export"));
}

}  // namespace tpo
