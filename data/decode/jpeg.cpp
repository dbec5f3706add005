#include <turbojpeg.h>

#include <memory>
#include <string>

#include "core/error.h"
#include "data/decode/codecs.h"
#include "data/decode/image.h"

namespace tpo {
namespace {

using Handle = std::unique_ptr<void, int (*)(tjhandle)>;

Handle make_handle(tjhandle h) {
  check<IoError>(h != nullptr, "cannot start the JPEG library: ", tjGetErrorStr2(nullptr));
  return {h, &tjDestroy};
}

ImageSize read_header(tjhandle h, std::span<const std::byte> bytes, std::string_view name) {
  ImageSize size;
  int sampling = 0, space = 0;
  const int rc = tjDecompressHeader3(h, reinterpret_cast<const unsigned char*>(bytes.data()), bytes.size(), &size.width,
                                     &size.height, &sampling, &space);
  check<DataError>(rc == 0, "picture ", name, " is not a readable JPEG: ", tjGetErrorStr2(h));
  detail::check_pixels(size, name);
  return size;
}

// The smallest of the scales 1/8, 1/4, 1/2, 1 that keeps both extents at or above the wish.
ImageSize scaled(ImageSize full, ImageSize wish) {
  if (wish.width <= 0 || wish.height <= 0) return full;
  for (int d : {8, 4, 2}) {
    const tjscalingfactor factor{1, d};
    const ImageSize s{TJSCALED(full.width, factor), TJSCALED(full.height, factor)};
    if (s.width >= wish.width && s.height >= wish.height) return s;
  }
  return full;
}

}  // namespace

ImageSize detail::jpeg_size(std::span<const std::byte> bytes, std::string_view name) {
  const Handle h = make_handle(tjInitDecompress());
  return read_header(h.get(), bytes, name);
}

Image decode_jpeg(std::span<const std::byte> bytes, std::string_view name, ImageSize at_least) {
  const Handle h = make_handle(tjInitDecompress());
  const ImageSize full = read_header(h.get(), bytes, name), size = scaled(full, at_least);
  Image image{size.width, size.height, std::vector<uint8_t>(static_cast<size_t>(size.width) * size.height * 3)};
  // A picture that ends early decodes with a mere warning and a grey rest; other warnings (stray bytes) are common in
  // the wild.
  const int rc = tjDecompress2(h.get(), reinterpret_cast<const unsigned char*>(bytes.data()), bytes.size(),
                               image.rgb.data(), size.width, 0, size.height, TJPF_RGB, 0);
  const std::string reason = rc == 0 ? "" : tjGetErrorStr2(h.get());
  const bool benign =
      rc != 0 && tjGetErrorCode(h.get()) == TJERR_WARNING && reason.find("Premature end") == std::string::npos;
  check<DataError>(rc == 0 || benign, "picture ", name, " is a broken JPEG: ", reason);
  return image;
}

std::vector<std::byte> encode_jpeg(const Image& image, int quality) {
  detail::check_image(image);
  check<ConfigError>(quality >= 1 && quality <= 100, "JPEG quality is ", quality, ", expected 1..100");
  const Handle h = make_handle(tjInitCompress());
  unsigned char* data = nullptr;
  unsigned long size = 0;
  const int rc = tjCompress2(h.get(), image.rgb.data(), image.width, 0, image.height, TJPF_RGB, &data, &size,
                             quality >= 90 ? TJSAMP_444 : TJSAMP_420, quality, 0);
  const std::unique_ptr<unsigned char, void (*)(unsigned char*)> owner(data, &tjFree);
  check<DataError>(rc == 0, "cannot encode a JPEG of ", image.width, " x ", image.height, ": ",
                   tjGetErrorStr2(h.get()));
  const auto* begin = reinterpret_cast<const std::byte*>(data);
  return {begin, begin + size};
}

}  // namespace tpo
