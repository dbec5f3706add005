// Readers of byte-level BPE vocabularies: tokenizer.json, vocab.json with merges.txt, tiktoken's lines.
#include <algorithm>
#include <optional>

#include "core/error.h"
#include "data/import/json.h"
#include "data/tokenizer/byte_bpe.h"
#include "data/tokenizer/unicode.h"

namespace tpo {
namespace {

// Far beyond any vocabulary: both keep a lying file from asking for memory and time.
// Ids that a file of so many tokens may use: some have gaps.
int64_t most_ids(size_t tokens) { return 65536 + 2 * static_cast<int64_t>(tokens); }
constexpr size_t kMostBytesOfToken = 1024;

// GPT-2 writes a byte as a printable character: itself where it is one, else U+0100 and on, in order.
std::array<int32_t, 256> byte_alphabet() {
  std::array<int32_t, 256> alphabet{};
  int32_t next = 0x100;
  for (int32_t b = 0; b < 256; ++b) {
    const bool printable = (b >= '!' && b <= '~') || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE;
    alphabet[static_cast<size_t>(b)] = printable ? b : next++;
  }
  return alphabet;
}

void put(ByteBpeModel& model, int64_t id, std::string token, int64_t ids) {
  check<DataError>(id >= 0 && id < ids, model.name, ": id ", id, " of token '", token,
                   "' is out of range; legal: 0 to ", ids - 1);
  check<DataError>(!token.empty() && token.size() <= kMostBytesOfToken, model.name, ": token of id ", id, " has ",
                   token.size(), " bytes, expected 1..", kMostBytesOfToken);
  if (static_cast<size_t>(id) >= model.tokens.size()) model.tokens.resize(static_cast<size_t>(id) + 1);
  std::string& slot = model.tokens[static_cast<size_t>(id)];
  check<DataError>(slot.empty(), model.name, ": tokens '", slot, "' and '", token, "' both have id ", id);
  slot = std::move(token);
}

// From text tokens to ids while a file is read.
class Names {
 public:
  Names(ByteBpeModel& model, const Json& vocab) : model_(model) {
    const auto keys = vocab.keys();
    for (const std::string& text : keys) {
      const int64_t id = vocab.at(text).integer();
      const auto bytes = bytes_of_token(text);
      check<DataError>(bytes.has_value(), model.name, ": token '", text,
                       "' is not written in the alphabet of bytes; this is no byte-level vocabulary");
      put(model, id, *bytes, most_ids(keys.size()));
    }
    for (size_t i = 0; i < model.tokens.size(); ++i) {
      if (!model.tokens[i].empty()) ids_.emplace(model.tokens[i], static_cast<int32_t>(i));
    }
  }

  void merge(std::string_view left, std::string_view right) {
    const auto l = bytes_of_token(left), r = bytes_of_token(right);
    const auto known = [&](const std::optional<std::string>& t) { return t && ids_.count(*t) == 1; };
    const size_t rank = model_.merges.size();
    check<DataError>(known(l) && known(r), model_.name, ": merge ", rank, " ('", left, "' '", right,
                     "') names a token that is not in the vocabulary");
    const auto result = ids_.find(*l + *r);
    check<DataError>(result != ids_.end(), model_.name, ": merge ", rank, " ('", left, "' '", right,
                     "') makes a token that is not in the vocabulary");
    model_.merges.push_back({ids_.at(*l), ids_.at(*r), result->second, static_cast<int32_t>(rank)});
  }

  // "left right" in one text.
  void merge(std::string_view line) {
    const size_t space = line.find(' ');
    check<DataError>(space != std::string_view::npos && line.find(' ', space + 1) == std::string_view::npos,
                     model_.name, ": merge ", model_.merges.size(), " ('", line, "') is not two tokens with a space");
    merge(line.substr(0, space), line.substr(space + 1));
  }

 private:
  ByteBpeModel& model_;
  std::unordered_map<std::string, int32_t> ids_;
};

std::string type_of(const Json& json) { return json.at("type").text(); }
bool flag(const Json& json, const char* key, bool otherwise) {
  const auto found = json.find(key);
  return found ? found->boolean() : otherwise;
}

// A step alone, or those of a Sequence.
std::vector<Json> steps_of(const Json& json, const char* list) {
  if (type_of(json) != "Sequence") return {json};
  std::vector<Json> steps;
  const Json all = json.at(list);
  for (size_t i = 0; i < all.size(); ++i) steps.push_back(all.at(i));
  return steps;
}

void read_normalizer(const Json& json, ByteBpeModel& model) {
  for (const Json& step : steps_of(json, "normalizers")) {
    if (type_of(step) != "NFC") step.fail(cat("normalizer ", type_of(step), " is not known; legal: NFC"));
    model.nfc = true;
  }
}

WordRule read_split(const Json& json) {
  if (json.at("behavior").text() != "Isolated" || flag(json, "invert", false)) {
    json.fail("Split must have behavior Isolated and invert false");
  }
  const std::string regex = json.at("pattern").at("Regex").text();
  const auto rule = rule_of_regex(regex);
  if (!rule) json.fail(cat("this regular expression is not one of GPT-2, Qwen2 and cl100k: ", regex));
  return *rule;
}

// Sequence(Split(regex), ByteLevel(use_regex false)), or ByteLevel alone, whose expression is GPT-2's.
void read_pre_tokenizer(const Json& json, ByteBpeModel& model) {
  const std::vector<Json> steps = steps_of(json, "pretokenizers");
  const bool split = steps.size() == 2 && type_of(steps[0]) == "Split";
  if (steps.empty() || steps.size() != (split ? 2u : 1u) || type_of(steps.back()) != "ByteLevel") {
    json.fail("must be ByteLevel, or Split and then ByteLevel; this is no byte-level BPE that we know");
  }
  model.rule = split ? read_split(steps[0]) : WordRule::kGpt2;
  model.space_before = flag(steps.back(), "add_prefix_space", true);
  if (flag(steps.back(), "use_regex", true) == split || (split && model.space_before)) {
    steps.back().fail("use_regex and add_prefix_space must be false behind a Split, and use_regex true without one");
  }
}

void read_bpe(const Json& json, ByteBpeModel& model) {
  for (const char* key : {"dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix"}) {
    const auto found = json.find(key);
    const bool unused = !found || (found->is(Json::Kind::kString) && found->text().empty());
    if (!unused && std::string(key) != "unk_token") found->fail("is set, which byte-level BPE does not use");
  }
  model.whole_words = flag(json, "ignore_merges", false);
  Names names(model, json.at("vocab"));
  const Json merges = json.at("merges");
  for (size_t i = 0; i < merges.size(); ++i) {
    const Json m = merges.at(i);
    if (m.is(Json::Kind::kString)) {
      names.merge(m.text());
    } else {
      if (m.size() != 2) m.fail("must be two tokens");
      names.merge(m.at(0).text(), m.at(1).text());
    }
  }
}

int32_t base64_digit(char c) {
  if (c >= 'A' && c <= 'Z') return c - 'A';
  if (c >= 'a' && c <= 'z') return c - 'a' + 26;
  if (c >= '0' && c <= '9') return c - '0' + 52;
  return c == '+' ? 62 : c == '/' ? 63 : -1;
}

std::optional<std::string> from_base64(std::string_view text) {
  const size_t digits = std::min(text.find('='), text.size());
  if (text.size() % 4 != 0 || text.size() - digits > 2) return std::nullopt;
  if (text.find_first_not_of('=', digits) != std::string_view::npos) return std::nullopt;
  std::string out;
  uint32_t bits = 0;
  for (size_t i = 0; i < digits; ++i) {
    const int32_t d = base64_digit(text[i]);
    if (d < 0) return std::nullopt;
    bits = bits << 6 | static_cast<uint32_t>(d);
    if (i % 4 != 0) out += static_cast<char>(bits >> (6 - 2 * (i % 4)));
  }
  return out;
}

}  // namespace

std::optional<std::string> bytes_of_token(std::string_view text) {
  static const auto kBytes = [] {
    std::array<int32_t, 0x144> bytes;
    bytes.fill(-1);
    for (int32_t b = 0; b < 256; ++b) bytes[static_cast<size_t>(byte_alphabet()[static_cast<size_t>(b)])] = b;
    return bytes;
  }();
  std::string out;
  for (size_t i = 0; i < text.size();) {
    const CodePoint c = code_point(text, i);
    if (c.value < 0 || c.value >= 0x144 || kBytes[static_cast<size_t>(c.value)] < 0) return std::nullopt;
    out += static_cast<char>(kBytes[static_cast<size_t>(c.value)]);
    i += static_cast<size_t>(c.bytes);
  }
  return out;
}

std::string other_kind(const Json& json) {
  const Json model = json.at("model");
  const auto type = model.find("type");
  const std::string kind = type ? type->text() : "BPE";
  if (kind == "BPE" && !flag(model, "byte_fallback", false)) return "";
  const std::string what = kind == "BPE" ? "byte_fallback is for SentencePiece-like models" : "not BPE";
  const char* instead = kind == "WordPiece"                  ? "vocab.txt"
                        : kind == "BPE" || kind == "Unigram" ? "tokenizer.model"
                                                             : "a tokenizer of another kind";
  return cat("type is ", kind, ", ", what, "; give ", instead);
}

ByteBpeModel read_tokenizer_json(const std::string& bytes, const std::string& name) {
  return read_tokenizer_json(Json::parse(bytes, name), name);
}

ByteBpeModel read_tokenizer_json(const Json& json, const std::string& name) {
  if (const std::string other = other_kind(json); !other.empty()) json.at("model").fail(other);
  ByteBpeModel model;
  model.name = name;
  if (const auto n = json.find("normalizer")) read_normalizer(*n, model);
  read_pre_tokenizer(json.at("pre_tokenizer"), model);
  read_bpe(json.at("model"), model);
  if (const auto added = json.find("added_tokens")) model.added = read_added_tokens(*added);
  return model;
}

ByteBpeModel read_vocab_and_merges(const std::string& vocab, const std::string& merges, const std::string& name) {
  ByteBpeModel model;
  model.name = name;
  Names names(model, Json::parse(vocab, name));
  for (size_t at = 0, line = 0; at < merges.size(); ++line) {
    const size_t end = std::min(merges.find('\n', at), merges.size());
    std::string_view text(merges.data() + at, end - at);
    at = end + 1;
    if (text.ends_with('\r')) text.remove_suffix(1);
    if (!text.empty() && (line > 0 || !text.starts_with("#version"))) names.merge(text);
  }
  return model;
}

ByteBpeModel read_tiktoken(const std::string& bytes, const std::string& name) {
  ByteBpeModel model;
  model.name = name;
  model.whole_words = true;
  const int64_t ids_at_most = most_ids(static_cast<size_t>(std::count(bytes.begin(), bytes.end(), '\n')));
  for (size_t at = 0, line = 1; at < bytes.size(); ++line) {
    const size_t end = std::min(bytes.find('\n', at), bytes.size());
    std::string_view text(bytes.data() + at, end - at);
    at = end + 1;
    if (text.ends_with('\r')) text.remove_suffix(1);
    if (text.empty()) continue;
    const size_t space = text.find(' ');
    const auto token = from_base64(text.substr(0, space));
    const std::string_view rank = space == std::string_view::npos ? "" : text.substr(space + 1);
    const bool digits = !rank.empty() && rank.size() < 9 && rank.find_first_not_of("0123456789") == std::string::npos;
    check<DataError>(token && digits, name, ": line ", line, " is not a token in base64 and its rank");
    put(model, std::stoll(std::string(rank)), *token, ids_at_most);
  }
  // tiktoken merges two neighbours whenever their bytes are a token, by that token's rank.
  std::unordered_map<std::string_view, int32_t> ids;
  for (size_t i = 0; i < model.tokens.size(); ++i) ids.emplace(model.tokens[i], static_cast<int32_t>(i));
  for (size_t id = 0; id < model.tokens.size(); ++id) {
    const std::string_view whole(model.tokens[id]);
    for (size_t cut = 1; cut < whole.size(); ++cut) {
      const auto left = ids.find(whole.substr(0, cut)), right = ids.find(whole.substr(cut));
      if (left != ids.end() && right != ids.end())
        model.merges.push_back({left->second, right->second, static_cast<int32_t>(id), static_cast<int32_t>(id)});
    }
  }
  return model;
}

}  // namespace tpo
