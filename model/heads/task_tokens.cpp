#include "model/heads/task_tokens.h"

namespace tpo {

const char* name_of(Task task) {
  switch (task) {
    case Task::kBox:
      return "box";
    case Task::kTemporal:
      return "temporal";
    case Task::kTrack:
      return "track";
  }
  return "?";
}

int32_t TaskVocabulary::trigger(Task task) const {
  switch (task) {
    case Task::kBox:
      return box_begin();
    case Task::kTemporal:
      return time_begin();
    case Task::kTrack:
      return track_begin();
  }
  return -1;
}

int32_t TaskVocabulary::slot(Task task) const {
  switch (task) {
    case Task::kBox:
      return boxes();
    case Task::kTemporal:
      return temp();
    case Task::kTrack:
      return tracking();
  }
  return -1;
}

TaskTokens::TaskTokens(const ParamScope& s, int64_t width, float stddev) {
  for (int i = 0; i < kTasks; ++i) {
    const char* name = name_of(static_cast<Task>(i));
    Param& p = s.in_group(cat("token.", name)).param(name, {1, width}, Init::normal(0, stddev));
    p.decay = false;  // one row that stands for an input, as an embedding; nothing pulls it to zero
    tokens_[static_cast<size_t>(i)] = &p;
  }
}

}  // namespace tpo
