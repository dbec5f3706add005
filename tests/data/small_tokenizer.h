#pragma once
// A tokenizer trained on a handful of lines, for tests that need one.
#include <memory>
#include <string>
#include <vector>

#include "data/tokenizer/sentencepiece.h"

namespace tpo::testing {

inline std::vector<std::string> training_lines() {
  std::vector<std::string> lines;
  for (const char* colour : {"red", "green", "blue", "yellow"}) {
    for (const char* shape : {"circle", "square", "triangle", "star"}) {
      lines.push_back(std::string("Where is the ") + colour + " " + shape + "?");
      lines.push_back(std::string("Put a box on the ") + colour + " " + shape + ". It is at the left.");
      lines.push_back("[INST] <Image></Image>[/INST] How many shapes are there? There are 3, 4, 5 or 6.");
    }
  }
  return lines;
}

inline std::unique_ptr<SentencePieceTokenizer> small_tokenizer() {
  static const std::string model = train_sentencepiece(training_lines(), {.vocab_size = 340});
  return SentencePieceTokenizer::from_bytes(model, "small");
}

}  // namespace tpo::testing
