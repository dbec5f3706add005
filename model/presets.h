#pragma once
// Named model configurations.
#include <string_view>
#include <vector>

#include "model/tpo_model.h"

namespace tpo {

// "nano": trains in minutes on two cores; "small": about six times its size; "videochat_tpo_7b": the vision encoder and
// language model of VideoChat-TPO with a linear connector. Throws ConfigError that lists the names.
TpoConfig preset(std::string_view name);
std::vector<std::string_view> preset_names();

}  // namespace tpo
