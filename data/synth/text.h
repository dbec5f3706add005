#pragma once
// What can be said about a scene: phrases that mean exactly one object, and questions with short known answers.
#include <string>
#include <vector>

#include "data/synth/world.h"

namespace tpo {

// "the small red circle"; the shape's place is taken by "object" when the shape is not named.
std::string phrase_of(const SceneObject& o, const Description& d);

// A phrase for scene.objects[object] that fits no other object: a random one of the sufficient descriptions.
// Requires: objects differ in their attributes, which make_scene ensures.
std::string referring_phrase(const WorldConfig& config, const Scene& scene, int object, Draws& draws);

// Where the centre of an object lies, by thirds of the picture: "top left", "middle", "bottom right", ...
const std::vector<std::string>& place_names();
const std::string& place_of(const SceneObject& o);

struct Question {
  std::string text, answer;
};

// One question of a random kind (colour, shape, size, each also asked of a place; count, existence, side); answers to
// yes/no questions are balanced.
Question ask(const WorldConfig& config, const Scene& scene, Draws& draws);

// Every answer that ask() can give, sorted.
std::vector<std::string> answer_vocabulary(const WorldConfig& config);

// Every phrase and every question frame filled with every word once: text for training a tokenizer.
std::vector<std::string> all_lines(const WorldConfig& config);

}  // namespace tpo
