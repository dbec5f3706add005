#pragma once
// Pictures in memory: decode, encode, resize, normalise. All functions are thread-safe.
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

namespace tpo {

// 8-bit RGB, rows top to bottom, (height, width, 3) without padding.
struct Image {
  int width = 0, height = 0;
  std::vector<uint8_t> rgb;
};

struct ImageSize {
  int width = 0, height = 0;
};

// Larger pictures are refused before memory is taken (a few hundred bytes of PNG can promise gigabytes).
constexpr int64_t kMaxPixels = int64_t{1} << 26;

// `name` stands in messages. All throw DataError for bytes that are not a complete picture of the format, or over
// kMaxPixels. decode_jpeg: with `at_least` not zero the picture may come out smaller by a power of two (scaled in the
// DCT domain, which is faster), but never smaller than at_least in either extent. Grey and CMYK pictures come out as
// RGB. EXIF rotation is not applied.
Image decode_jpeg(std::span<const std::byte> bytes, std::string_view name, ImageSize at_least = {});
Image decode_png(std::span<const std::byte> bytes, std::string_view name);  // alpha is laid over black, 16 bit cut to 8
// By the first bytes: JPEG or PNG.
Image decode_image(std::span<const std::byte> bytes, std::string_view name, ImageSize at_least = {});
ImageSize image_size(std::span<const std::byte> bytes, std::string_view name);  // header only, JPEG or PNG

std::vector<std::byte> encode_jpeg(const Image& image, int quality = 90);  // 1..100, 4:2:0 below 90, 4:4:4 from 90
std::vector<std::byte> encode_png(const Image& image);

// Bicubic with antialias, the convention of Pillow's BICUBIC: cubic kernel with a = -0.5, pixel centres at i + 0.5,
// kernel stretched by the reduction factor when shrinking, weights cut at the border and renormalised; horizontal pass,
// then vertical, each clamped to [0, 255]. Not rounded between the passes (Pillow rounds), so results differ from
// Pillow by at most one level. (height, width, 3) floats in 0..255.
std::vector<float> resize_float(const Image& image, int width, int height);
Image resize(const Image& image, int width, int height);  // rounded

// Mean and deviation of ImageNet in RGB order, for pixels in 0..1.
constexpr std::array<float, 3> kImageMean{0.485f, 0.456f, 0.406f};
constexpr std::array<float, 3> kImageStd{0.229f, 0.224f, 0.225f};

struct PixelScale {
  std::array<float, 3> mean, std;  // RGB
};
constexpr PixelScale kImageNetScale{kImageMean, kImageStd};                 // UMT
constexpr PixelScale kSignedScale{{0.5f, 0.5f, 0.5f}, {0.5f, 0.5f, 0.5f}};  // SigLIP: -1..1

// out (height, width, 3) = (resize / 255 - mean) / std. Throws ShapeError if out has another size.
void resize_normalised(const Image& image, int width, int height, std::span<float> out,
                       const PixelScale& scale = kImageNetScale);
// Back to a picture: inverse of the normalisation, rounded and clamped. For drawing.
Image denormalise(std::span<const float> pixels, int width, int height, const PixelScale& scale = kImageNetScale);

}  // namespace tpo
