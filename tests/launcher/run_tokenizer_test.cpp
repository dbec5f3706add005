// Tokenizers of a run that are not those of its checkpoint, or have ids without tokens.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <utility>

#include "checkpoint/manifest.h"
#include "data/tokenizer/load_tokenizer.h"
#include "launcher/commands/checkpoint_model.h"
#include "launcher/evaluator.h"
#include "launcher/trainer.h"
#include "tests/launcher/tiny_run.h"

namespace tpo {
namespace {

// A folder with the tokenizer of the run and one more file beside it.
std::string tokenizer_beside(const std::string& name, const std::string& text) {
  const std::string folder = TinyRun::get().folder() + "/beside_" + name;
  std::filesystem::create_directories(folder);
  std::filesystem::copy(TinyRun::get().folder() + "/tokenizer.model", folder,
                        std::filesystem::copy_options::overwrite_existing);
  write_text(folder + "/" + name, text);
  return folder;
}

TEST(evaluator, a_model_that_writes_ids_without_a_token_ends_no_evaluation) {
  const std::string gap = tokenizer_beside("added_tokens.json", "{\"<pad>\":420}");
  const auto c = TinyRun::get().config({"data.tokenizer=" + gap});
  const auto tokenizer = make_tokenizer(c);
  ASSERT_EQ(tokenizer->empty_ids(), (std::vector<std::pair<int32_t, int32_t>>{{400, 420}}));
  const auto templates = make_templates(c, *tokenizer);
  const auto alone = make_single("tensor");
  ParamStore store(1);
  const TpoModel model(store, make_model_config(c, tokenizer->vocab_size()), *alone);
  Tensor head = store.find("language.lm_head.weight")->value;
  for (int64_t i = 400 * head.dim(1); i < 420 * head.dim(1); ++i) head.data<float>()[i] *= 1000;
  const DatasetFolder folder(TinyRun::get().folder() + "/conversation");
  const RawSample raw = folder.read(0);
  EvalOptions eval;
  eval.samples = 4;
  for (const bool excluded : {false, true}) {
    if (excluded) eval.generate = make_generate_options(c, *tokenizer);
    eval.generate.max_new_tokens = 6;
    EXPECT_GT(evaluate(model, folder, *templates, make_collate_options(c), eval, *alone).answers, 0);
    const Batch prompt = make_prompt(raw, templates->encode_prompt(raw.sample, 0), make_collate_options(c));
    const std::vector<int32_t> written = generate(model, prompt, eval.generate).tokens;
    const auto empty = [](int32_t id) { return id >= 400 && id < 420; };
    EXPECT_EQ(std::none_of(written.begin(), written.end(), empty), excluded);
  }
}

TEST(trainer, a_checkpoint_names_its_tokenizer_and_another_of_the_same_size_is_refused) {
  const auto c = TinyRun::get().config(), any = TinyRun::get().config({"checkpoint.allow_other_tokenizer=true"});
  TrainingData data = make_training_data(c);
  const auto world = make_single();
  std::string folder;
  {
    Trainer t(c, data, *world);
    folder = t.save();
  }
  const config::Data saved = read_saved(read_checkpoint_manifest(folder).config()).data();
  EXPECT_EQ(saved.tokenizer_tokens(), data.vocab);
  EXPECT_EQ(saved.tokenizer_fingerprint(), data.tokenizer->fingerprint());
  const std::string other = tokenizer_beside("tokenizer_config.json", "{\"eos_token\":\"<unk>\"}");
  const auto first = std::exchange(data.tokenizer, load_tokenizer(other));
  ASSERT_EQ(data.tokenizer->vocab_size(), data.vocab);
  const auto error = [](const auto& fn) -> std::string {
    try {
      fn();
    } catch (const Error& e) {
      return e.what();
    }
    return "";
  };
  const auto load_all = [&](const config::RunConfig& with, bool resume) {
    return error([&] {
      Trainer t(with, data, *world);
      resume ? void(t.resume(folder)) : t.init_from(folder, {});
    });
  };
  const auto has = [&](const std::string& text, const std::string& part) {
    EXPECT_NE(text.find(part), std::string::npos) << text;
  };
  for (const bool resume : {false, true}) {
    for (const uint64_t named : {first->fingerprint(), data.tokenizer->fingerprint()})
      has(load_all(c, resume), cat("(400 tokens, fingerprint ", named, ")"));
    has(load_all(c, resume), "set checkpoint.allow_other_tokenizer=true");
    EXPECT_EQ(load_all(any, resume), "");
  }
  const auto open = [&](std::vector<std::string> sets) {
    sets.push_back("data.tokenizer=" + other);
    return error([&] { CheckpointModel(folder, sets, *world); });
  };
  has(open({}), "encodes differently");
  has(open({}), "set checkpoint.allow_other_tokenizer=true");
  EXPECT_EQ(open({"checkpoint.allow_other_tokenizer=true"}), "");
  // Said before sizes and shapes are: with more tokens the table of words is another one.
  const std::string more = tokenizer_beside("added_tokens.json", "{\"<more>\":400}");
  data.tokenizer = load_tokenizer(more);
  data.vocab = data.tokenizer->vocab_size();
  ASSERT_EQ(data.vocab, 401);
  for (const bool resume : {false, true}) {
    has(load_all(c, resume), "(401 tokens, fingerprint ");
    EXPECT_EQ(load_all(any, resume).find("(401 tokens"), std::string::npos);
  }
  for (const char* older : {"", "no configuration", "data { tokenizer: \"t\" unheard_of: 3 }"})
    EXPECT_NO_THROW(check_tokenizer(older, "old", c));
}

}  // namespace
}  // namespace tpo
