#include <algorithm>
#include <cstdio>
#include <iostream>
#include <numeric>

#include "launcher/commands/args.h"
#include "launcher/commands/commands.h"
#include "launcher/exit_codes.h"
#include "launcher/run_files.h"
#include "launcher/step_plan.h"
#include "model/presets.h"

namespace tpo {

namespace {

const CommandHelp kHelp{
    "plan",
    "Says what a training step of a configuration needs, without data and without running it: bytes by kind at their "
    "peak, when that is, operations, and what recompute would save. Shapes come from the length indices if the "
    "datasets "
    "are there, else from the limits of the configuration.",
    "",
    "tpo_dist plan --config examples/quickstart.textproto --set train.samples_per_microbatch=16",
    {{"config", "configuration file (text format of RunConfig)", "", Flag::Kind::kText},
     {"set", "override, path.to.field=value; may be repeated", "", Flag::Kind::kList},
     {"ranks", "ranks of the run, as mpirun -n; 0: layout.data, or 1, times layout.tensor", "0", Flag::Kind::kText},
     {"shape", "where shapes come from: auto, data or limits", "auto", Flag::Kind::kText},
     {"media", "pictures or clips of a sample, for shape limits", "1", Flag::Kind::kText},
     {"vocab", "pieces of the tokenizer; 0: of data.tokenizer, or of the preset where that is absent", "0",
      Flag::Kind::kText},
     {"json", "also write the plan to this file", "", Flag::Kind::kText}}};

struct Question {
  config::RunConfig config;
  MeshShape mesh;
  int64_t vocab = 0;
  std::string vocab_source;
  StepShape shape;
  int64_t local = 0;  // microbatches of the rank that has most
};

constexpr const char* kModes[] = {"none", "selective", "full"};

// The first line of an error, for a remark.
std::string first_line(const std::exception& e) {
  const std::string text = e.what();
  return text.substr(0, text.find('\n'));
}

void find_shape(const Args& args, Question& q) {
  const int wanted = args.choice("shape", {"auto", "data", "limits"});
  q.vocab = args.integer("vocab", 0, 1 << 24);
  q.vocab_source = "--vocab";
  std::string why;
  if (wanted != 2) {
    try {
      const TrainingData data = make_training_data(q.config);
      q.shape = shape_of_data(q.config, data);
      if (q.vocab == 0) q.vocab = data.vocab, q.vocab_source = q.config.data().tokenizer();
    } catch (const Error& e) {
      if (wanted == 1) throw;
      why = cat(" (not from data: ", first_line(e), ")");
    }
  }
  check<ConfigError>(q.shape.kinds.empty() || !args.given("media"),
                     "plan: --media is for the limits, but shapes come from the datasets; add --shape limits or leave "
                     "--media out");
  if (q.shape.kinds.empty()) {
    q.shape = shape_of_limits(q.config, args.integer("media", 0, 1 << 20));
    q.shape.source += why;
  }
  if (q.vocab > 0) return;
  try {
    q.vocab = make_tokenizer(q.config)->vocab_size(), q.vocab_source = q.config.data().tokenizer();
  } catch (const Error&) {
    q.vocab = preset(q.config.model().preset()).language.vocab;
    q.vocab_source = cat("preset ", q.config.model().preset(), "; there is no ", q.config.data().tokenizer());
  }
}

Question ask(const Args& args) {
  Question q;
  q.config = load_config(args.required("config"), args.list("set"));
  auto ranks = static_cast<int>(args.integer("ranks", 0, 1 << 20));
  if (ranks == 0) ranks = std::max(1, q.config.layout().data()) * q.config.layout().tensor();
  q.mesh = make_mesh_shape(q.config, ranks);
  check_mesh(q.mesh, ranks);
  find_shape(args, q);
  const int64_t per_step = q.config.train().microbatches_per_step();
  q.local = (per_step + q.mesh.data - 1) / q.mesh.data;
  return q;
}

std::string decimal(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.1f", value);
  return text;
}
std::string mib(int64_t bytes) { return decimal(static_cast<double>(bytes) / 1048576); }

// Operations of a step, of the model: at most, since every microbatch is taken for one of the largest of its dataset.
// How many a dataset gives is the mean over steps.
double step_flops(const Question& q, const StepNeeds& n) {
  double mean = 0;
  for (size_t k = 0; k < q.shape.kinds.size(); ++k) mean += q.shape.kinds[k].share * static_cast<double>(n.flops[k]);
  return mean * q.config.train().microbatches_per_step();
}

// Host memory of microbatches that the loader may have ready, beside the allocator's.
int64_t queue_bytes(const Question& q, const StepNeeds& n) {
  const int64_t kinds = std::accumulate(n.batch_bytes.begin(), n.batch_bytes.end(), int64_t{0});
  return kinds * q.local / static_cast<int64_t>(n.batch_bytes.size()) * (q.config.data().prefetch_steps() + 1);
}

template <class F>
void print_row(const std::string& name, const std::vector<StepNeeds>& plans, F value) {
  std::printf("  %-20s", name.c_str());
  for (const StepNeeds& n : plans) std::printf("  %21s", std::string(value(n)).c_str());
  std::printf("\n");
}

void print_head(const Question& q, const StepNeeds& n) {
  std::string text = cat("model: ", n.params, " parameters, ", n.trainable, " train, in ", n.buckets,
                         " gradient buckets (largest ", mib(n.largest_bucket_bytes), " MiB); vocabulary ", q.vocab,
                         " (", q.vocab_source, ")\nshape: ", q.shape.source, "\n");
  for (const StepShape::Kind& k : q.shape.kinds) {
    const MicrobatchSize& m = k.size;
    text += cat("  microbatch of ", k.name, ": ", m.sequences.size(), " sequences, ",
                std::accumulate(m.sequences.begin(), m.sequences.end(), int64_t{0}), " tokens, ", m.media,
                m.pictures.empty() ? " media" : cat(" views of ", m.pictures.size(), " pictures"), " of ", m.frames,
                " frame(s), ",
                m.connector_texts.empty()
                    ? ""
                    : cat(std::accumulate(m.connector_texts.begin(), m.connector_texts.end(), int64_t{0}),
                          " tokens beside them, "),
                m.regions, " boxes asked for, ", m.box_inputs, " given\n");
  }
  text += cat("step: ", q.config.train().microbatches_per_step(), " microbatches over ", q.mesh.data * q.mesh.tensor,
              " rank(s), data ", q.mesh.data, " x tensor ", q.mesh.tensor, ", at most ", q.local,
              " one after the other on each; ", q.config.run().precision(), "\n");
  std::printf("%s\n", text.c_str());
}

void print_plan(const Question& q, const std::vector<StepNeeds>& plans) {
  print_head(q, plans[0]);
  std::printf("  %-20s", "MiB of one rank");
  for (const char* mode : kModes)
    std::printf("  %21s", cat("recompute ", mode, q.config.model().recompute() == mode ? " *" : "").c_str());
  std::printf("\n");
  print_row("peak", plans, [](const StepNeeds& n) { return mib(n.memory.at_peak().bytes); });
  for (int k = 0; k < kMemoryKinds; ++k)
    print_row(cat("  ", name_of(static_cast<MemoryKind>(k))), plans,
              [k](const StepNeeds& n) { return mib(n.memory.at_peak().by_kind[static_cast<size_t>(k)]); });
  print_row("  in", plans, [](const StepNeeds& n) { return n.memory.at_peak().phase; });
  print_row("  at", plans, [](const StepNeeds& n) { return n.memory.at_peak().kernel; });
  for (size_t p = 0; p < plans[0].memory.phases.size(); ++p)
    print_row("peak of " + plans[0].memory.phases[p].phase, plans,
              [p](const StepNeeds& n) { return mib(n.memory.phases[p].bytes); });
  print_row("all weights, to eval", plans, [](const StepNeeds& n) { return mib(n.whole_values_bytes); });
  print_row("held from the system", plans, [](const StepNeeds& n) { return mib(n.allocator.held_peak_bytes); });
  print_row("loader queue, host", plans, [&](const StepNeeds& n) { return mib(queue_bytes(q, n)); });
  print_row("GFLOP, at most", plans, [&](const StepNeeds& n) { return decimal(step_flops(q, n) * 1e-9); });
  std::printf(
      "\n  * as configured. Gradients are the buckets that ranks exchange; activations include values in flight;\n"
      "  held is the peak rounded up to what the allocator takes; GFLOP are those of the model, counted once, in a\n"
      "  mean step if every microbatch is as large as shown. Evaluation during training holds all weights on every\n"
      "  rank, however they are sharded, and what is there between steps. In no line: what attention keeps for each\n"
      "  thread, up to\n"
      "  4 bytes x 6 x head width x (longest segment + 64), and 24 KiB; and buffers of the matrix library.\n");
}

JsonLine kinds_json(const BytesByKind& bytes) {
  JsonLine line;
  for (int k = 0; k < kMemoryKinds; ++k)
    line.integer(std::string(name_of(static_cast<MemoryKind>(k))), bytes[static_cast<size_t>(k)]);
  return line;
}

std::string json(const Question& q, const std::vector<StepNeeds>& plans) {
  JsonLine out, modes;
  out.integer("parameters", plans[0].params).integer("trainable", plans[0].trainable).integer("vocab", q.vocab);
  out.integer("gradient_buckets", plans[0].buckets).integer("largest_bucket_bytes", plans[0].largest_bucket_bytes);
  out.text("shape", q.shape.source).integer("ranks", q.mesh.data * q.mesh.tensor);
  out.integer("data", q.mesh.data).integer("tensor", q.mesh.tensor).integer("microbatches_of_a_rank", q.local);
  out.integer("loader_queue_bytes", queue_bytes(q, plans[0])).text("recompute", q.config.model().recompute());
  for (size_t i = 0; i < plans.size(); ++i) {
    const StepNeeds& n = plans[i];
    const MemoryMoment& peak = n.memory.at_peak();
    JsonLine mode, phases;
    for (const MemoryMoment& m : n.memory.phases)
      phases.object(
          m.phase,
          JsonLine().integer("peak_bytes", m.bytes).text("kernel", m.kernel).object("by_kind", kinds_json(m.by_kind)));
    mode.integer("peak_bytes", peak.bytes).object("by_kind", kinds_json(peak.by_kind));
    mode.text("phase", peak.phase).text("kernel", peak.kernel).object("phases", phases);
    mode.object("peak_of_kind", kinds_json(n.memory.peak)).integer("held_bytes", n.allocator.held_peak_bytes);
    mode.integer("evaluation_bytes", n.whole_values_bytes);
    modes.object(kModes[i], mode.number("step_flops", step_flops(q, n)));
  }
  return out.object("by_recompute", modes).str() + "\n";
}

}  // namespace

int run_plan(std::span<const std::string> words) {
  const Args args(kHelp, words);
  if (args.help()) {
    std::cout << args.usage();
    return kExitDone;
  }
  args.words(0);
  const Question q = ask(args);
  std::vector<StepNeeds> plans;
  for (const char* mode : kModes) {
    config::RunConfig config = q.config;
    config.mutable_model()->set_recompute(mode);
    plans.push_back(plan_steps(config, q.vocab, q.shape.kinds, q.local, q.mesh.data));
  }
  print_plan(q, plans);
  if (const std::string file = args.text("json"); !file.empty()) write_text(file, json(q, plans));
  return kExitDone;
}

}  // namespace tpo
