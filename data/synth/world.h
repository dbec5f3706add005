#pragma once
// The generated world: scenes of 3 to 6 coloured shapes on a textured ground. A scene is a pure function of
// (config, key); nothing is read or kept. Positions are functions of time, boxes and masks follow from them, so that
// clips, tracks and masks need no other scene than pictures do.
#include <cstdint>
#include <string>
#include <vector>

#include "core/rng.h"

namespace tpo {

// Every number of the world. Lengths are fractions of the picture's side unless the name says px.
struct WorldConfig {
  int picture_px = 64;  // side of the square picture; 16 to 1024
  int colours = 6;      // first n of colour_names(); 2 to 8
  int shapes = 3;       // first n of shape_names(); 2 to 5
  int sizes = 2;        // first n of size_names(); 2 (small, large), or 1: anything between them, never named
  int min_objects = 3;  // at least 3: a target needs one distractor for each of its attributes
  int max_objects = 6;
  int min_targets = 2;  // objects that can be asked for, in scenes of 4 and more; scenes of 3 have one at most
  // Warm-up worlds: no two objects share their colour (or shape), all are targets, and one word is enough to find one.
  // A model that starts from nothing learns to look there first; scenes where attributes must be combined give it no
  // signal to start from. Then min_objects may be 1.
  enum class Unique { kNothing, kColour, kShape } unique = Unique::kNothing;
  double small_low = 13.0 / 64, small_high = 16.0 / 64;  // side of a small object's box
  double large_low = 20.0 / 64, large_high = 26.0 / 64;  // side of a large object's box; apart, so that size is seen
  // 0: objects stand anywhere. n: one in each cell of n x n at most, off its centre by chance but inside, with a side
  // of 0.55 to 0.9 of the cell: a vision encoder whose tokens are cells then sees one object a token.
  int grid = 0;
  // Centres keep this distance from the lines between places (thirds of the picture): nearer, whether something is at
  // the top left or at the top would be a matter of opinion.
  double place_margin = 3.0 / 64;
  double gap = 1.5 / 64;          // least distance of two boxes, and of a box from the border
  double copy_attribute = 0.6;    // chance that a distractor takes an attribute from an earlier object
  double full_description = 0.5;  // chance that a phrase names all attributes although fewer would do
  double ground_texture = 0.10;   // contrast of the ground's pattern, 0 to 1
  double shape_texture = 0.08;    // contrast of the shapes' pattern, 0 to 1
  double noise = 0.02;            // standard deviation of the pixel noise, 0 to 1
  int turns = 4;                  // question-answer pairs of a sample, at most
  int region_questions = 0;       // of these, in the region dataset, are plain questions instead of boxes
  void validate() const;          // throws ConfigError naming field, value and range
};

const std::vector<std::string>& colour_names();
const std::vector<std::string>& shape_names();
const std::vector<std::string>& size_names();

// Fractions of the picture, origin top left.
struct SceneBox {
  double x1, y1, x2, y2;
};

// An object: attributes are positions in the name tables.
struct SceneObject {
  int colour = 0, shape = 0, size = 0;
  double x = 0, y = 0;                // centre at time 0
  double side = 0;                    // of the box
  double vx = 0, vy = 0;              // sides of the picture per second; 0 in pictures
  SceneBox box(double time_s) const;  // tight around the shape
  // Whether the shape covers the point (fractions of the picture).
  bool covers(double px, double py, double time_s) const;
  bool same_attributes(const SceneObject& o) const { return colour == o.colour && shape == o.shape && size == o.size; }
};

struct Scene {
  RngKey key;                        // also of texture and noise
  std::vector<SceneObject> objects;  // all different in (colour, shape, size); boxes do not overlap at time 0
  std::vector<int> targets;  // objects whose every attribute is shared by some other object (warm-up: all); never empty
};

// Draws from a key in order: a counter that lives for one computation.
class Draws {
 public:
  explicit Draws(RngKey key) : key_(key) {}
  int below(int n) { return static_cast<int>(uniform_below(key_, counter_++, static_cast<uint64_t>(n))); }
  double uniform(double low, double high) { return low + (high - low) * uniform01(philox(key_, counter_++)[0]); }
  bool chance(double p) { return uniform(0, 1) < p; }

 private:
  RngKey key_;
  uint64_t counter_ = 0;
};

template <class T>
void shuffle(std::vector<T>& items, Draws& draws) {
  for (size_t i = items.size(); i > 1; --i) std::swap(items[i - 1], items[draws.below(static_cast<int>(i))]);
}

// The key of one scene. Split and dataset are names ("train", "region"), so held-out scenes never meet training scenes.
RngKey scene_key(uint64_t seed, const std::string& split, const std::string& dataset, int64_t index);

Scene make_scene(const WorldConfig& config, RngKey key);

// A description names some attributes of an object.
struct Description {
  bool colour = false, shape = false, size = false;
};
bool matches(const SceneObject& o, const SceneObject& described, const Description& d);
// Objects of the scene that the description of `object` fits.
int count_matches(const Scene& scene, const SceneObject& described, const Description& d);

}  // namespace tpo
