#include "core/cpu_features.h"

namespace tpo {

namespace {

#ifdef __AVX2__
constexpr bool kAvx2 = true;
#else
constexpr bool kAvx2 = false;
#endif
#ifdef __FMA__
constexpr bool kFma = true;
#else
constexpr bool kFma = false;
#endif
#ifdef __BMI2__
constexpr bool kBmi2 = true;
#else
constexpr bool kBmi2 = false;
#endif
#ifdef __AVX512F__
constexpr bool kAvx512f = true;
#else
constexpr bool kAvx512f = false;
#endif
#ifdef __AVX512DQ__
constexpr bool kAvx512dq = true;
#else
constexpr bool kAvx512dq = false;
#endif
#ifdef __AVX512BW__
constexpr bool kAvx512bw = true;
#else
constexpr bool kAvx512bw = false;
#endif
#ifdef __AVX512VL__
constexpr bool kAvx512vl = true;
#else
constexpr bool kAvx512vl = false;
#endif
#ifdef __AVX512VPOPCNTDQ__
constexpr bool kAvx512popcnt = true;
#else
constexpr bool kAvx512popcnt = false;
#endif
#ifdef __AVX512VBMI2__
constexpr bool kAvx512vbmi2 = true;
#else
constexpr bool kAvx512vbmi2 = false;
#endif
#ifdef __AVX512BF16__
constexpr bool kAvx512bf16 = true;
#else
constexpr bool kAvx512bf16 = false;
#endif

}  // namespace

// This file is compiled like any other, so that it sees what the compiler may use; these functions alone are not. They
// call nothing that is inlined from elsewhere.
[[gnu::target("arch=x86-64")]] const char* first_missing(const CpuFeature* features, int n) {
  for (int i = 0; i < n; ++i)
    if (features[i].compiled && !features[i].present) return features[i].name;
  return nullptr;
}

[[gnu::target("arch=x86-64")]] const char* missing_cpu_feature() {
  __builtin_cpu_init();
  const CpuFeature features[] = {
      {"AVX2", kAvx2, __builtin_cpu_supports("avx2") != 0},
      {"FMA", kFma, __builtin_cpu_supports("fma") != 0},
      {"BMI2", kBmi2, __builtin_cpu_supports("bmi2") != 0},
      {"AVX-512F", kAvx512f, __builtin_cpu_supports("avx512f") != 0},
      {"AVX-512DQ", kAvx512dq, __builtin_cpu_supports("avx512dq") != 0},
      {"AVX-512BW", kAvx512bw, __builtin_cpu_supports("avx512bw") != 0},
      {"AVX-512VL", kAvx512vl, __builtin_cpu_supports("avx512vl") != 0},
      {"AVX-512 VPOPCNTDQ", kAvx512popcnt, __builtin_cpu_supports("avx512vpopcntdq") != 0},
      {"AVX-512 VBMI2", kAvx512vbmi2, __builtin_cpu_supports("avx512vbmi2") != 0},
      {"AVX-512 BF16", kAvx512bf16, __builtin_cpu_supports("avx512bf16") != 0},
  };
  return first_missing(features, static_cast<int>(sizeof(features) / sizeof(features[0])));
}

}  // namespace tpo
