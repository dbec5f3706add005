#include "data/frame_times.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "core/error.h"

namespace tpo {

std::vector<int> middle_frames(int n, int count) {
  std::vector<int> picked;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t begin = i * n / count, end = (i + 1) * n / count;
    picked.push_back(static_cast<int>(n < count ? std::min<int64_t>(i, n - 1) : begin + (end - begin - 1) / 2));
  }
  return picked;
}

std::string frame_times(const data::Sample& sample, int m, int count) {
  const data::Media& media = sample.media(m);
  check<DataError>(std::isfinite(media.fps()) && media.fps() > 0, "sample '", sample.id(), "': media[", m,
                   "] is a clip of unknown frame rate, so that times of its frames cannot be told; import it with its "
                   "fps, or set data.frame_message to never and data.connector_text to none or instruction");
  std::string text;
  for (int frame : middle_frames(media.frame_bytes_size(), count)) {
    char number[32];
    std::snprintf(number, sizeof number, "%.1f", std::round(10.0 * frame / media.fps()) / 10.0);
    text += cat(text.empty() ? "" : ", ", number);
  }
  return text;
}

}  // namespace tpo
