#pragma once
// Small states, temporary folders and file damage for the checkpoint tests.
#include <gtest/gtest.h>
#include <stdlib.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <string>
#include <vector>

#include "checkpoint/checkpointer.h"
#include "checkpoint/checksum.h"
#include "core/error.h"
#include "parallel/comm/threads.h"

namespace tpo {

class TempFolder {
 public:
  TempFolder() : path_((std::filesystem::temp_directory_path() / "tpo_ckpt_XXXXXX").string()) {
    if (::mkdtemp(path_.data()) == nullptr) throw IoError("mkdtemp " + path_);
  }
  ~TempFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TempFolder(const TempFolder&) = delete;
  TempFolder& operator=(const TempFolder&) = delete;
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

inline Tensor ramp(const Shape& shape, float first) {
  std::vector<float> v(static_cast<size_t>(shape.numel()));
  for (size_t i = 0; i < v.size(); ++i) v[i] = first + 0.25f * static_cast<float>(i);
  return Tensor::from(v, shape);
}

// Every element type, an empty tensor, a scalar, sizes that are no multiple of a block. `seed` changes every value.
inline TrainState make_state(float seed) {
  TrainState s;
  const auto add = [&](const std::string& name, Tensor t) { s.tensors.push_back({name, t, t.shape(), 0}); };
  add("trunk.w", ramp({37, 129}, seed));
  add("trunk.b", ramp({129}, seed + 1));
  add("optim.m.trunk.w", ramp({37, 129}, seed + 2));
  add("scalar", ramp(Shape{}, seed + 3));
  add("empty", Tensor::empty({0, 4}));
  add("exact_block", ramp({1024}, seed + 4));
  add("ids", Tensor::from(std::vector<int32_t>{1, -2, static_cast<int32_t>(seed)}, {3}));
  add("rows", Tensor::from(std::vector<int64_t>{static_cast<int64_t>(seed), -1}, {2, 1}));
  add("bytes", Tensor::from(std::vector<uint8_t>(5001, static_cast<uint8_t>(seed)), {5001}));
  add("half", Tensor::from(std::vector<BF16>(300, BF16(seed)), {3, 100}));
  s.counters = {{"optim.steps.trunk", static_cast<int64_t>(seed)}, {"epoch", 7}};
  s.config_text = "model { width: 8 }  # \"quoted\"\n";
  s.model_fingerprint = "test model";
  return s;
}

// Part of a tensor that is whole in `full`, element by element.
inline StateTensor part_of_tensor(const std::string& name, const Tensor& full, const Rect& rect, int64_t begin,
                                  int64_t count) {
  const int64_t size = static_cast<int64_t>(size_of(full.dtype())), width = whole_of(full.shape()).cols;
  const Tensor value = Tensor::empty({count}, full.dtype());
  for (int64_t i = 0; i < count; ++i) {
    const int64_t row = rect.row + (begin + i) / rect.cols, col = rect.col + (begin + i) % rect.cols;
    std::memcpy(static_cast<char*>(value.raw()) + i * size,
                static_cast<const char*>(full.raw()) + (row * width + col) * size, static_cast<size_t>(size));
  }
  return {name, value, full.shape(), begin, rect};
}

// A tensor cut in columns, one of the halves in two shards; what rank 0, 1, 2 hold.
inline TrainState cut_state(int rank) {
  const Rect left{0, 6, 0, 8}, right{0, 6, 8, 12};
  const Tensor w = ramp({6, 4, 5}, 3);
  TrainState s;
  s.tensors.push_back(rank == 0   ? part_of_tensor("w", w, left, 0, 17)
                      : rank == 1 ? part_of_tensor("w", w, left, 17, 31)
                                  : part_of_tensor("w", w, right, 0, 72));
  return s;
}

// All values, as one string: equal exactly if the states are bit-identical.
inline std::string contents(const TrainState& s) {
  std::string out;
  for (const StateTensor& t : s.tensors) {
    out += t.name + cat(t.full) + std::string(static_cast<const char*>(t.value.raw()), t.value.nbytes());
  }
  for (const auto& [name, value] : s.counters) out += cat(name, "=", value, ";");
  return out;
}

// save() by n rank threads, each with its own copy of the state.
inline void save_ranks(int n, const std::string& dir, int64_t step, float seed, const SaveOptions& options = {}) {
  run_ranks(n, [&](ProcessGroup& world) { save(dir, step, make_state(seed), world, options); });
}

inline LoadReport load_one(const std::string& folder, TrainState& state, const LoadOptions& options = {}) {
  const auto single = make_single();
  return load(folder, state, *single, options);
}

// Message of the error of type E that f throws; a test failure if it throws anything else or nothing.
template <class E>
std::string message_of(const std::function<void()>& f) {
  try {
    f();
  } catch (const E& e) {
    return e.what();
  } catch (const std::exception& e) {
    ADD_FAILURE() << "another type of error: " << e.what();
    return "";
  }
  ADD_FAILURE() << "no error";
  return "";
}

inline std::string slurp(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}
inline void spit(const std::string& path, const std::string& text) {
  std::ofstream(path, std::ios::binary | std::ios::trunc) << text;
}

// Names in a folder that are neither checkpoints nor the pointer.
inline std::vector<std::string> leftovers(const std::string& dir) {
  std::vector<std::string> found;
  for (const auto& e : std::filesystem::directory_iterator(dir)) {
    const std::string name = e.path().filename().string();
    if (name[0] == '.' || name.ends_with(".old")) found.push_back(name);
  }
  return found;
}

}  // namespace tpo
