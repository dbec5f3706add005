// Every op case: reference, gradients, destinations, meta. A failure names the case, the element and both values.
#include <gtest/gtest.h>

#include "core/parallel_for.h"
#include "core/profile.h"
#include "tests/op_case.h"

namespace tpo::optest {
namespace {

std::vector<CaseEntry> entries(bool bench) {
  std::vector<CaseEntry> list;
  for (const CaseEntry& e : all_cases().entries)
    if (bench || e.size != Size::kBench) list.push_back(e);
  return list;
}

std::string test_name(const testing::TestParamInfo<CaseEntry>& info) {
  std::string name = info.param.name;
  for (char& c : name)
    if (std::isalnum(static_cast<unsigned char>(c)) == 0) c = '_';
  return name;
}

class OpCases : public testing::TestWithParam<CaseEntry> {};

TEST_P(OpCases, equals_the_reference_in_double) { EXPECT_EQ(check_reference(GetParam().build()), ""); }

TEST_P(OpCases, gradients_equal_finite_differences) {
  EXPECT_EQ(check_gradients(GetParam().build(), GetParam().size), "");
}

TEST_P(OpCases, gradients_fill_or_add_to_their_destination) { EXPECT_EQ(check_destinations(GetParam().build()), ""); }

TEST_P(OpCases, a_value_used_twice_gets_twice_the_gradient) { EXPECT_EQ(check_repeated_use(GetParam().build()), ""); }

INSTANTIATE_TEST_SUITE_P(All, OpCases, testing::ValuesIn(entries(false)), test_name);

// In bf16: the same checks. Destinations of leaves are fp32 there too.
std::vector<CaseEntry> bf16_entries(bool bench) {
  std::vector<CaseEntry> list;
  for (const CaseEntry& e : entries(bench))
    if (e.bf16) list.push_back(e);
  return list;
}

class BF16Cases : public testing::TestWithParam<CaseEntry> {
 protected:
  OpCase make() const { return in_bf16(GetParam().build()); }
};

TEST_P(BF16Cases, equals_the_reference_but_for_rounding_at_stores) { EXPECT_EQ(check_reference(make()), ""); }

TEST_P(BF16Cases, gradients_equal_finite_differences) { EXPECT_EQ(check_gradients(make(), GetParam().size), ""); }

TEST_P(BF16Cases, gradients_fill_or_add_to_their_destination) { EXPECT_EQ(check_destinations(make()), ""); }

TEST_P(BF16Cases, a_value_used_twice_gets_twice_the_gradient) { EXPECT_EQ(check_repeated_use(make()), ""); }

TEST_P(BF16Cases, meta_has_the_same_shape_launches_and_bytes) { EXPECT_EQ(check_meta(GetParam(), DType::kBF16), ""); }

INSTANTIATE_TEST_SUITE_P(All, BF16Cases, testing::ValuesIn(bf16_entries(false)), test_name);

class MetaCases : public testing::TestWithParam<CaseEntry> {};

TEST_P(MetaCases, meta_has_the_same_shape_launches_and_bytes) { EXPECT_EQ(check_meta(GetParam()), ""); }

INSTANTIATE_TEST_SUITE_P(All, MetaCases, testing::ValuesIn(entries(true)), test_name);

TEST(OpCaseList, names_are_unique_and_every_op_has_a_large_size) {
  std::map<std::string, int> names, large;
  for (const CaseEntry& e : all_cases().entries) {
    EXPECT_EQ(++names[e.name], 1) << e.name;
    large[e.name.substr(0, e.name.find('/'))] += e.size != Size::kSmall;
  }
  for (const auto& [op, count] : large) EXPECT_GT(count, 0) << op;
}

// What a profile is made of: a kernel that no op names would be counted with the next one.
TEST(OpCaseList, every_kernel_has_the_name_of_an_op) {
  for (const CaseEntry& e : all_cases().entries) {
    if (e.size != Size::kSmall) continue;
    const OpCase c = e.build();
    Profiler profiler;
    {
      const ProfilerScope scope(&profiler, Stream::current());
      const ProfileScope step("step");
      c.run(c.in);
    }
    for (const ProfileEvent& event : profiler.events()) {
      EXPECT_TRUE(event.kind != ProfileEvent::Kind::kKernel || !event.op.empty()) << e.name << ": " << event.name;
    }
  }
}

// A check that cannot fail is worth nothing: a wrong reference, a wrong derivative and a wrong destination are found.
TEST(OpCaseChecks, find_planted_errors) {
  Rand r("planted");
  OpCase c{.in = {r.uniform({5, 3})},
           .run =
               [](Inputs in) {
                 Tensor y = empty_like(in[0]);
                 for (int64_t i = 0; i < y.numel(); ++i) y.data<float>()[i] = 2 * in[0].data<float>()[i];
                 record("twice", {in[0]}, {&y}, [](std::span<const Tensor> dy, GradSink& dx) {
                   const GradDest d = dx.destination(0);  // wrong: factor 1, and the first row only
                   for (int64_t i = 0; i < 3; ++i) d.grad.data<float>()[i] = dy[0].data<float>()[i];
                 });
                 return y;
               },
           .ref =
               [](RefInputs in) {
                 Ref y = in[0];
                 for (double& v : y.v) v *= 2;
                 return y;
               },
           .grads = {0},
           .tol = 1e-6};
  EXPECT_EQ(check_reference(c), "");
  EXPECT_NE(check_gradients(c, Size::kSmall), "");
  EXPECT_NE(check_destinations(c), "");
  c.ref = [](RefInputs in) { return in[0]; };
  EXPECT_NE(check_reference(c), "");
}

}  // namespace
}  // namespace tpo::optest
