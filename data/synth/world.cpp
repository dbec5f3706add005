#include "data/synth/world.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"

namespace tpo {

const std::vector<std::string>& colour_names() {
  static const std::vector<std::string> kNames{"red", "green", "blue", "yellow", "purple", "white", "orange", "cyan"};
  return kNames;
}
const std::vector<std::string>& shape_names() {
  static const std::vector<std::string> kNames{"circle", "triangle", "cross", "square", "diamond"};
  return kNames;
}
const std::vector<std::string>& size_names() {
  static const std::vector<std::string> kNames{"small", "large"};
  return kNames;
}

void WorldConfig::validate() const {
  const auto in = [](const char* name, double value, double low, double high) {
    check<ConfigError>(value >= low && value <= high, "world: ", name, " is ", value, " but must be from ", low, " to ",
                       high);
  };
  in("picture_px", picture_px, 16, 1024);
  in("colours", colours, 2, static_cast<double>(colour_names().size()));
  in("shapes", shapes, 2, static_cast<double>(shape_names().size()));
  in("sizes", sizes, 1, static_cast<double>(size_names().size()));
  in("min_objects", min_objects, unique == Unique::kNothing ? 3 : 1, 8);
  in("max_objects", max_objects, min_objects, 8);
  const int kinds = unique == Unique::kColour ? colours : unique == Unique::kShape ? shapes : max_objects;
  check<ConfigError>(max_objects <= kinds, "world: ", max_objects, " objects that share no ",
                     unique == Unique::kColour ? "colour" : "shape", " need as many of them, not ", kinds);
  in("min_targets", min_targets, 1, 4);
  in("small_low", small_low, 0.02, small_high);
  in("small_high", small_high, small_low, 0.45);
  in("large_low", large_low, small_high, large_high);
  in("large_high", large_high, large_low, 0.45);
  in("grid", grid, 0, 4);
  check<ConfigError>(grid == 0 || max_objects <= grid * grid, "world: ", max_objects, " objects do not fit into ", grid,
                     " x ", grid, " cells");
  in("place_margin", place_margin, 0, 0.1);
  in("gap", gap, 0, 0.1);
  in("copy_attribute", copy_attribute, 0, 0.9);
  in("full_description", full_description, 0, 1);
  in("ground_texture", ground_texture, 0, 1);
  in("shape_texture", shape_texture, 0, 1);
  in("noise", noise, 0, 0.5);
  in("turns", turns, 1, 64);
  in("region_questions", region_questions, 0, turns - 1);
  check<ConfigError>(colours * shapes * sizes >= 2 * max_objects, "world: ", colours, " colours x ", shapes,
                     " shapes x ", sizes, " sizes are too few kinds for ", max_objects, " different objects");
}

SceneBox SceneObject::box(double time_s) const {
  const double cx = x + vx * time_s, cy = y + vy * time_s, h = side / 2;
  return {cx - h, cy - h, cx + h, cy + h};
}

bool SceneObject::covers(double px, double py, double time_s) const {
  // u, v in [-1, 1] inside the box.
  const double u = (px - x - vx * time_s) / (side / 2), v = (py - y - vy * time_s) / (side / 2);
  if (std::abs(u) > 1 || std::abs(v) > 1) return false;
  switch (shape) {
    case 0:
      return u * u + v * v <= 1;
    case 1:
      return std::abs(u) <= (v + 1) / 2;  // apex on top, fills its box
    case 2:
      return std::abs(u) <= 0.36 || std::abs(v) <= 0.36;
    case 3:
      return true;
    default:
      return std::abs(u) + std::abs(v) <= 1;
  }
}

RngKey scene_key(uint64_t seed, const std::string& split, const std::string& dataset, int64_t index) {
  return RngKey(seed).with("scene").with(split).with(dataset).with(static_cast<uint64_t>(index));
}

bool matches(const SceneObject& o, const SceneObject& described, const Description& d) {
  return (!d.colour || o.colour == described.colour) && (!d.shape || o.shape == described.shape) &&
         (!d.size || o.size == described.size);
}

int count_matches(const Scene& scene, const SceneObject& described, const Description& d) {
  return static_cast<int>(std::count_if(scene.objects.begin(), scene.objects.end(),
                                        [&](const SceneObject& o) { return matches(o, described, d); }));
}

namespace {

using Unique = WorldConfig::Unique;

// Two objects that must not stand in one scene.
bool clash(const WorldConfig& config, const SceneObject& a, const SceneObject& b) {
  switch (config.unique) {
    case Unique::kColour:
      return a.colour == b.colour;
    case Unique::kShape:
      return a.shape == b.shape;
    default:
      return a.same_attributes(b);
  }
}

// Attributes of one more object: each is copied from a random earlier object with the configured chance.
SceneObject draw_attributes(const WorldConfig& config, const std::vector<SceneObject>& earlier, Draws& draws) {
  const auto pick = [&](int SceneObject::*attribute, int kinds) {
    if (!earlier.empty() && draws.chance(config.copy_attribute)) {
      return earlier[draws.below(static_cast<int>(earlier.size()))].*attribute;
    }
    return draws.below(kinds);
  };
  SceneObject o;
  o.colour =
      config.unique == Unique::kColour ? draws.below(config.colours) : pick(&SceneObject::colour, config.colours);
  o.shape = config.unique == Unique::kShape ? draws.below(config.shapes) : pick(&SceneObject::shape, config.shapes);
  o.size = pick(&SceneObject::size, config.sizes);
  return o;
}

bool apart(const SceneBox& a, const SceneBox& b, double gap) {
  return a.x2 + gap <= b.x1 || b.x2 + gap <= a.x1 || a.y2 + gap <= b.y1 || b.y2 + gap <= a.y1;
}

// A side and a random cell; the caller looks whether the cell is free.
void place_in_cell(const WorldConfig& config, SceneObject& o, Draws& draws) {
  const double cell = 1.0 / config.grid;
  const double low = config.sizes > 1 && o.size == 1 ? 0.75 : 0.55, high = config.sizes > 1 && o.size == 0 ? 0.65 : 0.9;
  o.side = cell * draws.uniform(low, high);
  const double room = (cell - o.side - config.gap) / 2;
  o.x = (draws.below(config.grid) + 0.5) * cell + draws.uniform(-room, room);
  o.y = (draws.below(config.grid) + 0.5) * cell + draws.uniform(-room, room);
}

// Finds a free place for objects[i] among the objects in `placed`; false when none was found.
bool place(const WorldConfig& config, std::vector<SceneObject>& objects, size_t i, const std::vector<size_t>& placed,
           Draws& draws) {
  SceneObject& o = objects[i];
  o.side = config.sizes == 1
               ? draws.uniform((config.small_low + config.small_high) / 2, (config.small_high + config.large_high) / 2)
           : o.size == 0 ? draws.uniform(config.small_low, config.small_high)
                         : draws.uniform(config.large_low, config.large_high);
  const double margin = o.side / 2 + config.gap;
  constexpr int kTries = 40;  // a scene that is still not placed is too full; the caller draws another one
  for (int t = 0; t < kTries; ++t) {
    o.x = draws.uniform(margin, 1 - margin);
    o.y = draws.uniform(margin, 1 - margin);
    if (config.grid > 0) place_in_cell(config, o, draws);
    const auto clear = [&](double v) {
      return std::abs(v - 1.0 / 3) >= config.place_margin && std::abs(v - 2.0 / 3) >= config.place_margin;
    };
    if (!clear(o.x) || !clear(o.y)) continue;
    if (std::all_of(placed.begin(), placed.end(),
                    [&](size_t j) { return apart(o.box(0), objects[j].box(0), config.gap); })) {
      return true;
    }
  }
  return false;
}

bool place_all(const WorldConfig& config, std::vector<SceneObject>& objects, Draws& draws) {
  // Large ones first: they fit while there is room. The list's own order stays random.
  std::vector<size_t> order(objects.size()), placed;
  for (size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return objects[a].size > objects[b].size; });
  for (size_t i : order) {
    if (!place(config, objects, i, placed, draws)) return false;
    placed.push_back(i);
  }
  return true;
}

bool all_attributes_shared(const Scene& scene, const SceneObject& o, int sizes) {
  return count_matches(scene, o, {.colour = true}) > 1 && count_matches(scene, o, {.shape = true}) > 1 &&
         (sizes == 1 || count_matches(scene, o, {.size = true}) > 1);
}

}  // namespace

Scene make_scene(const WorldConfig& config, RngKey key) {
  // The count is fixed before the attempts, so that full scenes are as frequent as sparse ones.
  const int count = config.min_objects + Draws(key.with("count")).below(config.max_objects - config.min_objects + 1);
  constexpr uint64_t kAttempts = 5000;  // a few suffice; the bound turns an impossible world into an error
  for (uint64_t attempt = 0; attempt < kAttempts; ++attempt) {
    Draws draws(key.with(attempt));
    Scene scene;
    scene.key = key;
    while (static_cast<int>(scene.objects.size()) < count) {
      const SceneObject o = draw_attributes(config, scene.objects, draws);
      if (std::none_of(scene.objects.begin(), scene.objects.end(),
                       [&](const SceneObject& p) { return clash(config, o, p); }))
        scene.objects.push_back(o);
    }
    for (int i = 0; i < count; ++i) {
      if (config.unique != Unique::kNothing || all_attributes_shared(scene, scene.objects[i], config.sizes))
        scene.targets.push_back(i);
    }
    const int wanted = count > 3 ? config.min_targets : 1;
    if (static_cast<int>(scene.targets.size()) >= wanted && place_all(config, scene.objects, draws)) return scene;
  }
  throw ConfigError(cat("world: no scene of ", config.min_objects, " to ", config.max_objects,
                        " objects fits; make the objects smaller or fewer"));
}

}  // namespace tpo
