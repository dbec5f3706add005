#include <ctime>
#include <filesystem>
#include <iostream>

#include "checkpoint/checkpointer.h"
#include "launcher/commands/args.h"
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
                          "Reads a whole checkpoint and compares every checksum.",
                          "<checkpoint folder>",
                          "tpo_dist ckpt verify runs/quickstart/checkpoints/step_00000100",
                          {}};

std::string time_text(int64_t unix_ns) {
  const std::time_t t = unix_ns / 1'000'000'000;
  std::tm tm{};
  gmtime_r(&t, &tm);
  char text[40];
  std::strftime(text, sizeof text, "%Y-%m-%d %H:%M:%S UTC", &tm);
  return text;
}

int list(const Args& args) {
  std::string dir = args.words(1)[0];
  if (std::filesystem::is_directory(dir + "/checkpoints")) dir += "/checkpoints";
  check<DataError>(std::filesystem::is_directory(dir), dir, " is not a folder");
  const auto folders = list_checkpoints(dir);
  const std::string newest = latest(dir);
  for (const auto& folder : folders) {
    const CheckpointInfo i = describe(folder);
    std::cout << folder << "  step " << i.step << "  " << i.bytes / 1048576.0 << " MiB  " << i.tensors
              << " tensors  written by " << i.world << (i.world == 1 ? " rank  " : " ranks  ")
              << time_text(i.created_unix_ns) << (folder == newest ? "  (latest)" : "") << "\n";
  }
  if (folders.empty()) std::cout << dir << ": no checkpoints\n";
  return kExitDone;
}

int verify_all(const Args& args) {
  const std::string folder = args.words(1)[0];
  const auto faults = verify(folder);
  for (const auto& f : faults) std::cout << f << "\n";
  std::cout << folder << ": " << (faults.empty() ? "sound" : cat(faults.size(), " faults")) << "\n";
  return faults.empty() ? kExitDone : kExitFixData;
}

}  // namespace

int run_ckpt(std::span<const std::string> words) {
  const bool known = !words.empty() && (words[0] == "ls" || words[0] == "verify");
  if (!words.empty() && words[0] == "--help") {
    std::cout << Args(kList, {}).usage() << "\n" << Args(kVerify, {}).usage();
    return kExitDone;
  }
  check<ConfigError>(known, "tpo_dist ckpt: ", words.empty() ? "no verb" : "unknown verb " + words[0],
                     "; legal: ls, verify");
  const Args args(words[0] == "ls" ? kList : kVerify, words.subspan(1));
  if (args.help()) {
    std::cout << args.usage();
    return kExitDone;
  }
  return words[0] == "ls" ? list(args) : verify_all(args);
}

}  // namespace tpo
