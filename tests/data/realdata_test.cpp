// Imports of real annotation files and photographs. They lie outside the repository; without them the tests are
// skipped.
#include "data/draw.h"
#include "data/import/importer.h"
#include "data_fixture.h"

namespace tpo {
namespace {

using testing::ScratchFolder;
namespace fs = std::filesystem;

class RealData : public ::testing::Test {
 protected:
  void SetUp() override {
    const char* folder = std::getenv("TPO_REAL_DATA");
    root = folder != nullptr ? folder : std::string(TPO_SOURCE_DIR) + "/../shared/data/real-mini";
    if (!fs::is_directory(root)) GTEST_SKIP() << "no folder " << root << "; set TPO_REAL_DATA";
    options.image_root = root;
    options.image_index = root + "/coco-image-index.json";
  }
  ImportReport run(const char* format, const std::vector<std::string>& files) {
    for (const std::string& file : files) options.files.push_back(root + "/" + file);
    for (const ImportFormat& f : import_formats()) {
      if (std::string(f.name) == format) return import_dataset(f, options, scratch / "out", "", "test");
    }
    throw std::logic_error(format);
  }
  // All is well in the written folder; the mean brightness inside boxes shows that pictures and boxes can be read.
  void expect_readable() {
    const DatasetFolder d(scratch / "out");
    EXPECT_TRUE(d.verify().empty());
    for (int64_t i = 0; i < d.size(); ++i) {
      const RawSample raw = d.read(i);
      for (int m = 0; m < raw.sample.media_size(); ++m) {
        EXPECT_EQ(decode_image(raw.frame(m, 0), raw.sample.id()).width, raw.sample.media(m).width());
      }
    }
  }
  std::string root;
  ImportOptions options;
  ScratchFolder scratch;
};

TEST_F(RealData, coco_instances_of_the_mini_set) {
  options.image_root = root + "/coco-mini/train2017";
  const ImportReport report = run("coco-instances", {"coco-mini/annotations/instances_train2017.json"});
  EXPECT_EQ(report.records, 26);
  EXPECT_EQ(report.written, 22);
  expect_readable();
  int64_t boxes = 0;
  const DatasetFolder d(scratch / "out");
  for (int64_t i = 0; i < d.size(); ++i) boxes += d.read(i).sample.boxes_size();
  EXPECT_EQ(boxes, 59);  // categories that occur once in their picture
}

TEST_F(RealData, coco_captions_of_the_mini_set) {
  options.image_root = root + "/coco-mini/val2017";
  options.captions = ImportOptions::Captions::kAll;
  EXPECT_EQ(run("coco-captions", {"coco-mini/annotations/captions_val2017.json"}).written, 120);
  expect_readable();
}

TEST_F(RealData, refcocos_names_the_three_missing_pictures_and_two_empty_cases) {
  EXPECT_THROW(run("refcocos", {"refcocos/refcocos_test.present.json"}), DataError);
  EXPECT_FALSE(fs::exists(scratch / "out"));
  options.files.clear();
  options.on_error = ImportOptions::OnError::kSkip;
  const ImportReport report = run("refcocos", {"refcocos/refcocos_test.present.json"});
  EXPECT_EQ(report.records, 16);
  EXPECT_EQ(report.written, 11);
  EXPECT_EQ(report.skipped.at("picture is missing"), 3);
  EXPECT_EQ(report.skipped.at("no such object in the picture (solution is null)"), 2);
  EXPECT_HAS(report.text(), "000000397133.jpg");
  expect_readable();
}

TEST_F(RealData, videochat_conversations_find_their_pictures_by_number) {
  const ImportReport report = run("llava", {"videochat-llava-NC/llava_complex_reasoning_2k.present.json",
                                            "videochat-llava-NC/llava_complex_reasoning_4k.present.json"});
  EXPECT_EQ(report.written, 11);
  expect_readable();
}

TEST_F(RealData, messages_with_pictures_are_taken_and_videos_named) {
  options.image_root = root + "/llama-factory-demo";
  const ImportReport report =
      run("llava", {"llama-factory-demo/mllm_demo.json", "llama-factory-demo/mllm_video_demo.json"});
  EXPECT_EQ(report.written, 6);
  EXPECT_EQ(report.skipped_total(), 3);
  expect_readable();
}

}  // namespace
}  // namespace tpo
