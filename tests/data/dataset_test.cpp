#include "data/dataset.h"

#include "tests/data/data_fixture.h"

namespace tpo {
namespace {

using testing::message_of;

TEST(Dataset, samples_come_back_in_order_over_several_shards) {
  const testing::ScratchFolder dir;
  std::vector<testing::Packed> samples;
  for (int i = 0; i < 12; ++i) samples.push_back(testing::region_sample(cat("s", i), i, 20 + i, 30));
  testing::write_dataset(dir / "d", samples, "region", 4000);
  const DatasetFolder d(dir / "d");
  EXPECT_GT(d.manifest().shards_size(), 2);
  ASSERT_EQ(d.size(), 12);
  EXPECT_EQ(d.task(), "region");
  for (int i = 11; i >= 0; --i) {
    const RawSample raw = d.read(i);
    EXPECT_EQ(raw.sample.id(), cat("s", i));
    const Image image = decode_image(raw.frame(0, 0), "x");
    EXPECT_EQ(image.width, 20 + i);
  }
  EXPECT_TRUE(d.verify().empty());
}

TEST(Dataset, an_unfinished_writer_leaves_no_dataset) {
  const testing::ScratchFolder dir;
  {
    DatasetWriter w(dir / "d", "n", "region", "t", {1});
    const auto p = testing::region_sample("a", 1);
    w.add(p.sample, p.media);
  }
  EXPECT_HAS(message_of<DataError>([&] { DatasetFolder d(dir / "d"); }), "manifest.textproto is missing");
}

TEST(Dataset, a_folder_is_not_overwritten_and_ids_are_unique) {
  const testing::ScratchFolder dir;
  const auto p = testing::region_sample("a", 1);
  testing::write_dataset(dir / "d", {p});
  EXPECT_HAS(message_of<DataError>([&] { testing::write_dataset(dir / "d", {p}); }), "already holds a dataset");
  EXPECT_HAS(message_of<DataError>([&] { testing::write_dataset(dir / "e", {p, p}); }), "sample 'a' was added before");
  EXPECT_HAS(message_of<DataError>([&] { testing::write_dataset(dir / "f", {}); }), "no samples");
  EXPECT_HAS(message_of<DataError>([&] { testing::write_dataset(dir / "g", {p}, "poetry"); }), "'poetry'");
}

TEST(Dataset, missing_short_and_foreign_shards_name_the_file) {
  const testing::ScratchFolder dir;
  testing::write_dataset(dir / "d", {testing::region_sample("a", 1), testing::region_sample("b", 2)}, "region", 1);
  const std::string shard = dir / "d/shard-00001.h5", whole = read_file(shard);
  std::filesystem::remove(shard);
  EXPECT_HAS(message_of<DataError>([&] { DatasetFolder d(dir / "d"); }), "shard-00001.h5 is missing");
  testing::write_text(shard, whole.substr(0, whole.size() - 7));
  EXPECT_HAS(message_of<DataError>([&] { DatasetFolder d(dir / "d"); }), "truncated");
  testing::write_text(shard, whole);
  EXPECT_EQ(DatasetFolder(dir / "d").size(), 2);
}

TEST(Dataset, verify_lists_every_problem_and_goes_on) {
  const testing::ScratchFolder dir;
  testing::write_dataset(
      dir / "d", {testing::region_sample("a", 1), testing::region_sample("b", 2), testing::region_sample("c", 3)});
  const std::string shard = dir / "d/shard-00000.h5";
  std::string whole = read_file(shard);
  const DatasetFolder before(dir / "d");
  const RawSample b = before.read(1);
  const size_t at = whole.find(testing::text_of(b.media.view()));
  whole[at + 20] ^= 4;
  testing::write_text(shard, whole);
  int64_t calls = 0;
  const auto problems = DatasetFolder(dir / "d").verify([&](int64_t done, int64_t total) {
    EXPECT_EQ(done, ++calls);
    EXPECT_EQ(total, 3);
  });
  ASSERT_EQ(problems.size(), 2u);
  EXPECT_HAS(problems[0], "whole file");
  EXPECT_HAS(problems[1], "record 1 field media");
  EXPECT_EQ(calls, 3);
}

TEST(Dataset, manifests_of_another_version_or_with_unknown_fields_are_refused) {
  const testing::ScratchFolder dir;
  testing::write_dataset(dir / "d", {testing::region_sample("a", 1)});
  const std::string path = dir / "d/manifest.textproto", good = read_file(path);
  testing::write_text(path, "colour: 3\n" + good);
  EXPECT_HAS(message_of<DataError>([&] { DatasetFolder d(dir / "d"); }), "colour");
  std::string other = good;
  other.replace(other.find("format_version: 1"), 17, "format_version: 9");
  testing::write_text(path, other);
  EXPECT_HAS(message_of<DataError>([&] { DatasetFolder d(dir / "d"); }), "format_version 9");
}

TEST(Sample, each_broken_rule_is_named) {
  const auto broken = [](auto&& change) {
    auto p = testing::region_sample("s7", 1);
    change(p.sample);
    const std::string m = message_of<DataError>([&] { check_sample(p.sample, p.media.size()); });
    EXPECT_HAS(m, p.sample.id());
    return m;
  };
  EXPECT_NO_THROW({
    const auto p = testing::region_sample("ok", 1);
    check_sample(p.sample, p.media.size());
  });
  EXPECT_HAS(broken([](data::Sample& s) { s.mutable_boxes(0)->set_x2(1.2f); }), "boxes[0] is (0.1");
  EXPECT_HAS(broken([](data::Sample& s) { s.mutable_boxes(0)->set_x1(NAN); }), "boxes[0]");
  EXPECT_HAS(broken([](data::Sample& s) { s.mutable_boxes(0)->set_media(1); }), ".media is 1");
  EXPECT_HAS(broken([](data::Sample& s) { s.mutable_turns(1)->clear_boxes(); }), "1 marks (<box>) but 0 boxes");
  EXPECT_HAS(broken([](data::Sample& s) { s.mutable_turns(1)->set_boxes(0, 4); }), "names box 4");
  EXPECT_HAS(broken([](data::Sample& s) { s.mutable_turns(0)->set_text("<image><image>?"); }),
             "2 <image>/<video> marks");
  EXPECT_HAS(broken([](data::Sample& s) { s.mutable_media(0)->set_frame_bytes(0, 5); }), "frame_bytes add up to 5");
  EXPECT_HAS(broken([](data::Sample& s) { s.clear_id(); }), "id is empty");
  EXPECT_HAS(broken([](data::Sample& s) { s.clear_turns(); }), "no turns");
  EXPECT_HAS(broken([](data::Sample& s) {
               auto* m = s.add_masks();
               m->set_height(2), m->set_width(2), m->add_counts(3);
             }),
             "cover 3 pixels");
}

}  // namespace
}  // namespace tpo
