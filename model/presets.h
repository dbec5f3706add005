#pragma once
// Named model configurations.
#include <string_view>
#include <vector>

#include "model/tpo_model.h"

namespace tpo {

// "videochat_tpo_7b": the vision encoder, Q-Former and language model of VideoChat-TPO; "llava_ov_tpo_7b": the same
// heads on LLaVA-OneVision; "nano", "small": VideoChat-TPO's shape at sizes that train in minutes and hours on two
// cores. Throws ConfigError that lists the names.
TpoConfig preset(std::string_view name);
std::vector<std::string_view> preset_names();

// SigLIP-so400m/14 at 384 pixels without its last block.
VisionConfig siglip_so400m();

// Language models of the two variants with the adapters of the public recipe (rank 16, alpha 32, all eight targets):
// "mistral_7b" is Mistral-7B-Instruct-v0.2, "qwen2_7b" Qwen2-7B-Instruct. Throws ConfigError that lists the names.
LanguageConfig language_preset(std::string_view name);

}  // namespace tpo
