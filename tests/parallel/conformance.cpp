#include "tests/parallel/conformance.h"

#include <cmath>
#include <cstring>
#include <functional>
#include <utility>

#include "tests/parallel/conformance_tools.h"

namespace tpo::conformance {
namespace {

template <class T>
void check_all_reduce(ProcessGroup& g) {
  for (const int64_t n : sizes<T>()) {
    for (const ReduceOp op : {ReduceOp::kSum, ReduceOp::kMax}) {
      const Tensor t = filled<T>(g.rank(), n);
      g.all_reduce(t, op, "t").wait_host();
      expect_values<T>(t, "all_reduce", [&](int64_t i) { return reduced<T>(g.size(), i, op); });
    }
  }
}

void all_reduce_sums_and_maximises_every_dtype(ProcessGroup& g) {
  check_all_reduce<float>(g);
  check_all_reduce<int32_t>(g);
  check_all_reduce<int64_t>(g);
  check_all_reduce<uint8_t>(g);
  check_all_reduce<BF16>(g);
}

template <class T>
void check_moves(ProcessGroup& g) {
  for (const int64_t n : sizes<T>()) {
    for (int root = 0; root < g.size(); ++root) {
      const Tensor t = filled<T>(g.rank(), n);
      g.broadcast(t, root, "t").wait_host();
      expect_values<T>(t, "broadcast", [&](int64_t i) { return value<T>(root, i); });
    }
    const Tensor all = Tensor::empty({g.size() * n}, DTypeOf<T>::value);
    g.all_gather(filled<T>(g.rank(), n), all, "t").wait_host();
    expect_values<T>(all, "all_gather", [&](int64_t i) { return value<T>(static_cast<int>(i / n), i % n); });
    const Tensor part = Tensor::empty({n}, DTypeOf<T>::value);
    const Tensor whole = filled<T>(g.rank(), n * g.size());
    g.reduce_scatter(whole, part, ReduceOp::kSum, "t").wait_host();
    expect_values<T>(part, "reduce_scatter",
                     [&](int64_t i) { return reduced<T>(g.size(), g.rank() * n + i, ReduceOp::kSum); });
    expect_values<T>(whole, "reduce_scatter input", [&](int64_t i) { return value<T>(g.rank(), i); });
  }
}

void broadcast_gather_and_scatter_move_every_dtype(ProcessGroup& g) {
  check_moves<float>(g);
  check_moves<int32_t>(g);
  check_moves<int64_t>(g);
  check_moves<uint8_t>(g);
  check_moves<BF16>(g);
}

// As NCCL has it: a rank's part of the whole is the other operand. In private memory, in a shared buffer of which every
// rank gives the same place, and in one of which the last rank gives another place.
template <class T>
void check_in_place(ProcessGroup& g) {
  constexpr int64_t kShift = 64;
  for (const int64_t n : sizes<T>()) {
    const Tensor shared = g.shared_buffer({n * g.size() + kShift}, DTypeOf<T>::value);
    const Tensor own = Tensor::empty({n * g.size()}, DTypeOf<T>::value);
    const int64_t shift = g.rank() == g.size() - 1 ? kShift : 0;
    for (const Tensor& t : {own, shared.rows(0, n * g.size()), shared.rows(shift, shift + n * g.size())}) {
      const Tensor part = t.rows(g.rank() * n, (g.rank() + 1) * n);
      for (const ReduceOp op : {ReduceOp::kSum, ReduceOp::kMax}) {
        fill<T>(t, g.rank());
        g.reduce_scatter(t, part, op, "t").wait_host();
        expect_values<T>(t, "reduce_scatter in place", [&](int64_t i) {
          return i / std::max<int64_t>(1, n) == g.rank() ? reduced<T>(g.size(), i, op) : value<T>(g.rank(), i);
        });
      }
      // Refilled at once: whoever is late must still read the old values.
      fill<T>(part, g.rank());
      g.all_gather(part, t, "t").wait_host();
      expect_values<T>(t, "all_gather in place", [&](int64_t i) { return value<T>(static_cast<int>(i / n), i % n); });
      fill<T>(t, g.rank());
      g.broadcast(t, g.size() - 1, "t").wait_host();
      expect_values<T>(t, "broadcast", [&](int64_t i) { return value<T>(g.size() - 1, i); });
      fill<T>(t, g.rank());
      g.all_reduce(t, ReduceOp::kSum, "t").wait_host();
      expect_values<T>(t, "all_reduce", [&](int64_t i) { return reduced<T>(g.size(), i, ReduceOp::kSum); });
    }
  }
}

void parts_of_the_whole_are_operands_in_place(ProcessGroup& g) {
  check_in_place<float>(g);
  check_in_place<int64_t>(g);
  check_in_place<BF16>(g);
}

void messages_match_by_tag_and_in_order(ProcessGroup& g) {
  if (g.size() == 1) return;
  const int next = (g.rank() + 1) % g.size(), before = (g.rank() + g.size() - 1) % g.size();
  for (const int64_t n : sizes<float>()) {
    // Tag 5 is received before tag 4, and two messages of tag 4 keep their order.
    Work a = g.send(filled<float>(g.rank(), n), next, 4, "a");
    Work b = g.send(filled<float>(g.rank() + 100, n), next, 4, "b");
    Work c = g.send(filled<float>(g.rank() + 200, n), next, 5, "c");
    const Tensor ta = Tensor::empty({n}), tb = Tensor::empty({n}), tc = Tensor::empty({n});
    g.recv(tc, before, 5, "c").wait_host();
    g.recv(ta, before, 4, "a").wait_host();
    g.recv(tb, before, 4, "b").wait_host();
    for (Work* w : {&a, &b, &c}) w->wait_host();
    expect_values<float>(ta, "first of tag 4", [&](int64_t i) { return value<float>(before, i); });
    expect_values<float>(tb, "second of tag 4", [&](int64_t i) { return value<float>(before + 100, i); });
    expect_values<float>(tc, "tag 5", [&](int64_t i) { return value<float>(before + 200, i); });
  }
}

void messages_of_another_type_or_size_fail_where_they_arrive(ProcessGroup& g) {
  if (g.size() == 1 || g.rank() > 1) return;
  const Tensor f = Tensor::zeros({6}), i = Tensor::zeros({6}, DType::kI32), longer = Tensor::zeros({600011});
  const std::pair<const Tensor*, const Tensor*> pairs[] = {{&f, &i}, {&f, &longer}, {&longer, &f}};  // sent, received
  for (int k = 0; k < 3; ++k) {
    if (g.rank() == 0) {
      Work sent = g.send(*pairs[k].first, 1, 900, "activations");
      try {  // the sender may learn it too
        sent.wait_host();
      } catch (const CommError&) {
      }
    } else {
      expect_throws<CommError>([&] { g.recv(*pairs[k].second, 0, 900, "activations").wait_host(); }, "sizes differ");
    }
  }
  // Each finds its own afterwards.
  for (int k = 0; k < 2; ++k) {
    const Tensor t = filled<float>(g.rank() + k, 10);
    (g.rank() == 0 ? g.send(t, 1, 900, "next") : g.recv(t, 0, 900, "next")).wait_host();
    expect_values<float>(t, "the next message", [&](int64_t j) { return value<float>(k, j); });
  }
}

// A receive has begun when its sender was there: rank 0 sends after rank 1 read the clock.
void a_receive_begins_when_its_sender_comes(ProcessGroup& g) {
  const Tensor t = Tensor::zeros({5});
  Work recv = g.rank() == 1 ? g.recv(t, 0, 7, "late") : Work();
  const double before = steady_seconds();
  g.barrier("rank 1 has looked").wait_host();
  if (g.rank() == 0 && g.size() > 1) g.send(t, 1, 7, "late").wait_host();
  recv.wait_host();
  expect(g.rank() != 1 || recv.times().begun_s >= before, "a receive began before it was sent");
}

// Whose rank has it must not matter: a maximum is of use for finding it.
void a_nan_of_any_rank_is_the_maximum(ProcessGroup& g) {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    for (int from = 0; from < g.size(); ++from) {
      const Tensor t = Tensor::zeros({1500}, dtype);
      for (int64_t i = from; i < 1500 && g.rank() == from; i += 7) {
        if (dtype == DType::kF32) t.data<float>()[i] = std::nanf("");
        if (dtype == DType::kBF16) t.data<BF16>()[i] = BF16(std::nanf(""));
      }
      g.all_reduce(t, ReduceOp::kMax, "t").wait_host();
      for (int64_t i = 0; i < 1500; ++i) {
        const float x = dtype == DType::kF32 ? t.data<float>()[i] : static_cast<float>(t.data<BF16>()[i]);
        expect(i >= from && (i - from) % 7 == 0 ? std::isnan(x) : x == 0, dtype, " of rank ", from, ": element ", i,
               " is ", x);
      }
    }
  }
}

void values_and_bytes_reach_everyone(ProcessGroup& g) {
  const int n = g.size();
  expect(g.all_reduce_value(0.5 + g.rank(), ReduceOp::kSum) == 0.5 * n + n * (n - 1) / 2, "sum of doubles");
  expect(g.all_reduce_value(int64_t{-3} - g.rank(), ReduceOp::kMax) == -3, "maximum of integers");
  const double bad = g.rank() == n - 1 ? std::nan("") : 1.0;
  expect(std::isnan(g.all_reduce_value(bad, ReduceOp::kMax)), "a NaN of one rank reaches all");
  const std::string mine(static_cast<size_t>(3 * g.rank()), static_cast<char>('a' + g.rank()));
  const auto all = g.all_gather_bytes(std::as_bytes(std::span(mine)), "names");
  for (int r = 0; r < n; ++r) {
    const auto& bytes = all[static_cast<size_t>(r)];
    expect(bytes == std::vector<std::byte>(static_cast<size_t>(3 * r), static_cast<std::byte>('a' + r)), "bytes of ",
           r);
  }
  const std::string text = g.rank() == n - 1 ? "from the last" : "";
  const auto got = g.broadcast_bytes(std::as_bytes(std::span(text)), n - 1, "text");
  expect(std::string(reinterpret_cast<const char*>(got.data()), got.size()) == "from the last", "broadcast_bytes");
}

void barrier_holds_everyone(ProcessGroup& g) {
  for (int i = 0; i < 20; ++i) g.barrier("round").wait_host();
}

void split_orders_by_key_and_separates(ProcessGroup& g) {
  const int n = g.size(), color = g.rank() % 2;
  const auto half = g.split(color, -g.rank(), "half");
  const int members = color == 0 ? (n + 1) / 2 : n / 2;
  expect(half->size() == members, "size ", half->size(), " of color ", color, ", expected ", members);
  expect(half->rank() == members - 1 - g.rank() / 2, "keys reverse the order");
  expect(half->name() == g.name() + ".half", "name ", half->name());
  const int64_t sum = half->all_reduce_value(int64_t{g.rank()}, ReduceOp::kSum);
  int64_t expected = 0;
  for (int r = color; r < n; r += 2) expected += r;
  expect(sum == expected, "sum over the half is ", sum, ", expected ", expected);
  const auto again = half->split_by([](int rank) { return std::pair(0, rank); }, "again");
  expect(again->rank() == half->rank() && again->size() == half->size(), "split_by with one color changes the ranks");
  check_all_reduce<float>(*again);
}

void groups_and_buffers_wait_for_what_is_in_flight(ProcessGroup& g) {
  if (g.size() == 1) return;
  const auto other = g.split(0, g.rank(), "other");
  const Tensor t = filled<float>(g.rank(), 100);
  Work work = other->all_reduce(t, ReduceOp::kSum, "t");
  expect_throws<CommError>([&] { g.split(0, g.rank()); }, "1 operations of this rank are in flight");
  expect_throws<CommError>([&] { static_cast<void>(g.shared_buffer({5})); }, "in flight");
  Work moved = std::move(work);
  moved.wait_host();
  g.split(0, g.rank(), "part")->barrier("after").wait_host();
}

void groups_do_not_block_each_other(ProcessGroup& g) {
  const auto a = g.split(0, g.rank(), "a"), b = g.split(0, g.rank(), "b");
  for (int round = 0; round < 10; ++round) {
    const Tensor ta = filled<float>(g.rank(), 300000), tb = filled<float>(g.rank() + 1, 5000);
    // Odd ranks issue and wait in the opposite order.
    if (g.rank() % 2 == 0) {
      Work wa = a->all_reduce(ta, ReduceOp::kSum, "a"), wb = b->all_reduce(tb, ReduceOp::kSum, "b");
      wb.wait_host();
      wa.wait_host();
    } else {
      b->all_reduce(tb, ReduceOp::kSum, "b").wait_host();
      a->all_reduce(ta, ReduceOp::kSum, "a").wait_host();
    }
    expect_values<float>(ta, "group a", [&](int64_t i) { return reduced<float>(g.size(), i, ReduceOp::kSum); });
  }
}

void many_works_in_flight_finish_in_any_order(ProcessGroup& g) {
  std::vector<Tensor> tensors;
  std::vector<Work> works;
  for (int k = 0; k < 40; ++k) {
    tensors.push_back(filled<float>(g.rank() + k, 1 + k * 997));
    works.push_back(g.all_reduce(tensors.back(), ReduceOp::kSum, "bucket " + std::to_string(k)));
  }
  for (int k = 39; k >= 0; --k) {
    works[static_cast<size_t>(k)].wait(Stream::current());
    const WorkTimes t = works[static_cast<size_t>(k)].times();
    expect(t.done_s >= t.begun_s && t.done_s >= t.issued_s, "times of work ", k, " are out of order");
    expect_values<float>(tensors[static_cast<size_t>(k)], "bucket", [&](int64_t i) {
      float sum = 0;
      for (int r = 0; r < g.size(); ++r) sum += value<float>(r + k, i);
      return sum;
    });
  }
}

// Values whose sum depends on the order of additions.
Tensor rounding_values(int rank, int64_t n) {
  Tensor t = Tensor::empty({n});
  for (int64_t i = 0; i < n; ++i) {
    t.data<float>()[i] = std::sin(static_cast<float>(i * 37 + rank * 1009)) * std::ldexp(1.0f, (rank * 5) % 11);
  }
  return t;
}

void sums_have_the_same_bits_everywhere_and_always(ProcessGroup& g) {
  const int64_t n = 600011;
  const Tensor a = rounding_values(g.rank(), n), b = rounding_values(g.rank(), n);
  g.all_reduce(a, ReduceOp::kSum, "a").wait_host();
  g.all_reduce(b, ReduceOp::kSum, "b").wait_host();
  expect(std::memcmp(a.raw(), b.raw(), static_cast<size_t>(a.nbytes())) == 0, "two equal sums differ");
  const Tensor of_root = rounding_values(0, n);
  std::memcpy(of_root.raw(), a.raw(), static_cast<size_t>(a.nbytes()));
  g.broadcast(of_root, 0, "of root").wait_host();
  expect(std::memcmp(a.raw(), of_root.raw(), static_cast<size_t>(a.nbytes())) == 0, "rank 0 has other bits");
}

// Whole and in part, between ordinary collectives, and refilled at once: whoever is late must still read the old
// values.
void shared_buffers_are_reduced_in_place(ProcessGroup& g) {
  for (const int64_t n : {int64_t{1}, int64_t{7919}, int64_t{600011}}) {
    const Tensor shared = g.shared_buffer({n}), other = g.shared_buffer({5}, DType::kI64);
    expect_values<float>(shared, "a new shared buffer", [](int64_t) { return 0.0f; });
    for (int round = 0; round < 4; ++round) {
      for (int64_t i = 0; i < n; ++i) shared.data<float>()[i] = value<float>(g.rank() + round, i);
      for (int64_t i = 0; i < 5; ++i) other.data<int64_t>()[i] = value<int64_t>(g.rank(), i);
      const Tensor ordinary = filled<float>(g.rank(), n);
      const int64_t begin = n / 3, end = n - n / 5;  // only this part is reduced in odd rounds
      const Tensor part = round % 2 == 1 ? shared.rows(begin, end) : shared;
      Work a = g.all_reduce(part, ReduceOp::kSum, "shared");
      Work b = g.all_reduce(ordinary, ReduceOp::kSum, "ordinary");
      Work c = g.all_reduce(other, ReduceOp::kMax, "other");
      a.wait_host(), b.wait_host(), c.wait_host();
      const bool whole = round % 2 == 0;
      expect_values<float>(shared, "a shared buffer", [&](int64_t i) {
        if (!whole && (i < begin || i >= end)) return value<float>(g.rank() + round, i);
        float sum = 0;
        for (int r = 0; r < g.size(); ++r) sum += value<float>(r + round, i);
        return sum;
      });
      expect_values<float>(ordinary, "beside it",
                           [&](int64_t i) { return reduced<float>(g.size(), i, ReduceOp::kSum); });
      expect_values<int64_t>(other, "another",
                             [&](int64_t i) { return reduced<int64_t>(g.size(), i, ReduceOp::kMax); });
    }
  }
}

// Parts of the group are stubbed with it, and it goes on as if nothing had been.
void groups_in_a_stub_move_nothing_and_leave_no_trace(ProcessGroup& g) {
  const auto part = g.split(0, g.rank(), "part");
  const int64_t n = 1000;
  const uint64_t issued = g.collectives_issued();
  g.log().take();
  if (g.size() > 1) {
    const CommStub stub(g);
    const Tensor mine = filled<float>(g.rank(), n), all = filled<float>(g.rank(), n * g.size());
    part->all_reduce(mine, ReduceOp::kSum, "mine").wait_host();
    Work gather = g.all_gather(mine, all, "all");
    expect(gather.done(), "an operation in a stub is over at once");
    gather.wait_host();
    expect_values<float>(mine, "stubbed all_reduce", [&](int64_t i) { return value<float>(g.rank(), i); });
    expect_values<float>(all, "stubbed all_gather", [&](int64_t i) { return value<float>(g.rank(), i); });
    expect_throws<CommError>([&] { part->all_reduce_value(1.0, ReduceOp::kSum); }, "CommStub");
    expect_throws<CommError>([&] { g.split(0, 0); }, "CommStub");
    expect_throws<CommError>([&] { const CommStub again(*part); }, "inside another");
    expect_throws<CommError>([&] { g.send(mine, g.size(), 0, "nobody"); }, "not a partner");
  }
  expect(g.collectives_issued() == issued && g.log().take().empty(), "a stub was counted");
  const Tensor t = filled<float>(g.rank(), n);
  part->all_reduce(t, ReduceOp::kSum, "after").wait_host();
  expect_values<float>(t, "all_reduce", [&](int64_t i) { return reduced<float>(g.size(), i, ReduceOp::kSum); });
  const std::vector<CommUse> uses = g.log().take();
  expect(g.size() == 1 || (uses.size() == 1 && uses[0].what == "after" && uses[0].group == part->name() &&
                           uses[0].operations == 1 && uses[0].bytes == 4 * n),
         "the log of a group names the operations of its parts");
}

// Rank 0's operation is in flight when its group goes: the others join it later.
void groups_may_go_before_their_operations_end(ProcessGroup& g) {
  auto part = g.split(0, g.rank(), "part");
  const Tensor t = filled<float>(g.rank(), 600011);
  if (g.rank() > 0) g.barrier("rank 0 has let go").wait_host();
  Work work = part->all_reduce(t, ReduceOp::kSum, "t");
  part.reset();
  if (g.rank() == 0) g.barrier("rank 0 has let go").wait_host();
  work.wait_host();
  expect_values<float>(t, "all_reduce", [&](int64_t i) { return reduced<float>(g.size(), i, ReduceOp::kSum); });
}

void bad_arguments_are_refused_before_anything_is_sent(ProcessGroup& g) {
  const Tensor t = Tensor::zeros({6});
  expect_throws<CommError>([&] { static_cast<void>(g.broadcast(t, g.size(), "weights")); }, "'weights': rank");
  expect_throws<CommError>([&] { static_cast<void>(g.all_gather(t, Tensor::zeros({7}), "weights")); }, "must have");
  expect_throws<CommError>([&] { static_cast<void>(g.send(t, g.rank(), 0, "weights")); }, "not a partner");
  expect_throws<CommError>(
      [&] { static_cast<void>(g.all_gather(t, Tensor::zeros({6 * g.size()}, DType::kI32), "weights")); }, "dtypes");
  const Tensor big = Tensor::zeros({6 * g.size() + 3});
  expect_throws<CommError>(
      [&] { static_cast<void>(g.all_gather(big.rows(0, 6), big.rows(3, 6 * g.size() + 3), "weights")); }, "overlap");
  if (g.size() > 1) {
    expect_throws<CommError>([&] { static_cast<void>(g.send(t, (g.rank() + 1) % g.size(), 1 << 20, "weights")); },
                             "tag");
    const auto meta = Stream::make_meta();
    expect_throws<CommError>(
        [&] { static_cast<void>(g.all_reduce(Tensor::zeros({6}, DType::kF32, *meta), ReduceOp::kSum, "weights")); },
        "meta");
  }
  g.barrier("all ranks still agree").wait_host();
}

}  // namespace

void sums_follow_order(ProcessGroup& g, const std::vector<std::vector<int>>& nodes) {
  const int64_t n = 600011;
  for (const bool bf16 : {false, true}) {
    const auto of_rank = [&](int rank) {
      const Tensor f = rounding_values(rank, n);
      if (!bf16) return f;
      const Tensor b = Tensor::empty({n}, DType::kBF16);
      for (int64_t i = 0; i < n; ++i) b.data<BF16>()[i] = BF16(f.data<float>()[i]);
      return b;
    };
    const auto read = [&](const Tensor& t, int64_t i) {
      return bf16 ? static_cast<float>(t.data<BF16>()[i]) : t.data<float>()[i];
    };
    const auto rounded = [&](float x) { return bf16 ? static_cast<float>(BF16(x)) : x; };
    const Tensor t = of_rank(g.rank());
    g.all_reduce(t, ReduceOp::kSum, "t").wait_host();
    std::vector<Tensor> all;
    for (int r = 0; r < g.size(); ++r) all.push_back(of_rank(r));
    for (int64_t i = 0; i < n; ++i) {
      float sum = 0;
      for (const auto& node : nodes) {
        float here = read(all[static_cast<size_t>(node[0])], i);
        for (size_t k = 1; k < node.size(); ++k) here += read(all[static_cast<size_t>(node[k])], i);
        sum = &node == &nodes[0] ? rounded(here) : sum + rounded(here);
      }
      expect(read(t, i) == rounded(sum), t.dtype(), " element ", i, ": the sum is not formed in the order promised");
    }
  }
}

void sums_follow_rank_order(ProcessGroup& g) {
  std::vector<int> all;
  for (int r = 0; r < g.size(); ++r) all.push_back(r);
  sums_follow_order(g, {all});
}

namespace {

void diverge(ProcessGroup& g, const std::function<void(bool odd)>& run) {
  if (g.size() == 1) return;
  expect_throws<CommError>([&] { run(g.rank() % 2 == 1); }, "ranks disagree");
  expect_throws<CommError>([&] { g.barrier("after").wait_host(); }, "ranks disagree");
}

}  // namespace

const std::vector<Case>& divergences() {
  static const std::vector<Case> all = {
      {"ranks_that_diverge_learn_from_whom",
       [](ProcessGroup& g) {
         const Tensor t = Tensor::zeros({10}), shorter = Tensor::zeros({9});
         diverge(g, [&](bool odd) {
           g.all_reduce(odd ? shorter : t, ReduceOp::kSum, odd ? "mask.weight" : "region.weight").wait_host();
         });
       }},
      {"shared_buffers_have_one_size",
       [](ProcessGroup& g) {
         diverge(g, [&](bool odd) { static_cast<void>(g.shared_buffer({odd ? 5000 : 50000})); });
       }},
      {"shared_buffers_have_one_dtype",
       [](ProcessGroup& g) {
         diverge(g, [&](bool odd) { static_cast<void>(g.shared_buffer({64}, odd ? DType::kBF16 : DType::kF32)); });
       }},
      {"values_have_one_reduction",
       [](ProcessGroup& g) {
         diverge(g, [&](bool odd) { g.all_reduce_value(1.0, odd ? ReduceOp::kSum : ReduceOp::kMax); });
       }},
      {"values_have_one_type",
       [](ProcessGroup& g) {
         diverge(g, [&](bool odd) {
           if (odd) {
             g.all_reduce_value(1.0, ReduceOp::kSum);
           } else {
             g.all_reduce_value(int64_t{1}, ReduceOp::kSum);
           }
         });
       }},
  };
  return all;
}

const std::vector<Case>& cases() {
  static const std::vector<Case> all = {
      {"all_reduce_sums_and_maximises_every_dtype", sized<all_reduce_sums_and_maximises_every_dtype>},
      {"broadcast_gather_and_scatter_move_every_dtype", sized<broadcast_gather_and_scatter_move_every_dtype>},
      {"parts_of_the_whole_are_operands_in_place", sized<parts_of_the_whole_are_operands_in_place>},
      {"messages_match_by_tag_and_in_order", sized<messages_match_by_tag_and_in_order>},
      {"messages_of_another_type_or_size_fail_where_they_arrive",
       sized<messages_of_another_type_or_size_fail_where_they_arrive>},
      {"messages_begin_when_the_sender_comes", sized<a_receive_begins_when_its_sender_comes>},
      {"a_nan_of_any_rank_is_the_maximum", sized<a_nan_of_any_rank_is_the_maximum>},
      {"values_and_bytes_reach_everyone", sized<values_and_bytes_reach_everyone>},
      {"barrier_holds_everyone", sized<barrier_holds_everyone>},
      {"split_orders_by_key_and_separates", sized<split_orders_by_key_and_separates>},
      {"groups_and_buffers_wait_for_what_is_in_flight", sized<groups_and_buffers_wait_for_what_is_in_flight>},
      {"groups_do_not_block_each_other", sized<groups_do_not_block_each_other>},
      {"many_works_in_flight_finish_in_any_order", sized<many_works_in_flight_finish_in_any_order>},
      {"sums_have_the_same_bits_everywhere_and_always", sized<sums_have_the_same_bits_everywhere_and_always>},
      {"shared_buffers_are_reduced_in_place", sized<shared_buffers_are_reduced_in_place>},
      {"groups_in_a_stub_move_nothing_and_leave_no_trace", sized<groups_in_a_stub_move_nothing_and_leave_no_trace>},
      {"groups_may_go_before_their_operations_end", sized<groups_may_go_before_their_operations_end>},
      {"bad_arguments_are_refused_before_anything_is_sent", sized<bad_arguments_are_refused_before_anything_is_sent>},
  };
  return all;
}

}  // namespace tpo::conformance
