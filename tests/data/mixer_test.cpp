#include "data/mixer.h"

#include <gtest/gtest.h>

#include <chrono>
#include <map>
#include <set>

#include "core/error.h"
#include "data/shuffle.h"

namespace tpo {
namespace {

std::vector<LengthEntry> lengths(int64_t n, int32_t seed) {
  std::vector<LengthEntry> out;
  for (int64_t i = 0; i < n; ++i) {
    const auto w = philox(RngKey(seed), i);
    out.push_back({static_cast<int32_t>(10 + w[0] % 90), static_cast<int32_t>(1 + w[1] % 9), 1,
                   static_cast<int32_t>(w[2] % 3), 0});
  }
  return out;
}

Mixer small_mixer(uint64_t seed = 7, int64_t per_step = 4) {
  return Mixer(seed, {{"a", 3, lengths(17, 1), 2}, {"b", 1, lengths(5, 2), 3}, {"c", 2, lengths(1, 3), 1}}, per_step);
}

TEST(Permutation, is_a_bijection_for_every_small_size_and_for_large_ones) {
  for (int64_t n = 1; n <= 2000; ++n) {
    const Permutation p(RngKey(n), n);
    std::vector<char> hit(static_cast<size_t>(n));
    for (int64_t i = 0; i < n; ++i) {
      const int64_t x = p(i);
      ASSERT_TRUE(x >= 0 && x < n && !hit[static_cast<size_t>(x)]) << n << " " << i;
      hit[static_cast<size_t>(x)] = 1;
    }
  }
  const int64_t n = (1 << 20) + 7;
  const Permutation p(RngKey(3), n);
  std::vector<char> hit(n);
  for (int64_t i = 0; i < n; ++i) hit[static_cast<size_t>(p(i))] = 1;
  EXPECT_EQ(std::count(hit.begin(), hit.end(), 1), n);
  const Permutation huge(RngKey(3), int64_t{1} << 61);
  std::set<int64_t> seen;
  for (int64_t i = 0; i < 1000; ++i) seen.insert(huge(i));
  EXPECT_EQ(seen.size(), 1000u);
  EXPECT_THROW(Permutation(RngKey(1), 0), ConfigError);
}

TEST(Permutation, every_order_of_three_is_about_equally_likely) {
  std::map<std::array<int64_t, 3>, int> count;
  for (uint64_t k = 0; k < 6000; ++k) {
    const Permutation p(RngKey(k), 3);
    ++count[{p(0), p(1), p(2)}];
  }
  EXPECT_EQ(count.size(), 6u);
  for (const auto& [order, n] : count) EXPECT_NEAR(n, 1000, 150);  // five standard deviations of a fair draw are 144
}

TEST(Mixer, a_plan_is_a_function_of_seed_and_step) {
  const Mixer a = small_mixer(), b = small_mixer(), other = small_mixer(8);
  bool differs = false;
  for (int64_t s : {0, 5, 1000000, 3}) {
    EXPECT_EQ(a.plan(s).slots, b.plan(s).slots);
    EXPECT_EQ(a.plan(s).microbatches, b.plan(s).microbatches);
    differs |= a.plan(s).slots != other.plan(s).slots;
  }
  EXPECT_TRUE(differs);
  EXPECT_EQ(a.fingerprint(), b.fingerprint());
  EXPECT_NE(a.fingerprint(), other.fingerprint());
}

TEST(Mixer, each_cycle_holds_every_dataset_by_its_weight) {
  const Mixer m = small_mixer();
  std::vector<int64_t> seen(3);
  for (int64_t i = 0; i < 600; ++i) {
    const Mixer::Draw d = m.draw(i);
    EXPECT_EQ(d.earlier, seen[static_cast<size_t>(d.dataset)]++);  // the closed form equals counting
    if (i % 6 == 5) {
      EXPECT_EQ(seen, (std::vector<int64_t>{(i + 1) / 2, (i + 1) / 6, (i + 1) / 3}));
    }
  }
}

TEST(Mixer, a_dataset_takes_part_in_its_steps_only_and_goes_on_where_it_stood) {
  // a: steps 0 to 9; b: from step 4; c: 6 to 7. Three microbatches a step, so that sections cut cycles.
  const Mixer m(
      7, {{"a", 3, lengths(17, 1), 2, 0, 10}, {"b", 1, lengths(5, 2), 3, 4, 0}, {"c", 2, lengths(1, 3), 1, 6, 8}}, 3);
  std::vector<int64_t> seen(3);
  std::map<int64_t, std::vector<int64_t>> of_step;
  for (int64_t i = 0; i < 300; ++i) {
    const Mixer::Draw d = m.draw(i);
    const int64_t step = i / 3;
    EXPECT_EQ(d.earlier, seen[static_cast<size_t>(d.dataset)]++) << i;
    EXPECT_TRUE(d.dataset != 0 || step < 10) << step;
    EXPECT_TRUE(d.dataset != 1 || step >= 4) << step;
    EXPECT_TRUE(d.dataset != 2 || step == 6 || step == 7) << step;
    EXPECT_EQ(m.plan(step).microbatches[static_cast<size_t>(i % 3)].dataset, d.dataset);
  }
  // Steps 6 and 7 are one cycle of a, a, a, b, c, c; steps 4 and 5, 8 and 9 one and a half of a, a, a, b.
  EXPECT_EQ(seen[2], 2);
  EXPECT_GE(seen[0], 12 + 4 + 3 + 4);
  const auto refuses = [](std::vector<MixtureDataset> sets, const std::string& part) {
    try {
      const Mixer bad(7, std::move(sets), 2);
      ADD_FAILURE() << part;
    } catch (const ConfigError& e) {
      EXPECT_NE(std::string(e.what()).find(part), std::string::npos) << e.what();
    }
  };
  refuses({{"a", 1, lengths(4, 1), 1, 3, 0}}, "no dataset takes part from step 0 on");
  refuses({{"a", 1, lengths(4, 1), 1, 0, 5}, {"b", 1, lengths(4, 1), 1, 6, 0}}, "no dataset takes part from step 5 on");
  refuses({{"a", 1, lengths(4, 1), 1, 0, 5}}, "no dataset takes part from step 5 on");
  refuses({{"a", 1, lengths(4, 1), 1, 5, 5}}, "that is no step");
}

TEST(Mixer, every_sample_comes_once_in_every_epoch_and_in_another_order) {
  const Mixer m = small_mixer();
  std::map<int, std::map<int64_t, std::vector<int64_t>>> epochs;  // dataset, epoch -> samples by draw
  std::map<int, std::map<int64_t, int64_t>> by_draw;
  for (int64_t s = 0; s < 90; ++s) {
    for (const Slot& slot : m.plan(s).slots) EXPECT_TRUE(by_draw[slot.dataset].emplace(slot.draw, slot.sample).second);
  }
  const std::vector<int64_t> size{17, 5, 1};
  for (auto& [d, draws] : by_draw) {
    int64_t want = 0;
    for (auto& [draw, sample] : draws) {
      ASSERT_EQ(draw, want++);  // no draw is left out
      epochs[d][draw / size[static_cast<size_t>(d)]].push_back(sample);
    }
    epochs[d].erase(std::prev(epochs[d].end()));  // the last epoch may be open
    for (auto& [e, samples] : epochs[d]) {
      EXPECT_EQ(std::set<int64_t>(samples.begin(), samples.end()).size(),
                static_cast<size_t>(size[static_cast<size_t>(d)]));
      EXPECT_EQ(samples.size(), static_cast<size_t>(size[static_cast<size_t>(d)]));
    }
  }
  EXPECT_NE(epochs[0][0], epochs[0][1]);
}

TEST(Mixer, microbatches_hold_one_dataset_and_counts_add_up) {
  const Mixer m = small_mixer();
  for (int64_t s = 0; s < 20; ++s) {
    const StepPlan p = m.plan(s);
    ASSERT_EQ(p.microbatches.size(), 4u);
    Counts total;
    std::vector<Counts> per(3);
    int64_t next = 0;
    for (const MicrobatchPlan& mb : p.microbatches) {
      EXPECT_EQ(mb.first_slot, next);
      next += mb.slots;
      EXPECT_EQ(mb.slots, m.datasets()[static_cast<size_t>(mb.dataset)].samples_per_microbatch);
      for (int64_t i = mb.first_slot; i < next; ++i) {
        const Slot& slot = p.slots[static_cast<size_t>(i)];
        EXPECT_EQ(slot.dataset, mb.dataset);
        const LengthEntry& e = m.datasets()[static_cast<size_t>(mb.dataset)].lengths[static_cast<size_t>(slot.sample)];
        total.add(e), per[static_cast<size_t>(mb.dataset)].add(e);
      }
    }
    EXPECT_EQ(next, static_cast<int64_t>(p.slots.size()));
    EXPECT_EQ(total, p.total);
    EXPECT_EQ(per, p.per_dataset);
  }
}

TEST(Mixer, tokens_are_spread_evenly_over_the_microbatches_of_a_step) {
  const Mixer m(1, {{"a", 1, lengths(4096, 1), 8}}, 8);
  double balanced = 0, drawn = 0;  // worst over mean
  for (int64_t s = 0; s < 50; ++s) {
    const StepPlan p = m.plan(s);
    int64_t worst = 0, worst_drawn = 0;
    for (const MicrobatchPlan& mb : p.microbatches) worst = std::max(worst, mb.counts.tokens);
    std::map<int64_t, int64_t> in_order;
    for (const Slot& slot : p.slots)
      in_order[slot.draw / 8] += m.datasets()[0].lengths[static_cast<size_t>(slot.sample)].tokens;
    for (auto& [k, n] : in_order) worst_drawn = std::max(worst_drawn, n);
    balanced += static_cast<double>(worst) * 8 / static_cast<double>(p.total.tokens) / 50;
    drawn += static_cast<double>(worst_drawn) * 8 / static_cast<double>(p.total.tokens) / 50;
  }
  EXPECT_LT(balanced, 1.03);
  EXPECT_GT(drawn, 1.15);  // what plain order would give
}

TEST(Mixer, ranks_cover_a_step_for_every_world) {
  const StepPlan p = small_mixer(7, 10).plan(3);
  for (int world : {1, 2, 3, 4, 7, 10, 13}) {
    int next = 0;
    for (int rank = 0; rank < world; ++rank) {
      const auto [first, last] = p.local(rank, world);
      EXPECT_EQ(first, next);
      EXPECT_TRUE(last - first == 10 / world || last - first == 10 / world + 1);
      next = last;
    }
    EXPECT_EQ(next, 10);
  }
  EXPECT_THROW(p.local(2, 2), ConfigError);
}

TEST(Mixer, a_plan_takes_less_than_a_millisecond) {
  // The largest legal cycle, a late step, many samples.
  const Mixer m(1, {{"a", 2049, lengths(100000, 1), 4}, {"b", 2047, lengths(777, 1), 4}}, 16);
  double best = 1;  // the best of several: the machine may be busy
  for (int64_t s = 0; s < 40; ++s) {
    const auto begin = std::chrono::steady_clock::now();
    m.plan(1000000 + s);
    best = std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
  }
  EXPECT_LT(best, 1e-3);
}

TEST(Mixer, illegal_mixtures_are_named) {
  EXPECT_THROW(Mixer(1, {}, 1), ConfigError);
  EXPECT_THROW(Mixer(1, {{"a", 1, {}, 1}}, 1), ConfigError);
  EXPECT_THROW(Mixer(1, {{"a", 0, lengths(3, 1), 1}}, 1), ConfigError);
  EXPECT_THROW(Mixer(1, {{"a", 1, lengths(3, 1), 0}}, 1), ConfigError);
  EXPECT_THROW(Mixer(1, {{"a", 1, lengths(3, 1), 1}}, 0), ConfigError);
  EXPECT_THROW(Mixer(1, {{"a", 4096, lengths(3, 1), 1}, {"b", 4095, lengths(3, 1), 1}}, 1), ConfigError);
  EXPECT_NO_THROW(Mixer(1, {{"a", 400000, lengths(3, 1), 1}, {"b", 100000, lengths(3, 1), 1}}, 1));
}

}  // namespace
}  // namespace tpo
