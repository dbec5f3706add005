#include "model/metrics/text.h"

#include <map>

#include "core/error.h"

namespace tpo {

std::string normalize_answer(std::string_view text) {
  std::string out;
  bool gap = false;
  for (const char c : text) {
    if (c == ' ' || c == '\t' || c == '\n' || c == '\r') {
      gap = !out.empty();
      continue;
    }
    if (gap) out += ' ';
    gap = false;
    out += c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  }
  if (!out.empty() && out.back() == '.') out.pop_back();
  while (!out.empty() && out.back() == ' ') out.pop_back();
  return out;
}

double exact_match(std::span<const std::string> predicted, std::span<const std::string> truth) {
  check_shape(predicted.size() == truth.size(), "[exact_match] ", predicted.size(), " answers for ", truth.size());
  double hits = 0;
  for (size_t i = 0; i < truth.size(); ++i) hits += normalize_answer(predicted[i]) == normalize_answer(truth[i]);
  return truth.empty() ? 0 : hits / static_cast<double>(truth.size());
}

std::string most_frequent_answer(std::span<const std::string> train) {
  std::map<std::string, int64_t> counts;
  for (const std::string& answer : train) ++counts[normalize_answer(answer)];
  std::string best;
  int64_t most = 0;
  for (const auto& [answer, count] : counts)
    if (count > most) best = answer, most = count;
  return best;
}

}  // namespace tpo
