#include "model/generate.h"

#include <algorithm>
#include <limits>
#include <optional>

#include "core/ops/embedding.h"
#include "core/ops/layout.h"

namespace tpo {

namespace {

constexpr float kNever = -std::numeric_limits<float>::infinity();

// One continuation of the prompt.
struct Hypothesis {
  std::vector<int32_t> tokens;
  std::vector<int32_t> rows;                              // of the cache, behind the prompt: what a next row sees
  Tensor last;                                            // (1, C), the state at the newest row, after the final norm
  std::vector<std::pair<Tensor, int64_t>> region_states;  // e (1, C) and GeneratedBox::token
  double sum = 0;                                         // of log probabilities
  size_t end = 0;                                         // ids of the eos or stop sequence at the end of tokens
};

std::optional<Task> triggered(const TaskVocabulary& vocabulary, int32_t id) {
  for (int i = 0; i < kTasks; ++i)
    if (id == vocabulary.trigger(static_cast<Task>(i))) return static_cast<Task>(i);
  return std::nullopt;
}

// Rows that are fed together, of all hypotheses.
struct NewRows {
  std::vector<int32_t> ids, positions;
  std::array<std::vector<int32_t>, kTasks> slots;  // which of them hold a task token
  std::vector<std::vector<int32_t>> seen;          // rows of the cache behind the prompt that each sees, itself last
};

// The prompt and its continuations in one cache.
class Writer {
 public:
  Writer(const TpoModel& model, const Batch& prompt, const GenerateOptions& options)
      : model_(model), options_(options), vocabulary_(model.vocabulary()) {
    const Tensor x = model.embed(prompt);
    check_shape(x.dim(0) >= 1 && prompt.at("cu_seqlens").numel() == 2, "[generate] the prompt must be one sequence of ",
                "at least one row, not ", x.dim(0), " rows in ", prompt.at("cu_seqlens").numel() - 1, " sequences");
    if (options.rules_see_prompt) prompt_ids_ = prompt.at("tokens").to_vector<int32_t>();
    prompt_rows_ = x.dim(0);
    // Every token may be a trigger, which takes a second row.
    cache_ = model.language().make_cache(prompt_rows_ + 2 * options.num_beams * options.max_new_tokens);
    const Tensor hidden = model.language().step(x, cache_);
    start_.last = hidden.rows(prompt_rows_ - 1, prompt_rows_);
  }
  const Hypothesis& start() const { return start_; }

  // Scores of each hypothesis's next token: logits, for beams logarithms of probabilities, after all rules.
  std::vector<std::vector<float>> scores(const std::vector<Hypothesis>& all, int64_t step) const {
    std::vector<Tensor> states;
    for (const Hypothesis& h : all) states.push_back(h.last);
    const std::vector<float> logits = model_.language().logits(concat_rows(states)).to_vector<float>();
    const size_t V = logits.size() / all.size();
    std::vector<std::vector<float>> out;
    for (size_t i = 0; i < all.size(); ++i) {
      out.emplace_back(logits.begin() + static_cast<std::ptrdiff_t>(i * V),
                       logits.begin() + static_cast<std::ptrdiff_t>((i + 1) * V));
      apply_rules(all[i], step, out.back());
    }
    return out;
  }

  // Appends an id; notes in Hypothesis::end whether it ends the text.
  void append(Hypothesis& h, int32_t id) const {
    h.tokens.push_back(id);
    h.end = id == options_.eos_id ? 1 : 0;
    for (const auto& stop : options_.stop_sequences)
      if (h.tokens.size() >= stop.size() && std::equal(stop.rbegin(), stop.rend(), h.tokens.rbegin()))
        h.end = std::max(h.end, stop.size());
  }
  bool announces_task(const Hypothesis& h) const { return triggered(vocabulary_, h.tokens.back()).has_value(); }

  // Feeds the newest token of each, and the task token if that is a trigger.
  void feed(std::vector<Hypothesis>& all) {
    NewRows rows;
    std::vector<size_t> last(all.size());
    std::vector<std::pair<size_t, size_t>> regions;  // hypothesis and row
    for (size_t i = 0; i < all.size(); ++i) {
      Hypothesis& h = all[i];
      const int32_t id = h.tokens.back();
      const auto task = triggered(vocabulary_, id);
      size_t state = rows.ids.size();
      if (task && options_.state_without_trigger) add_row(rows, h, vocabulary_.slot(*task), task, Trace::kNone);
      add_row(rows, h, id, std::nullopt, Trace::kKept);
      if (task && !options_.state_without_trigger) {
        h.tokens.push_back(vocabulary_.slot(*task));
        state = rows.ids.size();
        add_row(rows, h, vocabulary_.slot(*task), task, Trace::kKept);
      }
      last[i] = rows.ids.size() - 1;
      if (task == Task::kBox) regions.emplace_back(i, state);
    }
    const Tensor hidden = step(rows);
    const auto row = [&](size_t r) { return hidden.rows(static_cast<int64_t>(r), static_cast<int64_t>(r) + 1); };
    for (size_t i = 0; i < all.size(); ++i) all[i].last = row(last[i]);
    for (const auto& [i, r] : regions)
      all[i].region_states.emplace_back(row(r), static_cast<int64_t>(all[i].tokens.size()) - 1);
  }

 private:
  enum class Trace { kNone, kKept };

  void add_row(NewRows& rows, Hypothesis& h, int32_t id, std::optional<Task> task, Trace trace) const {
    const auto n = static_cast<int32_t>(rows.ids.size());
    rows.ids.push_back(id);
    rows.positions.push_back(static_cast<int32_t>(prompt_rows_ + static_cast<int64_t>(h.rows.size())));
    if (task) rows.slots[static_cast<size_t>(*task)].push_back(n);
    rows.seen.push_back(h.rows);
    rows.seen.back().push_back(static_cast<int32_t>(cache_.length) + n);
    if (trace == Trace::kKept) h.rows = rows.seen.back();
  }

  Tensor step(const NewRows& rows) {
    const auto n = static_cast<int64_t>(rows.ids.size());
    Tensor x = model_.language().embed(Tensor::from(rows.ids, {n}));
    for (int t = 0; t < kTasks; ++t) {
      const auto& slots = rows.slots[static_cast<size_t>(t)];
      const auto count = static_cast<int64_t>(slots.size());
      if (count == 0) continue;
      const Tensor token = model_.task_tokens()[static_cast<Task>(t)].use();
      x = overwrite_rows(x, Tensor::from(slots, {count}), broadcast_rows(token, count));
    }
    // All rows of one hypothesis, one after the other: causal, without a mask.
    if (options_.num_beams == 1 && !options_.state_without_trigger) return model_.language().step(x, cache_);
    const int64_t K = cache_.length + n;
    std::vector<float> mask(static_cast<size_t>(n * K), kNever);
    for (size_t r = 0; r < rows.seen.size(); ++r) {
      float* const row = mask.data() + static_cast<int64_t>(r) * K;
      std::fill_n(row, prompt_rows_, 0.0f);
      for (const int32_t k : rows.seen[r]) row[k] = 0;
    }
    return model_.language().step(x, {Tensor::from(rows.positions, {n}), Tensor::from(mask, {1, n, K})}, cache_);
  }

  void apply_rules(const Hypothesis& h, int64_t step, std::vector<float>& scores) const {
    check<DataError>(std::none_of(scores.begin(), scores.end(), [](float s) { return s != s; }),
                     "[generate] the model gives a NaN as a score after ", h.tokens.size(), " new tokens");
    if (options_.num_beams > 1) log_softmax(scores);
    std::vector<int32_t> history = prompt_ids_;
    history.insert(history.end(), h.tokens.begin(), h.tokens.end());
    restrain(scores, history, options_.rules);
    if (step < options_.min_new_tokens && options_.eos_id >= 0)
      scores.at(static_cast<size_t>(options_.eos_id)) = kNever;
    const LanguageConfig& language = model_.language().config();
    std::fill(scores.begin() + language.vocab + language.new_tokens, scores.end(), kNever);
    for (const auto& [begin, end] : options_.never) std::fill(scores.begin() + begin, scores.begin() + end, kNever);
    // Beams need one token that goes on beside all that may end.
    const auto ends = static_cast<int64_t>(1 + options_.stop_sequences.size());
    if (options_.sample) narrow(scores, options_.rules, options_.num_beams > 1 ? 1 + ends : 1);
  }

  const TpoModel& model_;
  const GenerateOptions& options_;
  TaskVocabulary vocabulary_;
  KvCache cache_;
  int64_t prompt_rows_ = 0;
  std::vector<int32_t> prompt_ids_;  // if the rules see them
  Hypothesis start_;
};

std::vector<BeamCandidate> candidates(const Writer& writer, const std::vector<Hypothesis>& live, int64_t step, size_t n,
                                      const GenerateOptions& options) {
  std::vector<double> sums;
  for (const Hypothesis& h : live) sums.push_back(h.sum);
  const RngKey key = options.key.with("generate");
  const auto noise = [=](int beam, int32_t id) {
    return gumbel(key, static_cast<uint64_t>(step), static_cast<uint64_t>(beam), static_cast<uint64_t>(id));
  };
  return best_candidates(sums, writer.scores(live, step), n,
                         options.sample ? std::function<double(int, int32_t)>(noise) : nullptr);
}

Hypothesis write_one(Writer& writer, const GenerateOptions& options) {
  std::vector<Hypothesis> live{writer.start()};
  Hypothesis& h = live[0];
  for (int64_t n = 0; n < options.max_new_tokens; ++n) {
    const auto best = candidates(writer, live, n, 1, options);
    if (best.empty()) break;  // the rules exclude every token
    writer.append(h, best[0].id);
    if (h.end > 0) break;
    if (n + 1 < options.max_new_tokens || writer.announces_task(h)) writer.feed(live);
  }
  return h;
}

std::pair<double, Hypothesis> write_beams(Writer& writer, const GenerateOptions& options) {
  const auto beams = static_cast<size_t>(options.num_beams);
  EndedBeams<Hypothesis> ended(
      {options.num_beams, options.length_penalty, options.early_stopping, options.max_new_tokens});
  std::vector<Hypothesis> live{writer.start()};
  bool done = false;
  int64_t length = 0;
  while (!done && length < options.max_new_tokens) {
    // Each hypothesis can end in eos and every stop sequence, and one continuation of each must be left.
    const auto best = candidates(writer, live, length, beams * (2 + options.stop_sequences.size()), options);
    if (best.empty()) break;  // the rules exclude every token
    ++length;
    std::vector<Hypothesis> next;
    for (size_t rank = 0; rank < best.size() && next.size() < beams; ++rank) {
      Hypothesis h = live[static_cast<size_t>(best[rank].beam)];
      h.sum = best[rank].score;
      writer.append(h, best[rank].id);
      if (h.end == 0)
        next.push_back(std::move(h));
      else if (rank < beams)  // an end that others beat does not count
        ended.add(h, h.sum, length);
    }
    done = next.empty() || ended.done(best[0].score, length);
    live = std::move(next);
    if (!done && (length < options.max_new_tokens ||
                  std::any_of(live.begin(), live.end(), [&](const Hypothesis& h) { return writer.announces_task(h); })))
      writer.feed(live);
  }
  if (!done)
    for (const Hypothesis& h : live) ended.add(h, h.sum, std::max<int64_t>(length, 1));
  return ended.best();
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

Generation finish(const TpoModel& model, const Hypothesis& h, const GenerateOptions& options) {
  Generation out;
  out.tokens = h.tokens;
  out.stopped = h.end > 0;
  for (size_t i = 0; i + h.end < h.tokens.size(); ++i)
    if (h.tokens[i] < model.vocabulary().base) out.text.push_back(h.tokens[i]);
  for (const auto& [e, token] : h.region_states)
    out.boxes.push_back(to_box(options.region_head ? options.region_head(e) : model.region_head()(e), token));
  return out;
}

}  // namespace

std::vector<std::string> generate_problems(const GenerateOptions& o) {
  std::vector<std::string> list;
  const auto unless = [&](bool ok, const auto&... parts) {
    if (!ok) list.push_back(cat(parts...));
  };
  unless(o.max_new_tokens >= 1, "max_new_tokens is ", o.max_new_tokens, "; it must be at least 1");
  unless(o.min_new_tokens >= 0 && o.min_new_tokens <= o.max_new_tokens, "min_new_tokens is ", o.min_new_tokens,
         "; it must be from 0 to max_new_tokens, ", o.max_new_tokens);
  unless(o.num_beams >= 1, "num_beams is ", o.num_beams, "; it must be at least 1");
  unless(o.rules.repetition_penalty > 0, "repetition_penalty is ", o.rules.repetition_penalty,
         "; it must be positive, and 1 does nothing");
  unless(o.rules.no_repeat_ngram >= 0, "no_repeat_ngram is ", o.rules.no_repeat_ngram, "; 0 switches it off");
  unless(o.rules.temperature > 0, "temperature is ", o.rules.temperature,
         "; it must be positive; for the most probable answer do not sample");
  unless(o.rules.top_k >= 0, "top_k is ", o.rules.top_k, "; 0 keeps all");
  unless(o.rules.top_p > 0 && o.rules.top_p <= 1, "top_p is ", o.rules.top_p, "; it must be above 0 and at most 1");
  for (const auto& stop : o.stop_sequences) unless(!stop.empty(), "a stop sequence has no ids");
  return list;
}

Generation generate(const TpoModel& model, const Batch& prompt, const GenerateOptions& options) {
  std::string problems;
  for (const std::string& p : generate_problems(options)) problems += (problems.empty() ? "" : "; ") + p;
  check<ConfigError>(problems.empty(), "[generate] ", problems);
  const int64_t ids = model.config().language.vocab + model.config().language.new_tokens;
  check<ConfigError>(options.eos_id < ids, "[generate] eos_id ", options.eos_id, " is none of the ", ids, " ids");
  for (const auto& [begin, end] : options.never)
    check<ConfigError>(0 <= begin && begin <= end && end <= ids, "[generate] ids ", begin, " to ", end - 1,
                       " are to be left out, but there are ", ids);
  const NoGradScope no_grad;
  Writer writer(model, prompt, options);
  if (options.num_beams == 1) return finish(model, write_one(writer, options), options);
  const auto [score, best] = write_beams(writer, options);
  Generation out = finish(model, best, options);
  out.score = score;
  return out;
}

}  // namespace tpo
