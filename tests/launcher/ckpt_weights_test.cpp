// `ckpt import` and `ckpt export`, called as the binary calls them, on every name of the released checkpoint.
#include "launcher/commands/ckpt_weights.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <set>
#include <sstream>

#include "checkpoint/manifest.h"
#include "checkpoint/safetensors/safetensors.h"
#include "checkpoint/weights/plan.h"
#include "launcher/commands/commands.h"
#include "launcher/exit_codes.h"
#include "launcher/trainer.h"
#include "tests/checkpoint/checkpoint_support.h"
#include "tests/launcher/tiny_run.h"

namespace tpo {
namespace {

// The model of `official_layout.py --size nano`.
config::RunConfig nano() {
  const std::string& folder = TinyRun::get().folder();
  return parse_config(cat(slurp(TPO_SOURCE_DIR "/tests/checkpoint/official_nano.textproto"), "data { tokenizer: \"",
                          folder, "/tokenizer.model\" sets { path: \"", folder, "/region\" } }"),
                      "nano", {});
}

constexpr const char* kGenerator = TPO_PYTHON " " TPO_SOURCE_DIR "/tests/checkpoint/official_layout.py ";

class CkptWeights : public testing::Test {
 protected:
  CkptWeights() : config_(dir_.path() + "/run.textproto") {
    write_text(config_, resolved_text(nano()));
    const std::string command = cat(kGenerator, public_, " --size nano --shard-bytes 150000");
    EXPECT_EQ(std::system(command.c_str()), 0) << command;
  }
  std::vector<std::string> import_words(const std::string& out, std::vector<std::string> more = {}) const {
    std::vector<std::string> words{"import",   "--from", public_, "--layout", "videochat_tpo",
                                   "--config", config_,  "--out", out};
    words.insert(words.end(), more.begin(), more.end());
    return words;
  }
  std::string run(const std::vector<std::string>& words, int ranks = 1) {
    testing::internal::CaptureStdout();
    try {
      run_ranks(ranks, [&](ProcessGroup& world) { EXPECT_EQ(run_ckpt(words, world), kExitDone); });
    } catch (...) {
      testing::internal::GetCapturedStdout();
      throw;
    }
    return testing::internal::GetCapturedStdout();
  }

  // What the generator prints, line by line.
  std::vector<std::vector<std::string>> words_of(const std::string& arguments) const {
    const std::string path = dir_.path() + "/printed";
    EXPECT_EQ(std::system(cat(kGenerator, arguments, " > ", path).c_str()), 0);
    std::vector<std::vector<std::string>> lines;
    std::ifstream in(path);
    for (std::string line, word; std::getline(in, line);) {
      std::istringstream words(line);
      auto& out = lines.emplace_back();
      while (words >> word) out.push_back(word);
    }
    return lines;
  }

  TempFolder dir_;
  const std::string config_, public_ = dir_.path() + "/public";
};

TEST_F(CkptWeights, the_released_layout_comes_in_on_two_ranks_and_goes_out_byte_for_byte) {
  const std::string in = dir_.path() + "/in", out = dir_.path() + "/out";
  const std::string said = run(import_words(in), 2);
  EXPECT_NE(said.find("part not built yet: mask head"), std::string::npos) << said;
  EXPECT_NE(said.find("part not built yet: temporal head"), std::string::npos);
  const std::string exported =
      run({"export", "--from", in, "--layout", "videochat_tpo", "--base", public_, "--out", out});
  const std::string count = cat(out, ": ", SafetensorsReader(public_).tensors().size(), " tensors");
  EXPECT_NE(exported.find(count), std::string::npos) << exported;
  int files = 0;
  for (const auto& e : std::filesystem::directory_iterator(public_)) {
    const std::string name = e.path().filename().string();
    if (name.ends_with(".json")) continue;
    EXPECT_EQ(slurp(public_ + "/" + name), slurp(out + "/" + name)) << name;
    ++files;
  }
  EXPECT_GT(files, 3);
}

TEST_F(CkptWeights, a_run_starts_from_what_came_in) {
  const std::string in = dir_.path() + "/in";
  run(import_words(in));
  const config::Data stored = read_saved(read_checkpoint_manifest(latest(in)).config()).data();
  EXPECT_EQ(stored.tokenizer_fingerprint(), make_tokenizer(nano())->fingerprint()) << "so that runs compare theirs";
  const auto single = make_single();
  ParamStore store(1);
  const TpoModel model(store, make_model_config(nano(), 400), *single);
  const float before = store.find("heads.region.fc2.bias")->value.data<float>()[0];
  load_weights(latest(in), store, *single);
  const float after = store.find("heads.region.fc2.bias")->value.data<float>()[0];
  EXPECT_NE(std::memcmp(&before, &after, sizeof after), 0);
  SafetensorsReader reader(public_);
  const auto& entry = reader.tensors().at("loc_decoder.2.bias");
  uint16_t bits = 0;
  reader.read(entry, 0, std::as_writable_bytes(std::span(&bits, 1)));
  uint32_t wide = 0;
  std::memcpy(&wide, &after, sizeof wide);
  EXPECT_EQ(wide, static_cast<uint32_t>(bits) << 16);
}

TEST_F(CkptWeights, nothing_is_written_before_everything_fits) {
  const std::string in = dir_.path() + "/in";
  config::RunConfig linear = nano();
  linear.mutable_model()->mutable_connector()->Clear();
  linear.mutable_model()->mutable_connector()->set_kind("linear");
  write_text(config_, resolved_text(linear));
  const std::string said = message_of<ConfigError>([&] { run(import_words(in)); });
  write_text(config_, resolved_text(nano()));
  EXPECT_NE(said.find("(--allow-unexpected): extra_query_tokens (this model has no"), std::string::npos) << said;
  EXPECT_FALSE(std::filesystem::exists(in));
  EXPECT_NE(run(import_words(in, {"--dry_run"})).find("would write"), std::string::npos);
  EXPECT_FALSE(std::filesystem::exists(in));
  const std::vector<std::string> other{"--set", "model.language.width=64"};
  EXPECT_NE(message_of<ConfigError>([&] { run(import_words(in, other)); }).find("of another shape (--allow-shape)"),
            std::string::npos);
  run(import_words(in));
  const std::string newest = slurp(in + "/latest");
  EXPECT_NE(message_of<ConfigError>([&] {
              run(import_words(in, {"--dtype", "fp32"}));
            }).find("has checkpoints already"),
            std::string::npos);
  EXPECT_NE(message_of<ConfigError>([&] { run(import_words(in, {"--dry_run"})); }).find("has checkpoints already"),
            std::string::npos);
  EXPECT_NE(message_of<ConfigError>([&] { run(import_words(config_)); }).find("is no folder"), std::string::npos);
  EXPECT_EQ(slurp(in + "/latest"), newest);
  EXPECT_NE(message_of<ConfigError>([&] { run({"import", "--from", public_}); }).find("in pairs"), std::string::npos);
  EXPECT_NE(message_of<ConfigError>([&] { run({"ls", in}, 2); }).find("runs as one process"), std::string::npos);
}

// The names and sizes that the generator claims are those of the public index.
TEST_F(CkptWeights, the_generator_agrees_with_the_released_checkpoint) {
  EXPECT_EQ(std::system(cat(kGenerator, "--check > /dev/null").c_str()), 0);
}

// Query is query, gate is gate, the first norm the first: the names are those under which the goldens equal the public
// modules.
TEST_F(CkptWeights, names_are_those_under_which_the_parts_equal_the_public_ones) {
  const std::pair<const char*, size_t> layouts[] = {
      {"videochat_tpo", 120}, {"videochat2_mistral", 100}, {"mistral", 20}, {"bert", 30}, {"llava_ov", 50}};
  for (const auto& [layout, least] : layouts) {
    std::vector<NamedShape> theirs, ours;
    for (const std::vector<std::string>& pair : words_of(cat("--names --layout ", layout)))
      theirs.push_back({pair.at(0), {2, 2}}), ours.push_back({pair.at(1), {2, 2}});
    const ImportPlan plan = plan_import(layout_of(layout), theirs, ours, {});
    ASSERT_EQ(plan.recipes.size(), ours.size()) << layout;
    EXPECT_GT(ours.size(), least) << layout;
    for (size_t i = 0; i < ours.size(); ++i) EXPECT_EQ(plan.recipes[i].source, i) << layout << " " << ours[i].name;
  }
}

// At full size, without bytes: every public name and shape has its parameter in the preset, and the parameters without
// one are those that the public model lacks.
TEST_F(CkptWeights, every_released_name_and_shape_has_a_parameter) {
  const std::string text = "model { preset: \"videochat_tpo_7b\" } data { tokenizer: \"x\" sets { path: \"x\" } }";
  const std::vector<NamedShape> ours = parameter_shapes(parse_config(text, "7b", {}), 32000);
  const struct {
    const char* layout;
    std::vector<std::string> without;  // ours, by pattern
    std::set<std::string> later;
  } cases[] = {
      {"videochat_tpo", {}, {"mask head", "temporal head"}},
      {"mistral", {"vision.*", "connector.*", "heads.*", "task_tokens.*", "box_encoder.*", "language.*.lora_?"}, {}},
      {"videochat2_mistral", {"heads.*", "task_tokens.*", "box_encoder.*", "language.*weight"}, {}},
      {"bert",
       {"vision.*", "language.*", "heads.*", "task_tokens.*", "box_encoder.*", "connector.*queries",
        "connector.layers.*.cross*", "connector.project_up.*"},
       {}},
  };
  for (const auto& c : cases) {
    SCOPED_TRACE(c.layout);
    std::vector<NamedShape> theirs;
    for (const std::vector<std::string>& words : words_of(cat("--list --size full --layout ", c.layout))) {
      NamedShape& t = theirs.emplace_back(words.at(0), Shape{});
      for (size_t d = 1; d < words.size(); ++d) t.shape.push_back(std::stoll(words[d]));
    }
    const ImportPlan plan = plan_import(layout_of(c.layout), theirs, ours, {});
    for (const auto* notes : {&plan.unexpected, &plan.reshaped})
      for (const NameNote& n : *notes) ADD_FAILURE() << n.name << " " << n.text;
    std::set<std::string> made, later;
    for (const Recipe& r : plan.recipes) made.insert(r.name);
    for (const NameNote& n : plan.later) later.insert(n.text);
    EXPECT_EQ(later, c.later);
    for (const NamedShape& o : ours) {
      const bool expected =
          std::none_of(c.without.begin(), c.without.end(), [&](const std::string& p) { return glob_match(p, o.name); });
      EXPECT_EQ(made.contains(o.name), expected) << o.name;
    }
  }
}

}  // namespace
}  // namespace tpo
