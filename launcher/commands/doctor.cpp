#include "launcher/commands/doctor.h"

#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <iostream>

#include "core/error.h"
#include "launcher/commands/args.h"
#include "launcher/commands/commands.h"
#include "launcher/config.h"
#include "launcher/exit_codes.h"
#include "launcher/run_files.h"
#include "parallel/comm/mpi_reference.h"

namespace tpo {

namespace {

const CommandHelp kHelp{
    "doctor",
    "Says what these machines and this MPI can do: each finding is OK, WARN or FAIL, with what to do about it. Under "
    "mpirun or srun it examines all ranks and names those that differ. Exit code 0 if nothing is FAIL.",
    "",
    "mpirun -n 4 tpo_dist doctor --config examples/quickstart.textproto --folder runs",
    {{"config", "take threads per rank and the run folder from this configuration", "", Flag::Kind::kText},
     {"set", "override, path.to.field=value; may be repeated", "", Flag::Kind::kList},
     {"folder", "existing folder of runs, in which small files are made and removed; else that of the configuration",
      "", Flag::Kind::kText},
     {"threads", "compute threads of a rank; 0: run.threads of the configuration, or 1", "0", Flag::Kind::kText},
     {"parameters", "trainable parameters of the run to come, such as 7e9, for memory and disk", "0",
      Flag::Kind::kText},
     {"json", "also write facts and findings to this file", "", Flag::Kind::kText}}};

// The nearest folder above that is there: a run folder is made by the first run.
std::string existing(std::filesystem::path folder) {
  while (!folder.empty() && !std::filesystem::exists(folder) && folder != folder.parent_path())
    folder = folder.parent_path();
  return folder.empty() ? "." : folder.string();
}

// Time of day here minus that of rank 0, at the end of a barrier.
int64_t clock_offset_ms(ProcessGroup& world) {
  world.barrier("doctor: clock").wait_host();
  const int64_t mine =
      std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::system_clock::now().time_since_epoch())
          .count();
  const auto all = world.broadcast_bytes(std::as_bytes(std::span(&mine, 1)), 0, "doctor: clock");
  return mine - *reinterpret_cast<const int64_t*>(all.data());
}

// Whether a file that rank 0 made in the folder is there for this rank.
bool sees_file_of_rank0(ProcessGroup& world, const std::string& folder) {
  const std::string mine = cat(folder, "/.tpo_doctor.shared.", getpid());
  const auto name = world.broadcast_bytes(std::as_bytes(std::span(mine)), 0, "doctor: file");
  const std::string path(reinterpret_cast<const char*>(name.data()), name.size());
  bool made = false;
  if (world.rank() == 0) made = std::ofstream(path).put('x').good();
  made = world.all_reduce_value(int64_t{made}, ReduceOp::kMax, "doctor: file made") != 0;
  const bool seen = !made || access(path.c_str(), F_OK) == 0;
  world.barrier("doctor: file seen").wait_host();
  if (world.rank() == 0) unlink(path.c_str());
  return seen;
}

Cluster examine(const Args& args, ProcessGroup& world) {
  int64_t threads = args.integer("threads", 0, 1024);
  std::string folder = args.text("folder");
  check<ConfigError>(args.given("config") || args.list("set").empty(),
                     "doctor: --set changes a configuration; give --config with it, or --threads and --folder alone");
  if (args.given("config")) {
    const config::RunConfig config = load_config(args.text("config"), args.list("set"));
    if (threads == 0) threads = config.run().threads();
    if (folder.empty()) folder = existing(config.run().folder());
  }
  if (folder.empty()) folder = ".";
  std::vector<int> nodes = mpi_nodes();
  nodes.resize(static_cast<size_t>(world.size()), 0);
  MachineFacts mine = collect_facts(world.rank(), world.size(), nodes[static_cast<size_t>(world.rank())], folder,
                                    std::max<int64_t>(1, threads));
  mine.sees_rank0 = sees_file_of_rank0(world, folder) ? 1 : 0;
  mine.clock_ms = clock_offset_ms(world);
  Cluster cluster{.ranks = {}, .parameters = args.real("parameters", 0, 1e15)};
  const std::string text = to_text(mine);
  for (const auto& bytes : world.all_gather_bytes(std::as_bytes(std::span(text)), "doctor: facts"))
    cluster.ranks.push_back(facts_from_text({reinterpret_cast<const char*>(bytes.data()), bytes.size()}));
  return cluster;
}

std::string table(const std::vector<Diagnosis>& all) {
  std::string out;
  int counts[3] = {};
  for (const Diagnosis& d : all) {
    const std::string level = name_of(d.finding.level);
    ++counts[static_cast<size_t>(d.finding.level)];
    out += level + std::string(6 - level.size(), ' ') + d.check +
           std::string(21 - std::min<size_t>(20, d.check.size()), ' ') + d.finding.fact +
           (d.where.empty() ? "" : "  [" + d.where + "]") + "\n";
    if (!d.finding.remedy.empty()) out += std::string(27, ' ') + "-> " + d.finding.remedy + "\n";
  }
  return out + cat(counts[0], " OK, ", counts[1], " WARN, ", counts[2], " FAIL\n");
}

std::string json(const Cluster& cluster, const std::vector<Diagnosis>& all) {
  std::string findings, ranks;
  for (const Diagnosis& d : all) {
    JsonLine line;
    line.text("check", d.check).text("level", name_of(d.finding.level)).text("fact", d.finding.fact);
    line.text("remedy", d.finding.remedy).text("where", d.where);
    findings += (findings.empty() ? "\n" : ",\n") + line.str();
  }
  for (const MachineFacts& f : cluster.ranks) {
    JsonLine line;
    each_field(f, [&](const char* name, const auto& value) {
      if constexpr (std::is_same_v<std::decay_t<decltype(value)>, std::string>) {
        line.text(name, value);
      } else {
        line.integer(name, value);
      }
    });
    ranks += (ranks.empty() ? "\n" : ",\n") + line.str();
  }
  return JsonLine().raw("findings", "[" + findings + "]").raw("ranks", "[" + ranks + "]").str() + "\n";
}

}  // namespace

int run_doctor(std::span<const std::string> words, ProcessGroup& world) {
  const Args args(kHelp, words);
  if (args.help()) {
    if (world.rank() == 0) std::cout << args.usage();
    return kExitDone;
  }
  args.words(0);
  const Cluster cluster = examine(args, world);
  const std::vector<Diagnosis> all = diagnose(cluster);
  bool failed = false;
  for (const Diagnosis& d : all) failed |= d.finding.level == Level::kFail;
  // Tasks of srun that do not know each other are all rank 0; one of them speaks.
  const char* task = std::getenv("SLURM_PROCID");
  const bool first_task = world.size() > 1 || task == nullptr || std::string(task) == "0";
  if (world.rank() == 0 && first_task) {
    std::cout << table(all);
    if (const std::string file = args.text("json"); !file.empty()) write_text(file, json(cluster, all));
  }
  return failed ? kExitBadMachine : kExitDone;
}

}  // namespace tpo
