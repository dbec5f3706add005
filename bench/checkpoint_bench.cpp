// Speed of save() beside plain O_DIRECT pwrite of the same bytes, in turns; and of load() and verify().
// usage: checkpoint_bench FOLDER [MIB] [PAIRS]        prints one JSON line, medians over the pairs
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <iostream>

#include "checkpoint/checkpointer.h"
#include "core/error.h"

namespace tpo {
namespace {

double seconds_of(const std::function<void()>& f) {
  const auto begin = std::chrono::steady_clock::now();
  f();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

double median(std::vector<double> v) {
  std::sort(v.begin(), v.end());
  return v[v.size() / 2];
}

// One file from one aligned buffer in writes of 1 MiB, with fsync.
void plain_write(const std::string& path, int64_t bytes) {
  constexpr size_t kPart = 1 << 20;
  void* part = std::aligned_alloc(4096, kPart);
  std::memset(part, 1, kPart);
  const int fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_DIRECT, 0666);
  check<IoError>(fd >= 0, path, " does not take O_DIRECT");
  for (int64_t at = 0; at < bytes; at += kPart) {
    check<IoError>(::pwrite(fd, part, kPart, at) == static_cast<ssize_t>(kPart), "cannot write ", path);
  }
  check<IoError>(::fsync(fd) == 0, "cannot flush ", path);
  ::close(fd);
  std::free(part);
}

int run(const std::string& dir, int64_t mib, int pairs) {
  std::filesystem::create_directories(dir);
  TrainState state;
  const Shape shape{1024, 1024};  // 4 MiB, as a projection of a model of width 1,024
  for (int64_t i = 0; i < mib / 4; ++i) state.tensors.push_back({cat("w", i), Tensor::zeros(shape), shape, 0});
  for (StateTensor& t : state.tensors) std::memset(t.value.raw(), 1, static_cast<size_t>(t.value.nbytes()));
  const auto world = make_single();
  std::vector<double> save_s, plain_s, ratio, load_s, verify_s;
  for (int i = 0; i < pairs; ++i) {
    plain_s.push_back(seconds_of([&] { plain_write(dir + "/plain", mib << 20); }));
    std::filesystem::remove(dir + "/plain");
    std::string folder;
    save_s.push_back(seconds_of([&] { folder = save(dir + "/ckpt", i, state, *world); }));
    ratio.push_back(plain_s.back() / save_s.back());
    verify_s.push_back(seconds_of([&] { verify(folder); }));
    load_s.push_back(seconds_of([&] { load(folder, state, *world); }));
    std::filesystem::remove_all(folder);
  }
  const auto rate = [&](const std::vector<double>& s) { return static_cast<double>(mib) * 1.048576 / median(s); };
  std::cout << "{\"bench\": \"checkpoint\", \"mib\": " << mib << ", \"pairs\": " << pairs
            << ", \"save_mb_per_s\": " << rate(save_s) << ", \"plain_o_direct_mb_per_s\": " << rate(plain_s)
            << ", \"save_over_plain\": " << median(ratio) << ", \"verify_mb_per_s\": " << rate(verify_s)
            << ", \"load_mb_per_s\": " << rate(load_s) << "}\n";
  return 0;
}

}  // namespace
}  // namespace tpo

int main(int argc, char** argv) {
  try {
    tpo::check<tpo::ConfigError>(argc >= 2, "usage: checkpoint_bench FOLDER [MIB] [PAIRS]");
    return tpo::run(argv[1], argc > 2 ? std::atoll(argv[2]) : 256, argc > 3 ? std::atoi(argv[3]) : 9);
  } catch (const std::exception& e) {
    std::cerr << "checkpoint_bench: " << e.what() << "\n";
    return 1;
  }
}
