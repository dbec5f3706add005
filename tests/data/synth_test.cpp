// The generated world: scenes keep their promise, pictures show what boxes and masks say, text is right.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <map>
#include <set>
#include <sstream>
#include <thread>

#include "data/draw.h"
#include "data/synth/generate.h"
#include "data/synth/render.h"
#include "data/synth/text.h"
#include "data/synth/world.h"
#include "data_fixture.h"

namespace tpo {
namespace {

using testing::message_of;
using testing::ScratchFolder;

Scene scene_number(const WorldConfig& config, int64_t i) {
  return make_scene(config, scene_key(5, "train", "region", i));
}

// Reads attributes out of words, independent of the code that wrote them: -1 where nothing is said.
struct Words {
  int colour = -1, shape = -1, size = -1;
};
Words read_words(const std::string& phrase) {
  const auto find = [](const std::vector<std::string>& names, const std::string& word) {
    const auto it = std::find(names.begin(), names.end(), word);
    return it == names.end() ? -1 : static_cast<int>(it - names.begin());
  };
  Words out;
  std::istringstream in(phrase);
  for (std::string word; in >> word;) {
    out.colour = std::max(out.colour, find(colour_names(), word));
    out.shape = std::max(out.shape, find(shape_names(), word));
    out.size = std::max(out.size, find(size_names(), word));
  }
  return out;
}
std::vector<int> meant(const Scene& scene, const Words& w) {
  std::vector<int> out;
  for (int i = 0; i < static_cast<int>(scene.objects.size()); ++i) {
    const SceneObject& o = scene.objects[i];
    if ((w.colour < 0 || w.colour == o.colour) && (w.shape < 0 || w.shape == o.shape) &&
        (w.size < 0 || w.size == o.size))
      out.push_back(i);
  }
  return out;
}

TEST(World, no_single_attribute_identifies_a_target_but_its_phrase_does) {
  const WorldConfig config;
  std::map<size_t, int> counts;
  for (int64_t i = 0; i < 2000; ++i) {
    const Scene scene = scene_number(config, i);
    ++counts[scene.objects.size()];
    ASSERT_FALSE(scene.targets.empty());
    if (scene.objects.size() > 3) {
      ASSERT_GE(static_cast<int>(scene.targets.size()), config.min_targets);
    }
    Draws draws(scene.key.with("test"));
    for (int target : scene.targets) {
      const SceneObject& o = scene.objects[target];
      ASSERT_GE(meant(scene, {o.colour, -1, -1}).size(), 2u) << "scene " << i;
      ASSERT_GE(meant(scene, {-1, o.shape, -1}).size(), 2u) << "scene " << i;
      ASSERT_GE(meant(scene, {-1, -1, o.size}).size(), 2u) << "scene " << i;
      const std::string phrase = referring_phrase(config, scene, target, draws);
      ASSERT_EQ(meant(scene, read_words(phrase)), std::vector<int>{target}) << phrase << " in scene " << i;
    }
  }
  // 3 to 6 objects, about equally often: 4 standard deviations of a binomial are 77.
  ASSERT_EQ(counts.size(), 4u);
  for (const auto& [objects, n] : counts) EXPECT_NEAR(n, 500, 80) << objects;
}

TEST(World, boxes_lie_inside_the_picture_and_apart) {
  const WorldConfig config;
  for (int64_t i = 0; i < 500; ++i) {
    const Scene scene = scene_number(config, i);
    for (size_t a = 0; a < scene.objects.size(); ++a) {
      const SceneBox r = scene.objects[a].box(0);
      ASSERT_TRUE(r.x1 >= 0 && r.y1 >= 0 && r.x2 <= 1 && r.y2 <= 1);
      const double side = (r.x2 - r.x1) * 64;
      ASSERT_TRUE(scene.objects[a].size == 0
                      ? side >= 64 * config.small_low - 0.01 && side <= 64 * config.small_high + 0.01
                      : side >= 64 * config.large_low - 0.01 && side <= 64 * config.large_high + 0.01)
          << side;
      for (size_t b = 0; b < a; ++b) {
        const SceneBox q = scene.objects[b].box(0);
        ASSERT_TRUE(r.x2 <= q.x1 || q.x2 <= r.x1 || r.y2 <= q.y1 || q.y2 <= r.y1);
      }
    }
  }
}

TEST(World, a_scene_depends_on_seed_split_dataset_and_index_only) {
  const WorldConfig config;
  const auto picture = [&](uint64_t seed, const char* split, const char* dataset, int64_t i) {
    return render(config, make_scene(config, scene_key(seed, split, dataset, i))).rgb;
  };
  const auto base = picture(1, "train", "region", 3);
  EXPECT_EQ(base, picture(1, "train", "region", 3));
  EXPECT_NE(base, picture(2, "train", "region", 3));
  EXPECT_NE(base, picture(1, "heldout", "region", 3));
  EXPECT_NE(base, picture(1, "train", "conversation", 3));
  EXPECT_NE(base, picture(1, "train", "region", 4));
}

// The picture without texture and noise differs from its ground exactly where objects are.
TEST(World, the_box_is_tight_around_the_painted_pixels) {
  WorldConfig config;
  config.shapes = static_cast<int>(shape_names().size());
  config.ground_texture = config.shape_texture = config.noise = 0;
  for (int64_t i = 0; i < 60; ++i) {
    Scene scene = scene_number(config, i);
    scene.objects.resize(1);
    const Image image = render(config, scene);
    const int n = image.width;
    int x1 = n, y1 = n, x2 = 0, y2 = 0;
    for (int y = 0; y < n; ++y) {
      for (int x = 0; x < n; ++x) {
        const uint8_t* p = &image.rgb[3 * (y * n + x)];
        if (std::equal(p, p + 3, image.rgb.data())) continue;  // the corner is ground: boxes keep a gap to the border
        x1 = std::min(x1, x), y1 = std::min(y1, y), x2 = std::max(x2, x + 1), y2 = std::max(y2, y + 1);
      }
    }
    const SceneBox r = scene.objects[0].box(0);
    // A pixel of rounding on each side; the apex of a triangle or diamond may miss all sample points of its pixel row.
    EXPECT_NEAR(x1, r.x1 * n, 1.3) << i;
    EXPECT_NEAR(y1, r.y1 * n, 1.3) << i;
    EXPECT_NEAR(x2, r.x2 * n, 1.3) << i;
    EXPECT_NEAR(y2, r.y2 * n, 1.3) << i;
  }
}

TEST(World, masks_cover_the_shapes_area_and_follow_motion) {
  WorldConfig config;
  config.picture_px = 128;
  SceneObject square;
  square.shape = 3, square.x = 0.3, square.y = 0.5, square.side = 0.25, square.vx = 0.2;
  SceneObject circle = square;
  circle.shape = 0, circle.x = 0.7, circle.vx = 0;
  const Scene scene{RngKey(1), {square, circle}, {0}};
  const auto area = [](const data::Mask& m) {
    int64_t n = 0, total = 0;
    for (int i = 0; i < m.counts_size(); ++i) n += i % 2 == 1 ? m.counts(i) : 0, total += m.counts(i);
    EXPECT_EQ(total, int64_t{m.width()} * m.height());
    return static_cast<double>(n);
  };
  EXPECT_EQ(area(object_mask(config, scene, 0)), 32.0 * 32);
  EXPECT_NEAR(area(object_mask(config, scene, 1)), 3.14159 * 16 * 16, 16);
  // After 2 s the square has moved by 0.4 to x = 0.7, behind the circle: only its corners are seen.
  EXPECT_DOUBLE_EQ(square.box(2).x1, 0.3 + 0.4 - 0.125);
  EXPECT_EQ(area(object_mask(config, scene, 0, 2)) + area(object_mask(config, scene, 1, 2)), 32.0 * 32);
}

// Answers a question by looking at the scene, from the words alone.
std::string answer_by_words(const Scene& scene, const std::string& text) {
  static const char* kNumbers[] = {"zero", "one", "two", "three", "four", "five", "six"};
  const auto singular = [](std::string s) {
    for (const auto& names : {shape_names(), std::vector<std::string>{"object"}}) {
      for (const std::string& name : names) {
        const std::string ending = name.back() == 's' ? "es" : "s";
        const size_t at = s.find(name + ending);
        if (at != std::string::npos) s.erase(at + name.size(), ending.size());
      }
    }
    return s;
  };
  std::string t = text.substr(0, text.size() - 1);
  if (t.rfind("How many", 0) == 0) return kNumbers[meant(scene, read_words(singular(t))).size()];
  if (t.rfind("Is there", 0) == 0) return meant(scene, read_words(t)).empty() ? "no" : "yes";
  for (const std::string side : {" left of ", " right of "}) {
    const size_t at = t.find(side);
    if (at == std::string::npos) continue;
    const auto a = meant(scene, read_words(t.substr(0, at))), b = meant(scene, read_words(t.substr(at)));
    if (a.size() != 1 || b.size() != 1) return "ambiguous";
    const bool left = scene.objects[a[0]].x < scene.objects[b[0]].x;
    return left == (side == " left of ") ? "yes" : "no";
  }
  auto one = meant(scene, read_words(t.substr(t.find(" is "))));
  if (const size_t at = t.find(" in the "); at != std::string::npos) {
    // Thirds of the picture: part of a compass point says low or high, its absence the middle.
    const std::string place = t.substr(at);
    const auto has = [&](const char* word) { return place.find(word) != std::string::npos; };
    const auto in_third = [](double v, bool low, bool high) {
      return low ? v < 1.0 / 3 : high ? v > 2.0 / 3 : v >= 1.0 / 3 && v <= 2.0 / 3;
    };
    std::erase_if(one, [&](int i) {
      return !in_third(scene.objects[i].x, has("west"), has("east")) ||
             !in_third(scene.objects[i].y, has("north"), has("south"));
    });
  }
  if (one.size() != 1) return "ambiguous";
  const SceneObject& o = scene.objects[one[0]];
  if (t.rfind("What color", 0) == 0) return colour_names()[o.colour];
  if (t.rfind("What shape", 0) == 0) return shape_names()[o.shape];
  return size_names()[o.size];
}

TEST(World, questions_have_one_right_answer_from_the_vocabulary_and_none_dominates) {
  const WorldConfig config;
  const auto vocabulary = answer_vocabulary(config);
  std::map<std::string, int> answers;
  constexpr int kQuestions = 6000;
  for (int i = 0; i < kQuestions; ++i) {
    const Scene scene = scene_number(config, i / 4);
    Draws draws(scene.key.with("q").with(static_cast<uint64_t>(i)));
    const Question q = ask(config, scene, draws);
    ASSERT_EQ(answer_by_words(scene, q.text), q.answer) << q.text;
    ASSERT_TRUE(std::binary_search(vocabulary.begin(), vocabulary.end(), q.answer)) << q.answer;
    ++answers[q.answer];
  }
  for (const auto& [answer, n] : answers) EXPECT_LT(n, kQuestions / 4) << answer;
  EXPECT_EQ(answers.size(), vocabulary.size());
  // Large objects are rarer, but not by so much that "small" is a safe guess.
  EXPECT_LT(answers["small"], 2 * answers["large"]);
}

TEST(World, a_caption_names_every_object_once_with_its_place_in_random_order) {
  const WorldConfig config;
  int first_is_first = 0;
  constexpr int64_t kScenes = 300;
  for (int64_t i = 0; i < kScenes; ++i) {
    const RawSample raw = make_world_sample({.world = config}, "train", "caption", i);
    ASSERT_EQ(raw.sample.turns_size(), 2);
    const Scene scene = make_scene(config, scene_key(1, "train", "caption", i));
    std::istringstream in(raw.sample.turns(1).text());
    std::set<int> named;
    std::string part;
    for (int k = 0; std::getline(in, part, ','); ++k) {
      if (part.back() == '.') part.pop_back();
      const auto one = meant(scene, read_words(part));
      ASSERT_EQ(one.size(), 1u) << part;
      EXPECT_TRUE(named.insert(one[0]).second) << part;
      EXPECT_EQ(part.substr(part.rfind(' ') + 1), place_of(scene.objects[static_cast<size_t>(one[0])])) << part;
      first_is_first += k == 0 && one[0] == 0;
    }
    EXPECT_EQ(named.size(), scene.objects.size());
  }
  // One in 3 to 6: 300 * (1/3 + 1/4 + 1/5 + 1/6) / 4 = 71, four standard deviations are 29.
  EXPECT_NEAR(first_is_first, 71, 29);
}

TEST(World, centres_keep_clear_of_the_lines_between_places) {
  const WorldConfig config;
  for (int64_t i = 0; i < 300; ++i) {
    for (const SceneObject& o : scene_number(config, i).objects) {
      for (double v : {o.x, o.y}) {
        EXPECT_GE(std::abs(v - 1.0 / 3), config.place_margin);
        EXPECT_GE(std::abs(v - 2.0 / 3), config.place_margin);
      }
    }
  }
}

TEST(World, one_size_is_never_named) {
  WorldConfig config;
  config.sizes = 1;
  for (const std::string& line : all_lines(config)) ASSERT_EQ(line.find("small"), std::string::npos) << line;
  for (int64_t i = 0; i < 50; ++i) {
    const RawSample raw =
        make_world_sample({.world = config}, "train", world_datasets()[static_cast<size_t>(i % 3)], i);
    for (const auto& turn : raw.sample.turns()) ASSERT_EQ(turn.text().find("small"), std::string::npos) << turn.text();
  }
}

TEST(World, samples_hold_boxes_phrases_and_different_questions) {
  const SynthOptions options;
  int64_t boxes = 0;
  for (int64_t i = 0; i < 200; ++i) {
    const RawSample raw = make_world_sample(options, "train", "region", i);
    check_sample(raw.sample, raw.media.size());
    const Scene scene = make_scene(options.world, scene_key(options.seed, "train", "region", i));
    std::set<std::string> questions;
    for (const auto& turn : raw.sample.turns()) {
      if (turn.role() == data::Turn::USER) questions.insert(turn.text());
    }
    ASSERT_EQ(questions.size() * 2, static_cast<size_t>(raw.sample.turns_size()));
    ASSERT_GE(raw.sample.boxes_size(), 1);
    for (const auto& box : raw.sample.boxes()) {
      const auto one = meant(scene, read_words(box.phrase()));
      ASSERT_EQ(one.size(), 1u);
      ASSERT_FLOAT_EQ(box.x1(), static_cast<float>(scene.objects[one[0]].box(0).x1));
      ++boxes;
    }
    const Image image = decode_image(raw.frame(0, 0), "x");
    ASSERT_EQ(image.width, 64);
  }
  EXPECT_GT(boxes, 400) << "at least two boxes a picture on average";
}

TEST(World, the_written_dataset_is_the_same_bytes_twice_and_verifies) {
  const ScratchFolder scratch;
  SynthOptions options;
  options.format = PictureFormat::kPng;
  write_world_dataset(options, "train", "region", 12, scratch / "a/region", "test");
  std::this_thread::sleep_for(std::chrono::milliseconds(1100));  // HDF5 would store times in whole seconds
  write_world_dataset(options, "train", "region", 12, scratch / "b/region", "test");
  const DatasetFolder a(scratch / "a/region"), b(scratch / "b/region");
  EXPECT_EQ(a.manifest().shards(0).xxh3(), b.manifest().shards(0).xxh3());
  EXPECT_EQ(a.size(), 12);
  EXPECT_TRUE(a.verify().empty());
  EXPECT_EQ(a.read(0).sample.id(), "train-region-0");
  EXPECT_HAS(
      message_of<DataError>([&] { write_world_dataset(options, "train", "region", 1, scratch / "a/region", "test"); }),
      "already exists");
}

TEST(World, settings_out_of_range_are_named) {
  WorldConfig config;
  config.picture_px = 4;
  EXPECT_HAS(message_of<ConfigError>([&] { config.validate(); }), "picture_px is 4 but must be from 16 to 1024");
  config = {};
  config.colours = 2, config.shapes = 2;
  EXPECT_HAS(message_of<ConfigError>([&] { config.validate(); }), "too few kinds for 6 different objects");
  config = {};
  config.min_objects = config.max_objects = 8;
  config.large_low = config.small_low = config.small_high = 0.4;
  config.large_high = 0.45;
  EXPECT_HAS(message_of<ConfigError>([&] { make_scene(config, RngKey(1)); }), "no scene of 8 to 8 objects fits");
}

TEST(World, tokenizer_text_holds_every_word_of_every_sample) {
  const SynthOptions options;
  std::set<std::string> words;
  const auto add = [](const std::string& line, std::set<std::string>& out) {
    std::string word;
    for (char c : line + " ") {
      if (std::isalpha(static_cast<unsigned char>(c)))
        word += c;
      else if (!word.empty())
        out.insert(word), word.clear();
    }
  };
  for (const std::string& line : world_text(options)) add(line, words);
  for (int64_t i = 1000; i < 1200; ++i) {
    const RawSample raw = make_world_sample(options, "heldout", world_datasets()[static_cast<size_t>(i % 3)], i);
    std::set<std::string> used;
    for (const auto& turn : raw.sample.turns()) {
      std::string text = turn.text();
      for (const std::string mark : {"<image>", "<box>"}) {
        if (const size_t at = text.find(mark); at != std::string::npos) text.erase(at, mark.size());
      }
      add(text, used);
    }
    for (const std::string& word : used) ASSERT_TRUE(words.contains(word)) << word;
  }
}

TEST(Draw, boxes_and_text_stay_inside_and_leave_the_rest_alone) {
  Image image = blank(30, 20, {1, 2, 3});
  draw_box(image, -5, 4, 10, 100, {255, 0, 0}, 2);
  const auto at = [&](int x, int y) { return image.rgb[3 * (y * 30 + x)]; };
  EXPECT_EQ(at(9, 10), 255);
  EXPECT_EQ(at(8, 10), 255);
  EXPECT_EQ(at(7, 10), 1);
  EXPECT_EQ(at(0, 4), 255);
  EXPECT_EQ(at(0, 6), 1);
  EXPECT_EQ(at(10, 10), 1);
  Image letter = blank(12, 10, {0, 0, 0});
  draw_text(letter, 0, 0, "L\xc3", {255, 255, 255});
  for (int y = 0; y < 7; ++y) EXPECT_EQ(letter.rgb[3 * (y * 12)], 255);
  EXPECT_EQ(letter.rgb[3 * (6 * 12 + 4)], 255);
  EXPECT_EQ(letter.rgb[3 * (0 * 12 + 4)], 0);
  EXPECT_EQ(letter.rgb[3 * (0 * 12 + 6)], 255) << "bytes without a glyph show as a hollow box";
  EXPECT_EQ(letter.rgb[3 * (3 * 12 + 8)], 0);
  draw_text(letter, 100, -50, "far away", {9, 9, 9}, 3);
  draw_label(letter, 500, 500, "a label that is wider than the picture", {9, 9, 9});
}

TEST(Draw, text_is_wrapped_at_blanks_and_long_words_are_cut) {
  EXPECT_EQ(wrap_text("the small red circle", 9), (std::vector<std::string>{"the small", "red", "circle"}));
  EXPECT_EQ(wrap_text("abcdefghij k\nl", 4), (std::vector<std::string>{"abcd", "efgh", "ij k", "l"}));
  EXPECT_TRUE(wrap_text("", 5).empty());
}

TEST(Draw, contact_sheet_places_pictures_row_by_row) {
  const std::vector<Image> pictures{blank(4, 4, {10, 0, 0}), blank(2, 3, {20, 0, 0}), blank(4, 4, {30, 0, 0})};
  const Image sheet = contact_sheet(pictures, 2, 1);
  EXPECT_EQ(sheet.width, 11);
  EXPECT_EQ(sheet.height, 11);
  EXPECT_EQ(sheet.rgb[3 * (1 * 11 + 1)], 10);
  EXPECT_EQ(sheet.rgb[3 * (1 * 11 + 6)], 20);
  EXPECT_EQ(sheet.rgb[3 * (6 * 11 + 1)], 30);
  EXPECT_EQ(sheet.rgb[0], 255);
}

}  // namespace
}  // namespace tpo
