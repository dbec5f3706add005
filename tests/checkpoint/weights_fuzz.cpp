// Mutations of headers, indexes, whole files and lists of names: whatever comes in, the answer is a result or a
// DataError, and no allocation is larger than the input explains. Deterministic in the seed.
// usage: weights_fuzz [EXECUTIONS [SEED]]     the default is the short run of ctest; ten million take some minutes
#include <algorithm>
#include <fstream>
#include <iostream>

#include "checkpoint/safetensors/json.h"
#include "checkpoint/safetensors/safetensors.h"
#include "checkpoint/weights/maker.h"
#include "core/error.h"
#include "tests/fuzz.h"

namespace tpo {
namespace {

constexpr size_t kMostBytes = 1 << 20;  // inputs have a few thousand; a layout's table is built before

const std::vector<std::string> kSplices{"\"",
                                        "{",
                                        "}",
                                        "[",
                                        "]",
                                        ":",
                                        ",",
                                        "-1",
                                        "0",
                                        "18446744073709551616",
                                        "9223372036854775807",
                                        "1e400",
                                        "\\u0000",
                                        "\\ud800",
                                        "\xff\xfe",
                                        "null",
                                        "\"shape\":",
                                        "\"data_offsets\":",
                                        "\"dtype\":\"F64\"",
                                        "\"__metadata__\":",
                                        " "};

class Fuzz : testing::Mutator {
 public:
  explicit Fuzz(uint64_t seed) : Mutator(seed, kSplices) {
    for (const std::string& name : layout_names()) layouts_.push_back(layout_of(name));
  }

  void one() {
    switch (below(8)) {
      case 0:
        return index();
      case 1:
        return names();
      case 2:
        return numbers();
      default:
        return header();
    }
  }
  void whole_file(const std::string& path) {
    std::string json = mutated(sample_header());
    uint64_t length = json.size();
    if (below(2) == 0) length = below(3) == 0 ? draw() : length + below(9) - 4;
    std::ofstream(path, std::ios::binary | std::ios::trunc)
        << std::string(reinterpret_cast<const char*>(&length), below(20) == 0 ? below(9) : 8) << json
        << std::string(below(80), 'd');
    refused([&] {
      SafetensorsReader reader(path);
      for (const auto& [name, entry] : reader.tensors()) {
        std::vector<std::byte> bytes(static_cast<size_t>(entry.tensor.bytes));
        reader.read(entry, 0, bytes);
      }
    });
  }
  int64_t accepted() const { return accepted_; }

 private:
  template <class F>
  void refused(F f) {
    const testing::Watch watch(kMostBytes);
    try {
      f();
      ++accepted_;
    } catch (const DataError&) {
    }
  }

  std::string sample_header() {
    std::string json = R"({"__metadata__":{"format":"pt"})";
    int64_t end = 0;
    for (uint64_t i = 0, n = below(5); i < n; ++i) {
      const int64_t rows = static_cast<int64_t>(below(4)), bytes = rows * 3 * 2;
      json += cat(R"(,"lm.base_model.model.model.layers.)", i, R"(.input_layernorm.weight":{"dtype":"BF16","shape":[)",
                  rows, R"(,3],"data_offsets":[)", end, ",", end + bytes, "]}");
      end += bytes;
    }
    data_bytes_ = end;
    return json + "}" + std::string(below(8), ' ');
  }

  void header() {
    const std::string json = mutated(sample_header());
    refused([&] {
      int64_t end = 0;
      for (const SafeTensor& t : parse_safetensors_header(json, data_bytes_, "f")) {
        if (t.begin != end || t.bytes != t.shape.numel() * width_of(t.type)) std::abort();
        end += t.bytes;
      }
      if (end != data_bytes_) std::abort();
    });
  }
  void index() {
    const std::string json =
        mutated(R"({"metadata":{"total_size":12},"weight_map":{"a":"1.safetensors","b.c":"2.st"}})");
    refused([&] {
      for (const auto& [name, file] : parse_safetensors_index(json, "i")) {
        if (file.empty() || file.find('/') != std::string::npos) std::abort();
      }
    });
  }

  Shape shape() {
    Shape s;
    for (uint64_t i = 0, n = below(6); i < n; ++i) s.push_back(static_cast<int64_t>(below(9)));
    return s;
  }
  // Lists of names near those of a layout, with any shapes, and every recipe carried out.
  void names() {
    const Layout& layout = pick(layouts_);
    std::vector<NamedShape> theirs, ours;
    for (uint64_t i = 0, n = 1 + below(8); i < n; ++i) {
      const MapRow& row = pick(layout.rows);
      const std::vector<std::string> numbers{std::to_string(below(3))};
      const Shape s = shape();
      Shape one{1};
      for (int d = 0; d < s.rank() && d < 5; ++d) one.push_back(s[d]);
      theirs.push_back({mutated_name(fill_name(row.theirs, numbers)), below(3) == 0   ? shape()
                                                                      : below(3) == 0 ? one
                                                                                      : s});
      if (!row.ours.empty()) ours.push_back({mutated_name(fill_name(row.ours, numbers)), s});
    }
    const LoraMerge lora{below(2) == 0, 2};
    refused([&] {
      for (const Recipe& r : plan_import(layout, theirs, ours, lora).recipes) carry_out(r, theirs);
    });
    refused([&] {
      for (const Recipe& r : plan_export(layout, ours, lora).recipes) carry_out(r, ours);
    });
  }
  std::string mutated_name(const std::string& name) { return below(4) == 0 ? mutated(name) : name; }

  void carry_out(const Recipe& recipe, const std::vector<NamedShape>& from) {
    std::vector<WeightSource> sources;
    for (const NamedShape& n : from) {
      const SafeType type = below(2) == 0 ? SafeType::kF32 : SafeType::kF16;
      sources.push_back({n.name, type, n.shape, [&n, type](int64_t first, std::span<std::byte> out) {
                           const int64_t last = first + static_cast<int64_t>(out.size()) / width_of(type);
                           if (first < 0 || last > n.shape.numel()) std::abort();
                           std::fill(out.begin(), out.end(), std::byte{0});
                         }});
    }
    Maker maker(sources);
    const SafeType type = maker.natural_type(recipe);
    std::vector<std::byte> out(static_cast<size_t>(recipe.shape.numel() * width_of(type)));
    maker.fill(recipe, type, 0, out);
  }

  void numbers() {
    std::vector<std::byte> in(8), out(8);
    for (std::byte& b : in) b = static_cast<std::byte>(draw());
    const SafeType types[] = {SafeType::kF16, SafeType::kBF16, SafeType::kF32};
    const SafeType from = types[below(3)], to = types[below(3)];
    convert(from, std::span(in).first(static_cast<size_t>(2 * width_of(from))), to,
            std::span(out).first(static_cast<size_t>(2 * width_of(to))));
    ++accepted_;
  }

  std::vector<Layout> layouts_;
  int64_t data_bytes_ = 0, accepted_ = 0;
};

}  // namespace
}  // namespace tpo

int main(int argc, char** argv) {
  const int64_t executions = argc > 1 ? std::atoll(argv[1]) : 30000;
  tpo::Fuzz fuzz(argc > 2 ? std::strtoull(argv[2], nullptr, 10) : 1);
  std::string path = "/tmp/tpo_weights_fuzz_XXXXXX";
  const int fd = mkstemp(path.data());
  if (fd < 0) return 1;
  for (int64_t i = 0; i < executions; ++i) {
    if (i % 100 == 0) {
      fuzz.whole_file(path);
    } else {
      fuzz.one();
    }
  }
  std::remove(path.c_str());
  std::cout << executions << " executions, " << fuzz.accepted() << " accepted\n";
  // A run in which all is refused, or nothing, would test little.
  return fuzz.accepted() > executions / 20 && fuzz.accepted() < executions * 2 ? 0 : 1;
}
