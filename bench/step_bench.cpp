// Times a training step of one model, then the same step in turns with its own products run alone.
//   step_bench --model small|medium|vit|nano_decoder|nano_vit [--threads N] [--steps N] [--warmup N] [--pairs N]
//              [--batch N] [--profile N] [--json] [--serve]
// Prints one value a line, or with --json one JSON object in one line. --pairs 0 leaves the products out. With --serve
// it prints [] when warm, then for every line N of standard input runs N steps and prints their milliseconds (--steps
// is unused): so step_compare.py times it in turns with others.
// step_over_gemm compares with the linear layers' products (and the vocabulary's), step_over_products with those of
// attention as well, which the step runs inside a fused kernel and the replay as one product per head and tile.
// Executed FLOPs are those of products as they ran (causal halved, scores formed again in backward); nominal ones
// count every product three times its forward and attention whole. Both leave pointwise work out.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iostream>
#include <sstream>

#include "bench/gemm_replay.h"
#include "bench/limits.h"
#include "bench/step_models.h"
#include "core/error.h"
#include "core/parallel_for.h"
#include "core/profile.h"

namespace tpo {
namespace {

struct Options {
  std::string model;
  int64_t threads = 1, steps = 9, warmup = 2, pairs = 9, batch = 0, profile = 0;
  bool json = false, serve = false;
};

Options parse(int argc, char** argv) {
  Options o;
  const std::pair<const char*, int64_t*> numbers[] = {{"--threads", &o.threads}, {"--steps", &o.steps},
                                                      {"--warmup", &o.warmup},   {"--pairs", &o.pairs},
                                                      {"--batch", &o.batch},     {"--profile", &o.profile}};
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--help") == 0) {
      std::cout << "step_bench --model small|medium|vit|nano_decoder|nano_vit [--threads N] [--steps N] [--warmup N]\n"
                   "  [--pairs N] [--batch N] [--profile N] [--json] [--serve]      see bench/README.md\n";
      std::exit(0);
    }
    if (std::strcmp(argv[i], "--json") == 0) {
      o.json = true;
      continue;
    }
    if (std::strcmp(argv[i], "--serve") == 0) {
      o.serve = true;
      continue;
    }
    check<ConfigError>(i + 1 < argc, argv[i], " needs a value");
    const std::string flag = argv[i], value = argv[++i];
    if (flag == "--model") {
      o.model = value;
      continue;
    }
    const auto known =
        std::find_if(std::begin(numbers), std::end(numbers), [&](const auto& n) { return flag == n.first; });
    check<ConfigError>(known != std::end(numbers), "no flag ", flag, "; see step_bench --help");
    std::istringstream in(value);
    check<ConfigError>(in >> *known->second && in.eof() && *known->second >= 0, flag, " ", value, " is not a count");
  }
  check<ConfigError>(o.threads >= 1 && o.steps >= 1 && o.warmup >= 1, "threads, steps and warmup are at least 1");
  return o;
}

// A field "VmHWM" or "VmRSS" of /proc/self/status in MiB.
double process_mib(std::string_view field) {
  std::ifstream in("/proc/self/status");
  for (std::string line; std::getline(in, line);) {
    if (line.starts_with(field)) return std::stod(line.substr(field.size() + 1)) / 1024;
  }
  return 0;
}

double median(std::vector<double> v) {
  std::sort(v.begin(), v.end());
  return v[v.size() / 2];
}

// Name and value pairs, in order.
class Fields {
 public:
  template <class T>
  void add(const std::string& name, const T& value) {
    fields_.emplace_back(name, cat(value));
  }
  void add_text(const std::string& name, std::string_view value) { fields_.emplace_back(name, cat('"', value, '"')); }
  // [median, min, max] times scale
  void add_spread(const std::string& name, const std::vector<double>& v, double scale) {
    const auto [low, high] = std::minmax_element(v.begin(), v.end());
    fields_.emplace_back(name, cat('[', scale * median(v), ", ", scale * *low, ", ", scale * *high, ']'));
  }
  void print(bool json) const {
    std::cout << (json ? "{" : "");
    for (size_t i = 0; i < fields_.size(); ++i) {
      const auto& [name, value] = fields_[i];
      if (json) {
        std::cout << (i > 0 ? ", " : "") << '"' << name << "\": " << value;
      } else {
        std::cout << name << ' ' << value << '\n';
      }
    }
    std::cout << (json ? "}\n" : "");
  }

 private:
  std::vector<std::pair<std::string, std::string>> fields_;
};

class Timer {
 public:
  explicit Timer(StepModel& model) : model_(model) {}
  double step() {
    const StepTimes s = model_.step(index_++);
    if (index_ == 1) first_loss = s.loss;
    last_loss = s.loss;
    total.push_back(s.total_s());
    forward.push_back(s.forward_s), backward.push_back(s.backward_s), optimizer.push_back(s.optimizer_s);
    return s.total_s();
  }
  void forget() {
    for (auto* v : {&total, &forward, &backward, &optimizer}) v->clear();
  }
  std::vector<double> total, forward, backward, optimizer;
  double first_loss = 0, last_loss = 0;

 private:
  StepModel& model_;
  int64_t index_ = 0;
};

void serve(Timer& timer) {
  std::cout << "[]" << std::endl;
  for (std::string line; std::getline(std::cin, line);) {
    std::cout << '[';
    for (int i = 0, n = std::stoi(line); i < n; ++i) std::cout << (i > 0 ? ", " : "") << 1e3 * timer.step();
    std::cout << ']' << std::endl;
  }
}

// The peak of resident memory starts again at what is resident.
void reset_process_peak() { std::ofstream("/proc/self/clear_refs") << "5"; }

// The floor is that of the whole step only if every product was seen: one that bypasses run(Gemm) would lower it.
void check_all_seen(const GemmReplay& gemms, const StepConfig& c) {
  const double seen = gemms.flops(), expected = c.linear_flops();
  check<Error>(std::abs(seen / expected - 1) < 1e-3, "the step of ", c.name, " ran ", seen,
               " FLOPs of products through ", "run(Gemm), the model has ", expected,
               ": a kernel multiplies without it, or twice");
}

void report_rates(Fields& f, const StepConfig& c, double gemm_flops, const Limits& limits, double step_s) {
  const double executed = gemm_flops + c.attention_flops();
  f.add("gflop_executed", executed * 1e-9);
  f.add("gflop_nominal", c.nominal_flops() * 1e-9);
  f.add("gflops_executed", executed / step_s * 1e-9);
  f.add("gflops_nominal", c.nominal_flops() / step_s * 1e-9);
  f.add("peak_gflops", limits.gflops);
  f.add("share_of_peak_executed", executed / step_s * 1e-9 / limits.gflops);
  f.add("share_of_peak_nominal", c.nominal_flops() / step_s * 1e-9 / limits.gflops);
}

double median_of(int64_t repeats, const std::function<double()>& seconds) {
  std::vector<double> v;
  for (int64_t i = 0; i < repeats; ++i) v.push_back(seconds());
  return median(v);
}

// Step, products, step, products...; the ratio of each pair. A side of a pair is one run, or the median of as many as
// take 50 ms.
void report_pairs(Fields& f, const StepConfig& c, Timer& timer, GemmReplay gemms, int64_t pairs) {
  const AttentionReplay attention(c.attention(), c.layers);
  std::vector<double> step_s, gemm_s, attention_s, over_gemm, over_products;
  const auto repeats = std::max<int64_t>(1, static_cast<int64_t>(0.05 / median(timer.total)));
  gemms.run(), attention.run();  // first touch
  for (int64_t i = 0; i < pairs; ++i) {
    step_s.push_back(median_of(repeats, [&] { return timer.step(); }));
    gemm_s.push_back(median_of(repeats, [&] {
      gemms.fill();
      return gemms.run();
    }));
    attention_s.push_back(median_of(repeats, [&] { return attention.run(); }));
    over_gemm.push_back(step_s.back() / gemm_s.back());
    over_products.push_back(step_s.back() / (gemm_s.back() + attention_s.back()));
  }
  f.add("pairs", pairs);
  f.add_spread("paired_step_ms", step_s, 1e3);
  f.add_spread("gemm_ms", gemm_s, 1e3);
  f.add_spread("attention_products_ms", attention_s, 1e3);
  f.add_spread("step_over_gemm", over_gemm, 1);
  f.add_spread("step_over_products", over_products, 1);
}

void report_steps(Fields& f, const StepConfig& c, const Timer& t) {
  const double items = static_cast<double>(c.decoder ? c.batch * c.tokens : c.batch);
  f.add("steps", t.total.size());
  f.add_spread("step_ms", t.total, 1e3);
  f.add("forward_ms", 1e3 * median(t.forward)), f.add("backward_ms", 1e3 * median(t.backward));
  f.add("optimizer_ms", 1e3 * median(t.optimizer));
  f.add(c.decoder ? "tokens_per_s" : "images_per_s", items / median(t.total));
  f.add("loss_first", t.first_loss), f.add("loss_last", t.last_loss);
}

// Where the time of `steps` steps went, by kernel and op, on standard error: what is left above the products.
void print_profile(Timer& timer, int64_t steps) {
  Profiler profiler;
  {
    const ProfilerScope scope(&profiler, Stream::current());
    for (int64_t i = 0; i < steps; ++i) {
      const ProfileScope step("step");
      timer.step();
    }
  }
  const double whole = static_cast<double>(total_ns(profiler.events())), n = static_cast<double>(steps);
  for (const ProfileRow& row : profile_rows(profiler.events())) {
    const double ns = static_cast<double>(row.ns),
                 bytes = static_cast<double>(row.cost.read_bytes + row.cost.write_bytes);
    std::fprintf(stderr, "%-34s %-22s %6.0f calls %9.3f ms %5.1f %% %7.1f GFLOP/s %6.1f GB/s\n", row.op.c_str(),
                 row.kind == ProfileRow::Kind::kOutside ? "outside kernels" : row.name.c_str(),
                 static_cast<double>(row.calls) / n, ns / n / 1e6, 100 * ns / whole,
                 static_cast<double>(row.cost.flops) / ns, bytes / ns);
  }
}

void bench(const Options& o) {
  StepConfig c = step_config(o.model);
  if (o.batch > 0) c.batch = o.batch;
  set_num_threads(static_cast<int>(o.threads));
  const double start_mib = process_mib("VmRSS:");
  const auto model = make_step_model(c);
  Timer timer(*model);
  std::vector<Gemm> recorded = record_gemms([&] { timer.step(); });
  for (int64_t i = 1; i < o.warmup; ++i) timer.step();
  timer.forget();
  Allocator& allocator = *Stream::current().allocator();
  allocator.reset_peak();
  reset_process_peak();
  if (o.serve) serve(timer);
  for (int64_t i = 0; i < o.steps && !o.serve; ++i) timer.step();
  check<ConfigError>(!timer.total.empty(), "no step was asked for");
  const AllocatorStats memory = allocator.stats();
  const double peak_mib = process_mib("VmHWM:");

  Fields f;
  f.add_text("impl", "tpo_dist"), f.add_text("model", c.name);
  f.add("batch", c.batch), f.add("threads", o.threads), f.add("parameters", model->parameters());
  f.add_text("blas_kernels", blas_kernels());
  report_steps(f, c, timer);
  f.add("tensor_peak_mib", static_cast<double>(memory.peak_bytes) / (1 << 20));
  f.add("held_peak_mib", static_cast<double>(memory.held_peak_bytes) / (1 << 20));
  f.add("process_start_mib", start_mib), f.add("process_peak_mib", peak_mib);
  if (o.profile > 0) print_profile(timer, o.profile);
  GemmReplay gemms(std::move(recorded));  // its buffers come after the memory was read
  check_all_seen(gemms, c);
  f.add("gemms", gemms.count());
  report_rates(f, c, gemms.flops(), measure_limits(), median(timer.total));
  if (o.pairs > 0) report_pairs(f, c, timer, std::move(gemms), o.pairs);
  f.print(o.json);
}

}  // namespace
}  // namespace tpo

int main(int argc, char** argv) {
  try {
    tpo::bench(tpo::parse(argc, argv));
    return 0;
  } catch (const std::exception& e) {
    std::cerr << "step_bench: " << e.what() << '\n';
    return 1;
  }
}
