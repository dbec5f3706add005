#include "core/tile_layout.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"

namespace tpo {

namespace {

double real(int64_t v) { return static_cast<double>(v); }
int64_t whole(double v) { return static_cast<int64_t>(v); }

// A picture thinner than a token still has tokens; public code, made for odd numbers of them, has one anyway.
int64_t at_least_one(double v) { return std::max<int64_t>(1, whole(v)); }

// floor(a / b) of the exact quotient; a and b positive.
int64_t floor_quotient(double a, double b) { return whole(std::round((a - std::fmod(a, b)) / b)); }

void check_size(const PictureSize& p) {
  check_shape(p.width >= 1 && p.height >= 1, "[any_resolution] a picture of ", p.width, " x ", p.height, " pixels");
}

}  // namespace

TileGrid best_tile_grid(const PictureSize& p, int64_t tile, const TilingConfig& config) {
  check_size(p);
  TileGrid best;
  int64_t best_kept = 0, best_black = 0;
  for (int64_t columns = 1; columns <= config.max_side; ++columns) {
    for (int64_t rows = 1; rows <= config.max_side; ++rows) {
      const int64_t width = columns * tile, height = rows * tile;
      const double scale = std::min(real(width) / real(p.width), real(height) / real(p.height));
      const int64_t shown = whole(real(p.width) * scale) * whole(real(p.height) * scale);
      const int64_t kept = std::min(shown, p.width * p.height), black = width * height - kept;
      if (kept > best_kept || (kept == best_kept && best_kept > 0 && black < best_black))
        best = {columns, rows}, best_kept = kept, best_black = black;
    }
  }
  return best;
}

int64_t TileLayout::token(int64_t row, int64_t column) const {
  const int64_t r = top + row, c = left + column, tile = r / patches * grid.columns + c / patches;
  return ((1 + tile) * patches + r % patches) * patches + c % patches;
}

TileLayout tile_layout(const PictureSize& p, int64_t tile, int64_t patches, const TilingConfig& config) {
  TileLayout t{.grid = best_tile_grid(p, tile, config), .patches = patches};
  t.kept_rows = t.grid.rows * patches, t.kept_columns = t.grid.columns * patches;
  if (real(p.width) / real(p.height) > real(t.kept_columns) / real(t.kept_rows)) {
    t.top = (t.kept_rows - at_least_one(real(p.height) * (real(t.kept_columns) / real(p.width)))) / 2;
    t.kept_rows -= 2 * t.top;
  } else {
    t.left = (t.kept_columns - at_least_one(real(p.width) * (real(t.kept_rows) / real(p.height)))) / 2;
    t.kept_columns -= 2 * t.left;
  }
  t.rows = t.kept_rows, t.columns = t.kept_columns;
  const double times = std::sqrt(real(t.rows * t.columns) / real(config.max_tiles * patches * patches));
  if (times > 1.1) {
    t.rows = std::max<int64_t>(1, floor_quotient(real(t.rows), times));
    t.columns = std::max<int64_t>(1, floor_quotient(real(t.columns), times));
  }
  return t;
}

ShownPart shown_part(const PictureSize& p, const TileGrid& grid, int64_t tile) {
  check_size(p);
  const int64_t width = grid.columns * tile, height = grid.rows * tile;
  const double across = real(width) / real(p.width), down = real(height) / real(p.height);
  int64_t w = width, h = height;
  if (across < down)
    h = std::min(whole(std::ceil(real(p.height) * across)), height);
  else
    w = std::min(whole(std::ceil(real(p.width) * down)), width);
  return {(width - w) / 2, (height - h) / 2, w, h};
}

}  // namespace tpo
