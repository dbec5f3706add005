#include "data/synth/text.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"

namespace tpo {

namespace {

const std::vector<std::string>& number_names() {
  static const std::vector<std::string> kNames{"zero", "one", "two", "three", "four", "five", "six", "seven", "eight"};
  return kNames;
}

// "small red circle" or "small red objects".
std::string noun(const SceneObject& o, const Description& d, bool plural) {
  std::string out;
  if (d.size) out += size_names()[o.size] + " ";
  if (d.colour) out += colour_names()[o.colour] + " ";
  out += d.shape ? shape_names()[o.shape] : "object";
  if (plural) out += out.back() == 's' ? "es" : "s";
  return out;
}

// Descriptions over the attributes in `allowed`, at least one attribute, that fit this object only.
std::vector<Description> sufficient(const Scene& scene, const SceneObject& o, const Description& allowed) {
  std::vector<Description> out;
  for (int bits = 1; bits < 8; ++bits) {
    const Description d{(bits & 1) != 0, (bits & 2) != 0, (bits & 4) != 0};
    const bool legal = d.colour <= allowed.colour && d.shape <= allowed.shape && d.size <= allowed.size;
    if (legal && count_matches(scene, o, d) == 1) out.push_back(d);
  }
  return out;
}

Description everything(const WorldConfig& config) { return {true, true, config.sizes > 1}; }

// An object of the wanted size (-1: any) and a description of it over the allowed attributes; false when there is none.
bool pick_described(const Scene& scene, const Description& allowed, int size, Draws& draws, const SceneObject** object,
                    Description* description) {
  const int n = static_cast<int>(scene.objects.size()), first = draws.below(n);
  for (int k = 0; k < n; ++k) {
    const SceneObject& o = scene.objects[(first + k) % n];
    const auto choices = sufficient(scene, o, allowed);
    if (choices.empty() || (size >= 0 && o.size != size)) continue;
    *object = &o;
    *description = choices[draws.below(static_cast<int>(choices.size()))];
    return true;
  }
  return false;
}

Question ask_attribute(const WorldConfig& config, const Scene& scene, int which, Draws& draws) {
  Description allowed = everything(config);
  (which == 0 ? allowed.colour : which == 1 ? allowed.shape : allowed.size) = false;
  const SceneObject* o = nullptr;
  Description d;
  // There are more small objects than large ones; the answers are to be as frequent as each other.
  const int size = which == 2 ? draws.below(config.sizes) : -1;
  if (!pick_described(scene, allowed, size, draws, &o, &d)) return {};
  constexpr const char* kWords[] = {"color", "shape", "size"};
  const std::string& answer = which == 0   ? colour_names()[o->colour]
                              : which == 1 ? shape_names()[o->shape]
                                           : size_names()[o->size];
  return {cat("What ", kWords[which], " is ", phrase_of(*o, d), "?"), answer};
}

// An attribute of the only object in a place.
Question ask_place(const WorldConfig& config, const Scene& scene, Draws& draws) {
  const int what = draws.below(config.sizes > 1 ? 3 : 2);
  // There are more small objects than large ones; the answers are to be as frequent as each other.
  const int size = what == 2 ? draws.below(config.sizes) : -1;
  const int n = static_cast<int>(scene.objects.size()), first = draws.below(n);
  int chosen = -1;
  for (int k = 0; k < n && chosen < 0; ++k) {
    const SceneObject& o = scene.objects[(first + k) % n];
    const auto here = [&](const SceneObject& p) { return place_of(p) == place_of(o); };
    if ((size < 0 || o.size == size) && std::count_if(scene.objects.begin(), scene.objects.end(), here) == 1)
      chosen = (first + k) % n;
  }
  if (chosen < 0) return {};
  const SceneObject& o = scene.objects[chosen];
  const std::string& place = place_of(o);
  switch (what) {
    case 0:
      return {cat("What color is the object in the ", place, "?"), colour_names()[o.colour]};
    case 1:
      return {cat("What shape is the object in the ", place, "?"), shape_names()[o.shape]};
    default:
      return {cat("What size is the object in the ", place, "?"), size_names()[o.size]};
  }
}

// Colour or shape or size alone, or colour with shape: kinds of things that can be counted.
Description countable(const WorldConfig& config, Draws& draws) {
  switch (draws.below(config.sizes > 1 ? 3 : 2)) {
    case 0:
      return {.colour = true};
    case 1:
      return {.shape = true};
    default:
      return {.size = true};
  }
}

Question ask_count(const WorldConfig& config, const Scene& scene, Draws& draws) {
  const Description d = countable(config, draws);
  const SceneObject& o = scene.objects[draws.below(static_cast<int>(scene.objects.size()))];
  return {cat("How many ", noun(o, d, true), " are there?"), number_names()[count_matches(scene, o, d)]};
}

Question ask_existence(const Scene& scene, Draws& draws) {
  const bool wanted = draws.chance(0.5);
  constexpr int kTries = 50;
  for (int t = 0; t < kTries; ++t) {
    // Colour of one object with the shape of another: when absent, both words are still in the picture.
    const int n = static_cast<int>(scene.objects.size());
    SceneObject o = scene.objects[draws.below(n)];
    o.shape = scene.objects[draws.below(n)].shape;
    const Description d{.colour = true, .shape = true};
    if ((count_matches(scene, o, d) > 0) != wanted) continue;
    return {cat("Is there a ", noun(o, d, false), "?"), wanted ? "yes" : "no"};
  }
  return {};
}

Question ask_side(const WorldConfig& config, const Scene& scene, Draws& draws) {
  const int n = static_cast<int>(scene.objects.size());
  if (n < 2) return {};
  const int a = draws.below(n), b = (a + 1 + draws.below(n - 1)) % n;
  const SceneObject &oa = scene.objects[a], &ob = scene.objects[b];
  constexpr double kClear = 0.12;  // nearer than this, left and right are a matter of opinion
  if (std::abs(oa.x - ob.x) < kClear) return {};
  const bool left = draws.chance(0.5);
  const std::string pa = referring_phrase(config, scene, a, draws), pb = referring_phrase(config, scene, b, draws);
  return {cat("Is ", pa, left ? " left of " : " right of ", pb, "?"), (oa.x < ob.x) == left ? "yes" : "no"};
}

}  // namespace

const std::vector<std::string>& place_names() {
  static const std::vector<std::string> kNames{"northwest", "north",     "northeast", "west",     "center",
                                               "east",      "southwest", "south",     "southeast"};
  return kNames;
}

const std::string& place_of(const SceneObject& o) {
  const auto third = [](double v) { return std::clamp(static_cast<int>(3 * v), 0, 2); };
  return place_names()[3 * third(o.y) + third(o.x)];
}

std::string phrase_of(const SceneObject& o, const Description& d) { return "the " + noun(o, d, false); }

std::string referring_phrase(const WorldConfig& config, const Scene& scene, int object, Draws& draws) {
  const SceneObject& o = scene.objects[object];
  if (config.unique == WorldConfig::Unique::kColour) return phrase_of(o, {.colour = true});
  if (config.unique == WorldConfig::Unique::kShape) return phrase_of(o, {.shape = true});
  if (draws.chance(config.full_description)) return phrase_of(o, everything(config));
  const auto choices = sufficient(scene, o, everything(config));
  return phrase_of(o, choices[draws.below(static_cast<int>(choices.size()))]);
}

const std::vector<std::string>& caption_prompts() {
  static const std::vector<std::string> kPrompts{"Describe the picture.", "What is in the picture?",
                                                 "What do you see?"};
  return kPrompts;
}

std::string caption(const WorldConfig& config, const Scene& scene, Draws& draws) {
  std::vector<const SceneObject*> objects;
  for (const SceneObject& o : scene.objects) objects.push_back(&o);
  shuffle(objects, draws);
  std::string out;
  for (const SceneObject* o : objects) {
    const std::string name = noun(*o, everything(config), false);
    const bool vowel = std::string_view("aeiou").find(name[0]) != std::string_view::npos;
    out += cat(out.empty() ? "A" : ", a", vowel ? "n " : " ", name, " ", place_of(*o));
  }
  return out + ".";
}

Question ask(const WorldConfig& config, const Scene& scene, Draws& draws) {
  for (;;) {
    Question q;
    switch (draws.below(7)) {
      case 0:
        q = ask_attribute(config, scene, 0, draws);
        break;
      case 1:
        q = ask_attribute(config, scene, 1, draws);
        break;
      case 2:
        q = config.sizes > 1 ? ask_attribute(config, scene, 2, draws) : Question{};
        break;
      case 3:
        q = ask_count(config, scene, draws);
        break;
      case 4:
        q = ask_existence(scene, draws);
        break;
      case 5:
        q = ask_place(config, scene, draws);
        break;
      default:
        q = ask_side(config, scene, draws);
        break;
    }
    if (!q.text.empty()) return q;  // a kind that the scene does not offer gives an empty question
  }
}

std::vector<std::string> answer_vocabulary(const WorldConfig& config) {
  std::vector<std::string> words{"yes", "no"};
  words.insert(words.end(), colour_names().begin(), colour_names().begin() + config.colours);
  words.insert(words.end(), shape_names().begin(), shape_names().begin() + config.shapes);
  if (config.sizes > 1) words.insert(words.end(), size_names().begin(), size_names().end());
  words.insert(words.end(), number_names().begin() + 1, number_names().begin() + 1 + config.max_objects);
  std::sort(words.begin(), words.end());
  return words;
}

std::vector<std::string> all_lines(const WorldConfig& config) {
  std::vector<std::string> lines = answer_vocabulary(config);
  lines.insert(lines.end(), caption_prompts().begin(), caption_prompts().end());
  for (const std::string& place : place_names()) {
    lines.push_back(cat(place, ": "));
    for (const char* word : {"color", "shape", "size"})
      lines.push_back(cat("What ", word, " is the object in the ", place, "?"));
  }
  for (int bits = 1; bits < 8; ++bits) {
    const Description d{(bits & 1) != 0, (bits & 2) != 0, (bits & 4) != 0};
    if (d.size && config.sizes == 1) continue;
    for (int c = 0; c < (d.colour ? config.colours : 1); ++c) {
      for (int s = 0; s < (d.shape ? config.shapes : 1); ++s) {
        for (int z = 0; z < (d.size ? config.sizes : 1); ++z) {
          SceneObject o;
          o.colour = c, o.shape = s, o.size = z;
          const std::string phrase = phrase_of(o, d);
          lines.push_back(phrase);
          lines.push_back(cat("T", phrase.substr(1), " north: "));
          lines.push_back(cat("A", phrase.substr(3), " north, a", phrase.substr(3), " south"));
          for (const char* word : {"color", "shape", "size"}) lines.push_back(cat("What ", word, " is ", phrase, "?"));
          lines.push_back(cat("How many ", noun(o, d, true), " are there?"));
          lines.push_back(cat("Is there a ", noun(o, d, false), "?"));
          lines.push_back(cat("Is ", phrase, " left of ", phrase, "?"));
          lines.push_back(cat("Is ", phrase, " right of ", phrase, "?"));
        }
      }
    }
  }
  return lines;
}

}  // namespace tpo
