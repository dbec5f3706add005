// The guard's parts without a job: what it tells of findings, what nodes tell each other, the black box, drills, and a
// supervisor over a rank that is killed.
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <barrier>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <thread>

#include "core/error.h"
#include "launcher/black_box.h"
#include "launcher/fault.h"
#include "launcher/node_exchange.h"
#include "launcher/stall_log.h"
#include "launcher/supervisor.h"
#include "launcher/usual_waits.h"

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

Finding finding(int culprit, Cause cause, uint64_t group, double waited_s, bool note = false) {
  Finding f;
  f.culprit = culprit, f.cause = cause, f.group = group, f.waited_s = waited_s, f.note = note;
  f.waiting = {0};
  f.op.hash = 1;
  f.phase = "checkpoint";
  f.text = cat("rank ", culprit, " is late");
  return f;
}

// Looks at 0.1 s apart, each with what is found then; the lines of the last one.
class Teller {
 public:
  using Lines = std::vector<std::string>;
  Lines look(const std::vector<Finding>& found) {
    l.now += 0.1;
    return log.look(found, l);
  }
  Lines twice(const std::vector<Finding>& found) {
    EXPECT_EQ(look(found), Lines{}) << "ranks may have been in motion";
    return look(found);
  }
  StallLog log;
  StallLog::Look l{100, false, false, 0.3, [](const Finding&) { return true; }};
};

TEST(StallLog, tells_once_each_minute_and_when_it_is_over) {
  Teller t;
  const std::vector<Finding> stall{finding(3, Cause::kComputes, 7, 5)};
  EXPECT_EQ(t.twice(stall), Teller::Lines{"rank 3 is late"});
  EXPECT_TRUE(t.log.alarmed());
  EXPECT_TRUE(t.log.told_in(7));
  for (int i = 0; i < 590; ++i) EXPECT_EQ(t.look(stall), Teller::Lines{});
  t.l.now += 2;
  EXPECT_EQ(t.look(stall), Teller::Lines{"rank 3 is late (told 61 s ago)"});
  EXPECT_EQ(t.look({}), Teller::Lines{}) << "one look may miss it";
  t.l.now += 0.3;
  EXPECT_EQ(t.look({}), Teller::Lines{"resolved after 66.6 s: rank 3, barrier #0 of ''"});
  EXPECT_FALSE(t.log.alarmed());
  EXPECT_EQ(t.log.verdict().size(), 2u);
}

// The rank that waits lowest, and with it the supervisor that tells, changes while a stall goes on.
TEST(StallLog, what_another_supervisor_tells_now_is_not_over) {
  Teller t;
  const std::vector<Finding> stall{finding(3, Cause::kStopped, 7, 2)};
  EXPECT_EQ(t.twice(stall).size(), 1u);
  t.l.tells = [](const Finding&) { return false; };
  for (int i = 0; i < 20; ++i) EXPECT_EQ(t.look(stall), Teller::Lines{});
  t.l.now += 1;
  EXPECT_EQ(t.look({}).size(), 1u);
  Teller other;  // and who never told says no word
  other.l.tells = t.l.tells;
  for (int i = 0; i < 5; ++i) EXPECT_EQ(other.look(stall), Teller::Lines{});
  other.l.now += 1;
  EXPECT_EQ(other.look({}), Teller::Lines{});
}

TEST(StallLog, a_late_rank_is_one_line_whatever_waits_for_it) {
  Teller t;
  EXPECT_EQ(t.twice({finding(3, Cause::kStopped, 7, 2), finding(3, Cause::kStopped, 8, 2)}).size(), 1u);
  EXPECT_EQ(t.twice({finding(3, Cause::kStopped, 9, 3)}), Teller::Lines{});
  EXPECT_EQ(t.twice({finding(3, Cause::kDead, 9, 3)}).size(), 1u) << "now it is dead";
}

TEST(StallLog, beyond_three_are_one_line_and_every_end_has_its_name) {
  Teller t;
  std::vector<Finding> many;
  for (int r = 1; r <= 5; ++r) many.push_back(finding(r, Cause::kStopped, 7, 2));
  EXPECT_EQ(t.twice(many),
            (Teller::Lines{"rank 1 is late", "rank 2 is late", "rank 3 is late", "and 2 more late: ranks 4, 5"}));
  EXPECT_EQ(t.look(many), Teller::Lines{});
  t.l.now += 1;
  const auto over = t.look({});
  ASSERT_EQ(over.size(), 5u);
  for (int r = 1; r <= 5; ++r)
    EXPECT_EQ(over[static_cast<size_t>(r - 1)], cat("resolved after 3.2 s: rank ", r, ", barrier #0 of ''"));
}

TEST(StallLog, notes_come_once_and_again_only_for_twice_as_long) {
  Teller t;
  const auto pass = [&] { t.l.now += 1, t.look({}); };
  EXPECT_EQ(t.twice({finding(3, Cause::kSlowPhase, 7, 5, true)}), Teller::Lines{"note: rank 3 is late"});
  EXPECT_FALSE(t.log.alarmed());
  t.l.now += 70;
  EXPECT_EQ(t.look({finding(3, Cause::kSlowPhase, 7, 75, true)}), Teller::Lines{}) << "a note is not repeated";
  pass();
  EXPECT_EQ(t.twice({finding(3, Cause::kSlowPhase, 7, 100, true)}), Teller::Lines{}) << "the last took 76 s";
  pass();
  EXPECT_EQ(t.twice({finding(2, Cause::kSlowPhase, 7, 160, true)}).size(), 1u);
  EXPECT_EQ(t.look({finding(2, Cause::kSlowPhase, 7, 301)}), Teller::Lines{"rank 2 is late"}) << "now it is an alarm";
  EXPECT_EQ(t.log.verdict().size(), 1u) << "notes explain no end";
}

TEST(StallLog, after_the_end_the_first_cause_at_once_and_nothing_is_over) {
  Teller t;
  t.l.post_mortem = t.l.ended = true;
  EXPECT_EQ(t.look({finding(3, Cause::kDead, 7, 0), finding(2, Cause::kComputes, 7, 0)}).size(), 1u);
  t.l.now += 5;
  EXPECT_EQ(t.look({}), Teller::Lines{});
}

TEST(UsualWaits, are_those_that_ended_untold_and_outside_of_slow_phases) {
  UsualWaits usual;
  bool told = false;
  uint64_t event = 0;
  // Rank 0 waits in group 7 for so long and is then released; in between rank 1 is seen in a slow phase or not.
  const auto wait = [&](double age_s, bool slow) {
    std::vector<RankView> views(2);
    views[1].facts.rank = 1;
    const auto look = [&] { usual.look(views, [&](uint64_t) { return told; }); };
    GroupView& g = views[0].groups.emplace_back();
    g.id = 7, g.wait.e.index = ++event, g.wait.age_s = age_s / 2;
    views[1].facts.slow_phase = slow;
    look();
    views[1].facts.slow_phase = false;
    g.wait.age_s = age_s;
    look();
    views[0].groups.clear();
    look();
    return usual.longest(7);
  };
  EXPECT_EQ(wait(2, false), 2);
  EXPECT_EQ(wait(20, true), 2) << "a checkpoint";
  EXPECT_EQ(wait(1, false), 2);
  told = true;
  EXPECT_EQ(wait(30, false), 2);
  told = false;
  EXPECT_EQ(wait(3, false), 3);
  EXPECT_EQ(usual.longest(8), 0);
}

std::vector<RankView> node(const std::string& host, int rank, double phase_s) {
  std::vector<RankView> views(1);
  views[0].facts.rank = rank, views[0].facts.world = 2, views[0].facts.phase_s = phase_s;
  std::snprintf(views[0].facts.host, sizeof views[0].facts.host, "%s", host.c_str());
  return views;
}

TEST(NodeExchange, a_suspicion_of_one_node_makes_the_others_speak) {
  const Folder folder;
  NodeExchange a, b;
  double heard = -1;
  for (NodeExchange* x : {&a, &b})
    EXPECT_TRUE(x->turn(folder.path, node(x == &a ? "a" : "b", 0, 0), false, -1).empty());
  for (double t = 0; t < 4; t += 0.15) {
    const auto others = a.turn(folder.path, node("a", 0, t), true, t);
    EXPECT_TRUE(b.turn(folder.path, node("b", 1, t), false, t).empty()) << "it has no question of its own";
    if (others.empty()) continue;
    ASSERT_EQ(others.size(), 1u);
    EXPECT_EQ(others[0].facts.rank, 1);
    if (heard < 0) heard = t;
    EXPECT_GE(others[0].facts.phase_s, t - 1.2) << "old news";
  }
  EXPECT_GE(heard, 0);
  EXPECT_LE(heard, 1.2) << "at the second turn";
  for (double t = 4; t < 9; t += 0.15) EXPECT_TRUE(a.turn(folder.path, node("a", 0, t), false, t).empty());
  EXPECT_FALSE(fs::is_empty(folder.path + "/guard"));
  // Files of a node that stands still are no news, nor are those of an earlier job.
  NodeExchange c;
  for (double t = 9; t < 14; t += 0.15) {
    EXPECT_TRUE(c.turn(folder.path, node("c", 2, t), true, t).empty());
  }
  for (NodeExchange* x : {&a, &b, &c}) x->leave();
  EXPECT_FALSE(fs::exists(folder.path + "/guard"));
}

// Two nodes that suspect at the same moment, again and again, must not stand in each other's way.
TEST(NodeExchange, nodes_that_suspect_at_once_hear_each_other_every_time) {
  const Folder folder;
  std::barrier together(2);
  const auto suspect = [&](const char* host, int rank, int& deaf) {
    NodeExchange x;
    for (int i = 0; i < 200; ++i) {
      const double t = 0.5 * i;
      together.arrive_and_wait();
      const auto others = x.turn(folder.path, node(host, rank, t), true, t);
      deaf += i >= 2 && others.size() != 1;
    }
    together.arrive_and_wait();
    x.leave();
  };
  int deaf[2] = {0, 0};
  std::thread b([&] { suspect("b", 1, deaf[1]); });
  suspect("a", 0, deaf[0]);
  b.join();
  EXPECT_EQ(deaf[0] + deaf[1], 0);
}

TEST(NodeExchange, without_a_folder_verdicts_stay_local) {
  NodeExchange a;
  for (double t = 0; t < 2; t += 0.5) EXPECT_TRUE(a.turn("/proc/none", node("a", 0, t), true, t).empty());
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

#ifndef TPO_TSAN
// Rank 0 of 1 is killed in the middle of a step: the supervisor says so, leaves a black box and tidies up.
TEST(Supervisor, tells_of_a_killed_rank_and_leaves_a_black_box) {
  const Folder folder;
  const std::string job = folder.path + "/job", said = folder.path + "/said";
  fs::create_directories(job);
  int ready[2];
  ASSERT_EQ(pipe(ready), 0);
  const pid_t rank = fork();
  if (rank == 0) {
    const auto ring = EventRing::create(job + "/ring.0", 0, 1, "n04");
    ring->run(folder.path, 4, 300);
    ring->step(41, true);
    [[maybe_unused]] const auto n = write(ready[1], "x", 1);
    for (;;) pause();
  }
  char byte = 0;
  ASSERT_EQ(read(ready[0], &byte, 1), 1);
  const pid_t supervisor = fork();
  if (supervisor == 0) {
    if (std::freopen(said.c_str(), "w", stderr) == nullptr) _exit(1);
    supervise({job, "5", getpid()});
    _exit(0);
  }
  kill(rank, SIGKILL);
  int status = 0;
  waitpid(rank, &status, 0);
  waitpid(supervisor, &status, 0);
  EXPECT_EQ(status, 0);
  const std::string text = text_of(said);
  EXPECT_NE(text.find(cat("rank 0 (node n04, step 41): it is dead: process ", rank, " is gone")), std::string::npos)
      << text;
  EXPECT_NE(text.find("black box: " + folder.path + "/blackbox_"), std::string::npos) << text;
  EXPECT_FALSE(fs::exists(job));
  close(ready[0]), close(ready[1]);
}
#endif

}  // namespace
}  // namespace tpo
