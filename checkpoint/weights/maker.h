#pragma once
// Carries recipes out: any stretch of what a recipe makes, from sources that are read piece by piece.
// Elements that keep their type keep their bits. Otherwise widening is exact and narrowing rounds to nearest even once:
// a mean is formed in double, a low-rank term in fp32 (rank products, in order) and added in fp32.
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "checkpoint/safetensors/convert.h"
#include "checkpoint/weights/plan.h"

namespace tpo {

// A tensor that can be read from any element on.
struct WeightSource {
  std::string name;
  SafeType type = SafeType::kF32;
  Shape shape;
  std::function<void(int64_t first, std::span<std::byte> out)> read;  // whole elements
  std::string spelled = {};                                           // of an opaque one, see SafeTensor
};

// Its type and shape, as its file has them, for messages.
std::string told(const WeightSource& source);

// Requires: reader and entry outlive it.
WeightSource source_of(SafetensorsReader& reader, const SafetensorsReader::Entry& entry);

// One thread uses a Maker. Memory: 1 MiB, and of one recipe a row of means and both low-rank factors in fp32: sources
// are read one after the other, each forwards, since a file that is read here and there is read many times over.
class Maker {
 public:
  // Requires: sources outlive the maker.
  explicit Maker(const std::vector<WeightSource>& sources) : sources_(&sources) {}

  // The type that keeps the bits of a recipe's source; i64 if it counts.
  // Throws DataError that names a source whose type is no weight.
  SafeType natural_type(const Recipe& recipe) const;
  // Elements [first, first + out.size() / width) of the recipe's tensor in that type. Calls for one recipe come
  // together, since what they share is kept for the last one.
  void fill(const Recipe& recipe, SafeType type, int64_t first, std::span<std::byte> out);

  int64_t overflows() const { return overflows_; }  // finite values that became infinite, over all calls

 private:
  void begin(const Recipe& recipe);
  void base(const Recipe& recipe, SafeType type, int64_t first, std::span<std::byte> out);
  void permuted(const Recipe& recipe, SafeType type, int64_t first, std::span<std::byte> out);
  void values(const Recipe& recipe, int64_t first, std::span<float> out);
  void add_low_rank(const Recipe& recipe, int64_t first, std::span<float> out);
  const std::vector<float>& mean_row(const Recipe& recipe);
  void read_as(size_t source, int64_t first, SafeType type, std::span<std::byte> out);
  void read_floats(size_t source, int64_t first, std::span<float> out);

  const std::vector<WeightSource>* sources_;
  const Recipe* current_ = nullptr;
  std::vector<float> lora_a_, lora_b_, mean_, chunk_, terms_;
  std::vector<std::byte> raw_, row_;
  int64_t overflows_ = 0;
};

// Throws ConfigError that names the tensor being made if it became infinite and may not.
void check_overflows(bool allowed, int64_t overflows, const std::string& name, SafeType type);

}  // namespace tpo
