#include "launcher/commands/args.h"

#include <cerrno>
#include <cstdlib>

#include "core/error.h"
#include "launcher/config.h"

namespace tpo {

Args::Args(CommandHelp help, std::span<const std::string> args) : info_(std::move(help)) {
  for (size_t i = 0; i < args.size(); ++i) {
    const std::string& word = args[i];
    if (word == "--help" || word == "-h") {
      help_ = true;
      continue;
    }
    if (word.rfind("--", 0) != 0) {
      words_.push_back(word);
      continue;
    }
    const size_t equals = word.find('=');
    const std::string name = word.substr(2, equals == std::string::npos ? equals : equals - 2);
    const Flag& flag = declared(name);
    std::string value;
    if (flag.kind == Flag::Kind::kSwitch) {
      check<ConfigError>(equals == std::string::npos, info_.name, ": --", name, " is a switch and takes no value");
    } else if (equals != std::string::npos) {
      value = word.substr(equals + 1);
    } else {
      check<ConfigError>(i + 1 < args.size(), info_.name, ": --", name, " needs a value: ", flag.help);
      value = args[++i];
    }
    auto& held = values_[name];
    check<ConfigError>(held.empty() || flag.kind == Flag::Kind::kList, info_.name, ": --", name, " is given twice");
    held.push_back(value);
  }
}

const Flag& Args::declared(const std::string& name) const {
  std::vector<std::string> names{"help"};
  std::string legal;
  for (const Flag& flag : info_.flags) {
    if (flag.name == name) return flag;
    names.push_back(flag.name);
    legal += " --" + flag.name;
  }
  const std::string near = nearest(name, names);
  throw ConfigError(cat(info_.name, ": unknown flag --", name, near.empty() ? "" : "; did you mean --" + near + "?",
                        "; legal are:", legal, " --help"));
}

std::string Args::usage() const {
  std::string out = "tpo_dist " + info_.name + (info_.words.empty() ? "" : " " + info_.words) +
                    (info_.flags.empty() ? "" : " [flags]") + "\n  " + info_.purpose + "\n";
  for (const Flag& flag : info_.flags) {
    out += "  --" + flag.name + (flag.kind == Flag::Kind::kSwitch ? "" : " VALUE") +
           (flag.kind == Flag::Kind::kList ? " (repeatable)" : "") + "\n      " + flag.help +
           (flag.fallback.empty() ? "" : " (default " + flag.fallback + ")") + "\n";
  }
  return out + "Example:\n  " + info_.example + "\n";
}

std::string Args::text(const std::string& name) const {
  const Flag& flag = declared(name);
  const auto found = values_.find(name);
  return found == values_.end() ? flag.fallback : found->second.back();
}

std::string Args::required(const std::string& name) const {
  std::string value = text(name);
  check<ConfigError>(!value.empty(), info_.name, ": --", name, " is required: ", declared(name).help);
  return value;
}

std::vector<std::string> Args::list(const std::string& name) const {
  declared(name);
  const auto found = values_.find(name);
  return found == values_.end() ? std::vector<std::string>{} : found->second;
}

int64_t Args::integer(const std::string& name, int64_t low, int64_t high) const {
  const std::string value = text(name);
  char* end = nullptr;
  errno = 0;
  const int64_t n = std::strtoll(value.c_str(), &end, 10);
  check<ConfigError>(!value.empty() && *end == 0 && errno == 0 && n >= low && n <= high, info_.name, ": --", name, "=",
                     value, " must be a whole number from ", low, " to ", high);
  return n;
}

double Args::real(const std::string& name, double low, double high) const {
  const std::string value = text(name);
  char* end = nullptr;
  const double x = std::strtod(value.c_str(), &end);
  check<ConfigError>(!value.empty() && *end == 0 && x >= low && x <= high, info_.name, ": --", name, "=", value,
                     " must be a number from ", low, " to ", high);
  return x;
}

int Args::choice(const std::string& name, const std::vector<std::string>& legal) const {
  const std::string value = text(name);
  std::string all;
  for (size_t i = 0; i < legal.size(); ++i) {
    if (legal[i] == value) return static_cast<int>(i);
    all += (i == 0 ? "" : ", ") + legal[i];
  }
  throw ConfigError(cat(info_.name, ": --", name, "=", value, " must be one of ", all));
}

const std::vector<std::string>& Args::words(size_t count) const {
  check<ConfigError>(words_.size() == count, info_.name, ": expected ", count, " argument(s) ", info_.words,
                     " but got ", words_.size());
  return words_;
}

}  // namespace tpo
