#include "model/generate.h"

#include <algorithm>
#include <optional>

#include "core/ops/reduce.h"

namespace tpo {

namespace {

// One sequence being written: the cache and the state at its last row.
class Writer {
 public:
  Writer(const TpoModel& model, const Batch& prompt, int64_t max_new_tokens) : model_(model) {
    const Tensor x = model.embed(prompt);
    check_shape(x.dim(0) >= 1 && prompt.at("cu_seqlens").numel() == 2, "[generate] the prompt must be one sequence of ",
                "at least one row, not ", x.dim(0), " rows in ", prompt.at("cu_seqlens").numel() - 1, " sequences");
    cache_ = model.language().make_cache(x.dim(0) + 2 * max_new_tokens);  // a slot may follow every token
    feed(x);
  }

  int32_t next() const {
    const Tensor ids = argmax_rows(model_.language().logits(last_));
    return *ids.data<int32_t>();
  }
  void feed_token(int32_t id) { feed(model_.language().embed(Tensor::from(std::vector<int32_t>{id}, {1}))); }
  void feed(const Tensor& x_nC) {
    const Tensor hidden = model_.language().step(x_nC, cache_);
    last_ = hidden.rows(hidden.dim(0) - 1, hidden.dim(0));
  }
  const Tensor& last() const { return last_; }  // (1, C), after the final norm

 private:
  const TpoModel& model_;
  KvCache cache_;
  Tensor last_;
};

std::optional<Task> triggered(const TaskVocabulary& vocabulary, int32_t id) {
  for (int i = 0; i < kTasks; ++i)
    if (id == vocabulary.trigger(static_cast<Task>(i))) return static_cast<Task>(i);
  return std::nullopt;
}

GeneratedBox to_box(const Tensor& pred, int64_t token) {
  check_shape(pred.shape() == Shape({1, 4}), "[generate] the region head gave ", pred.shape(), ", not (1, 4)");
  GeneratedBox box;
  box.token = token;
  for (size_t i = 0; i < 4; ++i) {
    box.raw[i] = pred.data<float>()[i];
    box.box[i] = std::clamp(box.raw[i], 0.0f, 1.0f);
  }
  return box;
}

}  // namespace

Generation generate(const TpoModel& model, const Batch& prompt, const GenerateOptions& options) {
  const NoGradScope no_grad;
  const TaskVocabulary vocabulary = model.vocabulary();
  Writer writer(model, prompt, options.max_new_tokens);
  Generation out;
  std::vector<std::pair<Tensor, int64_t>> region_states;  // e (1, C) and the index of its slot
  for (int64_t n = 0; n < options.max_new_tokens && !out.stopped; ++n) {
    const int32_t id = writer.next();
    out.tokens.push_back(id);
    if (id == options.eos_id) {
      out.stopped = true;
    } else if (const auto task = triggered(vocabulary, id)) {
      writer.feed_token(id);
      writer.feed(model.task_tokens()[*task].use());
      out.tokens.push_back(vocabulary.slot(*task));
      if (*task == Task::kBox) region_states.emplace_back(writer.last(), static_cast<int64_t>(out.tokens.size()) - 1);
    } else {
      writer.feed_token(id);
      if (id < vocabulary.base) out.text.push_back(id);
    }
  }
  for (const auto& [e, slot] : region_states)
    out.boxes.push_back(to_box(options.region_head ? options.region_head(e) : model.region_head()(e), slot));
  return out;
}

}  // namespace tpo
