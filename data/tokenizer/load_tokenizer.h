#pragma once
// One door to every tokenizer: what a path holds decides the kind.
#include <memory>
#include <string>
#include <vector>

#include "data/tokenizer/tokenizer.h"

namespace tpo {

struct TokenizerRequest {
  std::vector<std::string> more_tokens;  // special tokens put behind the file's own, in order, as [DEC] of a Q-Former
  int32_t vocab_size = 0;                // what the weights were made for; 0: any
  uint64_t fingerprint = 0;              // 0: any
};

// `path` is a file or a folder with such a file, looked for in this order:
//   tokenizer.model, *.model, names not listed here   SentencePiece
//   tokenizer.json                                    byte-level BPE of Hugging Face; in a folder, one of another kind
//                                                     is passed over
//   vocab.json with merges.txt (either one named)     byte-level BPE; tokenizer_config.json must name tokenizer_class
//                                                     Qwen2Tokenizer or GPT2Tokenizer, which says how text is cut
//   *.tiktoken                                        byte-level BPE by ranks; Qwen's and cl100k's, known by their size
//   vocab.txt, *.txt                                  WordPiece
// Beside it are read: tokenizer_config.json (added_tokens_decoder, bos_token, eos_token; of GPT2Tokenizer
// add_prefix_space; of SentencePiece tokenizer_class, which must be Llama's, Mistral's, PreTrainedTokenizerFast or
// absent; of WordPiece do_lower_case, strip_accents, tokenize_chinese_chars) and added_tokens.json, whose tokens are
// marks if they are task tokens, of ChatML or named as special by tokenizer_config.json or special_tokens_map.json, and
// else words, as in transformers. Settings that are not known and would change ids are refused by name. Where nothing
// names the end mark of a byte-level vocabulary, it is <|im_end|> if there is one, else <|endoftext|>. Throws DataError
// that names file and reason: what the readers refuse, no such file, or another size or fingerprint than requested, so
// that a model never runs with the tokenizer of another.
std::unique_ptr<Tokenizer> load_tokenizer(const std::string& path, const TokenizerRequest& request = {});

}  // namespace tpo
