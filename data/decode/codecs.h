#pragma once
// What the codec files share; not for other folders.
#include <span>
#include <string_view>

#include "data/decode/image.h"

namespace tpo::detail {

// Throws DataError for an empty picture or one over kMaxPixels.
void check_pixels(ImageSize size, std::string_view name);
// Throws DataError if rgb does not hold width * height * 3 bytes.
void check_image(const Image& image);

ImageSize jpeg_size(std::span<const std::byte> bytes, std::string_view name);
ImageSize png_size(std::span<const std::byte> bytes, std::string_view name);

}  // namespace tpo::detail
