#pragma once
// Drawing on pictures: rectangles and text in a built-in bitmap font. All functions clip at the border.
#include <array>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "data/decode/image.h"

namespace tpo {

using Colour = std::array<uint8_t, 3>;  // red, green, blue

// Well distinguishable colours, repeating after eight.
Colour draw_colour(int i);

// Outline of the box (pixels, x1 <= x2, y1 <= y2, may lie outside), `thickness` pixels inwards.
void draw_box(Image& image, double x1, double y1, double x2, double y2, Colour colour, int thickness = 1);
void fill_rect(Image& image, int x1, int y1, int x2, int y2, Colour colour);  // x2, y2 exclusive

constexpr int kGlyphWidth = 6, kGlyphHeight = 9;  // cell of one character at scale 1, in pixels

// ASCII text with the top left corner at (x, y); other bytes show as a hollow box. Does not break lines.
void draw_text(Image& image, int x, int y, std::string_view text, Colour colour, int scale = 1);
// Text on a filled label, as it stands above a box; moved into the picture where it would leave it.
void draw_label(Image& image, int x, int y, std::string_view text, Colour ground, int scale = 1);
// Breaks the text at blanks into lines of at most `columns` characters; longer words are cut.
std::vector<std::string> wrap_text(std::string_view text, int columns);

// `image` put into `target` at (x, y).
void paste(Image& target, const Image& image, int x, int y);
Image blank(int width, int height, Colour colour);
// Pictures in a grid of `columns`, cells as large as the largest picture, `gap` pixels between them.
Image contact_sheet(std::span<const Image> pictures, int columns, int gap = 4);

}  // namespace tpo
