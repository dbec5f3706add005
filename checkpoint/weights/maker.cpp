#include "checkpoint/weights/maker.h"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "core/error.h"

namespace tpo {
namespace {

constexpr int64_t kChunk = 1 << 17;  // elements converted at a time: half a MiB of fp32

int64_t columns(const Shape& s) { return s.rank() > 0 && s[0] > 0 ? s.numel() / s[0] : 1; }

std::span<std::byte> bytes_of(std::span<float> values) { return std::as_writable_bytes(values); }

}  // namespace

WeightSource source_of(SafetensorsReader& reader, const SafetensorsReader::Entry& entry) {
  const SafeTensor& t = entry.tensor;
  return {t.name, t.type, t.shape,
          [&reader, &entry](int64_t first, std::span<std::byte> out) {
            reader.read(entry, first * width_of(entry.tensor.type), out);
          },
          t.spelled};
}

std::string told(const WeightSource& s) { return s.spelled.empty() ? cat(s.type, " ", s.shape) : s.spelled; }

SafeType Maker::natural_type(const Recipe& recipe) const {
  if (recipe.counting) return SafeType::kI64;
  const auto weight = [&](size_t i) {
    const WeightSource& s = (*sources_)[i];
    check<DataError>(is_weight(s.type), "tensor ", s.name, " has dtype ", told(s), "; weights are BF16, F16 or F32");
    return s.type;
  };
  for (const auto& factor : {recipe.lora_a, recipe.lora_b}) {
    if (factor) weight(*factor);  // an adapter does not widen its weight
  }
  return weight(recipe.source);
}

void Maker::read_as(size_t source, int64_t first, SafeType type, std::span<std::byte> out) {
  const WeightSource& s = (*sources_)[source];
  if (s.type == type) return s.read(first, out);
  const int64_t width = width_of(type), n = static_cast<int64_t>(out.size()) / width;
  for (int64_t at = 0; at < n; at += kChunk) {
    const int64_t count = std::min(kChunk, n - at);
    raw_.resize(static_cast<size_t>(count * width_of(s.type)));
    s.read(first + at, raw_);
    overflows_ +=
        convert(s.type, raw_, type, out.subspan(static_cast<size_t>(at * width), static_cast<size_t>(count * width)));
  }
}

void Maker::read_floats(size_t source, int64_t first, std::span<float> out) {
  read_as(source, first, SafeType::kF32, bytes_of(out));
}

// What the source gives. Requires: no element of a mean row.
void Maker::base(const Recipe& recipe, SafeType type, int64_t first, std::span<std::byte> out) {
  if (recipe.order != Recipe::Order::kSame) return permuted(recipe, type, first, out);
  read_as(recipe.source, first, type, out);
}

// Row by row: (3, K) <-> (K, 3).
void Maker::permuted(const Recipe& recipe, SafeType type, int64_t first, std::span<std::byte> out) {
  const int64_t row = columns(recipe.shape), width = width_of(type);
  const int64_t end = first + static_cast<int64_t>(out.size()) / width;
  const bool last = recipe.order == Recipe::Order::kColoursLast;
  const int64_t inner = last ? 3 : row / 3, outer = row / inner;  // of what is made
  row_.resize(static_cast<size_t>(row * width));
  for (int64_t at = first; at < end;) {
    const int64_t r = at / row, until = std::min(end, (r + 1) * row);
    read_as(recipe.source, r * row, type, row_);
    for (; at < until; ++at) {
      const int64_t i = at - r * row, from = i % inner * outer + i / inner;
      std::memcpy(out.data() + (at - first) * width, row_.data() + from * width, static_cast<size_t>(width));
    }
  }
}

void Maker::begin(const Recipe& recipe) {
  if (current_ == &recipe) return;
  current_ = &recipe;
  mean_.clear();
  for (const auto& [factor, values] : {std::pair(recipe.lora_a, &lora_a_), std::pair(recipe.lora_b, &lora_b_)}) {
    values->resize(factor ? static_cast<size_t>((*sources_)[*factor].shape.numel()) : 0);
    if (factor) read_floats(*factor, 0, *values);
  }
}

void Maker::add_low_rank(const Recipe& recipe, int64_t first, std::span<float> out) {
  const int64_t width = columns(recipe.shape), rank = (*sources_)[*recipe.lora_a].shape[0];
  const int64_t end = first + static_cast<int64_t>(out.size());
  for (int64_t at = first; at < end;) {
    const int64_t r = at / width, until = std::min(end, (r + 1) * width);
    terms_.assign(static_cast<size_t>(until - at), 0.0f);
    for (int64_t k = 0; k < rank; ++k) {  // over whole rows of a, so that the loop inside is vector code
      const float b = lora_b_[static_cast<size_t>(r * rank + k)];
      const float* a = lora_a_.data() + k * width + at % width;
      for (size_t i = 0; i < terms_.size(); ++i) terms_[i] += b * a[i];
    }
    for (const float term : terms_) out[static_cast<size_t>(at++ - first)] += recipe.lora_scale * term;
  }
}

// In fp32, low-rank term included. Requires: no element of a mean row.
void Maker::values(const Recipe& recipe, int64_t first, std::span<float> out) {
  base(recipe, SafeType::kF32, first, bytes_of(out));
  if (recipe.lora_a) add_low_rank(recipe, first, out);
}

const std::vector<float>& Maker::mean_row(const Recipe& recipe) {
  if (!mean_.empty()) return mean_;
  const int64_t width = columns(recipe.shape), rows = recipe.shape[0] - recipe.mean_rows;
  std::vector<double> sums(static_cast<size_t>(width), 0.0);
  std::vector<float> row(static_cast<size_t>(width));
  for (int64_t r = 0; r < rows; ++r) {
    values(recipe, r * width, row);
    for (size_t c = 0; c < row.size(); ++c) sums[c] += static_cast<double>(row[c]);
  }
  for (const double s : sums) mean_.push_back(static_cast<float>(s / static_cast<double>(rows)));
  return mean_;
}

void Maker::fill(const Recipe& recipe, SafeType type, int64_t first, std::span<std::byte> out) {
  const int64_t width = width_of(type), row = columns(recipe.shape);
  const int64_t end = first + static_cast<int64_t>(out.size()) / width;
  const auto part = [&](int64_t a, int64_t b) {
    return out.subspan(static_cast<size_t>((a - first) * width), static_cast<size_t>((b - a) * width));
  };
  if (recipe.counting) {
    for (int64_t i = first; i < end; ++i) std::memcpy(part(i, i + 1).data(), &i, sizeof i);
    return;
  }
  if (recipe.zeros) {
    std::fill(out.begin(), out.end(), std::byte{0});
    return;
  }
  begin(recipe);
  const int64_t made = std::min(end, recipe.shape.numel() - recipe.mean_rows * row);  // elements before the mean rows
  if (first < made && !recipe.lora_a) base(recipe, type, first, part(first, made));
  for (int64_t at = first; at < made && recipe.lora_a; at += kChunk) {
    const int64_t until = std::min(made, at + kChunk);
    chunk_.resize(static_cast<size_t>(until - at));
    values(recipe, at, chunk_);
    overflows_ += convert(SafeType::kF32, std::as_bytes(std::span(chunk_)), type, part(at, until));
  }
  for (int64_t at = std::max(first, made); at < end;) {
    const int64_t c = at % row, until = std::min(end, at + row - c);
    const auto some = std::span(mean_row(recipe)).subspan(static_cast<size_t>(c), static_cast<size_t>(until - at));
    overflows_ += convert(SafeType::kF32, std::as_bytes(some), type, part(at, until));
    at = until;
  }
}

void check_overflows(bool allowed, int64_t overflows, const std::string& name, SafeType type) {
  check<ConfigError>(allowed || overflows == 0, "a value of ", name, " is beyond ", type,
                     " and would become infinite; give a wider --dtype, or --allow-overflow");
}

}  // namespace tpo
