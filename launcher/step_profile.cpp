#include "launcher/step_profile.h"

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <map>
#include <utility>

#include "core/error.h"
#include "launcher/config.h"
#include "launcher/run_files.h"

namespace tpo {

namespace {

constexpr size_t kPrintedRows = 24;

using EventKind = ProfileEvent::Kind;
using RowKind = ProfileRow::Kind;

template <class... T>
std::string format(const char* pattern, T... values) {
  char text[256];
  std::snprintf(text, sizeof text, pattern, values...);
  return text;
}

// Nanoseconds as microseconds, exactly.
std::string micros(int64_t ns) {
  return format("%lld.%03lld", static_cast<long long>(ns / 1000), static_cast<long long>(ns % 1000));
}

const char* category(EventKind kind) {
  switch (kind) {
    case EventKind::kRegion:
      return "region";
    case EventKind::kWait:
      return "wait";
    case EventKind::kBackward:
      return "backward";
    default:
      return "kernel";
  }
}

std::string thread_name(int rank, int thread, const std::string& name) {
  return JsonLine()
      .text("ph", "M")
      .text("name", "thread_name")
      .integer("pid", rank)
      .integer("tid", thread)
      .object("args", JsonLine().text("name", name))
      .str();
}

std::string complete_event(const ProfileEvent& e, int rank) {
  JsonLine args;
  if (e.kind == EventKind::kKernel) {
    if (!e.op.empty()) args.text("op", std::string(e.op));
    args.integer("flops", e.cost.flops).integer("bytes", e.cost.read_bytes + e.cost.write_bytes);
  }
  const std::string name = cat(e.name, e.kind == EventKind::kBackward ? " (backward)" : "");
  return JsonLine()
      .text("ph", "X")
      .text("name", name)
      .text("cat", category(e.kind))
      .integer("pid", rank)
      .integer("tid", 0)
      .raw("ts", micros(e.begin_ns))
      .raw("dur", micros(e.duration_ns))
      .object("args", args)
      .str();
}

// Transfers overlap, so that they are pairs of begin and end with an id, which no other rank has.
std::string transfer_event(const ProfileTransfer& t, size_t id, int rank, bool begin) {
  return JsonLine()
      .text("ph", begin ? "b" : "e")
      .text("name", t.what)
      .text("cat", "all-reduce")
      .integer("id", (static_cast<int64_t>(rank) << 24) + static_cast<int64_t>(id))
      .integer("pid", rank)
      .integer("tid", 1)
      .raw("ts", micros(begin ? t.begin_ns : t.begin_ns + t.duration_ns))
      .object("args", JsonLine().integer("bytes", t.bytes))
      .str();
}

// Sums over the rows of one phase.
struct PhaseTime {
  int64_t ns = 0, kernels = 0, waits = 0, outside = 0, flops = 0, bytes = 0;
  void add(const ProfileRow& r) {
    ns += r.ns;
    (r.kind == RowKind::kKernel ? kernels : r.kind == RowKind::kWait ? waits : outside) += r.ns;
    flops += r.cost.flops, bytes += r.cost.read_bytes + r.cost.write_bytes;
  }
};

double per_second(int64_t count, int64_t ns) {
  return ns > 0 ? static_cast<double>(count) / static_cast<double>(ns) : 0;  // in units of 1e9
}

// Turns sums over the profiled steps into the columns of the tables.
struct Scale {
  double total_ns, steps, peak;
  double ms(int64_t ns) const { return static_cast<double>(ns) * 1e-6 / steps; }
  double share(int64_t ns) const { return total_ns > 0 ? 100 * static_cast<double>(ns) / total_ns : 0; }
  std::string rates(int64_t flops, int64_t bytes, int64_t ns) const {
    const double gflops = per_second(flops, ns), gbytes = per_second(bytes, ns);
    const auto text = [](const char* pattern, double v) { return v > 0 ? format(pattern, v) : std::string("-"); };
    return format("%9s %9s %9s", text("%.2f", gflops).c_str(), text("%.1f", peak > 0 ? 100 * gflops / peak : 0).c_str(),
                  text("%.2f", gbytes).c_str());
  }
};

Scale scale_of(const Profiler& profile, const ProfileContext& c) {
  return {static_cast<double>(total_ns(profile.events())),
          static_cast<double>(std::max<int64_t>(1, c.range.end - c.range.first)), c.peak_gflops * c.threads};
}

std::string phase_table(const std::vector<ProfileRow>& rows, const Scale& scale) {
  std::map<std::string, PhaseTime> phases;
  PhaseTime sum;
  for (const ProfileRow& r : rows) phases[r.phase].add(r), sum.add(r);
  std::vector<std::pair<std::string, PhaseTime>> order(phases.begin(), phases.end());
  std::stable_sort(order.begin(), order.end(), [](const auto& a, const auto& b) { return a.second.ns > b.second.ns; });
  order.emplace_back("all", sum);
  std::string out = format("%-22s %10s %8s %11s %10s %16s %9s %9s %9s\n", "phase", "ms/step", "share %", "in kernels",
                           "waiting", "outside kernels", "GFLOP/s", "% of peak", "GB/s");
  for (const auto& [name, t] : order)
    out += format("%-22s %10.3f %8.2f %11.3f %10.3f %16.3f %s\n", name.c_str(), scale.ms(t.ns), scale.share(t.ns),
                  scale.ms(t.kernels), scale.ms(t.waits), scale.ms(t.outside),
                  scale.rates(t.flops, t.bytes, t.ns).c_str());
  return out;
}

std::string row_table(const std::vector<ProfileRow>& rows, const Scale& scale, size_t most) {
  std::string out = format("%-30s %-22s %-15s %10s %10s %8s %9s %9s %9s\n", "op", "kernel", "phase", "calls/step",
                           "ms/step", "share %", "GFLOP/s", "% of peak", "GB/s");
  const auto line = [&](const char* op, const char* name, const char* phase, double calls, int64_t ns, const Cost& c) {
    out += format("%-30s %-22s %-15s %10.1f %10.3f %8.2f %s\n", op, name, phase, calls / scale.steps, scale.ms(ns),
                  scale.share(ns), scale.rates(c.flops, c.read_bytes + c.write_bytes, ns).c_str());
  };
  ProfileRow rest;
  for (size_t i = 0; i < rows.size(); ++i) {
    const ProfileRow& r = rows[i];
    if (most == 0 || i < most) {
      line(r.op.empty() ? "-" : r.op.c_str(), r.name.c_str(), r.phase.c_str(), static_cast<double>(r.calls), r.ns,
           r.cost);
      continue;
    }
    rest.calls += r.calls, rest.ns += r.ns;
    rest.cost.flops += r.cost.flops;
    rest.cost.read_bytes += r.cost.read_bytes, rest.cost.write_bytes += r.cost.write_bytes;
  }
  if (most > 0 && rows.size() > most)
    line(cat(rows.size() - most, " more in table.txt").c_str(), "", "", static_cast<double>(rest.calls), rest.ns,
         rest.cost);
  return out;
}

}  // namespace

ProfileRange profile_range(const config::RunConfig& config, int64_t steps_done) {
  const auto& p = config.profile();
  const int64_t end_of_run = config.train().steps();
  if (p.first_step() >= 0)
    return {std::max(p.first_step(), steps_done), std::min(p.first_step() + p.steps(), end_of_run)};
  const int64_t first = std::max(steps_done, std::min(steps_done + kProfileWarmUpSteps, end_of_run - p.steps()));
  return {first, std::min(first + p.steps(), end_of_run)};
}

std::string profile_trace(const Profiler& profile, const ProfileContext& c) {
  std::string out = "{\"displayTimeUnit\":\"ms\",\"traceEvents\":[\n";
  out += JsonLine()
             .text("ph", "M")
             .text("name", "process_name")
             .integer("pid", c.rank)
             .object("args", JsonLine().text("name", cat("rank ", c.rank)))
             .str();
  out += ",\n" + thread_name(c.rank, 0, "trainer") + ",\n" + thread_name(c.rank, 1, "communication");
  for (const ProfileEvent& e : profile.events()) out += ",\n" + complete_event(e, c.rank);
  for (size_t i = 0; i < profile.transfers().size(); ++i)
    for (const bool begin : {true, false}) out += ",\n" + transfer_event(profile.transfers()[i], i, c.rank, begin);
  return out + "\n]}\n";
}

std::string profile_table(const Profiler& profile, const ProfileContext& c, size_t most) {
  const std::vector<ProfileRow> rows = profile_rows(profile.events());
  const Scale scale = scale_of(profile, c);
  std::string out = cat("profile of rank ", c.rank, " of ", c.ranks, ": steps ", c.range.first + 1, " to ", c.range.end,
                        format(", %.3f ms a step, %d threads", scale.ms(total_ns(profile.events())), c.threads));
  if (scale.peak > 0) out += format(", peak %.1f GFLOP/s", scale.peak);
  out +=
      "\nGFLOP/s: operations executed (attention: for sequences of equal length, causal half of the scores; "
      "vocab_cross_entropy: as if every "
      "row had a label).\nGB/s: every operand once, from wherever it was.\n\n" +
      phase_table(rows, scale) + "\n" + row_table(rows, scale, most);
  int64_t bytes = 0, ns = 0;
  for (const ProfileTransfer& t : profile.transfers()) bytes += t.bytes, ns += t.duration_ns;
  if (c.ranks > 1 && bytes > 0)
    out += format("\nall-reduce: %.1f transfers a step, %.3f MB a step, in flight %.3f ms a step (sum of transfers)\n",
                  static_cast<double>(profile.transfers().size()) / scale.steps,
                  static_cast<double>(bytes) * 1e-6 / scale.steps, scale.ms(ns));
  return out;
}

std::string profile_json(const Profiler& profile, const ProfileContext& c) {
  const int64_t total = total_ns(profile.events());
  const Scale scale = scale_of(profile, c);
  std::string rows;
  for (const ProfileRow& r : profile_rows(profile.events())) {
    const char* kind = r.kind == RowKind::kKernel ? "kernel" : r.kind == RowKind::kWait ? "wait" : "outside";
    rows += (rows.empty() ? "\n" : ",\n") + JsonLine()
                                                .text("kind", kind)
                                                .text("phase", r.phase)
                                                .text("op", r.op)
                                                .text("name", r.name)
                                                .integer("calls", r.calls)
                                                .integer("ns", r.ns)
                                                .number("share_percent", scale.share(r.ns))
                                                .integer("flops_executed", r.cost.flops)
                                                .integer("read_bytes", r.cost.read_bytes)
                                                .integer("write_bytes", r.cost.write_bytes)
                                                .str();
  }
  return JsonLine()
             .integer("rank", c.rank)
             .integer("ranks", c.ranks)
             .integer("threads", c.threads)
             .integer("first_step", c.range.first)
             .integer("steps", c.range.end - c.range.first)
             .integer("ns", total)
             .number("peak_gflops_per_thread", c.peak_gflops)
             .raw("rows", "[" + rows + "\n]")
             .str() +
         "\n";
}

StepProfile::StepProfile(const config::RunConfig& config, int64_t steps_done, int rank, int ranks, double peak_gflops)
    : folder_(config.run().folder() + "/" + config.profile().folder()),
      context_{profile_range(config, steps_done), rank, ranks, config.run().threads(), peak_gflops} {
  const auto& p = config.profile();
  if (p.steps() > 0 && rank == 0 && context_.range.first >= context_.range.end)
    table_ = cat("profile: the steps it asks for, ", p.first_step() + 1, " to ", p.first_step() + p.steps(),
                 ", are done already; nothing is profiled\n");
}

StepStats StepProfile::step(Trainer& trainer) {
  const int64_t before = trainer.steps_done();
  const bool due = before >= context_.range.first && before < context_.range.end;
  StepStats stats;
  {
    if (due && !profiler_) profiler_ = std::make_unique<Profiler>();
    const ProfilerScope scope(due ? profiler_.get() : nullptr, trainer.stream());
    stats = trainer.step();
  }
  if (due && stats.stop) context_.range.end = stats.step;
  if (due && stats.step == context_.range.end) {
    write();
    profiler_.reset();
  }
  return stats;
}

void StepProfile::write() {
  std::error_code error;
  std::filesystem::create_directories(folder_, error);
  check<IoError>(!error, "profile folder ", folder_, " cannot be created: ", error.message());
  write_text(cat(folder_, "/trace_rank", context_.rank, ".json"), profile_trace(*profiler_, context_));
  if (context_.rank != 0) return;
  write_text(folder_ + "/table.txt", profile_table(*profiler_, context_));
  write_text(folder_ + "/table.json", profile_json(*profiler_, context_));
  table_ = profile_table(*profiler_, context_, kPrintedRows) + "trace for ui.perfetto.dev: " + folder_ +
           "/trace_rank0.json\n";
}

std::string StepProfile::take_table() { return std::exchange(table_, {}); }

}  // namespace tpo
