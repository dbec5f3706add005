#include "data/tokenizer/sentencepiece.h"

#include <sentencepiece_processor.h>
#include <sentencepiece_trainer.h>

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
  uint64_t fingerprint = 0;
};

SentencePieceTokenizer::SentencePieceTokenizer() : impl_(std::make_unique<Impl>()) {}
SentencePieceTokenizer::~SentencePieceTokenizer() = default;

std::unique_ptr<SentencePieceTokenizer> SentencePieceTokenizer::load(const std::string& path) {
  return from_bytes(read_file(path, 1 << 28), path);
}

std::unique_ptr<SentencePieceTokenizer> SentencePieceTokenizer::from_bytes(const std::string& model,
                                                                           const std::string& name) {
  std::unique_ptr<SentencePieceTokenizer> t(new SentencePieceTokenizer);
  const auto status = model.empty()
                          ? sentencepiece::util::Status(sentencepiece::util::StatusCode::kInternal, "it is empty")
                          : t->impl_->processor.LoadFromSerializedProto(model);
  check<DataError>(status.ok(), "tokenizer ", name, " is not a SentencePiece model: ", status.ToString());
  check<DataError>(t->bos() >= 0 && t->eos() >= 0, "tokenizer ", name, " has no begin or end mark (<s>, </s>)");
  t->impl_->fingerprint = xxh3(model);
  return t;
}

std::vector<int32_t> SentencePieceTokenizer::encode(std::string_view text) const {
  std::vector<int> ids;
  TPO_ASSERT(impl_->processor.Encode({text.data(), text.size()}, &ids).ok());
  return {ids.begin(), ids.end()};
}

std::string SentencePieceTokenizer::decode(std::span<const int32_t> ids) const {
  std::vector<int> kept;
  for (int32_t id : ids) {
    check<DataError>(id >= 0 && id < vocab_size(), "id ", id, " is outside the vocabulary of ", vocab_size());
    if (id != bos() && id != eos()) kept.push_back(id);
  }
  std::string text;
  TPO_ASSERT(impl_->processor.Decode(kept, &text).ok());
  return text;
}

int32_t SentencePieceTokenizer::vocab_size() const { return impl_->processor.GetPieceSize(); }
int32_t SentencePieceTokenizer::bos() const { return impl_->processor.bos_id(); }
int32_t SentencePieceTokenizer::eos() const { return impl_->processor.eos_id(); }
uint64_t SentencePieceTokenizer::fingerprint() const { return impl_->fingerprint; }

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
