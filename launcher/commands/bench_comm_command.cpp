#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iostream>

#include "core/error.h"
#include "launcher/commands/args.h"
#include "launcher/commands/bench_verbs.h"
#include "launcher/exit_codes.h"
#include "launcher/run_files.h"
#include "parallel/comm/mpi_reference.h"

namespace tpo {

namespace {

constexpr CommKind kKinds[] = {CommKind::kAllReduce, CommKind::kReduceScatter, CommKind::kAllGather,
                               CommKind::kBroadcast, CommKind::kBarrier,       CommKind::kPingPong,
                               CommKind::kExchange};
constexpr DType kDTypes[] = {DType::kF32, DType::kI32, DType::kI64};

const CommandHelp kHelp{
    "bench comm",
    "Times every collective and message pattern over sizes, checks the numbers they give, and compares with MPI's own "
    "blocking calls in the same run, in one call and in buckets of 1, 2 and 4 MiB. Bandwidths as nccl-tests defines "
    "them.",
    "",
    "mpirun -n 2 tpo_dist bench comm --min 1K --max 64M --groups world,node --json comm.json",
    {{"min", "smallest size in bytes; K, M and G are powers of 1024", "8", Flag::Kind::kText},
     {"max", "largest size in bytes; each rank holds four buffers of it, two of them in /dev/shm", "64M",
      Flag::Kind::kText},
     {"factor", "from one size to the next", "4", Flag::Kind::kText},
     {"sizes", "these sizes, separated by commas, instead of min, max and factor", "", Flag::Kind::kText},
     {"ops", "all, or some of all_reduce,reduce_scatter,all_gather,broadcast,barrier,ping_pong,exchange", "all",
      Flag::Kind::kText},
     {"groups", "some of world, node (the ranks of a node), pairs (of ranks on neighbouring nodes)", "world,node,pairs",
      Flag::Kind::kText},
     {"dtype", "f32, i32 or i64", "f32", Flag::Kind::kText},
     {"iterations", "rounds of a line at most", "100", Flag::Kind::kText},
     {"seconds", "time for all lines together, roughly; each has 5 rounds at least", "60", Flag::Kind::kText},
     {"json", "also write all figures to this file", "", Flag::Kind::kText}}};

std::vector<std::string> split_commas(const std::string& text) {
  std::vector<std::string> parts(1);
  for (const char c : text) {
    if (c == ',') {
      parts.emplace_back();
    } else {
      parts.back() += c;
    }
  }
  return parts;
}

std::vector<int64_t> sizes_of(const Args& args) {
  std::vector<int64_t> sizes;
  if (args.given("sizes")) {
    for (const std::string& s : split_commas(args.text("sizes"))) sizes.push_back(parse_bytes(s));
    return sizes;
  }
  const int64_t low = parse_bytes(args.text("min")), high = parse_bytes(args.text("max"));
  const int64_t factor = args.integer("factor", 2, 1 << 20);
  check<ConfigError>(low <= high, "bench comm: --min=", low, " bytes is above --max=", high);
  for (int64_t s = low; s < high; s *= factor) sizes.push_back(s);
  sizes.push_back(high);
  return sizes;
}

std::vector<CommKind> kinds_of(const Args& args) {
  if (args.text("ops") == "all") return {std::begin(kKinds), std::end(kKinds)};
  std::vector<CommKind> kinds;
  for (const std::string& name : split_commas(args.text("ops"))) {
    const auto* found =
        std::find_if(std::begin(kKinds), std::end(kKinds), [&](CommKind k) { return name_of(k) == name; });
    check<ConfigError>(found != std::end(kKinds), "bench comm: --ops has '", name, "'; legal are all, or ",
                       "all_reduce, reduce_scatter, all_gather, broadcast, barrier, ping_pong, exchange");
    kinds.push_back(*found);
  }
  return kinds;
}

std::vector<std::string> groups_of(const Args& args) {
  std::vector<std::string> groups = split_commas(args.text("groups"));
  for (const std::string& g : groups)
    check<ConfigError>(g == "world" || g == "node" || g == "pairs", "bench comm: --groups has '", g,
                       "'; legal are world, node, pairs");
  return groups;
}

// Whether the group says something that another has not said; why not otherwise.
std::string reason_to_skip(const std::string& name, const BenchGroup& g, int world, int nodes) {
  if (name == "world") return "";
  if (name == "node" && nodes == 1) return "group node: all ranks are on one node, so that world is the same\n";
  if (name == "node" && g.ranks == 1) return "group node: one rank on each node, nobody to talk to there\n";
  if (name == "pairs" && nodes == 1) return "group pairs: one node, so no pairs across nodes\n";
  if (name == "pairs" && world == 2) return "group pairs: two ranks, so that world is the same\n";
  return "";
}

std::string head_of(const BenchGroup& g, int groups, const CommBenchOptions& o) {
  std::string text = cat("group ", g.name, ": ", g.smallest == g.ranks ? "" : cat(g.smallest, " to "), g.ranks,
                         " rank(s), ", groups, " such group(s) at the same time, ", o.dtype);
  if (g.smallest != g.ranks) text += "; times of the slowest group, bandwidth for the largest";
  if (g.ranks == 1) text += "; nobody to talk to, so copies in memory instead";
  if (g.ranks > 1 && !g.mpi) text += "; without MPI: nothing to compare with";
  return text + "\n";
}

int count_groups(ProcessGroup& world, const BenchGroup& g) {
  return static_cast<int>(
      world.all_reduce_value(int64_t{g.ours->rank() == 0 && (g.ours->size() > 1 || g.ranks == 1)}, ReduceOp::kSum));
}

std::string fixed(double value, int digits) {
  char text[32];
  std::snprintf(text, sizeof text, "%.*f", digits, value);
  return text;
}

// Microseconds and GB/s with about three digits.
std::string micro(double s) { return fixed(s * 1e6, s < 1e-3 ? 1 : 0); }
std::string rate(const CommLine& line, const CommTimes& t, bool bus) {
  if (line.bytes == 0) return "-";
  const double v = bus ? line.bus_gb_s(t) : line.algorithm_gb_s(t);
  return fixed(v, v < 0.1 ? 4 : 2);
}

std::string row(const std::vector<std::string>& cells) {
  constexpr int kWidths[] = {-14, 11, 10, 7, 10, 10, 10, 9, 9, 11, 9, 11, 4, 8, 8};
  std::string out;
  for (size_t i = 0; i < cells.size(); ++i) {
    char text[64];
    std::snprintf(text, sizeof text, "%*s", kWidths[i], cells[i].c_str());
    out += text;
  }
  return out.substr(0, out.find_last_not_of(' ') + 1) + "\n";
}

}  // namespace

int64_t parse_bytes(const std::string& text) {
  char* end = nullptr;
  const double value = std::strtod(text.c_str(), &end);
  const std::string unit = end;
  const std::string units = "KMG";
  const size_t power = unit.empty() ? 0 : units.find(unit) + 1;
  const double bytes = value * std::pow(1024.0, static_cast<double>(power));
  check<ConfigError>(end != text.c_str() && unit.size() <= 1 && (unit.empty() || power > 0) && bytes >= 1 &&
                         bytes <= 64.0 * 1024 * 1024 * 1024,
                     "'", text, "' is not a size: a number with nothing, K, M or G behind it, from 1 to 64G");
  return static_cast<int64_t>(bytes);
}

std::string comm_table_head() {
  return row({"", "", "", "", "ours", "", "", "", "", "MPI", "", "in buckets", "", "times faster", ""}) +
         row({"operation", "bytes", "count", "buffer", "median us", "min us", "p99 us", "alg GB/s", "bus GB/s",
              "median us", "bus GB/s", "median us", "MiB", "MPI", "buckets"});
}

std::string comm_table_rows(const CommLine& line) {
  std::string out;
  const CommTimes *mpi = line.find("mpi"), *buckets = line.best_bucketed();
  for (const char* by : {"ours", "ours shared"}) {
    const CommTimes* t = line.find(by);
    if (t == nullptr) continue;
    const bool first = t == line.times.data();
    std::vector<std::string> cells{first ? name_of(line.kind) : "",
                                   first ? std::to_string(line.bytes) : "",
                                   first ? std::to_string(line.count) : "",
                                   first ? "own" : "shared",
                                   micro(t->median_s),
                                   micro(t->min_s),
                                   micro(t->p99_s),
                                   rate(line, *t, false),
                                   rate(line, *t, true)};
    if (mpi != nullptr) {
      cells.push_back(first ? micro(mpi->median_s) : "");
      cells.push_back(first ? rate(line, *mpi, true) : "");
      cells.push_back(buckets == nullptr ? (first ? "-" : "") : (first ? micro(buckets->median_s) : ""));
      cells.push_back(buckets != nullptr && first ? std::to_string(buckets->bucket_bytes >> 20) : "");
      cells.push_back(fixed(speed_ratio(*t, *mpi), 2));
      cells.push_back(buckets == nullptr ? "" : fixed(speed_ratio(*t, *buckets), 2));
    }
    out += row(cells);
  }
  return out;
}

std::string comm_line_json(const std::string& group, const CommLine& line) {
  JsonLine out;
  out.text("group", group).integer("ranks", line.ranks).text("op", name_of(line.kind)).integer("bytes", line.bytes);
  out.integer("count", line.count).integer("calls", line.calls);
  out.integer("samples", static_cast<int64_t>(line.times[0].samples.size()));
  std::string all;
  for (const CommTimes& t : line.times) {
    JsonLine one;
    one.text("by", t.by).integer("bucket_bytes", t.bucket_bytes).number("median_us", t.median_s * 1e6);
    one.number("min_us", t.min_s * 1e6).number("p99_us", t.p99_s * 1e6);
    one.number("algorithm_gb_s", line.algorithm_gb_s(t)).number("bus_gb_s", line.bus_gb_s(t));
    one.number("times_faster_than_mpi", line.find("mpi") == nullptr ? NAN : speed_ratio(t, *line.find("mpi")));
    one.number("times_faster_than_buckets",
               line.best_bucketed() == nullptr ? NAN : speed_ratio(t, *line.best_bucketed()));
    all += (all.empty() ? "" : ",") + one.str();
  }
  return out.raw("times", "[" + all + "]").str();
}

void check_writable(const std::string& file, ProcessGroup& world) {
  int64_t error = 0;
  if (world.rank() == 0 && !file.empty()) {
    const bool existed = std::filesystem::exists(file);
    errno = 0;
    if (!std::ofstream(file, std::ios::app)) error = std::max(errno, 1);
    if (error == 0 && !existed) std::filesystem::remove(file);
  }
  error = world.all_reduce_value(error, ReduceOp::kMax);
  check<IoError>(error == 0, "--json ", file, " cannot be written: ", std::strerror(static_cast<int>(error)));
}

int run_bench_comm(std::span<const std::string> words, ProcessGroup& world) {
  const Args args(kHelp, words);
  const bool speaks = world.rank() == 0;
  if (args.help()) {
    if (speaks) std::cout << args.usage();
    return kExitDone;
  }
  args.words(0);
  CommBenchOptions options{.kinds = kinds_of(args), .sizes = sizes_of(args)};
  options.dtype = kDTypes[args.choice("dtype", {"f32", "i32", "i64"})];
  options.iterations = static_cast<int>(args.integer("iterations", 1, 1000000));
  const double seconds = args.real("seconds", 0.1, 1e6);
  const std::vector<std::string> names = groups_of(args);
  if (world.size() == 1) options.kinds = {CommKind::kCopy};
  check<ConfigError>(world.size() > 1 || std::find(names.begin(), names.end(), "world") != names.end(),
                     "bench comm: one rank has no groups but world; start several with mpirun");
  check_writable(args.text("json"), world);

  const auto say = [&](const std::string& text) {
    if (speaks) std::cout << text << std::flush;
  };
  const auto mpi = world.size() > 1 ? make_mpi_reference() : nullptr;
  const std::vector<int> nodes = mpi ? mpi_nodes() : std::vector<int>(static_cast<size_t>(world.size()), 0);
  std::vector<int> distinct = nodes;
  std::sort(distinct.begin(), distinct.end());
  const auto node_count = static_cast<int>(std::unique(distinct.begin(), distinct.end()) - distinct.begin());
  const MpiFacts facts = mpi_facts();
  say(cat("bench comm: ", world.size(), " rank(s) on ", node_count, " node(s); ",
          mpi ? cat(facts.library, ", ", facts.thread_level) : "without MPI", "\n"));
  options.line_seconds = seconds / static_cast<double>(options.kinds.size() * options.sizes.size() *
                                                       (world.size() == 1 || node_count == 1 ? 1 : names.size()));
  std::string json;
  bool measured = false;
  for (const std::string& name : names) {
    if (world.size() == 1 && name != "world") continue;
    const BenchGroup group = make_bench_group(name, world, mpi.get(), nodes);
    const std::string skip = reason_to_skip(name, group, world.size(), node_count);
    say(skip);
    if (!skip.empty()) continue;
    measured = true;
    say(head_of(group, count_groups(world, group), options) + comm_table_head());
    measure_comm(world, group, options, [&](const CommLine& line) {
      say(comm_table_rows(line));
      json += (json.empty() ? "\n" : ",\n") + comm_line_json(name, line);
    });
  }
  say(measured ? "every result was compared with known numbers; each time is of the slowest rank\n"
               : "nothing was measured: no group of --groups has members to measure here\n");
  if (const std::string file = args.text("json"); speaks && !file.empty()) {
    JsonLine out;
    out.integer("ranks", world.size()).integer("nodes", node_count).text("mpi", mpi ? facts.library : "");
    out.text("dtype", name_of(options.dtype)).raw("lines", "[" + json + "]");
    write_text(file, out.str() + "\n");
  }
  return kExitDone;
}

}  // namespace tpo
