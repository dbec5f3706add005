#include <iostream>

#include "core/error.h"
#include "launcher/commands/bench_verbs.h"
#include "launcher/commands/commands.h"
#include "launcher/config.h"
#include "launcher/exit_codes.h"

namespace tpo {

namespace {

struct Verb {
  const char* name;
  const char* help;
  int (*run)(std::span<const std::string>, ProcessGroup&);
};
constexpr Verb kVerbs[] = {
    {"comm", "collectives and messages over sizes and groups, beside MPI's own in the same run", run_bench_comm},
    {"overlap", "how much of a step's communication hides behind compute, which sleeps as where a GPU does it",
     run_bench_overlap},
};

}  // namespace

int run_bench(std::span<const std::string> args, ProcessGroup& world) {
  std::string usage =
      "tpo_dist bench <verb> [flags]\n  Measures this machine; what an infra team runs on a new cluster.\n";
  std::vector<std::string> names;
  std::string legal;
  for (const Verb& v : kVerbs) {
    usage += cat("  ", v.name, "  ", v.help, "\n");
    legal += cat(names.empty() ? "" : ", ", v.name);
    names.emplace_back(v.name);
  }
  usage += "Example:\n  mpirun -n 2 tpo_dist bench comm --json comm.json\n";
  if (args.empty() || args[0] == "--help") {
    if (world.rank() == 0) std::cout << usage;
    return args.empty() ? kExitFixConfig : kExitDone;
  }
  for (const Verb& v : kVerbs)
    if (args[0] == v.name) return v.run(args.subspan(1), world);
  const std::string near = nearest(args[0], names);
  throw ConfigError(
      cat("unknown verb bench ", args[0], near.empty() ? "" : "; did you mean " + near + "?", "; legal: ", legal));
}

}  // namespace tpo
