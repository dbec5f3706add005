#include "data/decode/image.h"

#include <cmath>

#include "tests/data/data_fixture.h"

namespace tpo {
namespace {

using testing::make_picture;
using testing::message_of;

double mean_difference(const Image& a, const Image& b) {
  EXPECT_EQ(a.rgb.size(), b.rgb.size());
  double sum = 0;
  for (size_t i = 0; i < a.rgb.size(); ++i) sum += std::abs(int{a.rgb[i]} - int{b.rgb[i]});
  return sum / static_cast<double>(a.rgb.size());
}

TEST(Image, png_is_lossless_for_odd_sizes) {
  for (auto [w, h] : {std::pair{1, 1}, {7, 13}, {97, 64}}) {
    const Image image = make_picture(w, h, 3), back = decode_png(encode_png(image), "p");
    EXPECT_EQ(back.width, w);
    EXPECT_EQ(back.rgb, image.rgb);
  }
}

TEST(Image, jpeg_keeps_size_and_nearly_the_pixels) {
  // Smooth ramp without wrap, so that only quantisation differs: 2 levels on average at quality 95.
  Image image{64, 48, {}};
  for (int y = 0; y < 48; ++y) {
    for (int x = 0; x < 64; ++x) image.rgb.insert(image.rgb.end(), {uint8_t(x * 4), uint8_t(y * 5), 128});
  }
  const auto bytes = encode_jpeg(image, 95);
  EXPECT_EQ(image_size(bytes, "p").width, 64);
  EXPECT_LT(mean_difference(decode_image(bytes, "p"), image), 2.0);
}

TEST(Image, scaled_jpeg_decode_never_goes_below_the_wish) {
  const auto bytes = encode_jpeg(make_picture(640, 400, 1));
  const Image quarter = decode_jpeg(bytes, "p", {150, 90});
  EXPECT_EQ(quarter.width, 160);
  EXPECT_EQ(quarter.height, 100);
  EXPECT_EQ(decode_jpeg(bytes, "p", {321, 10}).width, 640);
  EXPECT_EQ(decode_jpeg(bytes, "p", {1000, 1000}).width, 640);
}

TEST(Image, broken_pictures_name_themselves) {
  const auto jpeg = encode_jpeg(make_picture(100, 80, 1));
  const auto png = encode_png(make_picture(100, 80, 1));
  const auto cut = [](std::vector<std::byte> v) { return v.resize(v.size() / 2), v; };
  EXPECT_HAS(message_of<DataError>([&] { decode_jpeg(cut(jpeg), "cat.jpg"); }), "picture cat.jpg is a broken JPEG");
  EXPECT_HAS(message_of<DataError>([&] { decode_png(cut(png), "cat.png"); }), "cat.png");
  EXPECT_HAS(message_of<DataError>([&] { decode_jpeg(png, "cat.png"); }), "not a readable JPEG");
  EXPECT_HAS(message_of<DataError>([&] { decode_image({}, "void"); }), "neither JPEG nor PNG");
  EXPECT_HAS(message_of<DataError>([&] { decode_image(testing::bytes_of("GIF89a"), "x.gif"); }),
             "neither JPEG nor PNG");
}

TEST(Image, a_small_file_that_promises_a_huge_picture_is_refused) {
  // A PNG header of 60000 x 60000: only IHDR's numbers and its CRC differ from a real one.
  auto png = encode_png(make_picture(8, 8, 1));
  const auto put = [&](size_t at, uint32_t v) {
    for (int i = 0; i < 4; ++i) png[at + i] = std::byte(v >> (24 - 8 * i));
  };
  put(16, 60000), put(20, 60000);
  uint32_t crc = 0xffffffffu;
  for (size_t i = 12; i < 29; ++i) {
    crc ^= std::to_integer<uint32_t>(png[i]);
    for (int k = 0; k < 8; ++k) crc = (crc >> 1) ^ ((crc & 1) != 0 ? 0xedb88320u : 0);
  }
  put(29, ~crc);
  EXPECT_HAS(message_of<DataError>([&] { decode_png(png, "bomb.png"); }), "over the limit");
  EXPECT_THROW(image_size(png, "bomb.png"), DataError);
}

// Expected values: Pillow 9.4, Image.resize((w, h), Image.BICUBIC) of ((13x + 7y) mod 256, 40x mod 256, 255 where x = 3
// else 0).
Image pattern(int w, int h) {
  Image image{w, h, {}};
  for (int y = 0; y < h; ++y) {
    for (int x = 0; x < w; ++x) {
      image.rgb.insert(image.rgb.end(), {uint8_t(13 * x + 7 * y), uint8_t(40 * x), uint8_t(x == 3 ? 255 : 0)});
    }
  }
  return image;
}

void expect_near(const Image& got, const std::vector<int>& want) {
  ASSERT_EQ(got.rgb.size(), want.size());
  for (size_t i = 0; i < want.size(); ++i) EXPECT_NEAR(got.rgb[i], want[i], 1) << "value " << i;
}

TEST(Image, bicubic_shrink_equals_pillow) {
  expect_near(resize(pattern(7, 6), 3, 2), {17, 29, 0, 47, 120, 107, 77, 211, 0, 36, 29, 0, 66, 120, 107, 96, 211, 0});
}

TEST(Image, bicubic_growth_equals_pillow) {
  expect_near(resize(pattern(4, 3), 6, 5), {0,  0, 0, 4,  16, 0, 14, 47, 0, 23, 73, 0, 33, 104, 135, 39, 123, 255,
                                            2,  0, 0, 7,  16, 0, 17, 47, 0, 26, 73, 0, 36, 104, 135, 42, 123, 255,
                                            6,  0, 0, 12, 16, 0, 22, 47, 0, 31, 73, 0, 41, 104, 135, 47, 123, 255,
                                            11, 0, 0, 17, 16, 0, 27, 47, 0, 36, 73, 0, 46, 104, 135, 52, 123, 255,
                                            14, 0, 0, 20, 16, 0, 30, 47, 0, 39, 73, 0, 49, 104, 135, 55, 123, 255});
}

TEST(Image, resize_to_the_same_size_is_the_identity_and_a_constant_stays) {
  const Image p = make_picture(19, 11, 2);
  EXPECT_EQ(resize(p, 19, 11).rgb, p.rgb);
  const Image flat{5, 4, std::vector<uint8_t>(60, 77)};
  for (float v : resize_float(flat, 13, 1)) EXPECT_NEAR(v, 77, 1e-3);
}

TEST(Image, normalisation_is_imagenets_and_has_an_inverse) {
  const Image p = make_picture(12, 9, 4);
  std::vector<float> out(12 * 9 * 3);
  resize_normalised(p, 12, 9, out);
  EXPECT_NEAR(out[4], (p.rgb[4] / 255.0 - 0.456) / 0.224, 1e-5);
  EXPECT_EQ(denormalise(out, 12, 9).rgb, p.rgb);
  resize_normalised(p, 12, 9, out, kSignedScale);
  for (size_t i = 0; i < out.size(); ++i) EXPECT_NEAR(out[i], static_cast<float>(p.rgb[i]) / 127.5f - 1, 1e-6);
  EXPECT_EQ(denormalise(out, 12, 9, kSignedScale).rgb, p.rgb);
  EXPECT_THROW(resize_normalised(p, 12, 8, out), ShapeError);
}

}  // namespace
}  // namespace tpo
