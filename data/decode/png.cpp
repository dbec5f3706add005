#include <png.h>

#include <string>

#include "core/error.h"
#include "data/decode/codecs.h"
#include "data/decode/image.h"

namespace tpo {
namespace {

// libpng's simplified interface: no longjmp reaches our code, errors are a message in the struct.
class Png {
 public:
  Png() { image.version = PNG_IMAGE_VERSION; }
  Png(const Png&) = delete;
  ~Png() { png_image_free(&image); }

  ImageSize begin(std::span<const std::byte> bytes, std::string_view name) {
    const int ok = png_image_begin_read_from_memory(&image, bytes.data(), bytes.size());
    check<DataError>(ok != 0, "picture ", name, " is not a readable PNG: ", image.message);
    check<DataError>(image.width <= kMaxPixels && image.height <= kMaxPixels, "picture ", name, " is too large");
    const ImageSize size{static_cast<int>(image.width), static_cast<int>(image.height)};
    detail::check_pixels(size, name);
    return size;
  }

  png_image image{};
};

}  // namespace

ImageSize detail::png_size(std::span<const std::byte> bytes, std::string_view name) { return Png().begin(bytes, name); }

Image decode_png(std::span<const std::byte> bytes, std::string_view name) {
  Png png;
  const ImageSize size = png.begin(bytes, name);
  png.image.format = PNG_FORMAT_RGB;
  Image out{size.width, size.height, std::vector<uint8_t>(static_cast<size_t>(size.width) * size.height * 3)};
  const png_color black{0, 0, 0};
  const int ok = png_image_finish_read(&png.image, &black, out.rgb.data(), 0, nullptr);
  check<DataError>(ok != 0 && !PNG_IMAGE_FAILED(png.image), "picture ", name, " is a broken PNG: ", png.image.message);
  return out;
}

std::vector<std::byte> encode_png(const Image& image) {
  detail::check_image(image);
  Png png;
  png.image.width = static_cast<png_uint_32>(image.width);
  png.image.height = static_cast<png_uint_32>(image.height);
  png.image.format = PNG_FORMAT_RGB;
  png_alloc_size_t bytes = PNG_IMAGE_PNG_SIZE_MAX(png.image);
  std::vector<std::byte> out(bytes);
  const int ok = png_image_write_to_memory(&png.image, out.data(), &bytes, 0, image.rgb.data(), 0, nullptr);
  check<DataError>(ok != 0, "cannot encode a PNG of ", image.width, " x ", image.height, ": ", png.image.message);
  out.resize(bytes);
  return out;
}

}  // namespace tpo
