#pragma once
// The small command-line parser that every subcommand shares: --name value, --name=value, --switch, and bare words.
// A flag that the command does not declare is an error that lists the legal ones, so that a typing error never passes.
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

namespace tpo {

// One legal flag of a command. `fallback` is used, and printed by --help, when the flag is absent.
struct Flag {
  enum class Kind { kText, kSwitch, kList };
  std::string name;         // without the dashes
  std::string help;         // one line: unit, effect, legal values
  std::string fallback;     // empty: no value (a text flag then reads as "")
  Kind kind = Kind::kText;  // kSwitch takes no value; kList may be given several times
};

// What a command is called, takes and does; printed by --help.
struct CommandHelp {
  std::string name;     // "data import llava"
  std::string purpose;  // one sentence
  std::string words;    // usage of the bare words, for instance "<folder>"
  std::string example;  // a line that a user can copy
  std::vector<Flag> flags;
};

class Args {
 public:
  // Parses `args` (without the command's own words). Throws ConfigError for an unknown flag, a flag without its value,
  // a value for a switch, or a flag given twice that is not a list.
  Args(CommandHelp help, std::span<const std::string> args);

  bool help() const { return help_; }  // --help was given; print usage() and do nothing else
  std::string usage() const;

  bool given(const std::string& name) const { return values_.contains(name); }
  std::string text(const std::string& name) const;
  // As text, and ConfigError when it is empty.
  std::string required(const std::string& name) const;
  bool is_on(const std::string& name) const { return given(name); }
  std::vector<std::string> list(const std::string& name) const;
  // Whole number or real number in [low, high]; else ConfigError naming flag, value and range.
  int64_t integer(const std::string& name, int64_t low, int64_t high) const;
  double real(const std::string& name, double low, double high) const;
  // Position of the value in `legal`; else ConfigError listing them.
  int choice(const std::string& name, const std::vector<std::string>& legal) const;

  const std::vector<std::string>& words() const { return words_; }
  // The bare words, which must be exactly `count`.
  const std::vector<std::string>& words(size_t count) const;

 private:
  const Flag& declared(const std::string& name) const;

  CommandHelp info_;
  bool help_ = false;
  std::map<std::string, std::vector<std::string>> values_;
  std::vector<std::string> words_;
};

}  // namespace tpo
