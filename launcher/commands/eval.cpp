#include <iostream>

#include "launcher/commands/args.h"
#include "launcher/commands/checkpoint_model.h"
#include "launcher/commands/commands.h"
#include "launcher/evaluator.h"
#include "launcher/exit_codes.h"
#include "launcher/run_files.h"

namespace tpo {

namespace {

const CommandHelp kHelp{
    "eval",
    "Scores a checkpoint on held-out datasets: boxes asked for by text, and short answers, beside baselines. Prompts "
    "are "
    "made as the run's data.* and connector.tiling say: tiles, messages about frame times, texts for a Q-Former.",
    "",
    "mpirun -n 2 tpo_dist eval --checkpoint runs/quickstart --set eval.samples=1000",
    {{"checkpoint", "checkpoint folder, or a run folder (its newest checkpoint)", "", Flag::Kind::kText},
     {"dataset", "dataset folder; may be repeated; default: data.eval_sets of the run", "", Flag::Kind::kList},
     {"pictures", "folder for pictures with drawn predictions; default: none", "", Flag::Kind::kText},
     {"set", "override of the run's configuration, path=value; may be repeated", "", Flag::Kind::kList}}};

}  // namespace

int run_eval(std::span<const std::string> words, ProcessGroup& world) {
  const Args args(kHelp, words);
  if (args.help()) {
    if (world.rank() == 0) std::cout << args.usage();
    return kExitDone;
  }
  args.words(0);
  const CheckpointModel loaded(args.required("checkpoint"), args.list("set"), world);
  std::vector<std::string> folders = args.list("dataset");
  if (folders.empty())
    for (const auto& set : loaded.config().data().eval_sets()) folders.push_back(set.path());
  check<ConfigError>(!folders.empty(), "the run has no data.eval_sets; give --dataset FOLDER");
  for (const auto& path : folders) {
    const DatasetFolder folder(path);
    EvalOptions options;
    options.samples = loaded.config().eval().samples();
    options.generate = make_generate_options(loaded.config(), loaded.tokenizer());
    if (args.given("pictures")) {
      options.pictures = loaded.config().eval().pictures();
      options.picture_folder = args.required("pictures");
    }
    const EvalResult r =
        evaluate(loaded.model(), folder, loaded.templates(), make_collate_options(loaded.config()), options, world);
    if (world.rank() == 0) std::cout << describe(r) << std::endl;
  }
  return kExitDone;
}

}  // namespace tpo
