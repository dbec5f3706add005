#include "data/templates.h"

#include <algorithm>
#include <set>

#include "data/tokenizer/load_tokenizer.h"
#include "tests/data/data_fixture.h"
#include "tests/data/small_tokenizer.h"

namespace tpo {
namespace {

using testing::message_of;
using Ids = std::vector<int32_t>;

class TemplatesTest : public ::testing::Test {
 protected:
  std::unique_ptr<SentencePieceTokenizer> tok_ = testing::small_tokenizer();
  TemplateOptions options_{.max_tokens = 256, .image_slots = 5, .clip_slots = 7};

  int32_t id(TaskToken t) const { return id_of(t, *tok_); }
  void append(Ids& ids, std::string_view text) const {
    const Ids more = tok_->encode(text);
    ids.insert(ids.end(), more.begin(), more.end());
  }
};

TEST_F(TemplatesTest, a_region_sample_has_the_documented_layout) {
  const TokenizedSample t = Templates(*tok_, options_).encode(testing::region_sample("a", 1).sample);
  Ids want{tok_->bos()};
  append(want, "[INST] <Image>");
  const auto first_slot = static_cast<int32_t>(want.size());
  want.insert(want.end(), 5, 0);
  append(want, "</Image>[/INST]");
  append(want, " [INST] Put a box on the red circle. [/INST] ");
  const size_t answer = want.size();
  append(want, "It is at");
  want.push_back(id(TaskToken::kBoxBegin));
  const auto region = static_cast<int32_t>(want.size());
  want.push_back(id(TaskToken::kBoxes));
  append(want, ".");
  want.push_back(tok_->eos());
  EXPECT_EQ(t.tokens, want);
  EXPECT_EQ(t.visual_rows, (Ids{first_slot, first_slot + 1, first_slot + 2, first_slot + 3, first_slot + 4}));
  EXPECT_EQ(t.region_rows, Ids{region});
  EXPECT_EQ(t.region_boxes, Ids{0});
  EXPECT_EQ(t.region_targets, std::vector<Box4>({Box4{0.1f, 0.2f, 0.5f, 0.75f}}));
  for (size_t p = 0; p < want.size(); ++p) {
    const bool labelled = p + 1 >= answer && p + 1 < want.size();
    EXPECT_EQ(t.targets[p], labelled ? want[p + 1] : -100) << p;
  }
  EXPECT_EQ(t.loss_tokens, static_cast<int32_t>(want.size() - answer));
}

TEST_F(TemplatesTest, all_answers_of_a_dialogue_are_labelled_and_one_bos_begins_it) {
  auto p = testing::text_sample("d", "How many?", "There are 3.");
  auto more = testing::text_sample("d", "Where?", "It is at the left.");
  p.sample.mutable_turns()->MergeFrom(more.sample.turns());
  const TokenizedSample t = Templates(*tok_, options_).encode(p.sample);
  EXPECT_EQ(std::count(t.tokens.begin(), t.tokens.end(), tok_->bos()), 1);
  EXPECT_EQ(std::count(t.tokens.begin(), t.tokens.end(), tok_->eos()), 2);
  EXPECT_EQ(t.loss_tokens,
            static_cast<int32_t>(tok_->encode("There are 3.").size() + tok_->encode("It is at the left.").size() + 2));
  EXPECT_TRUE(t.visual_rows.empty());
}

TEST_F(TemplatesTest, compatibility_begins_every_piece_with_bos) {
  options_.bos_per_segment = true;
  const TokenizedSample t = Templates(*tok_, options_).encode(testing::region_sample("a", 1).sample);
  // Before and after the slots, the question, the answer.
  EXPECT_EQ(std::count(t.tokens.begin(), t.tokens.end(), tok_->bos()), 4);
}

TEST_F(TemplatesTest, chat_ml_has_the_documented_layout) {
  const auto tok = load_tokenizer(std::string(TPO_SOURCE_DIR) + "/tests/data/fixtures/tokenizers/qwen2.json");
  EXPECT_EQ(chat_format_of(*tok), ChatFormat::kChatMl);
  EXPECT_EQ(chat_format_of(*tok_), ChatFormat::kMistral);
  options_.chat = ChatFormat::kChatMl;
  auto p = testing::region_sample("a", 1);
  *p.sample.add_media() = p.sample.media(0);
  p.sample.mutable_turns(0)->set_text("<image>\n<image>\nWhere is it?");
  p.sample.mutable_turns()->MergeFrom(testing::text_sample("d", "How many?", "There are 3.").sample.turns());
  const std::string shown = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n";
  const Ids slots(5, 0);
  Ids want = tok->encode_with_special(shown);
  Ids visual, labelled;
  const auto add = [&](const Ids& ids) { want.insert(want.end(), ids.begin(), ids.end()); };
  const auto answer = [&](std::string_view text) {
    for (int32_t id : tok->encode_with_special(text)) labelled.push_back(static_cast<int32_t>(want.size())), add({id});
  };
  for (const char* behind : {"\n", "\nWhere is it?<|im_end|>\n<|im_start|>assistant\n"}) {
    for (int i = 0; i < 5; ++i) visual.push_back(static_cast<int32_t>(want.size()) + i);
    add(slots);
    add(tok->encode_with_special(behind));
  }
  answer("It is at");
  answer("<box_begin><boxes>.<|im_end|>");
  add(tok->encode_with_special("\n<|im_start|>user\nHow many?<|im_end|>\n<|im_start|>assistant\n"));
  const size_t second_prompt = want.size();
  answer("There are 3.<|im_end|>");
  const Templates templates(*tok, options_);
  const TokenizedSample t = templates.encode(p.sample);
  EXPECT_EQ(t.tokens, want);
  EXPECT_EQ(t.visual_rows, visual);
  ASSERT_EQ(t.region_rows.size(), 1u);
  EXPECT_EQ(t.tokens[static_cast<size_t>(t.region_rows[0])], id_of(TaskToken::kBoxes, *tok));
  for (size_t i = 0; i < want.size(); ++i) {
    const bool here = std::count(labelled.begin(), labelled.end(), static_cast<int32_t>(i) + 1) == 1;
    EXPECT_EQ(t.targets[i], here ? want[i + 1] : -100) << i;
  }
  EXPECT_EQ(templates.encode_prompt(p.sample, 2).tokens, Ids(want.begin(), want.begin() + second_prompt));
  // A system turn takes the place of the default; marks in a text are text.
  data::Turn system;
  system.set_role(data::Turn::SYSTEM);
  system.set_text("Be brief.<|im_end|>");
  data::Sample with = testing::text_sample("s", "a", "b").sample, order;
  order.set_id("s");
  *order.add_turns() = system;
  order.mutable_turns()->MergeFrom(with.turns());
  const TokenizedSample s = templates.encode(order);
  EXPECT_HAS(decode_with_task_tokens(*tok, s.tokens), "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\na");
  EXPECT_EQ(std::count(s.tokens.begin(), s.tokens.end(), tok->eos()), 3);
}

TEST_F(TemplatesTest, a_tokenizer_without_the_marks_of_the_format_is_refused) {
  const auto qwen = load_tokenizer(std::string(TPO_SOURCE_DIR) + "/tests/data/fixtures/tokenizers/qwen2.json");
  const auto error = [&](const Tokenizer& tok, ChatFormat chat, bool bos) {
    options_.chat = chat, options_.bos_per_segment = bos;
    return message_of<ConfigError>([&] { Templates(tok, options_); });
  };
  EXPECT_HAS(error(*tok_, ChatFormat::kChatMl, false), "needs a tokenizer with <|im_start|>");
  EXPECT_HAS(error(*qwen, ChatFormat::kMistral, false), "no begin mark, which chat format mistral needs");
  EXPECT_HAS(error(*qwen, ChatFormat::kChatMl, true), "no begin mark, which bos_per_segment needs");
}

TEST_F(TemplatesTest, track_box_is_an_input_slot_without_a_label) {
  auto p = testing::region_sample("a", 1);
  p.sample.mutable_turns(0)->set_text("Follow <track_box> now");
  p.sample.mutable_turns(0)->add_boxes(0);
  const TokenizedSample t = Templates(*tok_, options_).encode(p.sample);
  ASSERT_EQ(t.box_in_rows.size(), 1u);
  EXPECT_EQ(t.tokens[t.box_in_rows[0]], id(TaskToken::kTrackBox));
  EXPECT_EQ(t.box_in[0], (Box4{0.1f, 0.2f, 0.5f, 0.75f}));
  EXPECT_EQ(t.targets[t.box_in_rows[0] - 1], -100);
}

TEST_F(TemplatesTest, several_media_stand_in_front_in_order_with_their_own_slots) {
  auto p = testing::region_sample("a", 1);
  *p.sample.add_media() = p.sample.media(0);
  p.sample.mutable_media(1)->set_kind(data::Media::JPEG_FRAMES);
  p.sample.mutable_turns(0)->set_text("<image>\n<video>\nWhere?");
  const TokenizedSample t = Templates(*tok_, options_).encode(p.sample);
  EXPECT_EQ(t.visual_rows.size(), 12u);
  EXPECT_GT(t.visual_rows[5], t.visual_rows[4] + 1);
  options_.clip_slots = 0;
  EXPECT_HAS(message_of<DataError>([&] { Templates(*tok_, options_).encode(p.sample); }), "media[1] is a clip");
}

TEST_F(TemplatesTest, the_prompt_is_the_beginning_of_the_training_document) {
  const auto p = testing::region_sample("a", 1);
  const Templates templates(*tok_, options_);
  const TokenizedSample prompt = templates.encode_prompt(p.sample, 0), whole = templates.encode(p.sample);
  ASSERT_LT(prompt.tokens.size(), whole.tokens.size());
  EXPECT_TRUE(std::equal(prompt.tokens.begin(), prompt.tokens.end(), whole.tokens.begin()));
  EXPECT_NE(whole.targets[prompt.tokens.size() - 1], -100);  // the answer starts right there
  EXPECT_EQ(whole.targets[prompt.tokens.size() - 2], -100);
  EXPECT_EQ(prompt.loss_tokens, 0);
  EXPECT_EQ(prompt.targets, Ids(prompt.tokens.size(), -100));
  EXPECT_THROW(templates.encode_prompt(p.sample, 1), DataError);
}

TEST_F(TemplatesTest, long_text_is_cut_but_never_a_slot_or_all_labels) {
  std::string tale;
  for (int i = 0; i < 60; ++i) tale += "There are 3 shapes. ";
  const Templates templates(*tok_, options_);
  const TokenizedSample t = templates.encode(testing::text_sample("long", "How many?", tale).sample);
  EXPECT_EQ(t.tokens.size(), 256u);
  EXPECT_EQ(t.targets.back(), -100);
  EXPECT_NE(t.targets[254], -100);
  EXPECT_HAS(message_of<DataError>([&] { templates.encode(testing::text_sample("q", tale, "3").sample); }), "no label");
  auto p = testing::region_sample("r9", 1);
  p.sample.mutable_turns(1)->set_text(tale + "<box>");
  const std::string m = message_of<DataError>([&] { templates.encode(p.sample); });
  EXPECT_HAS(m, "'r9'");
  EXPECT_HAS(m, "max_tokens = 256");
}

TEST_F(TemplatesTest, wrong_turns_are_named) {
  const Templates templates(*tok_, options_);
  auto p = testing::text_sample("x", "a", "b");
  p.sample.mutable_turns(0)->set_role(data::Turn::ASSISTANT);
  EXPECT_HAS(message_of<DataError>([&] { templates.encode(p.sample); }), "turns[0] is out of order");
  p = testing::text_sample("x", "a", "b");
  p.sample.mutable_turns()->RemoveLast();
  EXPECT_HAS(message_of<DataError>([&] { templates.encode(p.sample); }), "does not end with an answer");
  EXPECT_THROW(Templates(*tok_, {.max_tokens = 2}), ConfigError);
}

TEST_F(TemplatesTest, the_fingerprint_depends_on_every_option) {
  std::set<uint64_t> seen{Templates(*tok_, options_).fingerprint()};
  for (int i = 0; i < 4; ++i) {
    TemplateOptions o = options_;
    o.max_tokens += i == 0, o.image_slots += i == 1, o.clip_slots += i == 2, o.bos_per_segment = i == 3;
    EXPECT_TRUE(seen.insert(Templates(*tok_, o).fingerprint()).second) << i;
  }
  const auto qwen = load_tokenizer(std::string(TPO_SOURCE_DIR) + "/tests/data/fixtures/tokenizers/qwen2.json");
  options_.chat = ChatFormat::kChatMl;
  EXPECT_TRUE(seen.insert(Templates(*qwen, options_).fingerprint()).second);
  EXPECT_EQ(Templates(*qwen, options_).fingerprint(), *seen.find(Templates(*qwen, options_).fingerprint()));
}

TEST(Prompts, phrases_are_filled_in_and_tracking_prompts_hold_their_slot) {
  for (uint64_t i = 0; i < region_prompts().size(); ++i) {
    const std::string p = fill_prompt(region_prompts(), i, "the cup");
    EXPECT_HAS(p, "the cup");
    EXPECT_EQ(p.find("{}"), std::string::npos);
  }
  for (auto p : tracking_prompts()) EXPECT_HAS(p, "<track_box>");
  for (auto p : temporal_prompts()) EXPECT_HAS(p, "{}");
  for (auto p : referring_prompts()) EXPECT_HAS(p, "{}");
}

}  // namespace
}  // namespace tpo
