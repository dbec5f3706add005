#include "launcher/report.h"

#include <iostream>

#include "launcher/commands/args.h"
#include "launcher/commands/commands.h"
#include "launcher/exit_codes.h"

namespace tpo {

int run_report(std::span<const std::string> words) {
  const Args args({"report",
                   "Writes report.html of a run folder: curves, evaluation, pictures.",
                   "<run folder>",
                   "tpo_dist report runs/quickstart",
                   {}},
                  words);
  if (args.help()) {
    std::cout << args.usage();
    return kExitDone;
  }
  std::cout << write_report(args.words(1)[0]) << "\n";
  return kExitDone;
}

}  // namespace tpo
