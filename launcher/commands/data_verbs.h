#pragma once
// The verbs of `tpo_dist data`. Each takes the words after its name, prints for people and returns an exit code.
#include <cstdint>
#include <functional>
#include <span>
#include <string>

namespace tpo {

int data_synth(std::span<const std::string> args);
int data_tokenizer(std::span<const std::string> args);
int data_tokenize(std::span<const std::string> args);
int data_import(std::span<const std::string> args);
int data_index(std::span<const std::string> args);
int data_inspect(std::span<const std::string> args);
int data_verify(std::span<const std::string> args);

// Prints "what: done of total" on stderr at most once a second, and at the end.
std::function<void(int64_t, int64_t)> progress_printer(const std::string& what);

}  // namespace tpo
