#include "data/synth/render.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <vector>

namespace tpo {

namespace {

using Rgb = std::array<double, 3>;  // 0..255

// In the order of colour_names(); chosen far apart from each other and from the dark ground.
constexpr std::array<Rgb, 8> kPalette{{{224, 44, 40},
                                       {52, 172, 66},
                                       {52, 86, 228},
                                       {242, 218, 52},
                                       {156, 56, 190},
                                       {240, 240, 240},
                                       {246, 138, 30},
                                       {64, 208, 222}}};

// Smooth noise in [-1, 1] with cells of `cell` (fraction of the picture): bilinear mix of random values at lattice
// points. The lattice repeats after 16 cells, about one picture.
class ValueNoise {
 public:
  ValueNoise(RngKey key, double cell) : cell_(cell) {
    for (uint64_t i = 0; i < lattice_.size(); i += 4) {
      const auto words = philox(key, i);
      for (uint64_t k = 0; k < 4; ++k) lattice_[i + k] = 2.0 * uniform01(words[k]) - 1;
    }
  }
  double at(double x, double y) const {
    const double gx = x / cell_, gy = y / cell_, ix = std::floor(gx), iy = std::floor(gy);
    const auto smooth = [](double t) { return t * t * (3 - 2 * t); };
    const double fx = smooth(gx - ix), fy = smooth(gy - iy);
    const auto value = [&](int i, int j) {
      return lattice_[((static_cast<int64_t>(iy) + j) & 15) * 16 + ((static_cast<int64_t>(ix) + i) & 15)];
    };
    return (1 - fy) * ((1 - fx) * value(0, 0) + fx * value(1, 0)) + fy * ((1 - fx) * value(0, 1) + fx * value(1, 1));
  }

 private:
  double cell_;
  std::array<double, 256> lattice_;
};

// The colours of a scene: ground, a dark, nearly grey tone with two octaves of noise; and objects with a pattern each.
class Paint {
 public:
  Paint(const WorldConfig& config, const Scene& scene)
      : config_(config), scene_(scene), coarse_(scene.key.with("g1"), 0.23), fine_(scene.key.with("g2"), 0.07) {
    const auto tone = philox(scene.key.with("ground"), 0);
    for (int c = 0; c < 3; ++c) base_[c] = 55 + 35 * uniform01(tone[0]) + 12 * (uniform01(tone[1 + c]) - 0.5);
    for (uint64_t i = 0; i < scene.objects.size(); ++i) patterns_.emplace_back(scene.key.with("object").with(i), 0.06);
  }
  Rgb ground(double x, double y) const {
    return lifted(base_, 255 * config_.ground_texture * (0.7 * coarse_.at(x, y) + 0.3 * fine_.at(x, y)));
  }
  // The pattern sits on the object and moves with it.
  Rgb object(int i, double x, double y, double time_s) const {
    const SceneObject& o = scene_.objects[i];
    return lifted(kPalette[o.colour],
                  255 * config_.shape_texture * patterns_[i].at(x - o.vx * time_s, y - o.vy * time_s));
  }

 private:
  static Rgb lifted(Rgb colour, double by) {
    for (double& c : colour) c += by;
    return colour;
  }
  const WorldConfig& config_;
  const Scene& scene_;
  ValueNoise coarse_, fine_;
  Rgb base_;
  std::vector<ValueNoise> patterns_;
};

// Object on top at a point, or -1. Later objects lie above earlier ones.
int top_object(const Scene& scene, double x, double y, double time_s) {
  for (int i = static_cast<int>(scene.objects.size()) - 1; i >= 0; --i) {
    if (scene.objects[i].covers(x, y, time_s)) return i;
  }
  return -1;
}

// Whether any object's box meets the pixel; elsewhere the ground is all there is.
bool touched(const Scene& scene, double x1, double y1, double x2, double y2, double time_s) {
  return std::any_of(scene.objects.begin(), scene.objects.end(), [&](const SceneObject& o) {
    const SceneBox r = o.box(time_s);
    return r.x1 <= x2 && r.x2 >= x1 && r.y1 <= y2 && r.y2 >= y1;
  });
}

// Mean colour of pixel (px, py) over 4 x 4 points: coverage in steps of 1/16.
Rgb pixel_colour(const Scene& scene, const Paint& paint, int px, int py, int n, double time_s) {
  constexpr int kSub = 4;
  const double cx = (px + 0.5) / n, cy = (py + 0.5) / n;
  const double half = 0.5 / n;
  if (!touched(scene, cx - half, cy - half, cx + half, cy + half, time_s)) return paint.ground(cx, cy);
  std::vector<int> hits(scene.objects.size() + 1);  // [0] is the ground
  for (int s = 0; s < kSub * kSub; ++s) {
    const int row = s / kSub, column = s % kSub;
    const double x = (px + (column + 0.5) / kSub) / n, y = (py + (row + 0.5) / kSub) / n;
    ++hits[top_object(scene, x, y, time_s) + 1];
  }
  Rgb sum{};
  for (size_t i = 0; i < hits.size(); ++i) {
    if (hits[i] == 0) continue;
    const Rgb colour = i == 0 ? paint.ground(cx, cy) : paint.object(static_cast<int>(i) - 1, cx, cy, time_s);
    for (int c = 0; c < 3; ++c) sum[c] += colour[c] * hits[i] / (kSub * kSub);
  }
  return sum;
}

}  // namespace

Image render(const WorldConfig& config, const Scene& scene, double time_s) {
  const int n = config.picture_px;
  const Paint paint(config, scene);
  const RngKey noise = scene.key.with("noise");
  const auto moment = static_cast<uint64_t>(std::llround(time_s * 1e6));
  Image image{n, n, std::vector<uint8_t>(static_cast<size_t>(n) * n * 3)};
  for (int py = 0; py < n; ++py) {
    for (int px = 0; px < n; ++px) {
      const Rgb colour = pixel_colour(scene, paint, px, py, n, time_s);
      const auto pixel = static_cast<uint64_t>(py) * n + px;
      const auto bits = philox(noise, pixel, moment);
      const double grain = 255 * config.noise * normal2(bits[0], bits[1])[0];
      for (int c = 0; c < 3; ++c) {
        image.rgb[pixel * 3 + c] = static_cast<uint8_t>(std::clamp(std::lround(colour[c] + grain), 0L, 255L));
      }
    }
  }
  return image;
}

data::Mask object_mask(const WorldConfig& config, const Scene& scene, int object, double time_s) {
  const int n = config.picture_px;
  data::Mask mask;
  mask.set_height(n);
  mask.set_width(n);
  bool inside = false;
  uint32_t run = 0;
  for (int px = 0; px < n; ++px) {
    for (int py = 0; py < n; ++py, ++run) {
      const bool here = top_object(scene, (px + 0.5) / n, (py + 0.5) / n, time_s) == object;
      if (here == inside) continue;
      mask.add_counts(run);
      run = 0;
      inside = here;
    }
  }
  mask.add_counts(run);
  return mask;
}

}  // namespace tpo
