#pragma once
// Pictures and masks of a scene.
#include "data/decode/image.h"
#include "data/sample.pb.h"
#include "data/synth/world.h"

namespace tpo {

// The scene at a time in seconds, anti-aliased, config.picture_px on each side. Pure in its arguments.
Image render(const WorldConfig& config, const Scene& scene, double time_s = 0);

// Pixels of scene.objects[object] whose centre it covers and no later object hides, as column-major runs.
data::Mask object_mask(const WorldConfig& config, const Scene& scene, int object, double time_s = 0);

}  // namespace tpo
