// `ckpt import` and `ckpt export`, called as the binary calls them, on every name of the released checkpoint.
#include "launcher/commands/ckpt_weights.h"

#include <cstdlib>
#include <cstring>
#include <map>

#include "checkpoint/safetensors/safetensors.h"
#include "launcher/commands/commands.h"
#include "launcher/exit_codes.h"
#include "launcher/trainer.h"
#include "tests/checkpoint/checkpoint_support.h"
#include "tests/launcher/tiny_run.h"

namespace tpo {
namespace {

// What the present model does not have of the released one.
const std::vector<std::string> kWithoutQformer{"--allow-unexpected", "qformer.*",     "--allow-unexpected",
                                               "*query_tokens",      "--allow-shape", "connector.*",
                                               "--allow-missing",    "connector.*"};

class CkptWeights : public testing::Test {
 protected:
  CkptWeights() : config_(dir_.path() + "/run.textproto") {
    write_text(config_, resolved_text(TinyRun::get().config()));
    const std::string command = cat(TPO_PYTHON " " TPO_SOURCE_DIR "/tests/checkpoint/official_layout.py ", public_,
                                    " --size nano --shard-bytes 150000");
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

  TempFolder dir_;
  const std::string config_, public_ = dir_.path() + "/public";
};

TEST_F(CkptWeights, the_released_layout_comes_in_on_two_ranks_and_goes_out_byte_for_byte) {
  const std::string in = dir_.path() + "/in", out = dir_.path() + "/out";
  const std::string said = run(import_words(in, kWithoutQformer), 2);
  EXPECT_NE(said.find("part not built yet: mask head"), std::string::npos) << said;
  EXPECT_NE(said.find("part not built yet: temporal head"), std::string::npos);
  const std::string exported = run(
      {"export", "--from", in, "--layout", "videochat_tpo", "--base", public_, "--out", out, "--allow-missing", "*"});
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
  run(import_words(in, kWithoutQformer));
  const auto single = make_single();
  const config::RunConfig config = TinyRun::get().config();
  ParamStore store(1);
  const TpoModel model(store, make_model_config(config, 400), *single);
  LoadOptions allow;
  allow.allow_missing = {"connector.*"}, allow.allow_unexpected = {"connector.*"};
  const float before = store.find("heads.region.fc2.bias")->value.data<float>()[0];
  load_weights(latest(in), store, *single, allow);
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
  const std::string said = message_of<ConfigError>([&] { run(import_words(in)); });
  EXPECT_NE(said.find("(--allow-unexpected): extra_query_tokens (this model has no"), std::string::npos) << said;
  EXPECT_FALSE(std::filesystem::exists(in));
  std::vector<std::string> dry = kWithoutQformer;
  dry.push_back("--dry_run");
  EXPECT_NE(run(import_words(in, dry)).find("would write"), std::string::npos);
  EXPECT_FALSE(std::filesystem::exists(in));
  std::vector<std::string> other = kWithoutQformer;
  other.insert(other.end(), {"--set", "model.language.width=64"});
  EXPECT_NE(message_of<ConfigError>([&] { run(import_words(in, other)); }).find("of another shape (--allow-shape)"),
            std::string::npos);
  EXPECT_NE(message_of<ConfigError>([&] { run({"import", "--from", public_}); }).find("in pairs"), std::string::npos);
  EXPECT_NE(message_of<ConfigError>([&] { run({"ls", in}, 2); }).find("runs as one process"), std::string::npos);
}

// The names and sizes that the generator claims are those of the public index.
TEST_F(CkptWeights, the_generator_agrees_with_the_released_checkpoint) {
  EXPECT_EQ(std::system(TPO_PYTHON " " TPO_SOURCE_DIR "/tests/checkpoint/official_layout.py --check > /dev/null"), 0);
}

}  // namespace
}  // namespace tpo
