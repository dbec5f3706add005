#pragma once
// Learnable task tokens: the input rows at the slots of the tasks, each a parameter group of its own.
#include <array>

#include "core/param.h"

namespace tpo {

enum class Task { kBox = 0, kTemporal = 1, kTrack = 2 };
inline constexpr int kTasks = 3;
const char* name_of(Task task);

// Ids of the rows appended to a vocabulary of `base` pieces, in the order of the public model.
struct TaskVocabulary {
  int32_t base = 0;
  int32_t box_begin() const { return base; }
  int32_t time_begin() const { return base + 1; }
  int32_t temp() const { return base + 2; }
  int32_t boxes() const { return base + 3; }
  int32_t track_begin() const { return base + 4; }
  int32_t tracking() const { return base + 5; }
  int32_t track_box() const { return base + 6; }

  int32_t trigger(Task task) const;  // written by the model, announces the task
  int32_t slot(Task task) const;     // stands after the trigger; its input row is the task token
};

// Names: <scope>.box, .temporal, .track, each (1, width), N(0, stddev); groups token.box, token.temporal, token.track.
class TaskTokens {
 public:
  TaskTokens(const ParamScope& scope, int64_t width, float stddev);
  Param& operator[](Task task) const { return *tokens_[static_cast<size_t>(task)]; }

 private:
  std::array<Param*, kTasks> tokens_;
};

}  // namespace tpo
