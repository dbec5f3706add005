#include "launcher/black_box.h"

#include <ctime>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "core/error.h"
#include "launcher/run_files.h"

namespace tpo {
namespace {

namespace fs = std::filesystem;

constexpr size_t kMaxEvents = 1000, kMaxBytes = 200000;

std::string read_text(const fs::path& path) {
  std::ifstream in(path);
  std::ostringstream text;
  text << in.rdbuf();
  return text.str();
}

// The folder that another node's supervisor made for this job just now, or a new one.
fs::path box_folder(const fs::path& run, const std::string& job) {
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(run, error))
    if (entry.path().filename().string().starts_with("blackbox_") && read_text(entry.path() / "job") == job)
      return entry.path();
  const std::time_t now = std::time(nullptr);
  std::tm utc{};
  gmtime_r(&now, &utc);
  char name[64];
  std::strftime(name, sizeof name, "blackbox_%Y%m%dT%H%M%SZ", &utc);
  fs::path folder = run / name;
  for (int more = 1; !fs::create_directories(folder, error); ++more) {
    check<IoError>(!error && more < 100, "cannot create ", folder.string(), ": ", error.message());
    folder = run / cat(name, "_", more);
  }
  write_text(folder / "job", job);
  return folder;
}

std::string text_of_rank(const BoxRank& r) {
  const RankFacts& f = r.view.facts;
  std::string s = cat("rank ", f.rank, " of ", f.world, ", node ", f.host, ", pid ", f.pid, ": ", name_of(f.life));
  if (f.signal != 0) s += cat(", signal ", f.signal);
  if (f.error[0] != 0) s += cat(": ", f.error);
  s += cat("\nstep ", f.step, ", ", f.phase, " since ", f.phase_s, " s; ", f.steps_here,
           " steps since the start, the longest ", f.longest_step_s, " s\n");
  if (f.loader_s >= 0) s += cat("waiting for the data loader since ", f.loader_s, " s\n");
  if (f.reading.e.index != 0)
    s += cat("loader reading dataset ", f.reading.e.text, ", record ", f.reading.e.count, " since ", f.reading.age_s,
             " s\n");
  for (const GroupView& g : r.view.groups) {
    s += cat("group ", g.name, ": ", g.size, " ranks, issued ", g.issued, ", completed ", g.completed);
    if (g.oldest.e.index != 0) s += cat(", pending ", text_of_op(g.oldest.e, true), " since ", g.oldest.age_s, " s");
    if (g.waiting()) s += cat(", waiting in ", text_of_op(g.wait.e, true), " since ", g.wait.age_s, " s");
    s += "\n";
  }
  s += "\nsamples of the last steps\n";
  int64_t step = -1;
  for (const SampleList& list : r.ring->samples()) {
    if (list.step != step && list.part > 0)
      s += cat("step ", list.step, ": its first ", list.part, " lists are lost\n");
    step = list.step;
    s += cat("step ", step, ": ", list.text, "\n");
  }
  s += "\nlast events, UTC and seconds since the start\n";
  auto events = r.ring->events();
  if (events.size() > kMaxEvents) events.erase(events.begin(), events.end() - kMaxEvents);
  std::vector<std::string> lines;
  size_t bytes = s.size();
  for (auto e = events.rbegin(); e != events.rend(); ++e) {
    lines.push_back(r.ring->text_of(*e) + "\n");
    bytes += lines.back().size();
    if (bytes > kMaxBytes) break;
  }
  for (auto line = lines.rbegin(); line != lines.rend(); ++line)
    if (bytes <= kMaxBytes || line != lines.rbegin()) s += *line;
  return s;
}

}  // namespace

const char* name_of(Life life) {
  constexpr const char* kNames[] = {"running", "stopped", "dead", "failed", "ended with the job", "finished"};
  return kNames[static_cast<size_t>(life)];
}

std::string write_black_box(const std::string& run_folder, const std::string& job, const std::string& config_file,
                            const std::vector<std::string>& verdict, std::span<const BoxRank> ranks) {
  const fs::path folder = box_folder(run_folder, job);
  std::string text;
  for (const std::string& line : verdict) text += line + "\n";
  const std::string node = ranks.empty() ? "" : cat("_", ranks[0].view.facts.host);
  write_text(folder / cat("verdict", node, ".txt"), text);
  if (const std::string config = read_text(config_file); !config.empty())
    write_text(folder / "config.textproto", config);
  for (const BoxRank& r : ranks) write_text(folder / cat("rank_", r.view.facts.rank, ".txt"), text_of_rank(r));
  return folder;
}

}  // namespace tpo
