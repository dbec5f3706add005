#pragma once
// Reader of the golden files of golden/*.py, and the comparison with them.
#include <fstream>
#include <sstream>

#include "bf16.h"

namespace tpo::testing {

// The oracles compute in float64, we in fp32: rounding of sums of some hundred terms, far below a wrong formula.
inline constexpr double kGoldenTolerance = 1e-4;

// How far PyTorch's bf16 is from its float64, of rounded weights too, stands in the golden files. As a root mean square
// over the arrays, each in units of our bound, our difference may be this much of it: roundings of both are draws.
inline constexpr double kNoWorse = 1.5;

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

// A case in fp32 against one golden file, and in bf16 against itself in fp32.
class Golden {
 public:
  explicit Golden(const std::string& file, Differences differences = {})
      : file_(file), differences_(std::move(differences)), arrays_(read_golden(file + ".golden")) {}

  // Every array of the file exists and agrees, and there is no other.
  void expect(const CaseRun& run) const {
    const Arrays ours = run({});
    EXPECT_EQ(ours.size(), arrays_.size()) << file_;
    double worst = 0;
    std::string where;
    for (const auto& [name, reference] : arrays_) {
      ASSERT_TRUE(ours.contains(name)) << file_ << ' ' << name << " is missing";
      const double d = differences_(ours, arrays_, name);
      EXPECT_LE(d, kGoldenTolerance) << file_ << ' ' << name;
      if (d >= worst) worst = d, where = name;
    }
    std::printf("%s: largest difference %.1e of the maximum, in %s\n", file_.c_str(), worst, where.c_str());
    double mine = 0, theirs = 0;
    const Arrays oracle = read_golden(file_ + "_bf16.golden");
    for (const auto& [name, error] : expect_bf16(file_, run, differences_)) {
      if (error.bound == 0 || differences_.vanishes(name)) continue;
      mine += std::pow(error.difference / error.bound, 2);
      theirs += std::pow(oracle.at(name).at(0) / error.bound, 2);
    }
    EXPECT_LE(std::sqrt(mine / theirs), kNoWorse) << file_;
    std::printf("%s in bf16: %.2f of PyTorch's difference\n", file_.c_str(), std::sqrt(mine / theirs));
  }

 private:
  std::string file_;
  Differences differences_;
  Arrays arrays_;
};

}  // namespace tpo::testing
