#include "launcher/node_exchange.h"

#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <sstream>

#include "core/error.h"
#include "launcher/run_files.h"

namespace tpo {
namespace {

constexpr double kPeriod_s = 0.5, kFresh_s = 3;

std::string read_file(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  std::ostringstream bytes;
  bytes << in.rdbuf();
  return bytes.str();
}

}  // namespace

// True if the content changed within the last seconds of our clock, or the file is new since our first turn.
bool NodeExchange::changing(const std::string& name, const std::string& bytes, double now_s) {
  const size_t hash = std::hash<std::string>()(bytes);
  const auto [it, first] = seen_.try_emplace(name, Seen{hash, now_s});
  if (!first && it->second.hash != hash) it->second = {hash, now_s};
  return now_s - it->second.changed_s < kFresh_s;
}

// What an earlier job left is old.
void NodeExchange::enter(const std::string& run_folder, const std::string& host, double now_s) {
  folder_ = run_folder + "/guard";
  own_ = cat(folder_, "/", host);
  std::filesystem::create_directories(folder_);
  for (const auto& entry : std::filesystem::directory_iterator(folder_))
    seen_[entry.path()] = {std::hash<std::string>()(read_file(entry.path())), now_s - kFresh_s};
}

void NodeExchange::publish(const std::vector<RankView>& mine) {
  const std::string bytes = pack_views(mine);
  write_bytes(own_ + ".views", std::as_bytes(std::span(bytes.data(), bytes.size())));
}

std::vector<RankView> NodeExchange::turn(const std::string& run_folder, const std::vector<RankView>& mine,
                                         bool suspicious, double now_s) {
  if (now_s - last_s_ < kPeriod_s) return suspicious ? others_ : std::vector<RankView>{};
  last_s_ = now_s;
  others_.clear();
  try {
    if (folder_.empty()) enter(run_folder, mine.front().facts.host, now_s);
    if (suspicious) write_text(own_ + ".alert", cat(steady_ns()));
    bool asked = suspicious;
    std::vector<std::string> views;
    for (const auto& entry : std::filesystem::directory_iterator(folder_)) {
      const std::string path = entry.path();
      if (path.starts_with(own_ + ".")) continue;
      if (path.ends_with(".alert")) asked = changing(path, read_file(path), now_s) || asked;
      if (path.ends_with(".views")) views.push_back(path);
    }
    if (asked) publish(mine);
    if (!suspicious) return {};
    for (const std::string& path : views) {
      const std::string bytes = read_file(path);
      if (!changing(path, bytes, now_s)) continue;
      for (RankView& v : parse_views(bytes)) others_.push_back(std::move(v));
    }
  } catch (const std::exception&) {  // verdicts stay local
  }
  return others_;
}

void NodeExchange::leave() {
  if (folder_.empty()) return;
  for (const char* kind : {".views", ".alert"}) unlink((own_ + kind).c_str());
  rmdir(folder_.c_str());
}

}  // namespace tpo
