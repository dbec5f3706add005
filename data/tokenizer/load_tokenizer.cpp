#include "data/tokenizer/load_tokenizer.h"

#include <algorithm>
#include <filesystem>
#include <optional>

#include "core/error.h"
#include "data/bytes.h"
#include "data/import/json.h"
#include "data/tokenizer/byte_bpe.h"
#include "data/tokenizer/sentencepiece.h"
#include "data/tokenizer/wordpiece.h"

namespace tpo {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t kMostBytes = uint64_t{1} << 28;

fs::path find_file(const std::string& path) {
  std::error_code ignored;  // a path that cannot be looked at is a file that cannot be read
  if (!fs::is_directory(path, ignored)) return path;
  for (const char* name : {"tokenizer.model", "tokenizer.json", "vocab.json", "vocab.txt"}) {
    if (fs::exists(fs::path(path) / name, ignored)) return fs::path(path) / name;
  }
  std::vector<fs::path> found;
  for (const auto& entry : fs::directory_iterator(path, ignored)) {
    const std::string kind = entry.path().extension().string();
    if (kind == ".model" || kind == ".tiktoken") found.push_back(entry.path());
  }
  std::sort(found.begin(), found.end());
  check<DataError>(found.size() == 1, path, ": holds ", found.empty() ? "no" : "several",
                   " tokenizer; expected one of tokenizer.model, tokenizer.json, vocab.json with merges.txt, "
                   "vocab.txt, or one file *.model or *.tiktoken");
  return found[0];
}

// What stands beside a vocabulary.
struct Beside {
  std::vector<AddedToken> added;
  std::string bos, eos, kind;
};

std::string mark_of(const Json& config, const char* key) {
  const auto mark = config.find(key);
  if (!mark) return "";
  return mark->is(Json::Kind::kObject) ? mark->at("content").text() : mark->text();
}

// Tokens that another file beside the vocabulary names too are kept once, as the first says.
void append_missing(std::vector<AddedToken>& tokens, const std::vector<AddedToken>& more) {
  for (const AddedToken& t : more) {
    const auto same = [&](const AddedToken& a) { return a.text == t.text && a.id == t.id; };
    if (std::none_of(tokens.begin(), tokens.end(), same)) tokens.push_back(t);
  }
}

Beside read_beside(const fs::path& folder) {
  Beside b;
  const auto read = [&](const char* name) -> std::optional<Json> {
    const std::string path = (folder / name).string();
    std::error_code ignored;
    if (!fs::exists(path, ignored)) return std::nullopt;
    return Json::parse(read_file(path, kMostBytes), path);
  };
  if (const auto config = read("tokenizer_config.json")) {
    if (const auto added = config->find("added_tokens_decoder")) b.added = read_added_tokens(*added);
    b.bos = mark_of(*config, "bos_token");
    b.eos = mark_of(*config, "eos_token");
    b.kind = mark_of(*config, "tokenizer_class");
  }
  if (const auto added = read("added_tokens.json")) append_missing(b.added, read_added_tokens(*added));
  return b;
}

// Special tokens of the two public tiktoken files, which lie in the code of their packages.
void complete_tiktoken(ByteBpeModel& model) {
  const auto add = [&](const char* text, int32_t id) { model.added.push_back({.text = text, .id = id}); };
  if (model.tokens.size() == 151643) {
    model.rule = WordRule::kQwen2;
    model.nfc = true;
    add("<|endoftext|>", 151643), add("<|im_start|>", 151644), add("<|im_end|>", 151645);
  } else if (model.tokens.size() == 100256) {
    model.rule = WordRule::kTiktoken;
    add("<|endoftext|>", 100257), add("<|fim_prefix|>", 100258), add("<|fim_middle|>", 100259);
    add("<|fim_suffix|>", 100260), add("<|endofprompt|>", 100276);
  } else {
    throw DataError(cat(model.name, ": has ", model.tokens.size(), " ranks; only Qwen's 151643 and cl100k's 100256 ",
                        "are known, and such a file does not say how text is cut"));
  }
}

WordRule rule_of_class(const std::string& kind, const std::string& name) {
  if (kind == "Qwen2Tokenizer" || kind == "Qwen2TokenizerFast") return WordRule::kQwen2;
  check<DataError>(
      kind == "GPT2Tokenizer" || kind == "GPT2TokenizerFast", name,
      ": vocab.json and merges.txt do not say how text is cut; tokenizer_config.json beside them must name "
      "tokenizer_class Qwen2Tokenizer or GPT2Tokenizer, not '",
      kind, "'");
  return WordRule::kGpt2;
}

void append_new(std::vector<AddedToken>& tokens, size_t model_size, const std::vector<std::string>& texts) {
  auto next = static_cast<int32_t>(model_size);
  for (const AddedToken& t : tokens) next = std::max(next, t.id + 1);
  for (const std::string& text : texts) tokens.push_back({.text = text, .id = next++});
}

std::unique_ptr<Tokenizer> load_byte_bpe(const fs::path& file, const Beside& beside, const TokenizerRequest& request) {
  const std::string name = file.string();
  ByteBpeModel model;
  if (file.extension() == ".tiktoken") {
    model = read_tiktoken(read_file(name, kMostBytes), name);
    complete_tiktoken(model);
  } else if (file.filename() == "vocab.json" || file.filename() == "merges.txt") {
    const std::string vocab = (file.parent_path() / "vocab.json").string();
    const WordRule rule = rule_of_class(beside.kind, vocab);
    model = read_vocab_and_merges(read_file(vocab, kMostBytes),
                                  read_file((file.parent_path() / "merges.txt").string(), kMostBytes), vocab);
    model.rule = rule;
    model.nfc = rule == WordRule::kQwen2;
  } else {
    model = read_tokenizer_json(read_file(name, kMostBytes), name);
  }
  append_missing(model.added, beside.added);
  append_new(model.added, model.tokens.size(), request.more_tokens);
  const auto has = [&](const char* text) {
    return std::any_of(model.added.begin(), model.added.end(), [&](const AddedToken& t) { return t.text == text; });
  };
  model.bos = beside.bos;
  model.eos = !beside.eos.empty() ? beside.eos : has("<|im_end|>") ? "<|im_end|>" : "<|endoftext|>";
  return std::make_unique<ByteBpeTokenizer>(std::move(model));
}

std::unique_ptr<Tokenizer> load_any(const fs::path& file, const TokenizerRequest& request) {
  Beside beside = read_beside(file.parent_path());
  const std::string name = file.string(), kind = file.extension().string();
  if (kind == ".json" || kind == ".tiktoken" || file.filename() == "merges.txt")
    return load_byte_bpe(file, beside, request);
  const std::string bytes = read_file(name, kMostBytes);
  const auto make = [&](std::vector<AddedToken> added) -> std::unique_ptr<Tokenizer> {
    if (kind == ".txt") return std::make_unique<WordPieceTokenizer>(bytes, name, std::move(added));
    return SentencePieceTokenizer::from_bytes(bytes, name, std::move(added));
  };
  auto tokenizer = make(beside.added);
  if (request.more_tokens.empty()) return tokenizer;
  append_new(beside.added, static_cast<size_t>(tokenizer->vocab_size()), request.more_tokens);
  return make(std::move(beside.added));
}

}  // namespace

std::unique_ptr<Tokenizer> load_tokenizer(const std::string& path, const TokenizerRequest& request) {
  const fs::path file = find_file(path);
  auto tokenizer = load_any(file, request);
  const auto size = tokenizer->vocab_size();
  check<DataError>(request.vocab_size == 0 || request.vocab_size == size, "tokenizer ", file.string(), " has ", size,
                   " tokens, but the model was made for ", request.vocab_size, "; this is the tokenizer of another");
  check<DataError>(request.fingerprint == 0 || request.fingerprint == tokenizer->fingerprint(), "tokenizer ",
                   file.string(), " encodes differently from the one the model was made for: fingerprint ",
                   tokenizer->fingerprint(), ", expected ", request.fingerprint);
  return tokenizer;
}

}  // namespace tpo
