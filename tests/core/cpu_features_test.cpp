#include "core/cpu_features.h"

#include <gtest/gtest.h>

namespace tpo {
namespace {

TEST(CpuFeatures, the_first_feature_that_is_compiled_in_and_absent_is_named) {
  const CpuFeature features[] = {{"a", true, true}, {"b", false, false}, {"c", true, false}, {"d", true, false}};
  EXPECT_STREQ(first_missing(features, 4), "c");
  EXPECT_STREQ(first_missing(features + 3, 1), "d");
  EXPECT_EQ(first_missing(features, 2), nullptr);
}

TEST(CpuFeatures, a_program_that_runs_misses_nothing) { EXPECT_EQ(missing_cpu_feature(), nullptr); }

}  // namespace
}  // namespace tpo
