#pragma once
// Black box: what a run leaves that did not end well. <run.folder>/blackbox_<UTC time>/ holds
//   verdict_<node>.txt     what the guard of the node found
//   config.textproto       the resolved configuration
//   rank_<r>.txt           step, phase, groups, sample ids of the last steps, last 1,000 events; at most 200 KB
// Supervisors of several nodes write their ranks into the same folder.
#include <span>
#include <string>
#include <vector>

#include "parallel/program/rank_view.h"

namespace tpo {

struct BoxRank {
  const RingReader* ring = nullptr;
  RankView view;  // as it was found last
};

// Returns the folder. Throws IoError.
std::string write_black_box(const std::string& run_folder, const std::string& job, const std::string& config_file,
                            const std::vector<std::string>& verdict, std::span<const BoxRank> ranks);

const char* name_of(Life life);

}  // namespace tpo
