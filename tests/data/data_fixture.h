#pragma once
// Shared by the tests of the data folder: a scratch folder, small samples, and error expectations on the message.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

#include "core/error.h"
#include "core/rng.h"
#include "data/dataset.h"
#include "data/decode/image.h"

namespace tpo::testing {

// A folder that is removed at the end of the test.
class ScratchFolder {
 public:
  ScratchFolder() {
    std::string name = (std::filesystem::temp_directory_path() / "tpo-data-XXXXXX").string();
    if (::mkdtemp(name.data()) == nullptr) throw IoError("mkdtemp failed");
    path_ = name;
  }
  ~ScratchFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

inline std::span<const std::byte> bytes_of(std::string_view s) {
  return std::as_bytes(std::span<const char>(s.data(), s.size()));
}
inline std::string text_of(std::span<const std::byte> b) { return {reinterpret_cast<const char*>(b.data()), b.size()}; }

inline void write_text(const std::string& path, std::string_view text) {
  std::ofstream(path, std::ios::binary) << text;
}

// The message of the E that body throws; fails the test if it throws something else or nothing.
template <class E, class F>
std::string message_of(F&& body) {
  try {
    body();
  } catch (const E& e) {
    return e.what();
  } catch (const std::exception& e) {
    ADD_FAILURE() << "another error type: " << e.what();
    return e.what();
  }
  ADD_FAILURE() << "no error";
  return {};
}

#define EXPECT_HAS(text, part) EXPECT_NE(std::string(text).find(part), std::string::npos) << (text)

// A smooth picture that depends on the seed.
inline Image make_picture(int width, int height, uint64_t seed) {
  Image image{width, height, std::vector<uint8_t>(static_cast<size_t>(width) * height * 3)};
  for (int y = 0; y < height; ++y) {
    for (int x = 0; x < width; ++x) {
      uint8_t* p = &image.rgb[(static_cast<size_t>(y) * width + x) * 3];
      p[0] = static_cast<uint8_t>((x * 3 + seed * 40) % 256);
      p[1] = static_cast<uint8_t>((y * 5 + seed * 7) % 256);
      p[2] = static_cast<uint8_t>(((x + y) * 2) % 256);
    }
  }
  return image;
}

struct Packed {
  data::Sample sample;
  std::vector<std::byte> media;
};

// One picture, one referring question, one box.
inline Packed region_sample(const std::string& id, uint64_t seed, int width = 40, int height = 30) {
  Packed p;
  p.media = encode_jpeg(make_picture(width, height, seed));
  p.sample.set_id(id);
  auto& m = *p.sample.add_media();
  m.set_kind(data::Media::JPEG), m.set_width(width), m.set_height(height);
  m.add_frame_bytes(static_cast<uint32_t>(p.media.size()));
  auto& b = *p.sample.add_boxes();
  b.set_x1(0.1f), b.set_y1(0.2f), b.set_x2(0.5f), b.set_y2(0.75f);
  auto& q = *p.sample.add_turns();
  q.set_role(data::Turn::USER), q.set_text("<image>\nPut a box on the red circle.");
  auto& a = *p.sample.add_turns();
  a.set_role(data::Turn::ASSISTANT), a.set_text("It is at <box>."), a.add_boxes(0);
  return p;
}

inline Packed text_sample(const std::string& id, const std::string& question, const std::string& answer) {
  Packed p;
  p.sample.set_id(id);
  auto& q = *p.sample.add_turns();
  q.set_role(data::Turn::USER), q.set_text(question);
  auto& a = *p.sample.add_turns();
  a.set_role(data::Turn::ASSISTANT), a.set_text(answer);
  return p;
}

// A clip of grey frames at 8 frames per second.
inline Packed clip_sample(const std::string& id, int frames) {
  Packed p = text_sample(id, "<video> Where?", "At the left.");
  auto& m = *p.sample.add_media();
  m.set_kind(data::Media::JPEG_FRAMES), m.set_width(16), m.set_height(16), m.set_fps(8);
  for (int f = 0; f < frames; ++f) {
    // Frame f is the grey level 10 f, so that a picture tells its number.
    const auto jpeg = encode_jpeg({16, 16, std::vector<uint8_t>(16 * 16 * 3, static_cast<uint8_t>(10 * f))}, 100);
    m.add_frame_bytes(static_cast<uint32_t>(jpeg.size()));
    p.media.insert(p.media.end(), jpeg.begin(), jpeg.end());
  }
  check_sample(p.sample, p.media.size());
  return p;
}

inline void write_dataset(const std::string& folder, const std::vector<Packed>& samples,
                          const std::string& task = "region", uint64_t shard_bytes = 1 << 20) {
  DatasetWriter w(folder, "test", task, "a test", {shard_bytes});
  for (const Packed& p : samples) w.add(p.sample, p.media);
  w.finish();
}

}  // namespace tpo::testing
