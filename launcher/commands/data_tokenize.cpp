// `tpo_dist data tokenize`: ids of lines from standard input; also what tests/data/tokenizer_oracle.py compares.
#include <iostream>
#include <sstream>

#include "core/error.h"
#include "data/import/json.h"
#include "data/tokenizer/load_tokenizer.h"
#include "data/tokenizer/unicode.h"
#include "launcher/commands/args.h"
#include "launcher/commands/data_verbs.h"
#include "launcher/exit_codes.h"
#include "launcher/run_files.h"

namespace tpo {
namespace {

const CommandHelp kHelp{
    "data tokenize",
    "Prints the ids of every line of standard input, on one line each; begin and end marks are not added.",
    "",
    "tpo_dist data tokenize --tokenizer qwen2/tokenizer.json < lines.txt",
    {{"tokenizer", "file or folder: SentencePiece, tokenizer.json, vocab.json with merges.txt, *.tiktoken, vocab.txt",
      "", Flag::Kind::kText},
     {"add", "special token put behind the file's own, as [DEC]", "", Flag::Kind::kList},
     {"plain", "special tokens in the text are text, as in training samples", "", Flag::Kind::kSwitch},
     {"json", "texts are JSON strings, one a line, so that they may hold line ends", "", Flag::Kind::kSwitch},
     {"decode", "lines are ids, and their text is printed, line ends in it as they are unless --json is given", "",
      Flag::Kind::kSwitch},
     {"about", "print size, marks and fingerprint of the tokenizer and read nothing", "", Flag::Kind::kSwitch}}};

std::string joined(const std::vector<int32_t>& ids) {
  std::string text;
  for (int32_t id : ids) text += (text.empty() ? "" : " ") + std::to_string(id);
  return text;
}

std::vector<int32_t> ids_of(const std::string& line) {
  std::istringstream in(line);
  std::vector<int32_t> ids;
  for (int32_t id = 0; in >> id;) ids.push_back(id);
  check<DataError>(in.eof(), "'", line, "' is not a list of ids");
  return ids;
}

// A token may be part of a character, which is no text of JSON.
std::string valid_utf8(const std::string& text) {
  std::string out;
  for (size_t i = 0; i < text.size();) {
    const CodePoint c = code_point(text, i);
    append_utf8(out, c.value < 0 ? 0xFFFD : c.value);
    i += static_cast<size_t>(c.bytes);
  }
  return out;
}

std::string decoded(const Tokenizer& tokenizer, const std::string& line, int64_t number) {
  try {
    return decode_with_task_tokens(tokenizer, ids_of(line));
  } catch (const DataError& e) {
    throw DataError(cat("line ", number, ": ", e.what()));
  }
}

}  // namespace

int data_tokenize(std::span<const std::string> words) {
  const Args args(kHelp, words);
  if (args.help()) {
    std::cout << args.usage();
    return kExitDone;
  }
  args.words(0);
  const auto tokenizer = load_tokenizer(args.required("tokenizer"), {.more_tokens = args.list("add")});
  if (args.is_on("about")) {
    std::cout << "tokens " << tokenizer->vocab_size() << "\nbegin mark " << tokenizer->bos() << "\nend mark "
              << tokenizer->eos() << "\nfingerprint " << tokenizer->fingerprint() << "\n";
    return kExitDone;
  }
  std::string line;
  for (int64_t number = 1; std::getline(std::cin, line); ++number) {
    if (args.is_on("decode")) {
      const std::string text = decoded(*tokenizer, line, number);
      std::cout << (args.is_on("json") ? json_string(valid_utf8(text)) : text) << "\n";
      continue;
    }
    if (args.is_on("json")) line = Json::parse(line, cat("line ", number)).text();
    std::cout << joined(args.is_on("plain") ? tokenizer->encode(line) : tokenizer->encode_with_special(line)) << "\n";
  }
  return kExitDone;
}

}  // namespace tpo
