// The verbs of `tpo_dist data`, called as the binary calls them.
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <iostream>
#include <sstream>

#include "core/error.h"
#include "data/dataset.h"
#include "data/decode/image.h"
#include "launcher/commands/commands.h"
#include "launcher/exit_codes.h"

namespace tpo {
namespace {

namespace fs = std::filesystem;

class DataCommands : public ::testing::Test {
 protected:
  DataCommands() {
    std::string name = (fs::temp_directory_path() / "tpo-data-XXXXXX").string();
    if (::mkdtemp(name.data()) == nullptr) throw IoError("mkdtemp failed");
    folder = name;
  }
  ~DataCommands() override { fs::remove_all(folder); }
  // Runs the words with stdout captured.
  int run(const std::vector<std::string>& words) {
    ::testing::internal::CaptureStdout();
    try {
      const int code = run_data(words);
      out = ::testing::internal::GetCapturedStdout();
      return code;
    } catch (...) {
      out = ::testing::internal::GetCapturedStdout();
      throw;
    }
  }
  std::string error_of(const std::vector<std::string>& words) {
    try {
      run(words);
    } catch (const Error& e) {
      return e.what();
    }
    return "";
  }
  std::string path(const std::string& name) const { return folder + "/" + name; }

  std::string folder, out;
};

TEST_F(DataCommands, synth_inspect_and_verify_work_on_each_other) {
  EXPECT_EQ(run({"synth", "--out", path("w"), "--split", "train=12", "--split", "heldout=5", "--format", "png",
                 "--vocab", "0"}),
            kExitDone);
  for (const char* name : {"region-train", "conversation-train", "region-heldout", "conversation-heldout"}) {
    EXPECT_EQ(DatasetFolder(path("w/") + name).size(), std::string(name).ends_with("train") ? 12 : 5);
  }
  EXPECT_GT(fs::file_size(path("w/text.txt")), 10000u);
  EXPECT_EQ(run({"inspect", path("w/region-train"), "--count", "6", "--draw", path("s.png"), "--columns", "3",
                 "--width", "128"}),
            kExitDone);
  EXPECT_NE(out.find("sample 5 id train-region-5"), std::string::npos) << out;
  std::ifstream in(path("s.png"), std::ios::binary);
  const std::string png((std::istreambuf_iterator<char>(in)), {});
  const Image sheet = decode_png(std::as_bytes(std::span(png.data(), png.size())), "s.png");
  EXPECT_EQ(sheet.width, 3 * (128 + 4) + 4);
  EXPECT_EQ(run({"inspect", path("w/region-train"), "--id", "train-region-7"}), kExitDone);
  EXPECT_NE(out.find("sample 7 id train-region-7"), std::string::npos) << out;
  EXPECT_EQ(run({"verify", path("w/region-train"), path("w/conversation-heldout")}), kExitDone);
  EXPECT_EQ(out, "verified: 17 samples, 17 pictures decoded, 0 problem(s)\n");
}

TEST_F(DataCommands, tokenize_prints_ids_and_reads_them_back) {
  std::ofstream(path("vocab.txt")) << "[UNK]\n[CLS]\n[SEP]\nthe\ncup\n";
  const auto on = [&](const std::string& text, std::vector<std::string> flags) {
    std::istringstream lines(text);
    std::streambuf* stdin_buffer = std::cin.rdbuf(lines.rdbuf());
    flags.insert(flags.begin(), {"tokenize", "--tokenizer", path("vocab.txt")});
    const std::string error = error_of(flags);
    std::cin.clear();
    std::cin.rdbuf(stdin_buffer);
    return error.empty() ? out : error;
  };
  EXPECT_EQ(on("The cup\n\nthe [DEC][SEP]", {"--add", "[DEC]"}), "3 4\n\n3 5 2\n");
  EXPECT_EQ(on("[SEP]", {"--plain"}), "0 0 0\n");
  EXPECT_EQ(on("\"the\\ncup\"", {"--json"}), "3 4\n");
  EXPECT_EQ(on("3 4 7", {"--decode"}), "the cup<temp>\n");
  EXPECT_EQ(on("3 4\n5", {"--decode", "--json", "--add", "a\n\"b"}), "\"the cup\"\n\"a\\u000a\\\"b\"\n");
  EXPECT_NE(on("3 4\n3 x", {"--decode"}).find("line 2: '3 x' is not a list of ids"), std::string::npos);
  EXPECT_NE(on("\n\n99", {"--decode"}).find("line 3: id 99 is outside the vocabulary"), std::string::npos);
  EXPECT_NE(on("the", {"--json"}).find("line 1: not JSON"), std::string::npos);
  EXPECT_NE(on("", {"--about"}).find("tokens 5\nbegin mark 1\nend mark 2\nfingerprint "), std::string::npos);
}

TEST_F(DataCommands, verify_names_a_flipped_byte_and_says_fix_your_data) {
  run({"synth", "--out", path("w"), "--split", "train=3", "--vocab", "0"});
  const std::string shard = path("w/region-train/shard-00000.h5");
  std::fstream file(shard, std::ios::in | std::ios::out | std::ios::binary);
  file.seekg(static_cast<std::streamoff>(fs::file_size(shard)) / 2);
  const char byte = static_cast<char>(file.get() ^ 1);
  file.seekp(static_cast<std::streamoff>(fs::file_size(shard)) / 2);
  file.put(byte);
  file.close();
  EXPECT_EQ(run({"verify", path("w/region-train")}), kExitFixData);
  EXPECT_NE(out.find("shard-00000.h5"), std::string::npos) << out;
  EXPECT_NE(out.find("DAMAGED: 3 samples"), std::string::npos) << out;
}

TEST_F(DataCommands, import_reports_what_it_wrote) {
  std::ofstream(path("talk.jsonl"))
      << R"({"id": "a", "turns": [{"role": "user", "text": "?"}, {"role": "assistant", "text": "!"}]})"
      << "\n";
  EXPECT_EQ(run({"import", "jsonl", path("talk.jsonl"), "--task", "conversation", "--out", path("talk")}), kExitDone);
  EXPECT_NE(out.find("records 1, samples written 1, records skipped 0"), std::string::npos) << out;
  EXPECT_EQ(DatasetFolder(path("talk")).task(), "conversation");
}

TEST_F(DataCommands, mistakes_are_named_with_what_is_legal) {
  EXPECT_NE(error_of({}).find("legal are synth, import"), std::string::npos);
  EXPECT_NE(error_of({"inspct"}).find("did you mean inspect?"), std::string::npos);
  EXPECT_NE(error_of({"import", "voc", "x.json", "--out", path("o")}).find("unknown format voc; legal are llava"),
            std::string::npos);
  EXPECT_NE(error_of({"import", "jsonl", "x.json", "--out", path("o")}).find("--task is required"), std::string::npos);
  EXPECT_NE(error_of({"import", "llava", path("none.json"), "--out", path("o")}).find("no such file"),
            std::string::npos);
  EXPECT_NE(error_of({"synth", "--out", path("o"), "--split", "train"}).find("must be name=count"), std::string::npos);
  EXPECT_NE(error_of({"synth", "--out", path("o"), "--size", "8"}).find("picture_px is 8"), std::string::npos);
  EXPECT_NE(error_of({"inspect", path("none")}).find("none"), std::string::npos);
  EXPECT_FALSE(fs::exists(path("o")));
  for (const char* verb : {"synth", "import", "tokenizer", "tokenize", "index", "inspect", "verify"}) {
    EXPECT_EQ(run({verb, "--help"}), kExitDone);
    EXPECT_NE(out.find("Example:\n  tpo_dist data"), std::string::npos) << out;
  }
}

}  // namespace
}  // namespace tpo
