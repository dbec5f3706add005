#pragma once
// A tiny world, tokenizer, datasets and configuration on disk, made once per test process.
#include <unistd.h>

#include <filesystem>
#include <string>
#include <vector>

#include "data/length_index.h"
#include "data/synth/generate.h"
#include "data/tokenizer/sentencepiece.h"
#include "launcher/build.h"
#include "launcher/run_files.h"

namespace tpo {

class TinyRun {
 public:
  static const TinyRun& get() {
    static const TinyRun run;
    return run;
  }
  const std::string& folder() const { return folder_; }

  // The configuration with overrides; every call gets its own run folder.
  config::RunConfig config(std::vector<std::string> sets = {}) const {
    static int count = 0;
    sets.push_back("run.folder=" + folder_ + "/run" + std::to_string(count++));
    return parse_config(text_, "tiny", sets);
  }

 private:
  TinyRun() : folder_(std::filesystem::temp_directory_path() / ("tpo_tiny_" + std::to_string(::getpid()))) {
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directories(folder_);
    SynthOptions synth;
    const std::string model = train_sentencepiece(world_text(synth), {400, "bpe"});
    write_text(folder_ + "/tokenizer.model", model);
    text_ = R"(
run { seed: 3 }
model {
  preset: "nano"
  vision { image_size: 32 patch: 8 width: 32 heads: 2 depth: 1 mlp_hidden: 64 }
  connector { kind: "linear" }
  language { width: 48 layers: 2 heads: 4 kv_heads: 2 head_dim: 12 mlp_hidden: 64 lora_rank: 4 lora_dropout: 0.1 }
  region { hidden: 32 }
}
train { steps: 10 microbatches_per_step: 4 samples_per_microbatch: 2 }
optimizer { lr: 1e-3 }
data { tokenizer: ")" +
            folder_ + R"(/tokenizer.model" sets { path: ")" + folder_ + R"(/region" weight: 1 } sets { path: ")" +
            folder_ + R"(/conversation" weight: 1 } })";
    const config::RunConfig c = parse_config(text_, "tiny", {});
    const auto tokenizer = make_tokenizer(c);
    const auto templates = make_templates(c, *tokenizer);
    for (const char* kind : {"region", "conversation"}) {
      write_world_dataset(synth, "train", kind, 12, folder_ + "/" + kind, "test");
      build_length_index(DatasetFolder(folder_ + "/" + kind), *templates, 1);
    }
  }
  ~TinyRun() { std::filesystem::remove_all(folder_); }

  std::string folder_, text_;
};

}  // namespace tpo
