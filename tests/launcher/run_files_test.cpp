#include "launcher/run_files.h"

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "core/error.h"
#include "launcher/peak.h"
#include "launcher/report.h"

namespace tpo {
namespace {

std::string scratch(const std::string& name) {
  const auto path = std::filesystem::temp_directory_path() / ("tpo_launcher_" + name);
  std::filesystem::remove_all(path);
  std::filesystem::create_directories(path);
  return path.string();
}

std::string slurp(const std::string& path) {
  std::ifstream in(path);
  std::ostringstream out;
  out << in.rdbuf();
  return out.str();
}

TEST(run_files, json_escapes_and_reads_back) {
  const std::string line =
      JsonLine().text("name", "a \"b\"\\\n").integer("step", 12).number("loss", 0.5).number("bad", NAN).str();
  EXPECT_EQ(line, "{\"name\":\"a \\\"b\\\"\\\\\\u000a\",\"step\":12,\"loss\":0.5,\"bad\":null}");
  double v = 0;
  EXPECT_TRUE(json_number(line, "step", v));
  EXPECT_EQ(v, 12);
  EXPECT_FALSE(json_number(line, "bad", v));
  EXPECT_FALSE(json_number(line, "absent", v));
  EXPECT_EQ(json_text(line, "name"), "a \"b\"\\\n");
}

TEST(run_files, a_continued_log_drops_later_steps_and_a_cut_line) {
  const std::string folder = scratch("log");
  {
    RunLog log(folder, 0);
    for (int s = 1; s <= 4; ++s) log.write(JsonLine().text("kind", "train").integer("step", s));
  }
  std::ofstream(folder + "/log.jsonl", std::ios::app) << "{\"kind\":\"train\",\"step\":2";  // killed while writing
  {
    RunLog log(folder, 3);
    log.write(JsonLine().text("kind", "train").integer("step", 4).number("lm", 1));
  }
  EXPECT_EQ(slurp(folder + "/log.jsonl"),
            "{\"kind\":\"train\",\"step\":1}\n{\"kind\":\"train\",\"step\":2}\n{\"kind\":\"train\",\"step\":3}\n"
            "{\"kind\":\"train\",\"step\":4,\"lm\":1}\n");
}

TEST(run_files, a_refused_write_leaves_the_old_file) {
  const std::string folder = scratch("write");
  write_text(folder + "/f", "old");
  std::filesystem::create_directory(folder + "/f.tmp");  // the temporary name cannot be created
  EXPECT_THROW(write_text(folder + "/f", "new"), IoError);
  EXPECT_EQ(slurp(folder + "/f"), "old");
}

TEST(report, shows_curves_table_and_pictures_and_needs_a_log) {
  const std::string folder = scratch("report");
  EXPECT_THROW(write_report(folder), DataError);
  {
    RunLog log(folder, 0);
    for (int s = 1; s <= 3; ++s)
      log.write(JsonLine()
                    .text("kind", "train")
                    .integer("step", s)
                    .number("lm", 4.0 / s)
                    .number("grad_norm", 1)
                    .number("tokens_per_s", 9));
    log.write(JsonLine().text("kind", "eval").integer("step", 3).text("dataset", "held<out").number("acc50", 0.625));
  }
  std::filesystem::create_directory(folder + "/pictures");
  write_text(folder + "/pictures/a.png", "x");
  const std::string page = slurp(write_report(folder));
  for (const char* part : {"<polyline", "held&lt;out", "0.625", "pictures/a.png", "Loss"})
    EXPECT_NE(page.find(part), std::string::npos) << part;
}

TEST(peak, is_a_plausible_speed) {
  const double gflops = measure_peak_gflops();
  EXPECT_GT(gflops, 1);
  EXPECT_LT(gflops, 2000);
}

}  // namespace
}  // namespace tpo
