#pragma once
// Reader of the golden files of golden/*.py, and the comparison with them.
#include <cstdio>
#include <fstream>
#include <sstream>

#include "model_fixture.h"

namespace tpo::testing {

// The oracles compute in float64, we in fp32: rounding of sums of some hundred terms, far below a wrong formula.
inline constexpr double kGoldenTolerance = 1e-4;

using Arrays = std::map<std::string, std::vector<float>>;

inline Arrays read_golden(const std::string& name) {
  std::ifstream in(std::string(TPO_GOLDEN_DIR) + "/" + name, std::ios::binary);
  std::string line;
  std::getline(in, line);
  if (line != "tpo-golden 1") throw IoError("no golden file " + name);
  std::vector<std::pair<std::string, size_t>> table;
  while (std::getline(in, line) && line != "data") {
    std::istringstream words(line);
    std::string array;
    words >> array;
    if (array == "#") continue;
    size_t count = 1, extent = 0;
    while (words >> extent) count *= extent;
    table.emplace_back(array, count);
  }
  Arrays arrays;
  for (const auto& [array, count] : table) {
    std::vector<float>& v = arrays[array];
    v.resize(count);
    in.read(reinterpret_cast<char*>(v.data()), static_cast<std::streamsize>(count * sizeof(float)));
  }
  if (!in || in.peek() != EOF) throw IoError("golden file " + name + " has another length than its table");
  return arrays;
}

// Compares arrays with one golden file and prints the largest difference found.
class Golden {
 public:
  explicit Golden(const std::string& file) : file_(file), arrays_(read_golden(file)) {}
  Golden(const Golden&) = delete;
  ~Golden() {
    std::printf("%s: largest difference %.1e of the maximum, in %s\n", file_.c_str(), worst_, where_.c_str());
  }

  const std::vector<float>& operator[](const std::string& name) const { return arrays_.at(name); }
  bool has(const std::string& name) const { return arrays_.count(name) == 1; }
  void expect(const std::string& name, const std::vector<float>& ours) {
    const double d = relative_difference(ours, arrays_.at(name));
    EXPECT_LE(d, kGoldenTolerance) << file_ << ' ' << name;
    if (d >= worst_) worst_ = d, where_ = name;
  }
  // Every gradient of the file exists and agrees, and there is no other. Those that are zero but for rounding, whose
  // names contain `vanishing`, are compared with the gradient that has "weight" for "bias" in its name.
  void expect_gradients(const Gradients& ours, const std::string& vanishing = "") {
    size_t expected = 0;
    for (const auto& [name, reference] : arrays_) {
      if (!name.starts_with("grad.")) continue;
      ++expected;
      const auto it = ours.find(name.substr(5));
      ASSERT_NE(it, ours.end()) << name << " is missing";
      if (!vanishing.empty() && name.find(vanishing) != std::string::npos) {
        std::string weight = name;
        weight.replace(weight.find("bias"), 4, "weight");
        EXPECT_LE(max_abs(it->second), kGoldenTolerance * max_abs(arrays_.at(weight))) << file_ << ' ' << name;
        continue;
      }
      expect(name, it->second);
    }
    EXPECT_GT(expected, 0u);
    EXPECT_EQ(ours.size(), expected);
  }

 private:
  std::string file_, where_;
  Arrays arrays_;
  double worst_ = 0;
};

}  // namespace tpo::testing
