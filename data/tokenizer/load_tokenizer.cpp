#include "data/tokenizer/load_tokenizer.h"

#include <algorithm>
#include <filesystem>
#include <optional>
#include <set>

#include "core/error.h"
#include "data/bytes.h"
#include "data/import/json.h"
#include "data/tokenizer/byte_bpe.h"
#include "data/tokenizer/sentencepiece.h"
#include "data/tokenizer/unicode.h"
#include "data/tokenizer/wordpiece.h"

namespace tpo {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t kMostBytes = uint64_t{1} << 28;

struct Found {
  fs::path file;
  std::optional<Json> json;  // of tokenizer.json, which is long
};

bool is_tokenizer_json(const fs::path& file) { return file.extension() == ".json" && file.filename() != "vocab.json"; }

Found find_file(const std::string& path) {
  const auto parsed = [](const fs::path& file) { return Json::parse(read_file(file.string(), kMostBytes), file); };
  std::error_code ignored;  // a path that cannot be looked at is a file that cannot be read
  if (!fs::is_directory(path, ignored)) {
    if (is_tokenizer_json(path)) return {path, parsed(path)};
    return {path, std::nullopt};
  }
  std::string other;
  for (const char* name : {"tokenizer.model", "tokenizer.json", "vocab.json", "vocab.txt"}) {
    Found f{fs::path(path) / name, std::nullopt};
    if (!fs::exists(f.file, ignored)) continue;
    if (is_tokenizer_json(f.file)) {
      f.json = parsed(f.file);
      other = other_kind(*f.json);
      if (!other.empty()) continue;
    }
    return f;
  }
  std::vector<fs::path> found;
  for (const auto& entry : fs::directory_iterator(path, ignored)) {
    const std::string kind = entry.path().extension().string();
    if (kind == ".model" || kind == ".tiktoken") found.push_back(entry.path());
  }
  std::sort(found.begin(), found.end());
  check<DataError>(!found.empty() || other.empty(), path, "/tokenizer.json: ", other, " beside it");
  check<DataError>(found.size() == 1, path, ": holds ", found.empty() ? "no" : "several",
                   " tokenizer; expected one of tokenizer.model, tokenizer.json, vocab.json with merges.txt, "
                   "vocab.txt, or one file *.model or *.tiktoken");
  return {found[0], std::nullopt};
}

// What stands beside a vocabulary.
struct Beside {
  std::optional<Json> config;
  std::vector<AddedToken> added;
  std::string bos, eos, kind;
};

std::string text_of(const Json& token) {
  return token.is(Json::Kind::kObject) ? token.at("content").text() : token.text();
}

std::string mark_of(const Json& config, const char* key) {
  const auto mark = config.find(key);
  return mark ? text_of(*mark) : "";
}

// Tokens that tokenizer_config.json or special_tokens_map.json calls special.
void add_specials(const Json& json, std::set<std::string>& to) {
  for (const char* key : {"bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"})
    to.insert(mark_of(json, key));
  const auto more = json.find("additional_special_tokens");
  for (size_t i = 0; more && i < more->size(); ++i) to.insert(text_of(more->at(i)));
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
  std::set<std::string> specials(kTaskTokenText.begin(), kTaskTokenText.end());
  for (const char* mark : {"<|im_start|>", "<|im_end|>", "<|endoftext|>"}) specials.insert(mark);  // cut turns
  b.config = read("tokenizer_config.json");
  if (b.config) {
    if (const auto added = b.config->find("added_tokens_decoder")) b.added = read_added_tokens(*added);
    b.bos = mark_of(*b.config, "bos_token");
    b.eos = mark_of(*b.config, "eos_token");
    b.kind = mark_of(*b.config, "tokenizer_class");
    add_specials(*b.config, specials);
  }
  if (const auto map = read("special_tokens_map.json")) add_specials(*map, specials);
  if (const auto added = read("added_tokens.json")) {
    std::vector<AddedToken> more = read_added_tokens(*added);
    for (AddedToken& t : more) t.special = specials.count(t.text) > 0, t.normalized = !t.special;
    append_missing(b.added, more);
  }
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

// In transformers add_prefix_space of the configuration holds for GPT2Tokenizer, false where it is absent. Elsewhere
// tokenizer.json says it, and what a configuration that contradicts it does depends on class and version.
void choose_space(const Beside& beside, bool json, ByteBpeModel& model) {
  const auto said = beside.config ? beside.config->find("add_prefix_space") : std::nullopt;
  if (beside.kind == "GPT2Tokenizer" || beside.kind == "GPT2TokenizerFast") {
    model.space_before = said && said->boolean();
  } else if (said && said->boolean() != model.space_before) {
    said->fail(cat(said->boolean() ? "true" : "false", " is not known for tokenizer_class '", beside.kind, "'",
                   json ? "; make it what tokenizer.json says" : ""));
  }
}

void append_new(std::vector<AddedToken>& tokens, size_t model_size, const std::vector<std::string>& texts) {
  auto next = static_cast<int32_t>(model_size);
  for (const AddedToken& t : tokens) {
    const bool task = std::count(kTaskTokenText.begin(), kTaskTokenText.end(), t.text) > 0;
    check<DataError>(!task || texts.empty(), "'", texts.empty() ? "" : texts[0], "' cannot be added: the files have ",
                     t.text, " and the other task tokens, which must stay the last ids");
    next = std::max(next, t.id + 1);
  }
  for (const std::string& text : texts) tokens.push_back({.text = text, .id = next++});
}

std::unique_ptr<Tokenizer> load_byte_bpe(const Found& found, const Beside& beside, const TokenizerRequest& request) {
  const fs::path& file = found.file;
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
    model = read_tokenizer_json(*found.json, name);
  }
  choose_space(beside, found.json.has_value(), model);
  append_missing(model.added, beside.added);
  append_new(model.added, model.tokens.size(), request.more_tokens);
  const auto has = [&](const char* text) {
    return std::any_of(model.added.begin(), model.added.end(), [&](const AddedToken& t) { return t.text == text; }) ||
           std::count(model.tokens.begin(), model.tokens.end(), text) > 0;
  };
  model.bos = beside.bos;
  model.eos = !beside.eos.empty() ? beside.eos : has("<|im_end|>") ? "<|im_end|>" : "<|endoftext|>";
  check<DataError>(!beside.eos.empty() || has("<|endoftext|>") || has("<|im_end|>"), name,
                   ": does not say which token ends a text; name it as eos_token in tokenizer_config.json beside it");
  return std::make_unique<ByteBpeTokenizer>(std::move(model));
}

WordPieceRules wordpiece_rules(const Beside& beside) {
  WordPieceRules rules;
  if (!beside.config) return rules;
  const auto flag = [&](const char* key) -> std::optional<bool> {
    const auto found = beside.config->find(key);
    return found ? std::optional(found->boolean()) : std::nullopt;
  };
  rules.lower_case = flag("do_lower_case").value_or(true);
  rules.strip_accents = flag("strip_accents");
  rules.ideographs_apart = flag("tokenize_chinese_chars").value_or(true);
  if (!flag("do_basic_tokenize").value_or(true)) beside.config->fail("do_basic_tokenize false is not known");
  if (const auto words = beside.config->find("never_split"); words && words->size() > 0)
    words->fail("is not known; make them tokens of added_tokens_decoder");
  return rules;
}

// Of other classes ids are shifted (XLMRoberta), spaces or cases treated in another way (T5, Albert).
void check_sentencepiece(const Beside& beside) {
  if (!beside.config) return;
  const bool known = beside.kind.empty() || beside.kind == "PreTrainedTokenizerFast" ||
                     beside.kind == "LlamaTokenizer" || beside.kind == "LlamaTokenizerFast" ||
                     beside.kind == "MistralTokenizer" || beside.kind == "MistralTokenizerFast";
  if (!known)
    beside.config->at("tokenizer_class")
        .fail(cat("'", beside.kind,
                  "' is not known beside a SentencePiece model; legal: "
                  "LlamaTokenizer, MistralTokenizer, both also with Fast, PreTrainedTokenizerFast, or none"));
  if (const auto space = beside.config->find("add_prefix_space"); space && !space->boolean())
    space->fail("false is not known: whether text begins with a space is what the model says");
  if (const auto legacy = beside.config->find("legacy"); legacy && !legacy->boolean())
    legacy->fail(
        "false is not known. It differs from true only for text right behind an added or special token, which then "
        "gets no space of the model before it; to have it get one all the same, set legacy to true in this file");
}

std::unique_ptr<Tokenizer> load_any(const Found& found, const TokenizerRequest& request) {
  const fs::path& file = found.file;
  Beside beside = read_beside(file.parent_path());
  const std::string name = file.string(), kind = file.extension().string();
  if (kind == ".json" || kind == ".tiktoken" || file.filename() == "merges.txt")
    return load_byte_bpe(found, beside, request);
  const std::string bytes = read_file(name, kMostBytes);
  const auto make = [&](std::vector<AddedToken> added) -> std::unique_ptr<Tokenizer> {
    if (kind == ".txt")
      return std::make_unique<WordPieceTokenizer>(bytes, name, std::move(added), wordpiece_rules(beside));
    check_sentencepiece(beside);
    return SentencePieceTokenizer::from_bytes(bytes, name, std::move(added), beside.bos, beside.eos);
  };
  auto tokenizer = make(beside.added);
  if (request.more_tokens.empty()) return tokenizer;
  append_new(beside.added, static_cast<size_t>(tokenizer->vocab_size()), request.more_tokens);
  return make(std::move(beside.added));
}

}  // namespace

std::unique_ptr<Tokenizer> load_tokenizer(const std::string& path, const TokenizerRequest& request) {
  const Found found = find_file(path);
  const fs::path& file = found.file;
  auto tokenizer = load_any(found, request);
  const auto size = tokenizer->vocab_size();
  check<DataError>(request.vocab_size == 0 || request.vocab_size == size, "tokenizer ", file.string(), " has ", size,
                   " tokens, but the model was made for ", request.vocab_size, "; this is the tokenizer of another");
  check<DataError>(
      request.fingerprint == 0 || request.fingerprint == tokenizer->fingerprint(), "tokenizer ", file.string(),
      " encodes differently from the one the model was made for, or only knows other Unicode tables (here ",
      unicode_version(), "): fingerprint ", tokenizer->fingerprint(), ", expected ", request.fingerprint,
      "; to take it all the same set checkpoint.allow_other_tokenizer=true");
  return tokenizer;
}

}  // namespace tpo
