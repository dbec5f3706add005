#include "data/decode/image.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "data/decode/codecs.h"

namespace tpo {
namespace {

constexpr double kCubicA = -0.5;

double cubic(double x) {
  x = std::abs(x);
  if (x < 1) return ((kCubicA + 2) * x - (kCubicA + 3)) * x * x + 1;
  if (x < 2) return (((x - 5) * x + 8) * x - 4) * kCubicA;
  return 0;
}

// Per output position: first input position and the weights from there on, all of the same count (zero-filled).
struct Taps {
  int count = 0;
  std::vector<int> first;
  std::vector<float> weight;  // (outputs, count)
};

Taps make_taps(int in, int out) {
  const double scale = static_cast<double>(in) / out, stretch = std::max(scale, 1.0), support = 2.0 * stretch;
  Taps taps;
  taps.count = std::min(in, static_cast<int>(std::ceil(support)) * 2 + 1);
  taps.first.resize(out);
  taps.weight.assign(static_cast<size_t>(out) * taps.count, 0.0f);
  for (int i = 0; i < out; ++i) {
    const double centre = (i + 0.5) * scale;
    const int lo = std::max(0, static_cast<int>(centre - support + 0.5));
    const int hi = std::min(in, static_cast<int>(centre + support + 0.5));
    const int first = std::min(lo, in - taps.count);  // so that count taps stay inside; the extra ones have weight 0
    double sum = 0;
    for (int x = lo; x < hi; ++x) sum += cubic((x - centre + 0.5) / stretch);
    for (int x = lo; x < hi; ++x) {
      taps.weight[static_cast<size_t>(i) * taps.count + (x - first)] =
          static_cast<float>(cubic((x - centre + 0.5) / stretch) / sum);
    }
    taps.first[i] = first;
  }
  return taps;
}

// One row: out[i][c] = clamp(sum_k weight[i][k] * row[first[i] + k][c]).
void resize_row(const uint8_t* row, const Taps& taps, int out_width, float* out) {
  for (int i = 0; i < out_width; ++i) {
    const uint8_t* in = row + static_cast<size_t>(taps.first[i]) * 3;
    const float* w = taps.weight.data() + static_cast<size_t>(i) * taps.count;
    float r = 0, g = 0, b = 0;
    for (int k = 0; k < taps.count; ++k) {
      r += w[k] * in[3 * k];
      g += w[k] * in[3 * k + 1];
      b += w[k] * in[3 * k + 2];
    }
    out[3 * i] = std::clamp(r, 0.0f, 255.0f);
    out[3 * i + 1] = std::clamp(g, 0.0f, 255.0f);
    out[3 * i + 2] = std::clamp(b, 0.0f, 255.0f);
  }
}

template <class F>
std::vector<uint8_t> to_u8(size_t n, F value) {
  std::vector<uint8_t> out(n);
  for (size_t i = 0; i < n; ++i) out[i] = static_cast<uint8_t>(std::clamp(value(i) + 0.5f, 0.0f, 255.0f));
  return out;
}

bool is_png(std::span<const std::byte> b) {
  return b.size() >= 4 && b[0] == std::byte{0x89} && b[1] == std::byte{'P'} && b[2] == std::byte{'N'} &&
         b[3] == std::byte{'G'};
}

bool is_jpeg(std::span<const std::byte> b) {
  return b.size() >= 2 && b[0] == std::byte{0xff} && b[1] == std::byte{0xd8};
}

}  // namespace

void detail::check_pixels(ImageSize size, std::string_view name) {
  check<DataError>(size.width > 0 && size.height > 0, "picture ", name, " is empty: ", size.width, " x ", size.height);
  check<DataError>(static_cast<int64_t>(size.width) * size.height <= kMaxPixels, "picture ", name, " is ", size.width,
                   " x ", size.height, ", over the limit of ", kMaxPixels, " pixels");
}

void detail::check_image(const Image& image) {
  check_pixels({image.width, image.height}, "in memory");
  check<DataError>(image.rgb.size() == static_cast<size_t>(image.width) * image.height * 3, "picture of ", image.width,
                   " x ", image.height, " holds ", image.rgb.size(), " bytes");
}

Image decode_image(std::span<const std::byte> bytes, std::string_view name, ImageSize at_least) {
  if (is_png(bytes)) return decode_png(bytes, name);
  check<DataError>(is_jpeg(bytes), "picture ", name, " (", bytes.size(), " bytes) is neither JPEG nor PNG");
  return decode_jpeg(bytes, name, at_least);
}

ImageSize image_size(std::span<const std::byte> bytes, std::string_view name) {
  if (is_png(bytes)) return detail::png_size(bytes, name);
  check<DataError>(is_jpeg(bytes), "picture ", name, " (", bytes.size(), " bytes) is neither JPEG nor PNG");
  return detail::jpeg_size(bytes, name);
}

std::vector<float> resize_float(const Image& image, int width, int height) {
  detail::check_image(image);
  detail::check_pixels({width, height}, "after resizing");
  const Taps across = make_taps(image.width, width), down = make_taps(image.height, height);
  const size_t row = static_cast<size_t>(width) * 3;
  std::vector<float> middle(static_cast<size_t>(image.height) * row), out(static_cast<size_t>(height) * row);
  for (int y = 0; y < image.height; ++y) {
    resize_row(image.rgb.data() + static_cast<size_t>(y) * image.width * 3, across, width, middle.data() + y * row);
  }
  for (int y = 0; y < height; ++y) {
    float* o = out.data() + y * row;
    for (int k = 0; k < down.count; ++k) {
      const float w = down.weight[static_cast<size_t>(y) * down.count + k];
      if (w == 0.0f) continue;
      const float* m = middle.data() + (down.first[y] + k) * row;
      for (size_t x = 0; x < row; ++x) o[x] += w * m[x];
    }
    for (size_t x = 0; x < row; ++x) o[x] = std::clamp(o[x], 0.0f, 255.0f);
  }
  return out;
}

Image resize(const Image& image, int width, int height) {
  const std::vector<float> f = resize_float(image, width, height);
  return {width, height, to_u8(f.size(), [&](size_t i) { return f[i]; })};
}

void resize_normalised(const Image& image, int width, int height, std::span<float> out, const PixelScale& scale) {
  check_shape(out.size() == static_cast<size_t>(width) * height * 3, "[resize_normalised] ", out.size(), " floats for ",
              width, " x ", height, " x 3");
  const std::vector<float> f = resize_float(image, width, height);
  for (size_t i = 0; i < out.size(); i += 3) {
    for (size_t c = 0; c < 3; ++c) out[i + c] = (f[i + c] / 255.0f - scale.mean[c]) / scale.std[c];
  }
}

Image denormalise(std::span<const float> pixels, int width, int height, const PixelScale& scale) {
  check_shape(pixels.size() == static_cast<size_t>(width) * height * 3, "[denormalise] ", pixels.size(), " floats for ",
              width, " x ", height, " x 3");
  return {width, height,
          to_u8(pixels.size(), [&](size_t i) { return (pixels[i] * scale.std[i % 3] + scale.mean[i % 3]) * 255.0f; })};
}

}  // namespace tpo
