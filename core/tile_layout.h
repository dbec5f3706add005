#pragma once
// Pictures of any size for an encoder of one size: a base picture, squeezed to a square, and the picture itself at the
// best of several resolutions, black at its edges where the shape differs, cut into square tiles. Pure functions of
// sizes, on which the loader, which cuts and counts, and the model, which puts the tokens together, must agree.
// Source: Li et al. 2024, arXiv:2408.03326 (anyres_max_9 over 1x1 to 6x6); rounding as in the public LLaVA-NeXT code.
#include <cstdint>

namespace tpo {

struct PictureSize {
  int64_t width = 0, height = 0;  // pixels, >= 1
};

struct TilingConfig {
  int64_t max_side = 6;   // resolutions of 1 to max_side tiles in width and in height, >= 1
  int64_t max_tiles = 9;  // tokens of more tiles are resampled to about those of so many, >= 1
};

struct TileGrid {
  int64_t columns = 1, rows = 1;
  int64_t tiles() const { return columns * rows; }
};

// The resolution that keeps most of the picture's pixels; of equal ones that with the least black; of those the first,
// narrow before wide, low before high. `tile`: pixels of its side.
// Throws ShapeError for a picture without pixels, as all functions here do.
TileGrid best_tile_grid(const PictureSize& picture, int64_t tile, const TilingConfig& config);

// The tokens of a picture in the language model: `patches` x `patches` of the base picture row by row, then `rows` x
// `columns` of the tiles, each row with a newline behind it. Tokens of black edges are left out: of the tiles' joint
// token grid [top, top + kept_rows) x [left, left + kept_columns) stays, resampled if it is more than max_tiles allow.
struct TileLayout {
  TileGrid grid;
  int64_t patches = 0;  // of the side of a tile
  int64_t top = 0, left = 0, kept_rows = 0, kept_columns = 0;
  int64_t rows = 0, columns = 0;  // after resampling
  int64_t views() const { return 1 + grid.tiles(); }
  int64_t slots() const { return patches * patches + rows * (columns + 1); }
  bool resampled() const { return rows != kept_rows || columns != kept_columns; }
  // Of the picture's tokens, views() * patches^2 rows, base first: the one at a place of the kept part.
  int64_t token(int64_t row, int64_t column) const;
};
TileLayout tile_layout(const PictureSize& picture, int64_t tile, int64_t patches, const TilingConfig& config);

// Where the picture lies on the canvas of all tiles, in pixels; around it is black.
struct ShownPart {
  int64_t left = 0, top = 0, width = 0, height = 0;
};
ShownPart shown_part(const PictureSize& picture, const TileGrid& grid, int64_t tile);

// How the pictures of a model are tiled.
struct PictureTiling {
  int64_t tile = 384;    // pixels of the side of a tile, what the encoder takes
  int64_t patches = 27;  // of the side of a tile
  TilingConfig limits = {};
  TileGrid grid(const PictureSize& picture) const { return best_tile_grid(picture, tile, limits); }
  TileLayout layout(const PictureSize& picture) const { return tile_layout(picture, tile, patches, limits); }
};

}  // namespace tpo
