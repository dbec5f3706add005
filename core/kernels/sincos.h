#pragma once
// Sine and cosine for encodings of positions.
#include "core/inline.h"

namespace tpo {

struct SinCos {
  float sine, cosine;
};

// Reduction in double and short series in fp32, without branches: loops over it are vector code, where the C library
// would take as long as the rest of the row. Absolute error below 1e-7 while |angle| < 2^30.
TPO_INLINE SinCos sincos_of(double angle) {
  constexpr double kRound = 6755399441055744.0;  // 1.5 * 2^52: adding it leaves the nearest integer in the low bits
  const double quarters = (angle * 0.63661977236758134 + kRound) - kRound;
  const auto r = static_cast<float>(angle - quarters * 1.5707963267948966), z = r * r;  // |r| <= pi/4
  // Cephes sinf and cosf.
  const float s = r + r * z * (-1.6666654611e-1f + z * (8.3321608736e-3f - z * 1.9515295891e-4f));
  const float c =
      1.0f - 0.5f * z + z * z * (4.166664568298827e-2f + z * (-1.388731625493765e-3f + z * 2.443315711809948e-5f));
  const int q = static_cast<int>(quarters) & 3;
  const float cos_part = (q & 1) ? s : c, sin_part = (q & 1) ? c : s;
  return {(q & 2) ? -sin_part : sin_part, (q == 1 || q == 2) ? -cos_part : cos_part};
}

}  // namespace tpo
