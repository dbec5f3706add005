// Times forward and backward of one part of the nano model (part_models.h).
//   part_bench --part NAME [--batch N] [--threads N] [--profile N]
// runs steps by themselves when told to: it prints [] when warm, for every line N of standard input the milliseconds
// of N steps, and at the end of input one JSON object: what a step executes and the floor under it. So part_compare.py
// times it in turns with PyTorch. With --profile N it lists on standard error where N steps went, by op and kernel.
//   floor_ms: the step's matrix products run alone on buffers of their own (gemm_replay.h), and the operations of
//             attention, which multiplies inside one kernel, at the multiply-add peak. No step over these products can
//             take less, however little the rest takes.
//   gflop, gbyte: what the kernels count (Cost).
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <iostream>
#include <string>

#include "bench/gemm_replay.h"
#include "bench/limits.h"
#include "bench/part_models.h"
#include "core/parallel_for.h"
#include "core/profile.h"

namespace tpo {
namespace {

struct Options {
  std::string part = "model";
  int64_t batch = 1, threads = 1, profile = 0;
};

Options parse(int argc, char** argv) {
  Options o;
  for (int i = 1; i < argc; i += 2) {
    const std::string flag = argv[i];
    check<ConfigError>(i + 1 < argc, flag, " needs a value; flags are --part, --batch, --threads, --profile");
    int64_t* number = flag == "--batch"     ? &o.batch
                      : flag == "--threads" ? &o.threads
                      : flag == "--profile" ? &o.profile
                                            : nullptr;
    check<ConfigError>(number != nullptr || flag == "--part", "no flag ", flag);
    number != nullptr ? void(*number = std::stoll(argv[i + 1])) : void(o.part = argv[i + 1]);
  }
  check<ConfigError>(o.batch >= 1 && o.threads >= 1, "batch and threads are at least 1");
  return o;
}

double median(std::vector<double> v) {
  std::sort(v.begin(), v.end());
  return v[v.size() / 2];
}

std::vector<ProfileRow> profile(Part& part, int64_t steps) {
  Profiler profiler;
  {
    const ProfilerScope scope(&profiler, Stream::current());
    for (int64_t i = 0; i < steps; ++i) {
      const ProfileScope step("step");
      part.step();
    }
  }
  return profile_rows(profiler.events());
}

void print_profile(const std::vector<ProfileRow>& rows, double n) {
  for (const ProfileRow& row : rows) {
    const double ns = static_cast<double>(row.ns),
                 bytes = static_cast<double>(row.cost.read_bytes + row.cost.write_bytes);
    std::fprintf(stderr, "%-34s %-22s %6.0f calls %9.1f us %7.1f GFLOP/s %6.1f GB/s\n", row.op.c_str(),
                 row.kind == ProfileRow::Kind::kOutside ? "outside kernels" : row.name.c_str(),
                 static_cast<double>(row.calls) / n, ns / n / 1e3, static_cast<double>(row.cost.flops) / ns,
                 bytes / ns);
  }
}

void serve(Part& part) {
  std::cout << "[]" << std::endl;
  for (std::string line; std::getline(std::cin, line);) {
    std::cout << '[';
    for (int64_t i = 0, n = std::stoll(line); i < n; ++i) std::cout << (i > 0 ? ", " : "") << 1e3 * part.step();
    std::cout << ']' << std::endl;
  }
}

void report(Part& part, const Options& o) {
  const StreamCounters before = Stream::current().counters();
  std::vector<Gemm> recorded = record_gemms([&] { part.step(); });
  const StreamCounters after = Stream::current().counters();
  GemmReplay gemms(std::move(recorded));
  double attention = 0;
  for (const ProfileRow& row : profile(part, 1))
    if (row.name.starts_with("attention")) attention += static_cast<double>(row.cost.flops);
  std::vector<double> alone;
  for (int i = 0; i < 31; ++i) {
    gemms.fill();
    alone.push_back(1e3 * gemms.run());
  }
  const double peak = measure_limits().gflops, gemm_ms = median(alone);
  const auto bytes = after.read_bytes - before.read_bytes + after.write_bytes - before.write_bytes;
  std::cout << "{\"part\": \"" << o.part << "\", \"batch\": " << o.batch << ", \"threads\": " << o.threads
            << ", \"trained\": " << part.trained() << ", \"launches\": " << after.launches - before.launches
            << ", \"gflop\": " << 1e-9 * static_cast<double>(after.flops - before.flops)
            << ", \"gbyte\": " << 1e-9 * static_cast<double>(bytes) << ", \"gemms\": " << gemms.count()
            << ", \"gemm_gflop\": " << 1e-9 * gemms.flops() << ", \"attention_gflop\": " << 1e-9 * attention
            << ", \"gemm_ms\": " << gemm_ms << ", \"peak_gflops\": " << peak
            << ", \"floor_ms\": " << gemm_ms + 1e-6 * attention / peak << ", \"blas_kernels\": \"" << blas_kernels()
            << "\"}" << std::endl;
}

void bench(const Options& o) {
  set_num_threads(static_cast<int>(o.threads));
  const auto part = make_part(o.part, o.batch);
  for (int i = 0; i < 5; ++i) part->step();
  if (o.profile > 0) print_profile(profile(*part, o.profile), static_cast<double>(o.profile));
  serve(*part);
  report(*part, o);
}

}  // namespace
}  // namespace tpo

int main(int argc, char** argv) {
  try {
    tpo::bench(tpo::parse(argc, argv));
    return 0;
  } catch (const std::exception& e) {
    std::cerr << "part_bench: " << e.what() << '\n';
    return 1;
  }
}
