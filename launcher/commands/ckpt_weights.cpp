#include "launcher/commands/ckpt_weights.h"

#include <algorithm>
#include <filesystem>
#include <iostream>

#include "checkpoint/manifest.h"
#include "checkpoint/sift.h"
#include "checkpoint/together.h"
#include "checkpoint/weights/export.h"
#include "checkpoint/weights/import.h"
#include "launcher/build.h"
#include "launcher/commands/checkpoint_model.h"
#include "launcher/exit_codes.h"

namespace tpo {

namespace {

std::string layouts_text() {
  std::string text;
  for (const std::string& name : layout_names()) text += "\n        " + name + ": " + layout_of(name).about;
  return text;
}

const Flag kAllowMissing{"allow-missing", "pattern of names that may lack a source; repeatable", "", Flag::Kind::kList};
const Flag kDryRun{"dry_run", "look and report, write nothing; of values only tied tables are looked at", "",
                   Flag::Kind::kSwitch};
const Flag kAllowOverflow{"allow-overflow", "values beyond a narrower type become infinite", "", Flag::Kind::kSwitch};

void print(const std::vector<std::string>& lines) {
  for (const std::string& line : lines) std::cout << line << "\n";
}

// "3 <what>: a, b (remark), c", the first 20.
void print_names(const std::string& what, const std::vector<NameNote>& notes) {
  std::vector<NameNote> shown = notes;
  for (NameNote& n : shown) n.text = n.text.empty() || n.text == n.name ? n.name : n.name + " (" + n.text + ")";
  std::string line;
  sift(shown, {}, what, line);
  if (!line.empty()) std::cout << line.substr(2) << "\n";
}

// A checkpoint there would be replaced, and a run that has one would go back to step 0.
void check_empty(const std::string& dir) {
  check<ConfigError>(!std::filesystem::exists(dir) || std::filesystem::is_directory(dir), "--out ", dir,
                     " is no folder");
  const auto folders = list_checkpoints(dir);
  check<ConfigError>(folders.empty() && latest(dir).empty(), "--out ", dir, " has checkpoints already",
                     folders.empty() ? "" : ", " + folders.front() + " among them", "; give a new folder");
}

}  // namespace

const CommandHelp& import_help() {
  static const CommandHelp help{
      "ckpt import",
      "Makes a checkpoint of public weights in safetensors: OUT/step_00000000, from which training starts with\n"
      "  checkpoint.init_from. --from and --layout are pairs; several fill one model. bf16 and fp32 keep their bits, "
      "fp16\n"
      "  becomes fp32. Everything missing, unexpected or of another shape is listed and refused unless a pattern "
      "allows "
      "it;\n"
      "  parts that the layouts do not cover keep the initial values of the run. Under mpirun the ranks share the "
      "work.",
      "",
      "tpo_dist ckpt import --from VideoChat-TPO --layout videochat_tpo --config run.textproto --out weights/tpo",
      {{"from", "folder (or file) with *.safetensors; repeatable", "", Flag::Kind::kList},
       {"layout", "of that folder; one of" + layouts_text(), "", Flag::Kind::kList},
       {"config", "run configuration: sizes of the model, tokenizer", ""},
       {"set", "path=value over the configuration; repeatable", "", Flag::Kind::kList},
       {"out", "folder for the checkpoint", ""},
       {"dtype", "stored: as in the file; fp32; bf16", "stored"},
       {"merge_lora", "add adapters of the files into their weights, whichever file these are in", "",
        Flag::Kind::kSwitch},
       {"lora_scale", "what their product is multiplied with: alpha / rank of the file", "2"},
       kAllowMissing,
       {"allow-unexpected", "pattern of their names that may have no place; repeatable", "", Flag::Kind::kList},
       {"allow-shape", "pattern of parameters that keep their initial values if shapes differ; repeatable", "",
        Flag::Kind::kList},
       kAllowOverflow,
       kDryRun}};
  return help;
}

const CommandHelp& export_help() {
  static const CommandHelp help{
      "ckpt export",
      "Writes the weights of a checkpoint as safetensors in a public layout, for transformers or the authors' code.\n"
      "  With --base, the spelling of names, the division into files, the element types and the tensors of parts that "
      "this\n"
      "  version does not have are those of the public checkpoint that training started from; what has a parameter "
      "here "
      "is\n"
      "  never taken from it. Vocabulary rows added by import are left out again.",
      "",
      "tpo_dist ckpt export --from runs/x --layout videochat_tpo --base VideoChat-TPO --out for_the_authors",
      {{"from", "checkpoint, or run folder (its newest)", ""},
       {"layout", "as of ckpt import", ""},
       {"out", "new folder", ""},
       {"base", "folder of the public checkpoint", ""},
       {"dtype", "bf16, fp16, fp32; stored: of the base, else of the checkpoint", "stored"},
       {"lora", "adapters without a name in the layout: refuse, merge into the weights, drop", "refuse"},
       {"shard_gb", "largest file in 10^9 bytes, without --base", "5"},
       kAllowMissing,
       kAllowOverflow,
       kDryRun}};
  return help;
}

int ckpt_import(const Args& args, ProcessGroup& world) {
  args.words(0);
  const std::vector<std::string> from = args.list("from"), layout = args.list("layout");
  check<ConfigError>(!from.empty() && from.size() == layout.size(),
                     "--from and --layout are given in pairs; there are ", from.size(), " and ", layout.size());
  std::vector<std::pair<std::string, std::string>> sources;
  for (size_t i = 0; i < from.size(); ++i) sources.emplace_back(from[i], layout[i]);
  config::RunConfig config = load_config(args.required("config"), args.list("set"));
  const auto tokenizer = make_tokenizer(config);
  const int64_t vocab = tokenizer->vocab_size();
  resolve_tokenizer(*tokenizer, nullptr, config);
  WeightsImportOptions options;
  options.lora = {args.is_on("merge_lora"), static_cast<float>(args.real("lora_scale", 0, 65536))};
  const int dtype = args.choice("dtype", {"stored", "fp32", "bf16"});
  if (dtype > 0) options.dtype = dtype == 1 ? DType::kF32 : DType::kBF16;
  options.allow_missing = args.list("allow-missing"), options.allow_unexpected = args.list("allow-unexpected");
  options.allow_shape = args.list("allow-shape"), options.allow_overflow = args.is_on("allow-overflow");
  const bool dry = args.is_on("dry_run");
  const std::string out = args.required("out");
  together(world, [&] {
    if (world.rank() == 0) check_empty(out);
    return std::string();
  });
  const WeightImport import(sources, parameter_shapes(config, vocab), options);
  const bool first = world.rank() == 0;
  if (first) print(import.report());
  if (dry && first) std::cout << "would write " << import.bytes() << " bytes" << std::endl;
  import.require_fit();
  if (dry) return kExitDone;
  TrainState state{import.tensors(), {}, resolved_text(config), model_fingerprint(config, vocab)};
  const std::string folder = save(out, 0, state, world);
  if (first)
    std::cout << folder << ": " << state.tensors.size() << " tensors, " << import.bytes() << " bytes" << std::endl;
  return kExitDone;
}

int ckpt_export(const Args& args, ProcessGroup&) {
  args.words(0);
  const std::string from = resolve_checkpoint(args.required("from"));
  ExportOptions options;
  options.layout = args.required("layout"), options.base = args.text("base");
  constexpr SafeType kTypes[] = {SafeType::kBF16, SafeType::kF16, SafeType::kF32};
  const int dtype = args.choice("dtype", {"stored", "bf16", "fp16", "fp32"});
  if (dtype > 0) options.type = kTypes[dtype - 1];
  const int lora = args.choice("lora", {"refuse", "merge", "drop"});
  options.drop_adapters = lora == 2;
  if (lora == 1) {
    const config::RunConfig config =
        parse_saved_config(read_checkpoint_manifest(from).config(), from + " (configuration)", {});
    const LanguageConfig language = make_model_config(config, 1).language;
    options.lora = {true, language.lora_alpha / static_cast<float>(std::max<int64_t>(language.lora_rank, 1))};
  }
  options.shard_bytes = static_cast<int64_t>(args.real("shard_gb", 1e-6, 1e6) * 1e9);
  options.allow_missing = args.list("allow-missing"), options.allow_overflow = args.is_on("allow-overflow");
  const bool dry = args.is_on("dry_run");
  const ExportReport report = export_weights(from, args.required("out"), options, dry);
  print_names("tensors of the checkpoint without a name in layout " + options.layout, report.left_out);
  print_names("names of the layout that are left out", report.unwritten);
  print_names("tensors that the layout does not know, copied from the base", report.unknown);
  print_names("names written that the base lacks", report.added);
  for (const NameNote& n : report.untied)
    std::cout << n.name << " differs from " << n.text << ", which the base has for both: the configuration of the "
              << "exported model needs tie_word_embeddings false, or readers ignore " << n.name << "\n";
  if (report.beyond > 0)
    std::cout << report.beyond << " layers beyond the depth of this model's tower, copied from the base\n";
  if (lora == 1 || report.merged > 0) std::cout << "adapters merged into their weights: " << report.merged << "\n";
  std::vector<NameNote> zeros = report.zeroed;
  const size_t plain = std::erase_if(zeros, [](const NameNote& n) { return n.text.empty(); });
  if (plain > 0)
    std::cout << "weights without adapters here: " << plain << "; the base's lora_B of these become zeros\n";
  print_names("tensors of the base that become zeros", zeros);
  std::cout << args.required("out") << (dry ? ": would have " : ": ") << report.tensors << " tensors, " << report.bytes
            << " bytes, " << report.from_base << " tensors from the base" << std::endl;
  return kExitDone;
}

}  // namespace tpo
