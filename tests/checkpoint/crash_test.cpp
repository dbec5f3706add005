// A save that is killed or fails at any point costs nothing but itself.
#include <signal.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <mutex>
#include <thread>

#include "tests/checkpoint/checkpoint_support.h"

namespace {
std::atomic<bool> cannot_exchange{false};
}  // namespace

// Stands before the C library's, so that a test can have a file system that cannot exchange two paths, as NFS cannot.
extern "C" int renameat2(int from_dir, const char* from, int to_dir, const char* to, unsigned flags) noexcept {
  if (flags == 0 || !cannot_exchange)
    return static_cast<int>(::syscall(SYS_renameat2, from_dir, from, to_dir, to, flags));
  errno = EINVAL;
  return -1;
}

namespace tpo {
namespace {

namespace fs = std::filesystem;

constexpr const char* kPoints[] = {"prepared",         "laid_out", "half_written",   "shard_written",
                                   "manifest_written", "renamed",  "latest_written", "pruned"};

// Runs f in a child process and returns its wait status.
int in_child(const std::function<void()>& f) {
  const pid_t child = ::fork();
  if (child == 0) {
    f();
    ::_exit(0);
  }
  int status = 0;
  EXPECT_EQ(::waitpid(child, &status, 0), child);
  return status;
}

SaveOptions kill_at(const std::string& point) {
  SaveOptions o;
  o.at_point = [point](std::string_view name) {
    if (name == point) ::raise(SIGKILL);
  };
  return o;
}

// The newest checkpoint is exactly that of one of the seeds, all are sound, and saving goes on.
void expect_intact(const std::string& dir, std::vector<float> seeds) {
  TrainState got = make_state(99);
  ASSERT_NE(latest(dir), "");
  load_one(latest(dir), got);
  bool known = false;
  for (float seed : seeds) known = known || contents(got) == contents(make_state(seed));
  EXPECT_TRUE(known);
  for (const std::string& folder : list_checkpoints(dir)) EXPECT_TRUE(verify(folder).empty()) << folder;
  save_ranks(2, dir, 1000, 42);
  load_one(latest(dir), got);
  EXPECT_EQ(contents(got), contents(make_state(42)));
  EXPECT_TRUE(leftovers(dir).empty());
}

TEST(Crash, kill_at_every_point_leaves_old_or_new) {
  for (int ranks : {1, 2}) {
    for (const char* point : kPoints) {
      SCOPED_TRACE(cat(point, ", ranks ", ranks));
      TempFolder dir;
      save_ranks(1, dir.path(), 10, 1);
      const int status = in_child([&] { save_ranks(ranks, dir.path(), 20, 2, kill_at(point)); });
      ASSERT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL) << "the point was not reached";
      const bool committed = fs::exists(dir.path() + "/step_00000020");
      EXPECT_EQ(committed, std::find(std::begin(kPoints), std::end(kPoints), point) >=
                               std::find(std::begin(kPoints), std::end(kPoints), std::string("renamed")));
      EXPECT_EQ(list_checkpoints(dir.path()).size(), committed ? 2u : 1u);
      expect_intact(dir.path(), {1, 2});
    }
  }
}

TEST(Crash, kill_while_replacing_the_same_step) {
  for (bool exchange : {true, false}) {
    std::vector<std::string> points(std::begin(kPoints), std::end(kPoints));
    if (!exchange) points.emplace_back("set_aside");
    cannot_exchange = !exchange;
    for (const std::string& point : points) {
      SCOPED_TRACE(cat(point, exchange ? "" : ", no exchange"));
      TempFolder dir;
      save_ranks(1, dir.path(), 10, 1);
      const int status = in_child([&] { save_ranks(2, dir.path(), 10, 2, kill_at(point)); });
      ASSERT_TRUE(WIFSIGNALED(status));
      EXPECT_EQ(list_checkpoints(dir.path()).size(), 1u);
      // What was set aside is kept or gone, but never in the way of the next save of that step.
      for (float seed : {3.0f, 4.0f}) save_ranks(1, dir.path(), point == "set_aside" && seed == 3 ? 20 : 10, seed);
      EXPECT_EQ(list_checkpoints(dir.path()).front(), dir.path() + "/step_00000010");
      expect_intact(dir.path(), {4});
    }
  }
  cannot_exchange = false;
}

TEST(Crash, error_while_replacing_without_exchange_leaves_the_old) {
  cannot_exchange = true;
  TempFolder dir;
  save_ranks(1, dir.path(), 10, 1);
  SaveOptions o;
  o.at_point = [](std::string_view name) {
    if (name == "set_aside") throw IoError("the cable is out");
  };
  EXPECT_NE(message_of<IoError>([&] { save_ranks(2, dir.path(), 10, 2, o); }).find("the cable"), std::string::npos);
  EXPECT_TRUE(leftovers(dir.path()).empty());
  expect_intact(dir.path(), {1});
  cannot_exchange = false;
}

TEST(Crash, error_after_the_commit_is_a_warning) {
  for (const char* point : {"renamed", "latest_written"}) {
    SCOPED_TRACE(point);
    TempFolder dir;
    for (int step : {5, 10}) save_ranks(1, dir.path(), step, 1);
    std::vector<std::string> warnings;  // of rank 0 alone
    SaveOptions o;
    o.keep_last = 1;
    o.warn = [&](const std::string& text) { warnings.push_back(text); };
    o.at_point = [&](std::string_view name) {
      if (name == point) throw IoError("the cable is out");
    };
    save_ranks(2, dir.path(), 20, 2, o);
    const std::string folder = dir.path() + "/step_00000020";
    EXPECT_EQ(warnings, std::vector<std::string>{"checkpoint " + folder + " is complete, but the cable is out"});
    EXPECT_EQ(latest(dir.path()), std::string(point) == "renamed" ? dir.path() + "/step_00000010" : folder);
    EXPECT_EQ(list_checkpoints(dir.path()).size(), 3u) << "nothing goes before the new one is the latest";
    expect_intact(dir.path(), {1, 2});
  }
}

// A file system mounted inside an old checkpoint, or, without privileges, a folder in it that may not be written.
TEST(Crash, an_old_checkpoint_that_cannot_be_deleted_stops_no_save) {
  TempFolder dir;
  save_ranks(1, dir.path(), 1, 1);
  const std::string held = dir.path() + "/step_00000001/held";
  fs::create_directory(held);
  const bool mounted = ::mount("tpo_test", held.c_str(), "tmpfs", 0, "size=64k") == 0;
  spit(held + "/file", "x");
  ::chmod(held.c_str(), 0500);
  if (!mounted && ::geteuid() == 0) GTEST_SKIP() << "root may delete everything here";
  for (int step : {2, 3}) {
    std::vector<std::string> warnings;
    SaveOptions o;
    o.keep_last = 1;
    o.warn = [&](const std::string& text) { warnings.push_back(text); };
    save_ranks(2, dir.path(), step, static_cast<float>(step), o);
    ASSERT_EQ(warnings.size(), 1u) << step;
    EXPECT_NE(warnings[0].find("is complete, but cannot delete " + dir.path() + "/.trash_step_00000001"),
              std::string::npos)
        << warnings[0];
    EXPECT_EQ(list_checkpoints(dir.path()), std::vector<std::string>{latest(dir.path())});
  }
  const std::string trash = dir.path() + "/.trash_step_00000001/held";
  ::chmod(trash.c_str(), 0700);
  EXPECT_EQ(mounted ? ::umount(trash.c_str()) : 0, 0);
  expect_intact(dir.path(), {3});
}

TEST(Crash, kill_at_random_moments) {
  TempFolder dir;
  save_ranks(1, dir.path(), 1, 1);
  for (int i = 0; i < 12; ++i) {
    const pid_t child = ::fork();
    if (child == 0) {
      for (int step = 2;; ++step) save_ranks(2, dir.path(), step, 1 + step % 2, {.keep_last = 2, .at_point = {}});
    }
    std::this_thread::sleep_for(std::chrono::microseconds(3000 + 7919 * i));
    ::kill(child, SIGKILL);
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    TrainState got = make_state(99);
    load_one(latest(dir.path()), got);
    EXPECT_TRUE(contents(got) == contents(make_state(1)) || contents(got) == contents(make_state(2)));
    EXPECT_LE(list_checkpoints(dir.path()).size(), 3u);
  }
  expect_intact(dir.path(), {1, 2});
}

TEST(Crash, error_on_one_rank_reaches_all) {
  TempFolder dir;
  save_ranks(1, dir.path(), 10, 1);
  std::atomic<int> reached{0};
  run_ranks(4, [&](ProcessGroup& world) {
    SaveOptions o;
    if (world.rank() == 2) {
      o.at_point = [](std::string_view name) {
        if (name == "half_written") throw IoError("the cable is out");
      };
    }
    const std::string text = message_of<IoError>([&] { save(dir.path(), 20, make_state(2), world, o); });
    EXPECT_EQ(text, "rank 2: the cable is out");
    ++reached;
  });
  EXPECT_EQ(reached, 4);
  EXPECT_EQ(list_checkpoints(dir.path()).size(), 1u);
  EXPECT_TRUE(leftovers(dir.path()).empty());
  expect_intact(dir.path(), {1});
}

// A file that may not grow stands in for a full disk where mounting is not permitted: EFBIG instead of ENOSPC.
TEST(Crash, limit_on_file_size_is_an_io_error) {
  for (rlim_t limit : {1000u, 20000u, 40000u}) {
    SCOPED_TRACE(limit);
    TempFolder dir;
    save_ranks(1, dir.path(), 10, 1);
    const int status = in_child([&] {
      ::signal(SIGXFSZ, SIG_IGN);
      const rlimit r{limit, limit};
      ::setrlimit(RLIMIT_FSIZE, &r);
      std::string text;
      try {
        save_ranks(2, dir.path(), 20, 2);
      } catch (const IoError& e) {
        text = e.what();
      } catch (const std::exception& e) {
        ::_exit(2);
      }
      const bool named = text.find(".tmp_step_00000020/shard_0000") != std::string::npos &&
                         text.find(" bytes") != std::string::npos && text.find("File too large") != std::string::npos;
      if (!named) ::write(2, text.data(), text.size());
      ::_exit(named ? 0 : 3);
    });
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
    EXPECT_EQ(list_checkpoints(dir.path()).size(), 1u);
    EXPECT_TRUE(leftovers(dir.path()).empty());
    expect_intact(dir.path(), {1});
  }
}

class FullDisk : public testing::Test {
 protected:
  void SetUp() override {
    if (::mount("tpo_test", dir_.path().c_str(), "tmpfs", 0, "size=1m") != 0) {
      GTEST_SKIP() << "mounting a small file system needs privileges";
    }
    mounted_ = true;
  }
  void TearDown() override {
    if (mounted_) {
      EXPECT_EQ(::umount(dir_.path().c_str()), 0) << "a file was left open";
    }
  }
  std::string try_save(const SaveOptions& options) {
    std::string text;
    run_ranks(2, [&](ProcessGroup& world) {
      const std::string mine =
          message_of<IoError>([&] { save(dir_.path() + "/ckpt", 20, make_state(2), world, options); });
      if (world.rank() == 0) text = mine;
    });
    return text;
  }
  void fill(int64_t leave) {
    const auto space = static_cast<int64_t>(fs::space(dir_.path()).available);
    if (space > leave)
      spit(cat(dir_.path(), "/filler", fillers_++), std::string(static_cast<size_t>(space - leave), 'x'));
  }
  void remove_fillers() {
    for (; fillers_ > 0; --fillers_) fs::remove(cat(dir_.path(), "/filler", fillers_ - 1));
  }
  TempFolder dir_;
  bool mounted_ = false;
  int fillers_ = 0;
};

TEST_F(FullDisk, known_beforehand) {
  save_ranks(1, dir_.path() + "/ckpt", 10, 1);
  fill(30000);
  const std::string text = try_save({});
  EXPECT_NE(text.find("ckpt/step_00000020: it needs "), std::string::npos) << text;
  EXPECT_EQ(list_checkpoints(dir_.path() + "/ckpt").size(), 1u);
  remove_fillers();
  expect_intact(dir_.path() + "/ckpt", {1});
}

TEST_F(FullDisk, runs_full_while_saving) {
  for (const char* point : {"prepared", "laid_out", "half_written", "shard_written"}) {
    SCOPED_TRACE(point);
    const std::string ckpt = dir_.path() + "/ckpt";
    fs::remove_all(ckpt);
    save_ranks(1, ckpt, 10, 1);
    SaveOptions o;
    std::mutex mutex;
    bool full = false;
    // Space that the save gives back meanwhile is taken too.
    o.at_point = [&](std::string_view name) {
      const std::scoped_lock lock(mutex);
      full = full || name == point;
      if (full) fill(0);
    };
    const std::string text = try_save(o);
    EXPECT_NE(text.find("No space left on device"), std::string::npos) << text;
    EXPECT_NE(text.find("/.tmp_"), std::string::npos) << text;
    remove_fillers();
    EXPECT_EQ(list_checkpoints(ckpt).size(), 1u);
    EXPECT_TRUE(leftovers(ckpt).empty());
    expect_intact(ckpt, {1});
  }
}

}  // namespace
}  // namespace tpo
