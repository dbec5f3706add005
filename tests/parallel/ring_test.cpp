// The event ring: what is written is read back by another process, also one that was killed, and a record that is being
// written is never taken for a whole one.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <map>
#include <thread>

#include "core/error.h"
#include "parallel/program/rank_view.h"

namespace tpo {
namespace {

class Ring : public ::testing::Test {
 protected:
  Ring() : path_(cat(std::filesystem::temp_directory_path().string(), "/tpo_ring_test.", getpid())) {}
  ~Ring() override { std::filesystem::remove(path_); }
  std::unique_ptr<EventRing> make(int rank = 3) { return EventRing::create(path_, rank, 8, "n04"); }

  CommRequest request(int slot, uint64_t seq, CommOp op = CommOp::kAllReduce) {
    CommRequest r;
    r.op = op, r.dtype = DType::kF32, r.count = 1000 + static_cast<int64_t>(seq);
    r.seq = seq, r.what = cat("bucket ", seq), r.group = "world.data", r.watched = slot;
    r.hash = operation_hash(r.group, r.op, r.dtype, r.count, r.what);
    return r;
  }
  const std::vector<int> ranks_{1, 3, 5, 7};
  std::string path_;
};

TEST_F(Ring, says_what_is_pending_and_what_is_waited_for) {
  const auto ring = make();
  const int slot = ring->add_group("world.data", 1, ranks_);
  ASSERT_EQ(slot, 0);
  ring->step(812, true);
  ring->phase("backward", false);
  for (uint64_t seq = 0; seq < 3; ++seq) ring->issued(request(slot, seq));
  ring->begun(request(slot, 0));
  ring->done(request(slot, 0), false);
  ring->wait(request(slot, 2), true);
  ring->reading(0, "region-train", 17, true);
  ring->loader(true);
  ring->samples(812, std::vector<std::string>{"a", "b"});
  const auto reader = RingReader::open(path_);
  ASSERT_TRUE(reader);
  const RankView v = reader->view();
  EXPECT_EQ(v.facts.rank, 3);
  EXPECT_EQ(v.facts.step, 812);
  EXPECT_STREQ(v.facts.host, "n04");
  EXPECT_STREQ(v.facts.phase, "backward");
  EXPECT_EQ(v.facts.pid, getpid());
  EXPECT_GE(v.facts.loader_s, 0);
  EXPECT_STREQ(v.facts.reading.e.text, "region-train");
  EXPECT_EQ(v.facts.reading.e.count, 17);
  ASSERT_EQ(v.groups.size(), 1u);
  const GroupView& g = v.groups[0];
  EXPECT_EQ(g.members(), ranks_);
  EXPECT_EQ(g.issued, 3u);
  EXPECT_EQ(g.completed, 1u);
  EXPECT_EQ(text_of_op(g.oldest.e, true), "all_reduce #1 of 'bucket 1' (1001 f32)");
  EXPECT_EQ(g.wait.e.seq, 2u);
  EXPECT_EQ(reader->events().size(), 9u);
  EXPECT_STREQ(reader->samples().at(0).text, "a, b");
  ring->wait(request(slot, 2), false);
  EXPECT_FALSE(reader->view().groups[0].waiting());
  // The copy for other nodes says the same; a cut one says nothing.
  const std::string bytes = pack_views({v, v});
  ASSERT_EQ(parse_views(bytes).size(), 2u);
  EXPECT_EQ(parse_views(bytes)[1].groups[0].oldest.e.hash, g.oldest.e.hash);
  EXPECT_TRUE(parse_views(bytes.substr(0, bytes.size() - 1)).empty());
}

TEST_F(Ring, a_full_table_keeps_the_oldest_operations_and_the_last_events) {
  const auto ring = make();
  const int slot = ring->add_group("g", 1, ranks_);
  for (uint64_t seq = 0; seq < 3000; ++seq) ring->issued(request(slot, seq));
  const auto reader = RingReader::open(path_);
  const GroupView g = reader->view().groups[0];
  EXPECT_EQ(g.oldest.e.seq, 0u);
  EXPECT_STREQ(g.oldest.e.text, "bucket 0");
  const auto events = reader->events();
  ASSERT_EQ(events.size(), kRingEvents);
  EXPECT_EQ(events.front().seq, 3000 - kRingEvents);
  EXPECT_EQ(events.back().seq, 2999u);
}

// Steps of two groups, more than the history holds, and the last step without one operation.
TEST_F(Ring, says_how_well_the_oldest_operation_fits_what_came_before) {
  const auto ring = make();
  const int a = ring->add_group("a", 1, ranks_), b = ring->add_group("b", 1, ranks_);
  uint64_t next[2] = {0, 0};
  const auto issue = [&](int slot, int64_t bucket, bool over) {
    CommRequest r = request(slot, next[slot == b ? 1 : 0]++);
    r.count = 100 * bucket;
    r.hash = operation_hash("g", r.op, r.dtype, r.count, cat("bucket ", bucket));
    ring->issued(r);
    if (over) ring->done(r, false);
  };
  const auto reader = RingReader::open(path_);
  for (size_t step = 0; step < kRingHistory / 4 + 9; ++step) {
    for (const int64_t bucket : {3, 4, 5}) issue(a, bucket, true);
    for (const int64_t bucket : {7, 8}) issue(b, bucket, true);
  }
  issue(a, 3, true);
  issue(a, 5, false);
  EXPECT_EQ(reader->view().groups[0].fit.known, 0) << "it is as young as this";
  ring->end(RankEnd::kError, 5, "x");  // a failed rank is looked at at once
  const Fit fit = reader->view().groups[0].fit;
  EXPECT_EQ(fit.known, 1);
  EXPECT_EQ(fit.follows, 0) << "no bucket of this size ever had the other so shortly before it";
  ring->done(request(a, next[0] - 1), false);
  issue(b, 7, false);
  EXPECT_EQ(reader->view().groups[1].fit.follows, 1) << "nor does what came before this one";
}

TEST_F(Ring, keeps_whole_sample_ids_of_the_last_steps_and_says_what_is_lost) {
  const auto ring = make();
  const auto reader = RingReader::open(path_);
  const auto ids_of = [](int64_t step, int microbatch, int n) {
    std::vector<std::string> ids;
    for (int i = 0; i < n; ++i)
      ids.push_back(cat("train-region-", step, "-", microbatch, "-", std::string(static_cast<size_t>(i % 9), 'x'), i));
    return ids;
  };
  for (int64_t step = 1; step <= 3; ++step)
    for (int m = 0; m < 4; ++m) ring->samples(step, ids_of(step, m, 16));
  std::map<int64_t, std::string> all;
  for (const SampleList& list : reader->samples()) all[list.step] += cat(list.text, ", ");
  for (int64_t step = 1; step <= 3; ++step) {
    std::string want;
    for (int m = 0; m < 4; ++m)
      for (const std::string& id : ids_of(step, m, 16)) want += id + ", ";
    EXPECT_EQ(all[step], want);
  }
  for (int m = 0; m < 200; ++m) ring->samples(4, ids_of(4, m, 16));  // more than there is room for
  const auto lists = reader->samples();
  ASSERT_EQ(lists.size(), kRingSamples);
  EXPECT_GT(lists.front().part, 0);
  EXPECT_EQ(lists.back().part - lists.front().part + 1, static_cast<int64_t>(kRingSamples));
  ring->samples(5, std::vector<std::string>{std::string(500, 'y'), "z"});
  EXPECT_EQ(reader->samples()[kRingSamples - 2].text, std::string(220, 'y') + "...");
  EXPECT_STREQ(reader->samples().back().text, "z");
}

TEST_F(Ring, messages_and_failed_operations) {
  const auto ring = make();
  const int slot = ring->add_group("pipe", 1, ranks_);
  auto a = request(slot, 0, CommOp::kSend), b = request(slot, 0, CommOp::kRecv);
  a.peer = 0, b.peer = 2, b.tag = 9;
  ring->issued(a);
  ring->issued(b);
  ring->done(a, false);
  const auto reader = RingReader::open(path_);
  GroupView g = reader->view().groups[0];
  ASSERT_EQ(g.message_count, 1);
  EXPECT_EQ(g.messages[0].e.tag, 9);
  ring->issued(request(slot, 0));
  ring->done(request(slot, 0), true);
  EXPECT_EQ(reader->view().groups[0].completed, 0u) << "a failed operation is what the rank is in";
}

TEST_F(Ring, groups_of_equal_name_and_ranks_are_told_apart_and_slots_come_back) {
  const auto ring = make();
  const int first = ring->add_group("g", 1, ranks_), second = ring->add_group("g", 1, ranks_);
  const auto reader = RingReader::open(path_);
  EXPECT_NE(reader->view().groups[0].id, reader->view().groups[1].id);
  ring->drop_group(first);
  ring->drop_group(second);
  for (int i = 0; i < kRingGroups; ++i) EXPECT_EQ(ring->add_group(cat("n", i), 1, ranks_), i);
  EXPECT_EQ(ring->add_group("one too many", 1, ranks_), -1);
}

TEST_F(Ring, ranks_as_runs) {
  const auto turn = [](std::vector<int> r) { return ranks_of(runs_of(r)); };
  std::vector<int> all, ragged;
  for (int i = 0; i < 1024; ++i) all.push_back(i);
  for (int i = 0; i < 60; ++i) ragged.push_back(i * i);
  for (const auto& r : {std::vector<int>{5}, {0, 1, 2, 8, 9, 10}, {0, 4, 8, 12}, {3, 2, 7}, all}) EXPECT_EQ(turn(r), r);
  EXPECT_EQ(runs_of(all).size(), 1u);
  EXPECT_TRUE(turn(ragged).empty());
}

// rank 0's engine may complete an operation whose group the program has let go: only then the slot is free.
TEST_F(Ring, a_slot_is_free_when_nothing_of_its_group_is_in_flight) {
  const auto ring = make();
  const auto reader = RingReader::open(path_);
  for (const CommOp op : {CommOp::kAllReduce, CommOp::kSend}) {
    const int slot = ring->add_group("old", 1, ranks_);
    ring->issued(request(slot, 0, op));
    ring->drop_group(slot);
    const int next = ring->add_group("new", 1, ranks_);
    EXPECT_NE(next, slot) << "in flight";
    ring->done(request(slot, 0, op), false);
    for (const GroupView& g : reader->view().groups) {
      EXPECT_STREQ(g.name, "new");
      EXPECT_EQ(g.completed, 0u);
    }
    const int third = ring->add_group("third", 1, ranks_);
    EXPECT_EQ(third, slot) << "over";
    ring->drop_group(next), ring->drop_group(third);
  }
  // One that failed stays, let go or not.
  const int slot = ring->add_group("failed", 1, ranks_);
  ring->issued(request(slot, 0));
  ring->drop_group(slot);
  ring->done(request(slot, 0), true);
  ASSERT_EQ(reader->view().groups.size(), 1u);
  EXPECT_STREQ(reader->view().groups[0].name, "failed");
}

// Four threads fill a small part of the ring again and again while a reader looks: whatever it accepts is whole.
TEST_F(Ring, no_torn_record_is_accepted) {
  const auto ring = make();
  const int slot = ring->add_group("g", 1, ranks_);
  std::atomic<bool> stop{false};
  std::vector<std::thread> writers;
  for (int t = 0; t < 4; ++t) {
    writers.emplace_back([&, t] {
      for (uint64_t i = 0; !stop; ++i) {
        CommRequest r = request(slot, i * 4 + static_cast<uint64_t>(t));
        r.count = static_cast<int64_t>(r.seq) * 3;
        r.what = cat("tensor ", r.seq);
        ring->begun(r);
      }
    });
  }
  const auto reader = RingReader::open(path_);
  int64_t seen = 0;
  while (seen < 200000) {
    for (const Event& e : reader->events()) {
      ++seen;
      ASSERT_EQ(e.count, static_cast<int64_t>(e.seq) * 3);
      ASSERT_EQ(std::string(e.text), cat("tensor ", e.seq));
    }
  }
  stop = true;
  for (auto& w : writers) w.join();
}

TEST_F(Ring, a_half_written_record_is_not_read) {
  EventRecord record{};
  Event e;
  EXPECT_FALSE(record.load(&e)) << "empty";
  e.index = 7, e.count = 5;
  record.store(&e);
  EXPECT_TRUE(record.load(&e));
  for (auto& word : record.words) {
    word ^= 1;
    EXPECT_FALSE(record.load(&e));
    word ^= 1;
  }
}

#ifndef TPO_TSAN
TEST_F(Ring, outlives_a_killed_process) {
  const pid_t pid = fork();
  if (pid == 0) {
    const auto ring = make(5);
    const int slot = ring->add_group("world", 1, ranks_);
    ring->step(41, true);
    ring->issued(request(slot, 0));
    kill(getpid(), SIGKILL);
  }
  int status = 0;
  waitpid(pid, &status, 0);
  ASSERT_TRUE(WIFSIGNALED(status));
  const auto reader = RingReader::open(path_);
  ASSERT_TRUE(reader);
  const RankView v = reader->view();
  EXPECT_EQ(v.facts.step, 41);
  EXPECT_EQ(v.facts.pid, pid);
  EXPECT_EQ(v.groups.at(0).issued, 1u);
  EXPECT_EQ(v.facts.end, RankEnd::kRunning);
  EXPECT_EQ(process_state(pid).state, 0);
  EXPECT_NE(process_state(getpid()).start_ticks, 0);
}
#endif

TEST_F(Ring, a_file_of_another_kind_is_refused) {
  EXPECT_EQ(RingReader::open(path_), nullptr);
  { const auto ring = make(); }
  std::filesystem::resize_file(path_, sizeof(RingLayout) - 1);
  EXPECT_EQ(RingReader::open(path_), nullptr);
  EXPECT_THROW(EventRing::create("/nonexistent/ring", 0, 1, "x"), IoError);
}

}  // namespace
}  // namespace tpo
