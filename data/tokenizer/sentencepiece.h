#pragma once
// SentencePiece models (unigram and BPE): load, train.
#include <memory>
#include <string>
#include <vector>

#include "data/tokenizer/tokenizer.h"

namespace tpo {

struct SentencePieceTraining {
  int32_t vocab_size =
      512;  // at most what the text supports; fewer pieces are an error of the library that names the limit
  std::string model = "bpe";  // bpe | unigram
};

class SentencePieceTokenizer : public Tokenizer {
 public:
  // Throws DataError naming the file when it is missing or not a model, or has no begin and end marks.
  static std::unique_ptr<SentencePieceTokenizer> load(const std::string& path);
  // `name` stands in messages; empty marks: the model's own. Text behind an added token begins with the model's dummy
  // space, as in transformers' LlamaTokenizer(legacy=True), which made the public TPO weights.
  static std::unique_ptr<SentencePieceTokenizer> from_bytes(const std::string& model, const std::string& name,
                                                            std::vector<AddedToken> added = {},
                                                            const std::string& bos = "", const std::string& eos = "");
  ~SentencePieceTokenizer() override;

 protected:
  void encode_piece(std::string_view text, std::vector<int32_t>& ids) const override;
  std::string decode_run(std::span<const int32_t> ids) const override;
  int32_t model_id(std::string_view token) const override;

 private:
  SentencePieceTokenizer();
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// Bytes of a model trained on the lines: ids 0 unknown, 1 begin, 2 end, then 256 byte pieces, so that every text can be
// encoded and decoded. One thread and all lines are used: the same lines give the same bytes. Throws ConfigError for
// settings the text cannot support.
std::string train_sentencepiece(const std::vector<std::string>& lines, const SentencePieceTraining& options);

}  // namespace tpo
