#include "launcher/overlap.h"

#include <algorithm>
#include <cstdio>
#include <map>
#include <sstream>

#include "core/error.h"

namespace tpo {

namespace {

constexpr double kHidden = 0.02;  // a share of an operation's time below which nobody looks for a reason

template <class... T>
std::string format(const char* pattern, T... values) {
  char text[256];
  std::snprintf(text, sizeof text, pattern, values...);
  return text;
}

CommUse* find(std::vector<CommUse>& uses, const CommUse& like) {
  const auto same = [&](const CommUse& u) { return u.op == like.op && u.what == like.what && u.group == like.group; };
  const auto at = std::find_if(uses.begin(), uses.end(), same);
  return at == uses.end() ? nullptr : &*at;
}

void merge(std::vector<CommUse>& uses, const CommUse& more) {
  if (CommUse* u = find(uses, more)) {
    *u += more;
  } else {
    uses.push_back(more);
  }
}

// One line a field list, doubles exactly; names hold no tab or line break.
std::string to_text(const OverlapMeter& m) {
  std::ostringstream out;
  out << std::hexfloat << m.steps << '\t' << m.seconds << '\t' << m.uses.size() << '\t' << m.pairs.size() << '\n';
  for (const CommUse& u : m.uses)
    out << u.group << '\t' << u.what << '\t' << static_cast<int>(u.op) << '\t' << u.operations << '\t' << u.bytes
        << '\t' << u.total_s << '\t' << u.transfer_s << '\t' << u.hidden_s << '\t' << u.late_rank_s << '\t'
        << u.late_issue_s << '\t' << u.link_s << '\n';
  for (const StubPair& p : m.pairs) out << p.step_s << '\t' << p.with_s << '\t' << p.without_s << '\n';
  return out.str();
}

class Reader {
 public:
  explicit Reader(const std::string& text) : in_(text) {}
  std::string text() {
    std::string field;
    for (int c = in_.get(); c != '\t' && c != '\n' && in_.good(); c = in_.get()) field += static_cast<char>(c);
    return field;
  }
  double number() { return std::strtod(text().c_str(), nullptr); }
  int64_t integer() { return std::strtoll(text().c_str(), nullptr, 10); }

 private:
  std::istringstream in_;
};

OverlapMeter from_text(const std::string& text) {
  Reader in(text);
  OverlapMeter m;
  m.steps = in.integer(), m.seconds = in.number();
  m.uses.resize(static_cast<size_t>(in.integer())), m.pairs.resize(static_cast<size_t>(in.integer()));
  for (CommUse& u : m.uses) {
    u.group = in.text(), u.what = in.text();
    u.op = static_cast<CommOp>(in.integer());
    u.operations = in.integer(), u.bytes = in.integer();
    for (double* x : {&u.total_s, &u.transfer_s, &u.hidden_s, &u.late_rank_s, &u.late_issue_s, &u.link_s})
      *x = in.number();
  }
  for (StubPair& p : m.pairs) p.step_s = in.number(), p.with_s = in.number(), p.without_s = in.number();
  return m;
}

void scale(CommUse& u, double by) {
  for (double* x : {&u.total_s, &u.transfer_s, &u.hidden_s, &u.late_rank_s, &u.late_issue_s, &u.link_s}) *x *= by;
}

double bytes_per_s(const CommUse& u) { return u.transfer_s > 0 ? static_cast<double>(u.bytes) / u.transfer_s : 0; }
int64_t bytes_each(const CommUse& u) { return u.operations > 0 ? u.bytes / u.operations : 0; }

// Groups in order of appearance.
std::vector<std::string> groups_of(const std::vector<CommUse>& uses) {
  std::vector<std::string> names;
  for (const CommUse& u : uses)
    if (std::find(names.begin(), names.end(), u.group) == names.end()) names.push_back(u.group);
  return names;
}

std::string table_row(const std::string& name, const CommUse& u, double steps, const char* reason) {
  return format("  %-52.52s %8.1f %9.2f %9.3f %9.3f %9.3f  %s\n", name.c_str(),
                static_cast<double>(u.operations) / steps, static_cast<double>(u.bytes) / steps / 1048576,
                1e3 * u.total_s, 1e3 * u.hidden_s, 1e3 * u.exposed_s(), reason);
}

JsonLine json_of(const CommUse& u, double steps, const char* reason) {
  return JsonLine()
      .text("op", name_of(u.op))
      .text("what", u.what)
      .number("operations", static_cast<double>(u.operations) / steps)
      .number("bytes", static_cast<double>(u.bytes) / steps)
      .number("total_s", u.total_s)
      .number("transfer_s", u.transfer_s)
      .number("hidden_s", u.hidden_s)
      .number("exposed_s", u.exposed_s())
      .number("late_rank_s", u.late_rank_s)
      .number("late_issue_s", u.late_issue_s)
      .number("link_s", u.link_s)
      .text("reason", reason);
}

}  // namespace

void OverlapMeter::add_uses(const std::vector<CommUse>& more) {
  for (const CommUse& u : more) merge(uses, u);
}

double OverlapReport::exposed_s() const {
  double sum = 0;
  for (const CommUse& u : uses) sum += u.exposed_s();
  return sum;
}

OverlapReport gather_overlap(const OverlapMeter& meter, ProcessGroup& world) {
  const std::string mine = to_text(meter);
  const auto all = world.all_gather_bytes(std::as_bytes(std::span(mine.data(), mine.size())), "overlap report");
  OverlapReport report;
  if (world.rank() != 0) return report;
  report.steps = meter.steps;
  report.pairs = static_cast<int64_t>(meter.pairs.size());
  std::vector<StubPair> slowest(meter.pairs.size());
  std::map<const std::string, int64_t> ranks_with;  // of a group and name
  const auto key = [](const CommUse& u) { return cat(u.group, '\t', static_cast<int>(u.op), u.what); };
  for (const auto& part : all) {
    const OverlapMeter m = from_text(std::string(reinterpret_cast<const char*>(part.data()), part.size()));
    if (m.steps > 0) report.step_s = std::max(report.step_s, m.seconds / static_cast<double>(m.steps));
    for (const CommUse& u : m.uses) merge(report.uses, u), ++ranks_with[key(u)];
    for (size_t i = 0; i < std::min(slowest.size(), m.pairs.size()); ++i) {
      for (double StubPair::*x : {&StubPair::step_s, &StubPair::with_s, &StubPair::without_s})
        slowest[i].*x = std::max(slowest[i].*x, m.pairs[i].*x);
    }
  }
  for (CommUse& u : report.uses) {
    const int64_t n = ranks_with[key(u)];
    u.operations /= n, u.bytes /= n;
    scale(u, 1 / static_cast<double>(n * std::max<int64_t>(1, report.steps)));
  }
  std::vector<double> shares;
  for (const StubPair& p : slowest) shares.push_back((p.with_s - p.without_s) / p.step_s);
  std::sort(shares.begin(), shares.end());
  if (!shares.empty()) report.stub_share = shares[shares.size() / 2];
  return report;
}

const char* overlap_reason(const CommUse& use, const std::vector<CommUse>& all) {
  if (use.exposed_s() <= kHidden * use.total_s) return "hidden";
  if (use.late_rank_s >= use.late_issue_s && use.late_rank_s >= use.link_s) return "late rank";
  double best_rate = 0;
  int64_t largest = 0;
  for (const CommUse& u : all) {
    if (u.group != use.group) continue;
    best_rate = std::max(best_rate, bytes_per_s(u)), largest = std::max(largest, bytes_each(u));
  }
  if (4 * bytes_each(use) <= largest && 2 * bytes_per_s(use) < best_rate) return "small";
  if (use.link_s > use.late_issue_s) return "link";
  const bool reduces = use.op == CommOp::kAllReduce || use.op == CommOp::kReduceScatter;
  return reduces && use.what.starts_with("bucket") ? "late gradient" : "no compute";
}

std::string overlap_table(const OverlapReport& report, size_t most) {
  const double steps = static_cast<double>(std::max<int64_t>(1, report.steps));
  std::string out = format("communication of %lld steps of %.2f ms: exposed %.2f %%",
                           static_cast<long long>(report.steps), 1e3 * report.step_s, 100 * report.exposed_share());
  if (report.pairs > 0)
    out += format("; (step - step with communication stubbed out) / step %.2f %%", 100 * report.stub_share);
  out += format("\n  %-52s %8s %9s %9s %9s %9s  %s\n", "a step, mean of ranks", "times", "MiB", "total ms", "hidden",
                "exposed", "exposed because");
  for (const std::string& group : groups_of(report.uses)) {
    CommUse sum;
    std::vector<const CommUse*> rows;
    for (const CommUse& u : report.uses)
      if (u.group == group) sum += u, rows.push_back(&u);
    out += table_row("group " + group, sum, steps, "");
    const size_t left_out = most > 0 && rows.size() > most ? rows.size() - most : 0;
    if (left_out > 0) {
      std::vector<double> exposed;
      for (const CommUse* u : rows) exposed.push_back(u->exposed_s());
      std::sort(exposed.rbegin(), exposed.rend());
      std::erase_if(rows, [&](const CommUse* u) { return u->exposed_s() < exposed[most - 1]; });
      rows.resize(std::min(rows.size(), most));
    }
    for (const CommUse* u : rows)
      out += table_row(cat("  ", name_of(u->op), " ", u->what), *u, steps, overlap_reason(*u, report.uses));
    if (left_out > 0) out += format("    and %zu more, less exposed\n", left_out);
  }
  return out;
}

JsonLine overlap_json(const OverlapReport& report, int64_t step) {
  const double steps = static_cast<double>(std::max<int64_t>(1, report.steps));
  std::string groups;
  for (const std::string& group : groups_of(report.uses)) {
    std::string rows;
    CommUse sum;
    for (const CommUse& u : report.uses) {
      if (u.group != group) continue;
      sum += u;
      rows += (rows.empty() ? "" : ",") + json_of(u, steps, overlap_reason(u, report.uses)).str();
    }
    const JsonLine line = JsonLine()
                              .text("group", group)
                              .number("total_s", sum.total_s)
                              .number("hidden_s", sum.hidden_s)
                              .number("exposed_s", sum.exposed_s())
                              .raw("operations", "[" + rows + "]");
    groups += (groups.empty() ? "" : ",") + line.str();
  }
  JsonLine line;
  line.text("kind", "overlap")
      .integer("step", step)
      .integer("steps", report.steps)
      .number("step_s", report.step_s)
      .number("exposed_share", report.exposed_share());
  if (report.pairs > 0) line.number("stub_share", report.stub_share).integer("pairs", report.pairs);
  return line.raw("groups", "[" + groups + "]").text("table", overlap_table(report));
}

}  // namespace tpo
