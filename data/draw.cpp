#include "data/draw.h"

#include <algorithm>
#include <cmath>
#include <string>

namespace tpo {

namespace {

// Six strips of 16 characters from blank to ~, eight rows each, cells of 5 columns and a blank. Character 127 is the
// hollow box.
constexpr const char* kFont[48] = {
    "..... ..#.. .#.#. .#.#. ..#.. ##... .##.. ..#.. ...#. .#... ..... ..... ..... ..... ..... .....",  // space to /
    "..... ..#.. .#.#. .#.#. .#### ##..# #..#. ..#.. ..#.. ..#.. ..#.. ..#.. ..... ..... ..... ....#",
    "..... ..#.. .#.#. ##### #.#.. ...#. #.#.. ..#.. .#... ...#. #.#.# ..#.. ..... ..... ..... ...#.",
    "..... ..#.. ..... .#.#. .###. ..#.. .#... ..... .#... ...#. .###. ##### ..... ##### ..... ..#..",
    "..... ..#.. ..... ##### ..#.# .#... #.#.# ..... .#... ...#. #.#.# ..#.. ..... ..... ..... .#...",
    "..... ..... ..... .#.#. ####. #..## #..#. ..... ..#.. ..#.. ..#.. ..#.. .##.. ..... .##.. #....",
    "..... ..#.. ..... .#.#. ..#.. ...## .##.# ..... ...#. .#... ..... ..... ..#.. ..... .##.. .....",
    "..... ..... ..... ..... ..... ..... ..... ..... ..... ..... ..... ..... .#... ..... ..... .....",
    ".###. ..#.. .###. ##### ...#. ##### ..##. ##### .###. .###. ..... ..... ...#. ..... .#... .###.",  // 0 to ?
    "#...# .##.. #...# ...#. ..##. #.... .#... ....# #...# #...# .##.. .##.. ..#.. ..... ..#.. #...#",
    "#..## ..#.. ....# ..#.. .#.#. ####. #.... ...#. #...# #...# .##.. .##.. .#... ##### ...#. ....#",
    "#.#.# ..#.. ...#. ...#. #..#. ....# ####. ..#.. .###. .#### ..... ..... #.... ..... ....# ...#.",
    "##..# ..#.. ..#.. ....# ##### ....# #...# .#... #...# ....# .##.. ..... .#... ##### ...#. ..#..",
    "#...# ..#.. .#... #...# ...#. #...# #...# .#... #...# ...#. .##.. .##.. ..#.. ..... ..#.. .....",
    ".###. .###. ##### .###. ...#. .###. .###. .#... .###. .##.. ..... ..#.. ...#. ..... .#... ..#..",
    "..... ..... ..... ..... ..... ..... ..... ..... ..... ..... ..... .#... ..... ..... ..... .....",
    ".###. .###. ####. .###. ###.. ##### ##### .###. #...# .###. ..### #...# #.... #...# #...# .###.",  // @ to O
    "#...# #...# #...# #...# #..#. #.... #.... #...# #...# ..#.. ...#. #..#. #.... ##.## #...# #...#",
    "....# #...# #...# #.... #...# #.... #.... #.... #...# ..#.. ...#. #.#.. #.... #.#.# ##..# #...#",
    ".##.# ##### ####. #.... #...# ####. ####. #.### ##### ..#.. ...#. ##... #.... #.#.# #.#.# #...#",
    "#.#.# #...# #...# #.... #...# #.... #.... #...# #...# ..#.. ...#. #.#.. #.... #...# #..## #...#",
    "#.#.# #...# #...# #...# #..#. #.... #.... #...# #...# ..#.. #..#. #..#. #.... #...# #...# #...#",
    ".###. #...# ####. .###. ###.. ##### #.... .#### #...# .###. .##.. #...# ##### #...# #...# .###.",
    "..... ..... ..... ..... ..... ..... ..... ..... ..... ..... ..... ..... ..... ..... ..... .....",
    "####. .###. ####. .#### ##### #...# #...# #...# #...# #...# ##### .###. ..... .###. ..#.. .....",  // P to _
    "#...# #...# #...# #.... ..#.. #...# #...# #...# #...# #...# ....# .#... #.... ...#. .#.#. .....",
    "#...# #...# #...# #.... ..#.. #...# #...# #...# .#.#. #...# ...#. .#... .#... ...#. #...# .....",
    "####. #...# ####. .###. ..#.. #...# #...# #.#.# ..#.. .#.#. ..#.. .#... ..#.. ...#. ..... .....",
    "#.... #.#.# #.#.. ....# ..#.. #...# #...# #.#.# .#.#. ..#.. .#... .#... ...#. ...#. ..... .....",
    "#.... #..#. #..#. ....# ..#.. #...# .#.#. #.#.# #...# ..#.. #.... .#... ....# ...#. ..... .....",
    "#.... .##.# #...# ####. ..#.. .###. ..#.. .#.#. #...# ..#.. ##### .###. ..... .###. ..... .....",
    "..... ..... ..... ..... ..... ..... ..... ..... ..... ..... ..... ..... ..... ..... ..... #####",
    ".#... ..... #.... ..... ....# ..... ..##. ..... #.... ..#.. ...#. .#... .##.. ..... ..... .....",  // ` to o
    "..#.. ..... #.... ..... ....# ..... .#..# ..... #.... ..... ..... .#... ..#.. ..... ..... .....",
    "..... .###. #.##. .###. .##.# .###. .#... .#### #.##. .##.. ..##. .#..# ..#.. ##.#. #.##. .###.",
    "..... ....# ##..# #.... #..## #...# ###.. #...# ##..# ..#.. ...#. .#.#. ..#.. #.#.# ##..# #...#",
    "..... .#### #...# #.... #...# ##### .#... #...# #...# ..#.. ...#. .##.. ..#.. #.#.# #...# #...#",
    "..... #...# #...# #...# #...# #.... .#... .#### #...# ..#.. ...#. .#.#. ..#.. #.#.# #...# #...#",
    "..... .#### ####. .###. .#### .###. .#... ....# #...# .###. #..#. .#..# .###. #.#.# #...# .###.",
    "..... ..... ..... ..... ..... ..... ..... .###. ..... ..... .##.. ..... ..... ..... ..... .....",
    "..... ..... ..... ..... .#... ..... ..... ..... ..... ..... ..... ...## ..#.. .##.. ..... #####",
    "..... ..... ..... ..... .#... ..... ..... ..... ..... ..... ..... ..#.. ..#.. ...#. ..... #...#",
    "####. .#### #.##. .#### ###.. #...# #...# #...# #...# #...# ##### ..#.. ..#.. ...#. .#... #...#",
    "#...# #...# ##..# #.... .#... #...# #...# #...# .#.#. #...# ...#. .#... ..#.. ....# #.#.# #...#",
    "#...# #...# #.... .###. .#... #...# #...# #.#.# ..#.. #...# ..#.. ..#.. ..#.. ...#. ...#. #...#",
    "####. .#### #.... ....# .#..# #..## .#.#. #.#.# .#.#. .#### .#... ..#.. ..#.. ...#. ..... #...#",
    "#.... ....# #.... ####. ..##. .##.# ..#.. .#.#. #...# ....# ##### ...## ..#.. .##.. ..... #####",
    "#.... ....# ..... ..... ..... ..... ..... ..... ..... .###. ..... ..... ..... ..... ..... .....",
};

void set_pixel(Image& image, int x, int y, Colour colour) {
  if (x < 0 || y < 0 || x >= image.width || y >= image.height) return;
  std::copy(colour.begin(), colour.end(), image.rgb.begin() + 3 * (static_cast<int64_t>(y) * image.width + x));
}

}  // namespace

Colour draw_colour(int i) {
  constexpr Colour kColours[] = {{255, 64, 64},  {64, 220, 64},  {80, 140, 255}, {255, 210, 40},
                                 {255, 90, 230}, {40, 220, 220}, {255, 140, 40}, {190, 130, 255}};
  return kColours[static_cast<unsigned>(i) % std::size(kColours)];
}

void fill_rect(Image& image, int x1, int y1, int x2, int y2, Colour colour) {
  for (int y = std::max(0, y1); y < std::min(image.height, y2); ++y) {
    for (int x = std::max(0, x1); x < std::min(image.width, x2); ++x) set_pixel(image, x, y, colour);
  }
}

void draw_box(Image& image, double x1, double y1, double x2, double y2, Colour colour, int thickness) {
  const auto to_pixel = [](double v) { return static_cast<int>(std::lround(std::clamp(v, -1e6, 1e6))); };
  const int l = to_pixel(x1), t = to_pixel(y1), r = std::max(l + 1, to_pixel(x2)), b = std::max(t + 1, to_pixel(y2));
  fill_rect(image, l, t, r, std::min(t + thickness, b), colour);
  fill_rect(image, l, std::max(b - thickness, t), r, b, colour);
  fill_rect(image, l, t, std::min(l + thickness, r), b, colour);
  fill_rect(image, std::max(r - thickness, l), t, r, b, colour);
}

void draw_text(Image& image, int x, int y, std::string_view text, Colour colour, int scale) {
  for (size_t i = 0; i < text.size(); ++i) {
    const auto byte = static_cast<unsigned char>(text[i]);
    const int code = (byte >= 32 && byte < 127 ? byte : 127) - 32;
    for (int row = 0; row < 8; ++row) {
      const char* cells = kFont[code / 16 * 8 + row] + code % 16 * 6;
      for (int col = 0; col < 5; ++col) {
        if (cells[col] != '#') continue;
        const int px = x + (static_cast<int>(i) * kGlyphWidth + col) * scale, py = y + row * scale;
        fill_rect(image, px, py, px + scale, py + scale, colour);
      }
    }
  }
}

void draw_label(Image& image, int x, int y, std::string_view text, Colour ground, int scale) {
  const int width = (static_cast<int>(text.size()) * kGlyphWidth + 1) * scale, height = (kGlyphHeight + 1) * scale;
  x = std::max(0, std::min(x, image.width - width));
  y = std::max(0, std::min(y, image.height - height));
  fill_rect(image, x, y, x + width, y + height, ground);
  draw_text(image, x + scale, y + scale, text, {0, 0, 0}, scale);
}

std::vector<std::string> wrap_text(std::string_view text, int columns) {
  const auto width = static_cast<size_t>(std::max(columns, 1));
  std::vector<std::string> lines;
  while (!text.empty()) {
    size_t cut = std::min({text.find('\n'), text.size(), width});
    const bool inside_word = cut < text.size() && text[cut] != '\n' && text[cut] != ' ';
    if (inside_word && text.substr(0, cut).rfind(' ') != std::string_view::npos) cut = text.substr(0, cut).rfind(' ');
    lines.emplace_back(text.substr(0, cut));
    text.remove_prefix(cut);
    if (!text.empty() && (text[0] == ' ' || text[0] == '\n')) text.remove_prefix(1);
  }
  return lines;
}

void paste(Image& target, const Image& image, int x, int y) {
  for (int row = 0; row < image.height; ++row) {
    for (int col = 0; col < image.width; ++col) {
      const uint8_t* p = image.rgb.data() + 3 * (static_cast<int64_t>(row) * image.width + col);
      set_pixel(target, x + col, y + row, {p[0], p[1], p[2]});
    }
  }
}

Image blank(int width, int height, Colour colour) {
  Image out{width, height, std::vector<uint8_t>(static_cast<size_t>(width) * height * 3)};
  fill_rect(out, 0, 0, width, height, colour);
  return out;
}

Image contact_sheet(std::span<const Image> pictures, int columns, int gap) {
  int width = 1, height = 1;
  for (const Image& p : pictures) width = std::max(width, p.width), height = std::max(height, p.height);
  const int count = static_cast<int>(pictures.size());
  columns = std::clamp(columns, 1, std::max(count, 1));
  const int rows = std::max(1, (count + columns - 1) / columns);
  Image sheet = blank(columns * (width + gap) + gap, rows * (height + gap) + gap, {255, 255, 255});
  for (int i = 0; i < count; ++i) {
    paste(sheet, pictures[i], gap + i % columns * (width + gap), gap + i / columns * (height + gap));
  }
  return sheet;
}

}  // namespace tpo
