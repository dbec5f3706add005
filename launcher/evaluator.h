#pragma once
// Evaluation on held-out datasets: boxes asked for by text (generation, trigger, head) and short answers, each beside
// the baselines that see nothing. Ranks share the samples; the result is the same on every rank.
#include <string>
#include <vector>

#include "launcher/build.h"
#include "model/generate.h"
#include "model/metrics/box.h"
#include "parallel/comm/process_group.h"

namespace tpo {

struct EvalOptions {
  int64_t samples = 256;       // the first so many of each dataset; all if it has fewer
  GenerateOptions generate;    // eos_id is the tokenizer's; the key of an answer is that of its sample and turn
  int pictures = 0;            // drawn predictions per dataset
  std::string picture_folder;  // created; files <dataset>_<n>.png
};

struct EvalResult {
  std::string dataset;
  int64_t samples = 0;
  // Answers with boxes: one entry a target box. A missing box counts as IoU 0.
  int64_t boxes = 0;
  int64_t boxes_given = 0;  // the model wrote a trigger for it
  double acc50 = 0, mean_iou = 0;
  double constant_acc50 = 0;  // of the best single box, chosen on these very targets (so an upper bound)
  // Answers of text.
  int64_t answers = 0;
  double exact = 0;          // share equal after normalisation
  double most_frequent = 0;  // share of the most frequent answer here
  // Turns not asked, since their prompt is longer than data.max_tokens; they are in none of the counts above.
  int64_t too_long = 0;
};

// Answers to every assistant turn, earlier turns given as they are in the data. Collective over world.
EvalResult evaluate(const TpoModel& model, const DatasetFolder& folder, const Templates& templates,
                    const CollateOptions& collate, const EvalOptions& options, ProcessGroup& world);

// One line for people.
std::string describe(const EvalResult& result);

// The prompt of one turn, tokenized by Templates::encode_prompt, as a Batch for generate(); pictures and clips as
// training has them. Throws DataError for a broken picture.
Batch make_prompt(const RawSample& raw, const TokenizedSample& prompt, const CollateOptions& collate);

// The first picture of a sample with boxes drawn on it: `truth` green, `given` red. Returns PNG bytes.
std::vector<std::byte> draw_boxes(const RawSample& raw, const std::vector<Box>& truth, const std::vector<Box>& given,
                                  const std::string& caption);

}  // namespace tpo
