// Any layout loads what any layout saved: cuts over the tensor axis, shards, copies, and format version 1.
#include <random>

#include "tests/checkpoint/checkpoint_support.h"

namespace tpo {
namespace {

class Dice {
 public:
  explicit Dice(uint32_t seed) : engine_(seed) {}
  int64_t operator()(int64_t low, int64_t high) {  // both included
    return low + static_cast<int64_t>(engine_() % static_cast<uint64_t>(high - low + 1));
  }

 private:
  std::mt19937 engine_;
};

struct Run {
  Rect rect;
  int64_t begin, count;
};

// Disjoint rectangles that are `r` together.
void cut_rect(Dice& dice, const Rect& r, std::vector<Rect>& out) {
  const int64_t way = r.numel() > 1 ? dice(0, 2) : 0;
  if (way == 1 && r.rows > 1) {
    const int64_t n = dice(1, r.rows - 1);
    cut_rect(dice, {r.row, n, r.col, r.cols}, out);
    cut_rect(dice, {r.row + n, r.rows - n, r.col, r.cols}, out);
  } else if (way == 2 && r.cols > 1) {
    const int64_t n = dice(1, r.cols - 1);
    cut_rect(dice, {r.row, r.rows, r.col, n}, out);
    cut_rect(dice, {r.row, r.rows, r.col + n, r.cols - n}, out);
  } else {
    out.push_back(r);
  }
}

// Runs that cover the tensor once, then up to three more that lie anywhere.
std::vector<Run> random_runs(Dice& dice, const Shape& full) {
  std::vector<Run> runs;
  std::vector<Rect> rects;
  cut_rect(dice, whole_of(full), rects);
  for (const Rect& r : rects) {
    for (int64_t at = 0; at < r.numel();) {
      const int64_t n = dice(0, 2) ? r.numel() - at : dice(1, r.numel() - at);
      runs.push_back({r, at, n});
      at += n;
    }
  }
  for (int64_t extra = full.numel() > 0 ? dice(0, 3) : 0; extra > 0; --extra) {
    const Rect w = whole_of(full);
    const int64_t row = dice(0, w.rows - 1), col = dice(0, w.cols - 1);
    const Rect r{row, dice(1, w.rows - row), col, dice(1, w.cols - col)};
    const int64_t begin = dice(0, r.numel() - 1);
    runs.push_back({r, begin, dice(1, r.numel() - begin)});
  }
  return runs;
}

// What each rank holds: every run on one rank and perhaps on others, as long as the rank has none of its elements.
std::vector<TrainState> random_layout(Dice& dice, const std::vector<std::pair<std::string, Tensor>>& tensors,
                                      int ranks) {
  std::vector<TrainState> states(static_cast<size_t>(ranks));
  for (const auto& [name, full] : tensors) {
    const int64_t numel = full.numel(), width = whole_of(full.shape()).cols;
    std::vector<std::vector<bool>> has(static_cast<size_t>(ranks), std::vector<bool>(static_cast<size_t>(numel)));
    std::vector<int> parts(static_cast<size_t>(ranks), 0);
    for (const Run& run : random_runs(dice, full.shape())) {
      const int64_t owner = dice(0, ranks - 1), copies = dice(0, 1);
      for (int64_t k = 0; k <= copies * (ranks - 1); ++k) {
        const size_t r = static_cast<size_t>((owner + k) % ranks);
        std::vector<size_t> mine;
        for (int64_t i = run.begin; i < run.begin + run.count; ++i) {
          mine.push_back(
              static_cast<size_t>((run.rect.row + i / run.rect.cols) * width + run.rect.col + i % run.rect.cols));
        }
        if (std::any_of(mine.begin(), mine.end(), [&](size_t i) { return has[r][i]; })) continue;
        for (size_t i : mine) has[r][i] = true;
        states[r].tensors.push_back(part_of_tensor(name, full, run.rect, run.begin, run.count));
        ++parts[r];
      }
    }
    for (size_t r = 0; r < parts.size(); ++r) {
      if (parts[r] == 0) states[r].tensors.push_back({name, Tensor::empty({0}, full.dtype()), full.shape(), 0});
    }
  }
  return states;
}

Tensor indices(const Shape& shape, DType dtype) {
  const auto fill = [&]<class T>(T) {
    std::vector<T> v(static_cast<size_t>(shape.numel()));
    for (size_t i = 0; i < v.size(); ++i) v[i] = static_cast<T>(static_cast<float>(i + 1));
    return Tensor::from(v, shape);
  };
  if (dtype == DType::kF32) return fill(float{});
  if (dtype == DType::kI64) return fill(int64_t{});
  if (dtype == DType::kBF16) return fill(BF16{});
  return fill(uint8_t{});
}

// The tensor of that size inside a larger one, whose bytes before and behind it are all 0x5a, as its own are.
Tensor fenced(int64_t count, DType dtype) {
  const Tensor fence = Tensor::empty({count + 2}, dtype);
  std::memset(fence.raw(), 0x5a, static_cast<size_t>(fence.nbytes()));
  return fence.rows(1, count + 1);
}
bool fence_stands(const Tensor& t) {
  const int64_t size = static_cast<int64_t>(size_of(t.dtype()));
  const auto* p = static_cast<const unsigned char*>(t.raw());
  for (int64_t i = 0; i < size; ++i) {
    if (p[i - size] != 0x5a || p[t.nbytes() + i] != 0x5a) return false;
  }
  return true;
}

// Saves the states by as many ranks as there are, loads into the others and compares every byte.
void expect_moves(const std::vector<TrainState>& from, const std::vector<TrainState>& to) {
  TempFolder dir;
  run_ranks(static_cast<int>(from.size()),
            [&](ProcessGroup& world) { save(dir.path(), 1, from[static_cast<size_t>(world.rank())], world); });
  const std::string folder = dir.path() + "/step_00000001";
  EXPECT_EQ(verify(folder), std::vector<std::string>{});
  run_ranks(static_cast<int>(to.size()), [&](ProcessGroup& world) {
    TrainState got = to[static_cast<size_t>(world.rank())];
    const std::string want = contents(got);
    for (StateTensor& t : got.tensors) t.value = fenced(t.value.numel(), t.value.dtype());
    load(folder, got, world);
    EXPECT_EQ(contents(got), want) << "rank " << world.rank();
    for (const StateTensor& t : got.tensors) EXPECT_TRUE(fence_stands(t.value)) << t.name;
  });
}

// 1,200 tensors, each in two layouts; a save holds 12 of them, because its fsyncs take longer than all else.
TEST(Layout, any_layout_loads_any_other) {
  const DType types[] = {DType::kF32, DType::kI64, DType::kBF16, DType::kU8};
  for (uint32_t seed = 0; seed < 100; ++seed) {
    SCOPED_TRACE(cat("seed ", seed));
    Dice dice(seed);
    std::vector<std::pair<std::string, Tensor>> tensors;
    for (int i = 0; i < 12; ++i) {
      const Shape shapes[] = {{dice(1, 9), dice(1, 9)}, {dice(1, 5), dice(0, 4), dice(1, 4)}, {dice(0, 20)}, {}};
      tensors.emplace_back(cat("t", i), indices(shapes[i % 4], types[dice(0, 3)]));
    }
    const auto from = random_layout(dice, tensors, static_cast<int>(dice(1, 4)));
    const auto to = random_layout(dice, tensors, static_cast<int>(dice(1, 4)));
    expect_moves(from, to);
    if (HasFailure()) break;
  }
}

// Several buffers of reading (1 MiB) and of writing (2 MiB), whose ends lie inside rows.
TEST(Layout, large_tensors_are_cut_too) {
  const Tensor w = ramp({1201, 1021}, 0);
  const Rect left{0, 1201, 0, 501}, right{0, 1201, 501, 520};
  const auto columns = [&](const Rect& r) { return TrainState{{part_of_tensor("w", w, r, 0, r.numel())}, {}, "", ""}; };
  const auto rows = [&](int64_t begin, int64_t end) {
    return TrainState{{part_of_tensor("w", w, whole_of(w.shape()), begin, end - begin)}, {}, "", ""};
  };
  expect_moves({columns(left), columns(right)}, {rows(0, 333333), rows(333333, w.numel()), rows(100, 900000)});
  expect_moves({rows(0, 333333), rows(333333, w.numel())}, {columns(left), columns(right), rows(0, w.numel())});
}

TEST(Layout, overlapping_parts_of_one_rank_are_refused) {
  const Tensor w = ramp({4, 6}, 0);
  TrainState s;
  s.tensors.push_back(part_of_tensor("w", w, {0, 4, 0, 3}, 0, 12));
  s.tensors.push_back(part_of_tensor("w", w, {2, 2, 2, 4}, 0, 8));
  TempFolder dir;
  const auto single = make_single();
  const std::string text = "two tensors are named w and both hold element (2, 2)";
  EXPECT_NE(message_of<ConfigError>([&] { save(dir.path(), 1, s, *single); }).find(text), std::string::npos);
  TrainState whole;
  whole.tensors.push_back({"w", w, w.shape(), 0});
  const std::string folder = save(dir.path(), 1, whole, *single);
  EXPECT_NE(message_of<ConfigError>([&] { load_one(folder, s); }).find(text), std::string::npos);
  s.tensors.pop_back();
  s.tensors[0].begin = 1;
  const std::string outside = message_of<ConfigError>([&] { load_one(folder, s); });
  EXPECT_NE(outside.find("elements 1 to 13 of rows 0 to 4, columns 0 to 3 are outside tensor w (4, 6)"),
            std::string::npos)
      << outside;
}

TEST(Layout, the_first_element_that_nobody_holds_is_named) {
  const Tensor w = ramp({4, 6}, 0);
  const auto error = [&](const Rect& a, const Rect& b) {
    TempFolder dir;
    return message_of<ConfigError>([&] {
      run_ranks(2, [&](ProcessGroup& world) {
        const Rect& r = world.rank() == 0 ? a : b;
        save(dir.path(), 1, TrainState{{part_of_tensor("w", w, r, 0, r.numel())}, {}, "", ""}, world);
      });
    });
  };
  EXPECT_NE(error({0, 4, 0, 3}, {0, 4, 4, 2}).find("no rank holds element (0, 3) of tensor w (4, 6)"),
            std::string::npos);
  EXPECT_NE(error({0, 4, 0, 5}, {1, 2, 3, 3}).find("no rank holds element (0, 5) of tensor w"), std::string::npos);
}

// Written by the program of format version 1, by two ranks of which each held a range of w.
TEST(Layout, version_1_loads) {
  const std::string folder = TPO_SOURCE_DIR "/tests/checkpoint/fixtures/v1/step_00000008";
  EXPECT_EQ(verify(folder), std::vector<std::string>{});
  EXPECT_EQ(describe(folder).step, 8);
  EXPECT_EQ(describe(folder).world, 2);
  TrainState want;
  const auto add = [&](const std::string& name, Tensor t) { want.tensors.push_back({name, t, t.shape(), 0}); };
  add("b", ramp({7}, 4));
  add("scalar", ramp(Shape{}, 5));
  add("empty", Tensor::empty({0, 4}));
  add("rows", Tensor::from(std::vector<int64_t>{6, -1}, {2, 1}));
  add("half", Tensor::from(std::vector<BF16>(6, BF16(7.0f)), {2, 3}));
  const Tensor w = ramp({10, 7}, 3);
  run_ranks(3, [&](ProcessGroup& world) {
    TrainState got;
    for (const StateTensor& t : want.tensors) {
      got.tensors.push_back({t.name, Tensor::zeros(t.full, t.value.dtype()), t.full, 0});
    }
    const Rect third{0, 10, std::min(2 * world.rank(), 5), 2};
    got.tensors.push_back({"w", Tensor::zeros({10, 2}), {10, 7}, 0, third});
    const LoadReport report = load(folder, got, world);
    TrainState mine = want;
    mine.tensors.push_back(part_of_tensor("w", w, third, 0, 20));
    mine.counters = {{"step", 8}};
    EXPECT_EQ(contents(got), contents(mine));
    EXPECT_EQ(report.config_text, "saved by version 1");
  });
}

}  // namespace
}  // namespace tpo
