// Importers: what each format becomes, and that every kind of bad input is one clear error that publishes nothing.
#include "data/import/importer.h"
#include "data/import/json.h"
#include "data_fixture.h"

namespace tpo {
namespace {

using testing::message_of;
using testing::ScratchFolder;
using testing::write_text;
namespace fs = std::filesystem;

const ImportFormat& format(const std::string& name) {
  for (const ImportFormat& f : import_formats()) {
    if (name == f.name) return f;
  }
  throw std::logic_error("no format " + name);
}

// Pictures as the fixtures name them: cup.jpg 40 x 30 and sub/dog.png 24 x 32.
class Import : public ::testing::Test {
 protected:
  Import() {
    fs::create_directories(scratch / "pictures/sub");
    write_picture("pictures/cup.jpg", encode_jpeg(testing::make_picture(40, 30, 1)));
    write_picture("pictures/sub/dog.png", encode_png(testing::make_picture(24, 32, 2)));
    options.image_root = scratch / "pictures";
  }
  void write_picture(const std::string& name, const std::vector<std::byte>& bytes) {
    write_text(scratch / name, testing::text_of(bytes));
  }
  ImportReport run(const std::string& name, const std::string& file, const std::string& task = "") {
    options.files = {file};
    return import_dataset(format(name), options, scratch / "out", task, "test");
  }
  static std::string fixture(const std::string& name) {
    return std::string(TPO_SOURCE_DIR) + "/tests/data/fixtures/" + name;
  }
  // Imports a JSONL file of one line, which must fail; nothing may be left behind.
  std::string line_error(const std::string& line) {
    write_text(scratch / "one.jsonl", line + "\n");
    const std::string message = message_of<DataError>([&] { run("jsonl", scratch / "one.jsonl", "region"); });
    EXPECT_EQ(message.rfind(scratch / "one.jsonl" + ":1", 0), 0u) << message;
    for (const auto& entry : fs::directory_iterator(scratch.path())) {
      EXPECT_EQ(entry.path().string().find("out"), std::string::npos) << entry.path();
    }
    return message;
  }

  ScratchFolder scratch;
  ImportOptions options;
};

TEST_F(Import, llava_keeps_turns_and_media_in_order_and_makes_missing_ids) {
  const ImportReport report = run("llava", fixture("llava.json"));
  EXPECT_EQ(report.records, 6);
  EXPECT_EQ(report.written, 5);
  EXPECT_EQ(report.skipped_total(), 1);
  ASSERT_EQ(report.messages.size(), 1u);
  EXPECT_HAS(report.messages[0], "record 4 (clip.mp4)");
  const DatasetFolder d(scratch / "out");
  EXPECT_EQ(d.task(), "conversation");
  ASSERT_EQ(d.size(), 5);
  const auto first = d.read(0).sample;
  EXPECT_EQ(first.id(), "first");
  ASSERT_EQ(first.turns_size(), 4);
  EXPECT_EQ(first.turns(2).text(), "Which colour?");
  EXPECT_EQ(first.media(0).width(), 40);
  const auto second = d.read(1).sample;
  EXPECT_EQ(second.id(), "llava-1");
  EXPECT_EQ(second.turns(0).role(), data::Turn::SYSTEM);
  EXPECT_EQ(second.turns(1).text(), "What runs there?\n<image>");
  EXPECT_EQ(second.media(0).kind(), data::Media::PNG);
  EXPECT_EQ(d.read(2).sample.id(), "7");
  EXPECT_EQ(d.read(2).sample.media_size(), 0);
  const RawSample both = d.read(3);
  ASSERT_EQ(both.sample.media_size(), 2);
  EXPECT_EQ(decode_image(both.frame(1, 0), "x").height, 32);
  EXPECT_EQ(d.read(4).sample.media(0).kind(), data::Media::JPEG_FRAMES);
  EXPECT_EQ(d.read(4).sample.media(0).frame_bytes_size(), 2);
  EXPECT_TRUE(d.verify().empty());
}

TEST_F(Import, videochat_pairs_take_the_first_instruction_as_system_turn) {
  EXPECT_EQ(run("llava", fixture("videochat.json")).written, 2);
  const DatasetFolder d(scratch / "out");
  const auto s = d.read(0).sample;
  EXPECT_EQ(s.turns(0).text(), "Look closely.");
  EXPECT_EQ(s.turns(1).text(), "<image>\nWhat is it?");
  ASSERT_EQ(s.turns_size(), 5);
  EXPECT_EQ(d.read(1).sample.turns(0).text(), "<image>\n");
}

TEST_F(Import, messages_with_marks_in_two_questions) {
  EXPECT_EQ(run("llava", fixture("messages.json")).written, 1);
  const auto s = DatasetFolder(scratch / "out").read(0).sample;
  EXPECT_EQ(s.media_size(), 2);
  EXPECT_EQ(s.turns(2).text(), "And this?<image>");
}

TEST_F(Import, coco_asks_for_categories_that_occur_once_and_clamps_within_a_pixel) {
  const ImportReport report = run("coco-instances", fixture("coco_instances.json"));
  EXPECT_EQ(report.written, 1);
  EXPECT_EQ(report.skipped.at("no object to ask for"), 2);
  const DatasetFolder d(scratch / "out");
  const auto s = d.read(0).sample;
  EXPECT_EQ(d.task(), "region");
  ASSERT_EQ(s.boxes_size(), 2);
  EXPECT_EQ(s.boxes(0).phrase(), "the cup");
  EXPECT_FLOAT_EQ(s.boxes(0).x1(), 0.1f);
  EXPECT_FLOAT_EQ(s.boxes(0).y2(), 0.6f);
  EXPECT_EQ(s.boxes(1).x2(), 1.0f);
  EXPECT_EQ(s.turns(1).boxes(0), 0);
  EXPECT_EQ(s.turns(3).boxes(0), 1);
  EXPECT_HAS(s.turns(0).text(), "the cup");
}

TEST_F(Import, coco_every_object_in_samples_of_bounded_length) {
  options.occurrence = ImportOptions::Occurrence::kEvery;
  options.boxes_per_sample = 1;
  EXPECT_EQ(run("coco-instances", fixture("coco_instances.json")).written, 4);
  const DatasetFolder d(scratch / "out");
  EXPECT_EQ(d.read(1).sample.id(), "11-1");
  EXPECT_EQ(d.read(3).sample.boxes(0).phrase(), "a dog");
}

TEST_F(Import, coco_box_outside_is_an_error_clipped_or_left_out) {
  options.tolerance_px = 0.1;
  const std::string message = message_of<DataError>([&] { run("coco-instances", fixture("coco_instances.json")); });
  EXPECT_HAS(message, "annotations[1]");
  EXPECT_HAS(message, "leaves the picture of 40 x 30 by 0.6 px");
  options.outside_box = ImportOptions::OutsideBox::kSkip;
  run("coco-instances", fixture("coco_instances.json"));
  EXPECT_EQ(DatasetFolder(scratch / "out").read(0).sample.boxes_size(), 1);
  fs::remove_all(scratch / "out");
  options.outside_box = ImportOptions::OutsideBox::kClip;
  run("coco-instances", fixture("coco_instances.json"));
  EXPECT_EQ(DatasetFolder(scratch / "out").read(0).sample.boxes(1).x2(), 1.0f);
}

TEST_F(Import, coco_captions_first_or_all) {
  EXPECT_EQ(run("coco-captions", fixture("coco_captions.json")).written, 1);
  EXPECT_EQ(DatasetFolder(scratch / "out").read(0).sample.turns(1).text(), "A cup on a table.");
  fs::remove_all(scratch / "out");
  options.captions = ImportOptions::Captions::kAll;
  EXPECT_EQ(run("coco-captions", fixture("coco_captions.json")).written, 2);
  EXPECT_EQ(DatasetFolder(scratch / "out").read(1).sample.turns(1).text(), "Someone's cup.");
}

TEST_F(Import, refcocos_finds_pictures_by_number_and_counts_null_boxes) {
  write_text(scratch / "index.json", R"({"11": "pictures/cup.jpg"})");
  options.image_index = scratch / "index.json";
  const ImportReport report = run("refcocos", fixture("refcocos.json"));
  EXPECT_EQ(report.written, 1);
  EXPECT_EQ(report.skipped.at("no such object in the picture (solution is null)"), 1);
  const auto s = DatasetFolder(scratch / "out").read(0).sample;
  EXPECT_EQ(s.id(), "000000000011_1");
  EXPECT_EQ(s.boxes(0).phrase(), "the cup left of the plate");
  EXPECT_FLOAT_EQ(s.boxes(0).x2(), 0.6f);
}

TEST_F(Import, a_file_name_below_the_root_is_found_when_asked_for_and_must_be_unique) {
  write_text(scratch / "one.json", R"([{"image": "elsewhere/dog.png", "QA": [{"q": "What?", "a": "A dog."}]}])");
  EXPECT_HAS(message_of<DataError>([&] { run("llava", scratch / "one.json"); }), "is missing");
  options.search_names = true;
  EXPECT_EQ(run("llava", scratch / "one.json").written, 1);
  fs::remove_all(scratch / "out");
  fs::copy_file(scratch / "pictures/sub/dog.png", scratch / "pictures/dog.png");
  EXPECT_HAS(message_of<DataError>([&] { run("llava", scratch / "one.json"); }), "not unique");
}

TEST_F(Import, jsonl_carries_boxes_spans_masks_and_tracks) {
  EXPECT_EQ(run("jsonl", fixture("generic.jsonl"), "region").written, 3);
  const DatasetFolder d(scratch / "out");
  const auto box = d.read(0).sample;
  EXPECT_FLOAT_EQ(box.boxes(1).y2(), 8.0f / 30);
  EXPECT_EQ(box.turns(0).boxes(0), 1);
  EXPECT_EQ(box.meta().at("licence"), "none");
  const auto clip = d.read(1).sample;
  EXPECT_EQ(clip.media(0).frame_bytes_size(), 3);
  EXPECT_FLOAT_EQ(clip.media(0).fps(), 2);
  EXPECT_FLOAT_EQ(clip.spans(0).end_s(), 1);
  EXPECT_FLOAT_EQ(clip.tracks(0).boxes(0).x2(), 0.6f);
  EXPECT_EQ(clip.tracks(0).masks(0).counts(1), 2u);
  ASSERT_EQ(clip.masks(0).counts_size(), 3);  // "123" is 1, 2, 3 in COCO's text form
  EXPECT_EQ(clip.masks(0).counts(2), 3u);
  EXPECT_EQ(d.read(2).sample.id(), "generic-2");
  EXPECT_TRUE(d.verify().empty());
}

TEST_F(Import, coco_run_lengths_as_text_agree_with_a_worked_example) {
  // Runs 100, 50, 40, 90: the fourth is coded as its difference 40 to the second. Coded by hand from the 5-bit rule:
  // 100 = "T3", 50 = "b1", 40 = "X1", 40 = "X1".
  write_text(scratch / "m.jsonl",
             R"({"id": "m", "media": [{"image": "cup.jpg"}], "masks": [{"size": [14, 20], "counts": "T3b1X1X1"}],)"
             R"( "turns": [{"role": "user", "text": "?"}, {"role": "assistant", "text": "!"}]})");
  run("jsonl", scratch / "m.jsonl", "mask");
  const auto mask = DatasetFolder(scratch / "out").read(0).sample.masks(0);
  EXPECT_EQ(std::vector<uint32_t>(mask.counts().begin(), mask.counts().end()),
            (std::vector<uint32_t>{100, 50, 40, 90}));
}

TEST_F(Import, every_bad_line_names_file_line_and_field) {
  const std::string turns =
      R"("turns": [{"role": "user", "text": "Where?"}, {"role": "assistant", "text": "At <box>."}])";
  const std::string media = R"("media": [{"image": "cup.jpg"}])";
  const auto boxes = [](const std::string& box) { return R"("boxes": [{"box": )" + box + "}]"; };
  const auto line = [&](const std::string& m, const std::string& b) {
    return "{" + m + R"(, "units": "pixel", )" + b + ", " + turns + "}";
  };
  EXPECT_HAS(line_error(R"({"trns": []})"), "unknown field 'trns'; legal are id, media");
  EXPECT_HAS(line_error("{\"id\": "), "not JSON");
  EXPECT_HAS(line_error(R"({"id": 3, "turns": []})"), "field id: must be a string but is a number");
  EXPECT_HAS(line_error(R"({"id": "", "turns": []})"), "field id: is empty");
  EXPECT_HAS(line_error(R"({"id": "a"})"), "field 'turns' is missing");
  EXPECT_HAS(line_error(R"({"turns": []})"), "has no question and answer");
  EXPECT_HAS(line_error(R"({"turns": [{"role": "bot", "text": "x"}]})"),
             "turns[0].role: must be user, assistant or system");
  EXPECT_HAS(line_error(R"({"turns": [{"role": "assistant", "text": "x"}]})"), "turn 0 must be the user's");
  EXPECT_HAS(line_error(R"({"turns": [{"role": "user", "text": "x"}]})"), "the last question has no answer");
  EXPECT_HAS(line_error(R"({"turns": [{"role": "user", "text": "x"}, {"role": "assistant", "text": " "}]})"),
             "empty answer");
  EXPECT_HAS(line_error("{" + media + ", " + boxes("[1, 2, 3, 4]") + ", " + turns + "}"),
             "'units' (pixel or fraction) is required");
  EXPECT_HAS(line_error(line(media, boxes("[1, 2, 3]"))), "boxes[0].box: must be a list of 4 numbers but has 3");
  EXPECT_HAS(line_error(line(media, boxes("[9, 2, 3, 4]"))), "corners are out of order");
  EXPECT_HAS(line_error(line(media, boxes("[1, 2, 45, 4]"))),
             "box 0: box [1, 2, 45, 4] px leaves the picture of 40 x 30 by 5 px");
  EXPECT_HAS(line_error(line(media, R"("boxes": [])")), "has more marks than the record has boxes");
  EXPECT_HAS(line_error(line(R"("media": [{"image": "none.jpg"}])", boxes("[1, 2, 3, 4]"))),
             "picture none.jpg is missing");
  EXPECT_HAS(line_error(line(R"("media": [{"image": "cup.jpg", "fps": 2}])", boxes("[1, 2, 3, 4]"))), "media[0].fps");
  EXPECT_HAS(line_error(line(R"("media": [{"image": "cup.jpg", "width": 41, "height": 30}])", boxes("[1, 2, 3, 4]"))),
             "says that cup.jpg is 41 x 30 but the picture is 40 x 30");
  EXPECT_HAS(line_error(line(media, R"("boxes": [{"box": [1, 2, 3, 4], "media": 1}])")),
             "boxes[0].media: 1 is not the number of a media");
  EXPECT_HAS(line_error(line(media, R"("boxes": [{"box": [1, 2, 3, 4], "frame": 1}])")), "frame 1 does not exist");
  EXPECT_HAS(line_error(line(media, boxes("[1, 2, 3, 4]") + R"(, "masks": [{"size": [2, 2], "counts": [3]}])")),
             "mask runs cover 3");
  EXPECT_HAS(line_error(line(media, boxes("[1, 2, 3, 4]") + R"(, "spans": [{"start": 3, "end": 2}])")),
             "0 <= start <= end");
}

TEST_F(Import, marks_in_the_questions_must_match_the_media) {
  const std::string message = line_error(
      R"({"media": [{"image": "cup.jpg"}], "turns": [{"role": "user", "text": "<image><image>?"}, {"role": "assistant", "text": "!"}]})");
  EXPECT_HAS(message, "hold 2 <image> and 0 <video> marks but the record has 1 picture(s)");
}

TEST_F(Import, a_broken_picture_is_named_with_its_record) {
  auto bytes = encode_jpeg(testing::make_picture(64, 64, 3));
  bytes.resize(bytes.size() / 2);
  write_picture("pictures/half.jpg", bytes);
  write_picture("pictures/text.jpg", std::vector<std::byte>(200, std::byte{'x'}));
  for (const std::string name : {"half.jpg", "text.jpg"}) {
    write_text(scratch / "one.json", R"([{"image": ")" + name + R"(", "QA": [{"q": "What?", "a": "A."}]}])");
    const std::string message = message_of<DataError>([&] { run("llava", scratch / "one.json"); });
    EXPECT_HAS(message, "one.json record 0");
    EXPECT_HAS(message, name);
    EXPECT_FALSE(fs::exists(scratch / "out"));
  }
}

TEST_F(Import, a_repeated_id_names_both_records) {
  write_text(scratch / "two.jsonl",
             R"({"id": "a", "turns": [{"role": "user", "text": "?"}, {"role": "assistant", "text": "!"}]}
{"id": "a", "turns": [{"role": "user", "text": "?"}, {"role": "assistant", "text": "!"}]}
)");
  const std::string message = message_of<DataError>([&] { run("jsonl", scratch / "two.jsonl", "conversation"); });
  EXPECT_HAS(message, "two.jsonl:2: id 'a' is already used by " + scratch / "two.jsonl" + ":1");
}

TEST_F(Import, skipping_errors_counts_and_lists_them) {
  options.on_error = ImportOptions::OnError::kSkip;
  write_text(scratch / "three.jsonl",
             R"({"id": "a", "turns": [{"role": "user", "text": "?"}, {"role": "assistant", "text": "!"}]}
not json
{"id": "a", "turns": [{"role": "user", "text": "?"}, {"role": "assistant", "text": "!"}]}
)");
  const ImportReport report = run("jsonl", scratch / "three.jsonl", "conversation");
  EXPECT_EQ(report.written, 1);
  EXPECT_EQ(report.skipped.at("error"), 2);
  EXPECT_HAS(report.text(), "three.jsonl:2: not JSON");
  EXPECT_HAS(report.text(), "three.jsonl:3: id 'a'");
  EXPECT_EQ(DatasetFolder(scratch / "out").size(), 1);
}

TEST_F(Import, an_import_without_samples_publishes_nothing) {
  write_text(scratch / "empty.json", "[]");
  EXPECT_HAS(message_of<DataError>([&] { run("llava", scratch / "empty.json"); }), "no sample was left");
  EXPECT_FALSE(fs::exists(scratch / "out"));
}

TEST_F(Import, an_existing_folder_is_never_written_to) {
  fs::create_directories(scratch / "out");
  EXPECT_HAS(message_of<DataError>([&] { run("llava", fixture("llava.json")); }), "already exists");
  EXPECT_TRUE(fs::is_empty(scratch / "out"));
}

TEST(Json, messages_name_the_place) {
  EXPECT_HAS(message_of<DataError>([] { Json::parse("[1, ", "f.json"); }), "f.json: not JSON: parse error at line 1");
  const Json root = Json::parse(R"([{"a": {"b": [1, "x"]}}])", "f.json");
  EXPECT_HAS(message_of<DataError>([&] { root.record(0).at("a").at("b").numbers(); }),
             "f.json record 0, field a.b[1]: must be a number but is a string");
  EXPECT_HAS(message_of<DataError>([&] { root.at("a"); }), "must be an object with a field 'a' but is a list");
  EXPECT_EQ(Json::parse("483.0", "x").integer(), 483);
  EXPECT_HAS(message_of<DataError>([] { Json::parse("483.5", "x").integer(); }), "whole number");
}

}  // namespace
}  // namespace tpo
