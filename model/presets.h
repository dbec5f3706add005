#pragma once
// Named model configurations.
#include <string_view>
#include <vector>

#include "model/tpo_model.h"

namespace tpo {

// "nano": trains in minutes on two cores; "small": about six times its size; "videochat_tpo_7b": the vision encoder and
// Q-Former and language model of VideoChat-TPO. Throws ConfigError that lists the names.
TpoConfig preset(std::string_view name);
std::vector<std::string_view> preset_names();

// SigLIP-so400m/14 at 384 pixels without its last block.
VisionConfig siglip_so400m();

// Language models of the two variants with the adapters of the public recipe (rank 16, alpha 32, all eight targets):
// "mistral_7b" is Mistral-7B-Instruct-v0.2, "qwen2_7b" Qwen2-7B-Instruct. Throws ConfigError that lists the names.
LanguageConfig language_preset(std::string_view name);

}  // namespace tpo
