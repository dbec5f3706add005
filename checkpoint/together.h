#pragma once
// One step that every rank takes part in, after which all of them know whether all succeeded.
#include <functional>
#include <string>
#include <vector>

#include "parallel/comm/process_group.h"

namespace tpo {

// Runs body on every rank, then exchanges what it returned: element r is rank r's. If body threw anywhere, the error of
// the lowest such rank is thrown on all ranks, of the same type and with "rank r: " in front if there are several.
std::vector<std::string> together(ProcessGroup& world, const std::function<std::string()>& body);
// The same, but only rank 0 gets what the ranks returned; the others get as many empty strings.
std::vector<std::string> together_to_first(ProcessGroup& world, const std::function<std::string()>& body);

}  // namespace tpo
