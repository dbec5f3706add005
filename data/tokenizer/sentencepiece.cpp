#include "data/tokenizer/sentencepiece.h"

#include <sentencepiece_processor.h>
#include <sentencepiece_trainer.h>

#include <algorithm>

#include "core/error.h"
#include "data/bytes.h"

namespace tpo {
namespace {

class Lines : public sentencepiece::SentenceIterator {
 public:
  explicit Lines(const std::vector<std::string>& lines) : lines_(lines) {}
  bool done() const override { return at_ >= lines_.size(); }
  void Next() override { ++at_; }
  const std::string& value() const override { return lines_[at_]; }
  sentencepiece::util::Status status() const override { return {}; }

 private:
  const std::vector<std::string>& lines_;
  size_t at_ = 0;
};

}  // namespace

struct SentencePieceTokenizer::Impl {
  sentencepiece::SentencePieceProcessor processor;
};

SentencePieceTokenizer::SentencePieceTokenizer() : impl_(std::make_unique<Impl>()) {}
SentencePieceTokenizer::~SentencePieceTokenizer() = default;

std::unique_ptr<SentencePieceTokenizer> SentencePieceTokenizer::load(const std::string& path) {
  return from_bytes(read_file(path, 1 << 28), path);
}

std::unique_ptr<SentencePieceTokenizer> SentencePieceTokenizer::from_bytes(const std::string& model,
                                                                           const std::string& name,
                                                                           std::vector<AddedToken> added,
                                                                           const std::string& bos,
                                                                           const std::string& eos) {
  std::unique_ptr<SentencePieceTokenizer> t(new SentencePieceTokenizer);
  const auto& processor = t->impl_->processor;
  const auto status = model.empty()
                          ? sentencepiece::util::Status(sentencepiece::util::StatusCode::kInternal, "it is empty")
                          : t->impl_->processor.LoadFromSerializedProto(model);
  check<DataError>(status.ok(), "tokenizer ", name, " is not a SentencePiece model: ", status.ToString());
  const auto mark = [&](const std::string& given, int own) {
    check<DataError>(!given.empty() || own >= 0, "tokenizer ", name, " has no begin or end mark (<s>, </s>)");
    return given.empty() ? processor.IdToPiece(own) : given;
  };
  const std::string begin = mark(bos, processor.bos_id()), end = mark(eos, processor.eos_id());
  for (int id = 0; id < processor.GetPieceSize(); ++id) {
    if (!processor.IsControl(id) && !processor.IsUnknown(id)) continue;
    const std::string& piece = processor.IdToPiece(id);
    const auto same = [&](const AddedToken& a) { return a.text == piece; };
    if (std::none_of(added.begin(), added.end(), same)) added.push_back({.text = piece, .id = id});
  }
  t->complete({processor.GetPieceSize(), std::move(added), begin, end, "tokenizer " + name,
               cat("sentencepiece ", xxh3(model))});
  return t;
}

void SentencePieceTokenizer::encode_piece(std::string_view text, std::vector<int32_t>& ids) const {
  std::vector<int> found;
  TPO_ASSERT(impl_->processor.Encode({text.data(), text.size()}, &found).ok());
  ids.insert(ids.end(), found.begin(), found.end());
}

std::string SentencePieceTokenizer::decode_run(std::span<const int32_t> ids) const {
  std::string text;
  TPO_ASSERT(impl_->processor.Decode(std::vector<int>(ids.begin(), ids.end()), &text).ok());
  return text;
}

int32_t SentencePieceTokenizer::model_id(std::string_view token) const {
  const int id = impl_->processor.PieceToId({token.data(), token.size()});
  return impl_->processor.IdToPiece(id) == token ? id : -1;
}

std::string train_sentencepiece(const std::vector<std::string>& lines, const SentencePieceTraining& options) {
  check<ConfigError>(options.model == "bpe" || options.model == "unigram", "tokenizer model is '", options.model,
                     "', expected bpe or unigram");
  check<ConfigError>(options.vocab_size > 259 && options.vocab_size <= 1 << 20, "vocab_size is ", options.vocab_size,
                     ", expected over 259 (3 marks and 256 bytes) and at most 1048576");
  check<ConfigError>(!lines.empty(), "a tokenizer cannot be trained on no lines");
  const std::unordered_map<std::string, std::string> settings{
      {"model_type", options.model},
      {"vocab_size", std::to_string(options.vocab_size)},
      {"byte_fallback", "true"},
      {"character_coverage", "1.0"},
      {"normalization_rule_name", "identity"},
      {"remove_extra_whitespaces", "false"},
      {"split_digits", "true"},
      {"num_threads", "1"},
      {"shuffle_input_sentence", "false"},
      {"max_sentence_length", "1048576"},
      {"minloglevel", "3"},
  };
  std::string model;
  Lines iterator(lines);
  const auto status = sentencepiece::SentencePieceTrainer::Train(settings, &iterator, &model);
  check<ConfigError>(status.ok(), "cannot train a tokenizer of ", options.vocab_size, " pieces on ", lines.size(),
                     " lines: ", status.ToString());
  return model;
}

}  // namespace tpo
