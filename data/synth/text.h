#pragma once
// What can be said about a scene: phrases that mean exactly one object, and questions with short known answers.
#include <string>
#include <vector>

#include "data/synth/world.h"

namespace tpo {

// "the small red circle"; the shape's place is taken by "object" when the shape is not named.
std::string phrase_of(const SceneObject& o, const Description& d);

// A phrase for scene.objects[object] that fits no other object: a random one of the sufficient descriptions; in a
// warm-up world the unique attribute alone, so that a model cannot do with the other one. Requires: objects differ in
// their attributes, which make_scene ensures.
std::string referring_phrase(const WorldConfig& config, const Scene& scene, int object, Draws& draws);

// Where the centre of an object lies, by thirds of the picture, in one word: "northwest", "center", "south", ...
const std::vector<std::string>& place_names();
const std::string& place_of(const SceneObject& o);

struct Question {
  std::string text, answer;
};

// One question of a random kind (colour, shape, size, each also asked of a place; count, existence, side); answers to
// yes/no questions are balanced.
Question ask(const WorldConfig& config, const Scene& scene, Draws& draws);

// Everything in the scene: "A red circle northwest, a blue cross center." In random order, so that after "A red" the
// shape, and after it the place, can only be known by finding that object: what a model needs for referring
// expressions.
std::string caption(const WorldConfig& config, const Scene& scene, Draws& draws);
const std::vector<std::string>& caption_prompts();

// Every answer that ask() can give, sorted.
std::vector<std::string> answer_vocabulary(const WorldConfig& config);

// Every phrase and every question frame filled with every word once: text for training a tokenizer.
std::vector<std::string> all_lines(const WorldConfig& config);

}  // namespace tpo
