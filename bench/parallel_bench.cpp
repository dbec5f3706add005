// Times a training step that ranks share. Under mpirun, one thread a rank:
//   mpirun -n 2 --bind-to core parallel_bench --model medium --data
//     --independent    every rank steps a model of its own and talks to nobody during a step
//     --data           data parallel: each rank brings the model's batch, gradients are summed (weak scaling)
//     --zero N         the same with optimizer state (1), gradients too (2), parameters too (3) sharded
//     --tensor         all ranks share each layer and the model's one batch
//     --sequence       the same, with sequences cut between branches
//   [--warmup N] [--steps N] [--serve]
// Rank 0 prints JSON. Without --serve it is one object for --steps steps. With it, rank 0 prints [] when warm, then for
// every line N of standard input lets all ranks run N steps and prints the milliseconds of each; at the end of the
// input comes the object. So parallel_compare.py times two layouts, or PyTorch, in turns.
// The time of a step is the harmonic mean over ranks of how long the rank was in it: samples of all ranks divided by
// (ranks x this time) is the rate, for ranks that wait for each other and for ranks that do not. Every turn begins with
// a barrier. Drawing the data is outside of the time.
#include <algorithm>
#include <array>
#include <cstring>
#include <iostream>
#include <map>
#include <sstream>

#include "bench/step_models.h"
#include "core/error.h"
#include "core/parallel_for.h"
#include "parallel/comm/mpi.h"

namespace tpo {
namespace {

struct Options {
  std::string model = "medium";
  enum class Mode { kIndependent, kData, kTensor } mode = Mode::kIndependent;
  int64_t zero = 0;
  bool sequence = false;
  int64_t warmup = 2, steps = 5;
  bool serve = false;
};

Options parse(int argc, char** argv) {
  Options o;
  bool has_mode = false;
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    const auto value = [&] {
      check<ConfigError>(i + 1 < argc, word, " needs a value");
      return std::string(argv[++i]);
    };
    const auto count = [&] {
      std::istringstream in(value());
      int64_t n = -1;
      check<ConfigError>(in >> n && in.eof() && n >= 1, word, " ", in.str(), " is not a count of at least 1");
      return n;
    };
    const auto mode = [&](Options::Mode m) { o.mode = m, has_mode = true; };
    if (word == "--model") {
      o.model = value();
    } else if (word == "--independent") {
      mode(Options::Mode::kIndependent);
    } else if (word == "--data") {
      mode(Options::Mode::kData);
    } else if (word == "--zero") {
      mode(Options::Mode::kData);
      o.zero = count();
      check<ConfigError>(o.zero <= 3, "--zero ", o.zero, " must be 1, 2 or 3");
    } else if (word == "--tensor" || word == "--sequence") {
      mode(Options::Mode::kTensor);
      o.sequence = word == "--sequence";
    } else if (word == "--warmup") {
      o.warmup = count();
    } else if (word == "--steps") {
      o.steps = count();
    } else if (word == "--serve") {
      o.serve = true;
    } else {
      throw ConfigError(cat("no flag ", word, "; the first lines of parallel_bench.cpp list them"));
    }
  }
  check<ConfigError>(has_mode, "say how ranks share a step: --independent, --data, --zero N, --tensor or --sequence");
  return o;
}

double median(std::vector<double> v) {
  std::sort(v.begin(), v.end());
  return v.empty() ? 0 : v[v.size() / 2];
}

std::string spread(const std::vector<double>& v) {
  const auto [low, high] = std::minmax_element(v.begin(), v.end());
  return cat('[', median(v), ", ", *low, ", ", *high, ']');
}

std::string list(const std::vector<double>& v) {
  std::string out = "[";
  for (const double x : v) out += cat(out.size() > 1 ? ", " : "", x);
  return out + "]";
}

StepLayout layout_of(const Options& o, ProcessGroup& world) {
  if (o.mode == Options::Mode::kIndependent) return {};
  StepLayout layout;
  (o.mode == Options::Mode::kData ? layout.data : layout.tensor) = &world;
  layout.sharding = static_cast<Sharding>(o.zero), layout.sequence_parallel = o.sequence;
  return layout;
}

class Bench {
 public:
  Bench(const Options& o, ProcessGroup& world)
      : o_(o), world_(world), config_(step_config(o.model)), model_(make_step_model(config_, layout_of(o, world))) {}

  // Milliseconds of each step, the same on every rank.
  std::vector<double> turn(int64_t steps) {
    world_.barrier("turn").wait_host();
    std::vector<double> mine;
    for (int64_t i = 0; i < steps; ++i) {
      world_.log().take();
      const StepTimes t = model_->step(index_++);
      mine.push_back(1e3 * t.total_s());
      add(world_.log().take());
      loss_ = t.loss;
    }
    std::vector<double> inverse(mine.size(), 0);
    for (const auto& part : world_.all_gather_bytes(std::as_bytes(std::span(mine)), "times")) {
      for (size_t i = 0; i < inverse.size(); ++i) {
        double ms = 0;
        std::memcpy(&ms, part.data() + i * sizeof ms, sizeof ms);
        inverse[i] += 1 / ms;
      }
    }
    std::vector<double> together;
    for (const double x : inverse) together.push_back(world_.size() / x);
    all_.insert(all_.end(), together.begin(), together.end());
    return together;
  }

  void forget() { exposed_ms_.clear(), by_group_.clear(), all_.clear(); }

  // Of everything since forget(); of rank 0 where ranks differ.
  std::string summary() const {
    const int64_t batches = o_.mode == Options::Mode::kTensor ? 1 : world_.size();
    const double items = static_cast<double>(batches * config_.batch * (config_.decoder ? config_.tokens : 1));
    const double steps = static_cast<double>(all_.size());
    std::string groups;
    for (const auto& [name, use] : by_group_)
      groups += cat(
          groups.empty() ? "" : ", ", '"', name, "\": {\"operations\": ", static_cast<double>(use.operations) / steps,
          ", \"mib\": ", static_cast<double>(use.bytes) / steps / 1048576,
          ", \"in_flight_ms\": ", 1e3 * use.total_s / steps, ", \"exposed_ms\": ", 1e3 * use.exposed_s() / steps,
          ", \"late_rank_ms\": ", 1e3 * use.late_rank_s / steps, "}");
    return cat("{\"impl\": \"tpo_dist\", \"model\": \"", config_.name, "\", \"ranks\": ", world_.size(),
               ", \"steps\": ", all_.size(), ", \"step_ms\": ", spread(all_),
               ", \"items_per_s\": ", 1e3 * items / median(all_), ", \"exposed_ms\": ", spread(exposed_ms_),
               ", \"groups\": {", groups, "}, \"loss\": ", loss_, "}");
  }

 private:
  void add(const std::vector<CommUse>& uses) {
    double exposed = 0;
    for (const CommUse& u : uses) by_group_[u.group] += u, exposed += u.exposed_s();
    exposed_ms_.push_back(1e3 * exposed);
  }

  const Options o_;
  ProcessGroup& world_;
  const StepConfig config_;
  std::unique_ptr<StepModel> model_;
  std::vector<double> all_, exposed_ms_;
  std::map<std::string, CommUse> by_group_;
  int64_t index_ = 0;
  double loss_ = 0;
};

// Rank 0 reads how many steps come next; 0 at the end of the input.
int64_t next_turn(ProcessGroup& world) {
  int64_t steps = 0;
  if (std::string line; world.rank() == 0 && std::getline(std::cin, line)) steps = std::stoll(line);
  return world.all_reduce_value(steps, ReduceOp::kMax, "steps of a turn");
}

void bench(const Options& o, ProcessGroup& world) {
  set_num_threads(1);
  Bench b(o, world);
  const bool speaks = world.rank() == 0;
  b.turn(o.warmup);
  b.forget();
  if (o.serve) {
    if (speaks) std::cout << "[]" << std::endl;
    while (const int64_t steps = next_turn(world)) {
      const std::vector<double> ms = b.turn(steps);
      if (speaks) std::cout << list(ms) << std::endl;
    }
  } else {
    b.turn(o.steps);
  }
  if (speaks) std::cout << b.summary() << std::endl;
}

}  // namespace
}  // namespace tpo

int main(int argc, char** argv) {
  tpo::MpiWorld mpi(&argc, &argv);
  try {
    const tpo::Options options = tpo::parse(argc, argv);
    const auto world = tpo::make_mpi_world();
    tpo::bench(options, *world);
    world->barrier("end").wait_host();
  } catch (const std::exception& e) {
    std::cerr << "parallel_bench, rank " << mpi.rank() << ": " << e.what() << '\n';
    tpo::MpiWorld::abort(1);
  }
  return 0;
}
