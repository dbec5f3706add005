#include <cstdio>
#include <iostream>

#include "core/error.h"
#include "launcher/commands/args.h"
#include "launcher/commands/bench_verbs.h"
#include "launcher/exit_codes.h"
#include "launcher/overlap_replay.h"
#include "launcher/step_plan.h"
#include "model/presets.h"

namespace tpo {

namespace {

const CommandHelp kHelp{
    "bench overlap",
    "How much of a step's communication hides behind compute, with the compute replaced by sleeps, as where a GPU does "
    "it: a real microbatch is timed between the uses and gradients of its parameters, then those are played to the "
    "parameter sync that train uses, in the layout of the configuration. No data is read.",
    "",
    "mpirun -n 2 tpo_dist bench overlap --preset small --set layout.zero=3",
    {{"config", "configuration file (text format of RunConfig)", "", Flag::Kind::kText},
     {"preset", "sizes of a model, instead of a configuration", "", Flag::Kind::kText},
     {"set", "override, path.to.field=value; may be repeated", "", Flag::Kind::kList},
     {"microbatches", "of each rank and step", "1", Flag::Kind::kText},
     {"compute_ms", "forward and backward of a microbatch take so long in all, shared out as measured; 0: as measured",
      "0", Flag::Kind::kText},
     {"steps", "steps that are repeated without communication; before each another is played", "9", Flag::Kind::kText},
     {"rows", "rows of a group in the table; 0: all", "12", Flag::Kind::kText},
     {"json", "also write the report to this file", "", Flag::Kind::kText}}};

config::RunConfig config_of(const Args& args, int ranks) {
  const std::string file = args.text("config"), preset = args.text("preset");
  check<ConfigError>(file.empty() != preset.empty(), "bench overlap: give --config or --preset");
  if (!file.empty()) return load_config(file, args.list("set"), ranks);
  // Short samples: what is measured once is the compute of a CPU.
  return parse_config("model { preset: \"" + preset +
                          "\" } train { samples_per_microbatch: 2 } data { tokenizer: "
                          "\"none\" max_tokens: 256 sets { path: \"none\" } }",
                      "--preset", args.list("set"), ranks);
}

int64_t vocab_of(const config::RunConfig& config) {
  try {
    return make_tokenizer(config)->vocab_size();
  } catch (const Error&) {
    return preset(config.model().preset()).language.vocab;
  }
}

}  // namespace

int run_bench_overlap(std::span<const std::string> words, ProcessGroup& world) {
  const Args args(kHelp, words);
  const bool speaks = world.rank() == 0;
  if (args.help()) {
    if (speaks) std::cout << args.usage();
    return kExitDone;
  }
  args.words(0);
  const config::RunConfig config = config_of(args, world.size());
  const auto microbatches = static_cast<int>(args.integer("microbatches", 1, 1 << 16));
  const int64_t steps = args.integer("steps", 1, 1 << 20), rows = args.integer("rows", 0, 1 << 20);
  const double compute_ms = args.real("compute_ms", 0, 1e9);
  check_writable(args.text("json"), world);
  TrainingData data;
  data.vocab = vocab_of(config);
  Trainer trainer(config, data, world);
  const StepShape shape = shape_of_limits(config, 1);
  ReplayMicrobatch microbatch = record_microbatch(trainer, shape.kinds[0].size, world);
  const double measured_s = microbatch.compute_s();
  for (ReplayEvent& e : microbatch.events) e.compute_s *= compute_ms > 0 ? 1e-3 * compute_ms / measured_s : 1;
  if (speaks)
    std::printf(
        "bench overlap: %d rank(s), %lld parameters in %zu buckets, ZeRO %d; %d microbatch(es) a rank, each %.2f ms of "
        "compute (%.2f measured) in %zu parts%s\n",
        world.size(), static_cast<long long>(trainer.store().numel()), trainer.sync().buckets().size(),
        config.layout().zero(), microbatches, 1e3 * microbatch.compute_s(), 1e3 * measured_s, microbatch.events.size(),
        world.size() > 1 ? "" : "; one rank communicates with nobody: start several with mpirun");
  OverlapReplay replay(trainer, std::move(microbatch), microbatches, world);
  for (int i = 0; i < 2; ++i) replay.step();
  replay.report();  // the first steps take memory from the system
  for (int64_t i = 0; i < 2 * steps; ++i) replay.step();
  const OverlapReport report = replay.report();
  if (!speaks) return kExitDone;
  std::cout << overlap_table(report, static_cast<size_t>(rows)) << std::flush;
  if (const std::string file = args.text("json"); !file.empty())
    write_text(file, overlap_json(report, 2 * steps)
                             .integer("ranks", world.size())
                             .integer("buckets", static_cast<int64_t>(trainer.sync().buckets().size()))
                             .number("compute_s", measured_s)
                             .str() +
                         "\n");
  return kExitDone;
}

}  // namespace tpo
