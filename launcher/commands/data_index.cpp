// tpo_dist data index: what every sample costs, so that plans need no data.
#include <algorithm>
#include <iostream>
#include <set>

#include "core/error.h"
#include "data/length_index.h"
#include "launcher/build.h"
#include "launcher/commands/args.h"
#include "launcher/commands/data_verbs.h"
#include "launcher/exit_codes.h"

namespace tpo {

int data_index(std::span<const std::string> words) {
  const Args args({"data index",
                   "Writes the length index of every dataset of a configuration; training and evaluation read it.",
                   "",
                   "tpo_dist data index --config examples/quickstart.textproto",
                   {{"config", "run configuration", "", Flag::Kind::kText},
                    {"set", "override, path=value", "", Flag::Kind::kList},
                    {"threads", "tokenizing threads", "2", Flag::Kind::kText}}},
                  words);
  if (args.help()) {
    std::cout << args.usage();
    return kExitDone;
  }
  args.words(0);
  const config::RunConfig config = load_config(args.required("config"), args.list("set"));
  const int threads = static_cast<int>(args.integer("threads", 1, 1024));
  const auto tokenizer = make_tokenizer(config);
  const auto templates = make_templates(config, *tokenizer);
  std::set<std::string> folders;
  for (const auto& set : config.data().sets()) folders.insert(set.path());
  for (const auto& set : config.data().eval_sets()) folders.insert(set.path());
  check<ConfigError>(!folders.empty(), "data index: the configuration names no datasets");
  for (const std::string& folder : folders) {
    const DatasetFolder dataset(folder);
    const auto lengths = build_length_index(dataset, *templates, threads, progress_printer(folder));
    int64_t longest = 0, tokens = 0, slots = 0, views = 0, beside = 0;
    for (const LengthEntry& e : lengths) {
      longest = std::max<int64_t>(longest, e.tokens);
      tokens += e.tokens, slots += e.visual_slots, views += e.views, beside += e.connector_tokens;
    }
    std::cout << length_index_path(dataset, *templates) << ": " << lengths.size() << " samples, " << tokens
              << " tokens, longest " << longest << "; " << slots << " are slots of " << views << " views";
    if (beside > 0) std::cout << "; " << beside << " tokens beside media";
    std::cout << "\n";
  }
  return kExitDone;
}

}  // namespace tpo
