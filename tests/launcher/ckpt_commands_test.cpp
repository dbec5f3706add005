// The verbs of `tpo_dist ckpt`, called as the binary calls them, and what a run demands of the checkpoint it continues.
#include <gtest/gtest.h>

#include <filesystem>

#include "checkpoint/file_io.h"
#include "checkpoint/manifest.h"
#include "launcher/commands/commands.h"
#include "launcher/exit_codes.h"
#include "launcher/trainer.h"
#include "tests/launcher/tiny_run.h"

namespace tpo {
namespace {

namespace fs = std::filesystem;

class CkptCommands : public ::testing::Test {
 protected:
  CkptCommands() : run_(TinyRun::get().folder() + "/ckpt_run"), dir_(run_ + "/checkpoints") { fs::remove_all(run_); }
  void save_step(int64_t step, int32_t value) {
    const Tensor w = Tensor::from(std::vector<int32_t>{1234567890, value}, {2});
    const auto single = make_single();
    save(dir_, step, TrainState{{{"w", w, w.shape(), 0}}, {}, "", ""}, *single);
  }
  std::string folder(int64_t step) const { return cat(dir_, "/step_0000000", step); }
  int run(const std::vector<std::string>& words) {
    ::testing::internal::CaptureStdout();
    int code = -1;
    try {
      code = run_ckpt(words, *make_single());
    } catch (const Error& e) {
      code = exit_code_of(e);
    } catch (const std::exception& e) {
      ADD_FAILURE() << words[0] << ": " << e.what();
    }
    out_ = ::testing::internal::GetCapturedStdout();
    return code;
  }
  bool has(const std::string& text) const { return out_.find(text) != std::string::npos; }

  const std::string run_, dir_;
  std::string out_;
};

TEST_F(CkptCommands, diff_tells_equal_from_different_from_wrong) {
  save_step(1, 5), save_step(2, 5), save_step(3, 6);
  EXPECT_EQ(run({"diff", folder(1), folder(2)}), kExitDone);
  EXPECT_TRUE(has("equal: 1 tensors have the same bits")) << out_;
  EXPECT_EQ(run({"diff", folder(1), run_}), kExitDifferent);
  EXPECT_TRUE(has("w i32(2): 1 of 2 elements differ, the first at (1): 5 and 6; largest difference 1")) << out_;
  fs::remove(folder(2) + "/shard_00000.h5");
  EXPECT_EQ(run({"diff", folder(1), folder(2)}), kExitFixData);
  // A link that leads to itself is a path like any other that does not exist.
  const std::string loop = run_ + "/loop";
  fs::create_symlink(loop, loop);
  EXPECT_EQ(run({"diff", folder(1), loop}), kExitFixData);
  EXPECT_EQ(run({"verify", loop}), kExitFixData);
  EXPECT_EQ(run({"ls", loop}), kExitFixData);
}

TEST_F(CkptCommands, ls_and_verify_go_on_after_damage) {
  for (int64_t step : {1, 2, 3}) save_step(step, 5);
  EXPECT_EQ(run({"verify", run_}), kExitDone);
  EXPECT_TRUE(has(folder(3) + ": sound")) << out_;
  EXPECT_EQ(run({"ls", run_}), kExitDone);
  EXPECT_TRUE(has(folder(3) + "  (latest)  step 3  ")) << out_;
  write_file(folder(2) + "/manifest.textproto", "garbage");
  EXPECT_EQ(run({"ls", dir_}), kExitFixData);
  EXPECT_TRUE(has(folder(1) + "  step 1") && has(folder(2) + "  damaged: ") && has("step 3")) << out_;
  EXPECT_EQ(run({"verify", folder(2)}), kExitFixData);
  EXPECT_TRUE(has(folder(2) + ": 1 fault\n")) << out_;
}

// A step count that is not there would start Adam's bias correction anew and say nothing.
TEST_F(CkptCommands, a_run_continues_only_with_every_counter) {
  const auto c = TinyRun::get().config();
  const TrainingData data = make_training_data(c);
  const auto world = make_single();
  Trainer t(c, data, *world);
  t.step();
  const std::string saved = t.save();
  const checkpoint::Manifest sound = read_checkpoint_manifest(saved);
  const auto resume = [&](const checkpoint::Manifest& m) -> std::string {
    write_file(saved + "/manifest.textproto", manifest_text(m));
    try {
      t.resume(saved);
      return "";
    } catch (const Error& e) {
      return e.what();
    }
  };
  EXPECT_EQ(resume(sound), "");
  for (int i = 0; i < sound.counters_size(); ++i) {
    checkpoint::Manifest m = sound;
    m.mutable_counters()->DeleteSubrange(i, 1);
    const std::string text = resume(m);
    EXPECT_NE(text.find("counter:" + sound.counters(i).name()), std::string::npos) << text;
    if (sound.counters(i).name() != "step") continue;
    m = sound;
    m.mutable_counters(i)->set_value(7);
    EXPECT_NE(resume(m).find("its counter step is 7, but it is the checkpoint of step 1"), std::string::npos);
  }
}

}  // namespace
}  // namespace tpo
