// The guard's parts without a job: the black box, drills.
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <sstream>

#include "core/error.h"
#include "launcher/black_box.h"
#include "launcher/fault.h"

namespace tpo {
namespace {

namespace fs = std::filesystem;

struct Folder {
  Folder() { fs::create_directories(path); }
  ~Folder() { fs::remove_all(path); }
  const std::string path = cat(fs::temp_directory_path().string(), "/tpo_guard_test.", getpid());
};

std::string text_of(const fs::path& path) {
  std::ifstream in(path);
  std::ostringstream text;
  text << in.rdbuf();
  return text.str();
}

TEST(BlackBox, holds_what_each_rank_did_and_all_samples_of_its_last_step) {
  const Folder folder;
  const auto ring = EventRing::create(folder.path + "/ring.0", 0, 2, "n04");
  ring->step(7, true);
  ring->phase("backward", false);
  std::vector<std::string> ids;
  for (int i = 0; i < 100; ++i) ids.push_back(cat("train-region-", i));
  ring->samples(7, ids);
  const auto reader = RingReader::open(folder.path + "/ring.0");
  std::ofstream(folder.path + "/config.textproto") << "lr: 1";
  const BoxRank rank{reader.get(), reader->view()};
  const auto write = [&] {
    return write_black_box(folder.path, "job 5", folder.path + "/config.textproto", {"it died"}, std::span(&rank, 1));
  };
  const std::string box = write();
  EXPECT_EQ(write(), box) << "another supervisor of the job adds to the same";
  EXPECT_EQ(text_of(box + "/verdict_n04.txt"), "it died\n");
  EXPECT_EQ(text_of(box + "/config.textproto"), "lr: 1");
  const std::string text = text_of(box + "/rank_0.txt");
  EXPECT_NE(text.find("step 7, backward since"), std::string::npos) << text;
  for (const std::string& id : ids)
    EXPECT_TRUE(text.find(id + ",") != std::string::npos || text.find(id + "\n") != std::string::npos) << id;
  EXPECT_THROW(write_black_box("/proc/none", "job", "", {}, {}), IoError);
}

TEST(Fault, is_parsed_strictly) {
  const FaultPlan f = parse_fault("rank=1,step=7,kind=delay,phase=forward,seconds=0.5,op=3,log=x", 2);
  EXPECT_EQ(f.rank, 1);
  EXPECT_EQ(f.step, 7);
  EXPECT_EQ(f.seconds, 0.5);
  EXPECT_EQ(f.op, 3);
  EXPECT_EQ(parse_fault("kind=none,log=x", 2).log, "x");
  for (const auto& [text, says] :
       std::vector<std::pair<const char*, const char*>>{{"rank=1,step=7,kind=delay,phase=forwrd", "forwrd"},
                                                        {"rank=1,step=7,kind=delay,seconds=abc", "abc"},
                                                        {"rank=1,step=7,kind=delay,seconds=-1", "-1"},
                                                        {"rank=1,step=7,kind=delay,seconds=nan", "nan"},
                                                        {"rank=7,step=7,kind=kill", "there are 2 ranks"},
                                                        {"step=7,kind=kill", "there are 2 ranks"},
                                                        {"rank=1,step=x,kind=kill", "'x'"},
                                                        {"rank=1,step=7x,kind=kill", "'7x'"},
                                                        {"rank=1,kind=kill", "no step"},
                                                        {"rank=1,step=7", "legal: "},
                                                        {"rank=1,step=7,kind=explode", "explode"},
                                                        {"rank=1,step=7,kind=skip,op=99999999999", "too many"},
                                                        {"rank=1,step=7,kind=kill,phase", "phase is ''"},
                                                        {"rank=1,step=7,kind=kill,when=now", "when=now"}}) {
    try {
      parse_fault(text, 2);
      ADD_FAILURE() << text << " was taken";
    } catch (const ConfigError& e) {
      EXPECT_NE(std::string(e.what()).find(says), std::string::npos) << text << ": " << e.what();
    }
  }
}

}  // namespace
}  // namespace tpo
