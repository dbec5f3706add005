// Foreign or damaged files: one clear error each, and the target state stays as it was.
#include <regex>

#include "checkpoint/manifest.h"
#include "tests/checkpoint/checkpoint_support.h"

namespace tpo {
namespace {

namespace fs = std::filesystem;

class Damage : public testing::Test {
 protected:
  void SetUp() override {
    save_ranks(2, dir_.path(), 1, 3);
    folder_ = dir_.path() + "/step_00000001";
    manifest_ = folder_ + "/manifest.textproto";
    shard_ = folder_ + "/shard_00001.h5";
  }

  // Loading on one and on two ranks throws DataError with `part`; verify() reports it, as the first of so many faults;
  // no state changes.
  void expect_refused(const std::string& part, size_t how_many = 1) {
    for (int ranks : {1, 2}) {
      run_ranks(ranks, [&](ProcessGroup& world) {
        TrainState s = make_state(9);
        const std::string text = message_of<DataError>([&] { load(folder_, s, world); });
        EXPECT_NE(text.find(part), std::string::npos) << "expected \"" << part << "\" in: " << text;
        EXPECT_EQ(contents(s), contents(make_state(9)));
      });
    }
    const std::vector<std::string> faults = verify(folder_);
    ASSERT_EQ(faults.size(), how_many);
    EXPECT_NE(faults[0].find(part), std::string::npos) << faults[0];
  }
  // Rewrites the manifest's text and makes its checksum right again.
  void edit_manifest(const std::string& from, const std::string& to) {
    const std::string text = slurp(manifest_), body = text.substr(text.find('\n') + 1);
    const std::string edited = std::regex_replace(body, std::regex(from), to, std::regex_constants::format_first_only);
    ASSERT_NE(edited, body) << from;
    spit(manifest_,
         "# tpo_dist checkpoint, xxh3 " + hex64(checksum_of(edited)) + " of all bytes after this line\n" + edited);
  }
  void flip_byte(const std::string& path, int64_t at) {
    std::string bytes = slurp(path);
    bytes.at(static_cast<size_t>(at)) ^= 0x10;
    spit(path, bytes);
  }

  TempFolder dir_;
  std::string folder_, manifest_, shard_;
};

TEST_F(Damage, truncated_shard) {
  const auto size = fs::file_size(shard_);
  fs::resize_file(shard_, size - 1);
  expect_refused(cat("shard_00001.h5 has ", size - 1, " bytes; the manifest says ", size));
}

TEST_F(Damage, missing_shard) {
  fs::remove(shard_);
  expect_refused("shard_00001.h5 is missing");
}

TEST_F(Damage, flipped_byte_in_any_tensor) {
  const checkpoint::Manifest m = read_checkpoint_manifest(folder_);
  for (const checkpoint::TensorEntry& t : m.tensors()) {
    for (const checkpoint::Piece& p : t.pieces()) {
      const std::string path = folder_ + "/" + m.files(p.file()).name();
      flip_byte(path, p.offset() + p.bytes() - 1);
      expect_refused(cat("of tensor ", t.name(), " have checksum"));
      flip_byte(path, p.offset() + p.bytes() - 1);
    }
  }
  EXPECT_TRUE(verify(folder_).empty());
}

TEST_F(Damage, flipped_byte_anywhere_in_the_manifest) {
  const int64_t size = static_cast<int64_t>(fs::file_size(manifest_));
  for (int64_t at = 0; at < size; at += 97) {
    flip_byte(manifest_, at);
    EXPECT_THROW(read_checkpoint_manifest(folder_), DataError) << at;
    flip_byte(manifest_, at);
  }
  flip_byte(manifest_, size - 10);
  expect_refused("is damaged or was edited");
}

TEST_F(Damage, wrong_version) {
  edit_manifest("version: 2", "version: 3 field_of_the_future: 3");
  expect_refused("has format version 3; this build reads versions 1 to 2");
}

TEST_F(Damage, garbage_manifests) {
  spit(manifest_, std::string(10000, '\xff'));
  expect_refused("is not a checkpoint manifest");
  spit(manifest_, "");
  expect_refused("is not a checkpoint manifest");
}

TEST_F(Damage, unknown_field) {
  edit_manifest("world: 2", "world: 2 colour: 3");
  expect_refused("cannot be parsed: line 4 column");
}

TEST_F(Damage, manifests_that_lie) {
  const struct {
    const char *from, *to, *part;
  } cases[] = {
      {"version: 2\n", "", "has no format version"},
      {"world: 2", "world: 0", ": world 0; at least 1"},
      {"step: 1", "step: -7", ": step -7; at least 0"},
      {"shard_00001", "shard_00000", "two shard files are named shard_00000.h5"},
      {"shard_00001.h5", "manifest.textproto", "bad shard file name or length: manifest.textproto"},
      {"name: \"epoch\"", "name: \"optim.steps.trunk\"", "two counters are named optim.steps.trunk"},
      {"name: \"bytes\"", "name: \"bytes@0\"", "tensor name bytes@0 after  is illegal"},
      {"shard_00001", "../shard_00001", "bad shard file name"},
      {"dtype: \"f32\"", "dtype: \"f64\"", "element type f64"},
      {"shape: \\[37, 129\\]", "shape: [37, 130]", "has 4773 of 4810 elements"},
      {"shape: \\[37, 129\\]", "shape: [4611686018427387904, 4611686018427387904]", "impossible extent"},
      {"shape: \\[37, 129\\]", "shape: [-37, 129]", "impossible extent -37"},
      {"shape: \\[37, 129\\]", "shape: [1, 1, 1, 1, 1, 37, 129]", "7 dims"},
      {"count: 4773", "count: 4774", "a piece of elements 0 to 4774, which is no part of (37, 129)"},
      {"count: 4773", "count: -1", "a piece of elements 0 to -1, which"},
      {"bytes: 19092", "bytes: 19091", "in 19091 bytes"},
      {"offset: [0-9]+", "offset: 99999999", "outside its file"},
      {"offset: [0-9]+", "offset: -4096", "outside its file"},
      {"offset: [0-9]+", "offset: 9223372036854775807", "outside its file"},
      {"file: 1", "file: 2", "file number 2 of 2"},
      {"name: \"bytes\"", "name: \"zzz\"", "out of order"},
      {"name: \"bytes\"", "name: \"empty\"", "out of order"},
  };
  const std::string sound = slurp(manifest_);
  for (const auto& c : cases) {
    SCOPED_TRACE(c.to);
    edit_manifest(c.from, c.to);
    expect_refused(c.part);
    spit(manifest_, sound);
  }
}

class DamagedCut : public Damage {
 protected:
  void SetUp() override {
    run_ranks(3, [&](ProcessGroup& world) { save(dir_.path(), 1, cut_state(world.rank()), world); });
    folder_ = dir_.path() + "/step_00000001";
    manifest_ = folder_ + "/manifest.textproto";
  }
};

TEST_F(DamagedCut, manifests_that_lie_about_rectangles) {
  const struct {
    const char *from, *to, *part;
  } cases[] = {
      {"cols: 8", "cols: 21", "rows 0 to 6, columns 0 to 21, which is no part of (6, 4, 5)"},
      {"cols: 8", "cols: 9223372036854775807", "which is no part of"},
      {"row: 0", "row: 1", "rows 1 to 7, columns 0 to 8, which is no part of"},
      {"col: 0", "col: -1", "columns -1 to 7, which is no part of"},
      {"rows: 6", "rows: -6", "which is no part of"},
      {"rows: 6", "rows: 2", "elements 0 to 17 of rows 0 to 2, columns 0 to 8, which is no part of"},
      {"begin: 17", "begin: 18", "elements 18 to 49 of rows 0 to 6, columns 0 to 8, which is no part of"},
      {"begin: 17", "begin: 48", "which is no part of"},
      {"begin: 17", "begin: 16", "has element (2, 0) in two pieces"},
      {"col: 8", "col: 7", "has element (0, 7) in two pieces"},
      {"begin: 17", "begin: -17", "which is no part of"},
      {"count: 17", "begin: 31 count: 17", "out of order at elements 17 to 48"},
      {"count: 31([^}]*)bytes: 124", "count: 30$1bytes: 120", "has 119 of 120 elements and not (5, 7)"},
      {"count: 17([^}]*)bytes: 68", "count: 16$1bytes: 64", "has 119 of 120 elements and not (2, 0)"},
      {"row: 0\n", "", "half a rectangle"},
      {"cols: 8\n", "", "half a rectangle"},
      {"version: 2", "version: 1", "one in version 1"},
  };
  EXPECT_TRUE(verify(folder_).empty());
  const std::string sound = slurp(manifest_);
  for (const auto& c : cases) {
    SCOPED_TRACE(cat(c.from, " to ", c.to));
    edit_manifest(c.from, c.to);
    expect_refused(c.part);
    spit(manifest_, sound);
  }
}

TEST_F(DamagedCut, a_flipped_byte_is_named_by_rectangle) {
  const checkpoint::Manifest m = read_checkpoint_manifest(folder_);
  const checkpoint::Piece& p = m.tensors(0).pieces(2);
  flip_byte(folder_ + "/" + m.files(p.file()).name(), p.offset());
  const std::vector<std::string> faults = verify(folder_);
  ASSERT_EQ(faults.size(), 1u);
  EXPECT_NE(faults[0].find("elements 0 to 72 of rows 0 to 6, columns 8 to 20 of tensor w have"), std::string::npos)
      << faults[0];
}

TEST_F(Damage, wrong_offset_is_caught_by_the_checksum) {
  edit_manifest("offset: [0-9]+", "offset: 0");
  expect_refused("is damaged", 2);
  EXPECT_NE(verify(folder_)[1].find("at 0"), std::string::npos);
}

// Every byte that the manifest speaks of is sound, but h5py would find nothing, or something else.
TEST_F(Damage, verify_opens_the_shards_as_hdf5) {
  const std::string sound = slurp(shard_);
  flip_byte(shard_, 0);
  ASSERT_EQ(verify(folder_).size(), 1u);
  EXPECT_NE(verify(folder_)[0].find("shard_00001.h5 is no HDF5 file: "), std::string::npos) << verify(folder_)[0];
  spit(shard_, sound);
  edit_manifest("dataset: \"bytes\"", "dataset: \"other\"");
  ASSERT_EQ(verify(folder_).size(), 1u);
  EXPECT_NE(verify(folder_)[0].find(" has no dataset other: "), std::string::npos) << verify(folder_)[0];
}

TEST_F(Damage, a_folder_that_was_renamed_to_another_step) {
  const std::string sound = folder_;
  folder_ = dir_.path() + "/step_00000099";
  fs::rename(sound, folder_);
  expect_refused("is of step 1; its folder's name is of another");
  folder_ = dir_.path() + "/best";
  fs::rename(dir_.path() + "/step_00000099", folder_);
  EXPECT_TRUE(verify(folder_).empty()) << "a name that speaks of no step";
}

TEST_F(Damage, version_that_is_not_the_first_field) {
  edit_manifest("version: 2\n", "");
  edit_manifest("counters \\{", "version: 7 counters {");
  expect_refused("has format version 7; this build reads versions 1 to 2");
}

TEST_F(Damage, a_manifest_that_would_be_too_long_is_not_written) {
  const checkpoint::Manifest m = read_checkpoint_manifest(folder_);
  const auto length = static_cast<int64_t>(fs::file_size(manifest_));
  EXPECT_EQ(manifest_text(m, length), slurp(manifest_));
  EXPECT_NE(message_of<ConfigError>([&] { manifest_text(m, length - 1); }).find(cat("longer than ", length - 1)),
            std::string::npos);
}

// Pruning asks every checkpoint for its time, after every save.
TEST_F(Damage, the_time_of_a_checkpoint_is_in_its_first_lines) {
  EXPECT_EQ(created_unix_ns(folder_), read_checkpoint_manifest(folder_).created_unix_ns());
  for (const char* text :
       {"", "\n", "garbage", "line\nversion: 2\nmodel: \"x\"\ncreated_unix_ns: 5\n", "line\nversion"}) {
    spit(manifest_, text);
    EXPECT_EQ(created_unix_ns(folder_), 0) << text;
  }
}

TEST_F(Damage, folder_without_manifest) {
  fs::remove(manifest_);
  TrainState s = make_state(9);
  EXPECT_NE(message_of<IoError>([&] { load_one(folder_, s); }).find(manifest_), std::string::npos);
  EXPECT_NE(message_of<IoError>([&] { load_one(dir_.path() + "/none", s); }).find("no such folder"), std::string::npos);
  EXPECT_TRUE(list_checkpoints(dir_.path()).empty());
  EXPECT_EQ(latest(dir_.path()), "");
  EXPECT_EQ(verify(folder_).size(), 1u);
}

TEST_F(Damage, verify_reports_every_damaged_piece) {
  const checkpoint::Manifest m = read_checkpoint_manifest(folder_);
  for (int i : {0, 2}) {
    const checkpoint::Piece& p = m.tensors(i).pieces_size() ? m.tensors(i).pieces(0) : m.tensors(i + 1).pieces(0);
    flip_byte(folder_ + "/" + m.files(p.file()).name(), p.offset());
  }
  EXPECT_EQ(verify(folder_).size(), 2u);
}

TEST_F(Damage, checkpoint_of_another_model) {
  TrainState s;
  s.tensors.push_back({"encoder.w", ramp({4}, 0), {4}, 0});
  s.model_fingerprint = "an encoder";
  const std::string before = contents(s);
  const std::string text = message_of<ConfigError>([&] { load_one(folder_, s); });
  EXPECT_NE(text.find("1 missing in the checkpoint (allow_missing): encoder.w"), std::string::npos) << text;
  EXPECT_NE(text.find("\"test model\" there, \"an encoder\" here"), std::string::npos) << text;
  EXPECT_EQ(contents(s), before);
}

}  // namespace
}  // namespace tpo
