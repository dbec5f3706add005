#include <glog/logging.h>
#include <sched.h>

#include <chrono>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iostream>

#include "launcher/commands/args.h"
#include "launcher/commands/checkpoint_model.h"
#include "launcher/commands/commands.h"
#include "launcher/evaluator.h"
#include "launcher/exit_codes.h"
#include "launcher/guard.h"
#include "launcher/peak.h"
#include "launcher/report.h"
#include "launcher/run_files.h"
#include "launcher/step_profile.h"
#include "launcher/trainer.h"
#include "launcher/world.h"

namespace tpo {

namespace {

const CommandHelp kHelp{
    "train",
    "Trains from a configuration file; continues from the newest checkpoint of the run folder. SIGTERM or SIGUSR1 "
    "(which mpirun forwards) saves after the step and exits with 75. --set profile.steps=3 says where a step's time "
    "goes, as a table and as a trace in the run folder.",
    "",
    "mpirun -n 2 tpo_dist train --config examples/quickstart.textproto --set train.steps=200",
    {{"config", "configuration file (text format of RunConfig)", "", Flag::Kind::kText},
     {"set", "override, path.to.field=value; may be repeated", "", Flag::Kind::kList},
     {"help-config", "print every configuration field with default and range", "", Flag::Kind::kSwitch}}};

// A memory figure of this process in bytes: VmRSS (resident now) or VmHWM (its high-water mark).
int64_t process_bytes(const std::string& field) {
  std::ifstream in("/proc/self/status");
  for (std::string line; std::getline(in, line);)
    if (line.starts_with(field + ":")) return std::stoll(line.substr(field.size() + 1)) * 1024;
  return 0;
}

std::string clock_text(double seconds) {
  char text[32];
  const long s = static_cast<long>(seconds);
  std::snprintf(text, sizeof text, "%ld:%02ld:%02ld", s / 3600, s / 60 % 60, s % 60);
  return text;
}

// Sums over the steps since the last line.
class Progress {
 public:
  Progress(const config::RunConfig& c, int ranks, double peak_gflops)
      : config_(c), ranks_(ranks), peak_(peak_gflops), begin_(std::chrono::steady_clock::now()) {}

  void add(const StepStats& s) {
    ++steps_, ++all_steps_;
    tokens_ += s.counts.tokens, media_ += s.counts.media, flops_ += s.flops, model_flops_ += s.model_flops;
    seconds_ += s.step_s, wait_ += s.wait_s, exposed_ += s.exposed_s;
    lm_ += s.lm, lm_n_ += s.counts.loss_tokens > 0;
    region_ += s.region, region_n_ += s.counts.regions > 0;
    set_lm_.resize(s.lm_of_set.size()), set_n_.resize(s.lm_of_set.size());
    for (size_t d = 0; d < set_lm_.size(); ++d)
      if (!std::isnan(s.lm_of_set[d])) set_lm_[d] += s.lm_of_set[d], ++set_n_[d];
  }

  // Prints the line and writes the record, then starts anew.
  void report(const StepStats& s, const TrainingData& data, RunLog& log) {
    const double total = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin_).count();
    const double left = total / static_cast<double>(all_steps_) * static_cast<double>(config_.train().steps() - s.step);
    // The model's operations, so that recompute does not look like speed; what was executed is in the log beside it.
    const double gflops = static_cast<double>(model_flops_) / seconds_ * 1e-9;
    const double executed = static_cast<double>(flops_) / seconds_ * 1e-9;
    const double all_peak = peak_ * ranks_ * config_.run().threads(), share = gflops / all_peak;
    char text[400];
    std::snprintf(
        text, sizeof text,
        "step %lld/%lld  text %.4f  region %.4f  norm %.3f  lr %.2e  %.0f tokens/s  %.1f images/s  %.1f GFLOP/s "
        "(MFU %.0f %%)  loader wait %.1f %%  exposed comm %.1f %%  left %s",
        static_cast<long long>(s.step), static_cast<long long>(config_.train().steps()),
        lm_ / std::max<int64_t>(1, lm_n_), region_ / std::max<int64_t>(1, region_n_), s.grad_norm, s.lr,
        static_cast<double>(tokens_) / seconds_, static_cast<double>(media_) / seconds_, gflops, 100 * share,
        100 * wait_ / seconds_, 100 * exposed_ / seconds_, clock_text(left).c_str());
    std::cout << text << std::endl;
    JsonLine line;
    line.text("kind", "train").integer("step", s.step);
    if (lm_n_ > 0) line.number("lm", lm_ / static_cast<double>(lm_n_));
    if (region_n_ > 0) line.number("region", region_ / static_cast<double>(region_n_));
    for (size_t d = 0; d < set_lm_.size(); ++d)
      if (set_n_[d] > 0) line.number("lm." + data.folders[d]->folder(), set_lm_[d] / static_cast<double>(set_n_[d]));
    line.number("grad_norm", s.grad_norm).number("lr", s.lr);
    line.number("tokens_per_s", static_cast<double>(tokens_) / seconds_);
    line.number("images_per_s", static_cast<double>(media_) / seconds_)
        .number("gflops", gflops)
        .number("mfu", share)
        .number("gflops_executed", executed)
        .number("hfu", executed / all_peak);
    line.number("step_s", seconds_ / static_cast<double>(steps_)).number("loader_wait_share", wait_ / seconds_);
    line.number("exposed_comm_share", exposed_ / seconds_);
    log.write(line);
    steps_ = tokens_ = media_ = flops_ = model_flops_ = lm_n_ = region_n_ = 0;
    seconds_ = wait_ = exposed_ = lm_ = region_ = 0;
    set_lm_.clear(), set_n_.clear();
  }

 private:
  const config::RunConfig& config_;
  int ranks_;
  double peak_;
  std::chrono::steady_clock::time_point begin_;
  int64_t steps_ = 0, all_steps_ = 0, tokens_ = 0, media_ = 0, flops_ = 0, model_flops_ = 0, lm_n_ = 0, region_n_ = 0;
  double seconds_ = 0, wait_ = 0, exposed_ = 0, lm_ = 0, region_ = 0;
  std::vector<double> set_lm_;  // per dataset, over the steps that had some of it
  std::vector<int64_t> set_n_;
};

class Run {
 public:
  Run(const config::RunConfig& c, ProcessGroup& world)
      : config_(c), world_(world), data_(make_training_data(c)), trainer_(c, data_, world) {
    resolve_tokenizer(*data_.tokenizer, data_.templates->connector_tokenizer(), config_);
    for (const auto& set : c.data().eval_sets()) eval_folders_.push_back(std::make_unique<DatasetFolder>(set.path()));
  }

  int go() {
    prepare();
    warn_of_few_processors();
    const double peak = config_.log().peak_gflops() > 0 ? config_.log().peak_gflops() : measure_peak_gflops();
    trainer_.warm_up();
    const AllocatorStats now = trainer_.stream().allocator()->stats();
    baseline_bytes_ = process_bytes("VmRSS") - now.live_bytes - now.cached_bytes;
    Progress progress(config_, world_.size(), peak);
    StepProfile profile(config_, trainer_.steps_done(), world_.rank(), world_.size(), peak);
    int64_t saved_at = -1;
    while (trainer_.steps_done() < config_.train().steps()) {
      const int64_t next = trainer_.steps_done() + 1;
      if (overlap_due(next) || overlap_due(next + 2) || overlap_due(next + 4)) trainer_.pair_next_step();
      const StepStats s = profile.step(trainer_);
      std::cout << profile.take_table() << std::flush;
      progress.add(s);
      const bool last = s.step == config_.train().steps();
      if (log_ && (s.step % config_.log().every() == 0 || last || s.stop)) progress.report(s, data_, *log_);
      if (overlap_due(s.step)) overlap(s.step);
      if (due(config_.checkpoint().every(), s.step) || last || s.stop) save(), saved_at = s.step;
      if (s.stop && !last) {
        if (log_) std::cout << "stopped after step " << s.step << " as asked; start again to continue" << std::endl;
        return kExitStopped;
      }
      if (due(config_.eval().every(), s.step) && !last) evaluate_all();
    }
    if (saved_at < 0 && latest(config_.run().folder() + "/checkpoints").empty()) save();
    evaluate_all();
    finish();
    return kExitDone;
  }

 private:
  static bool due(int64_t every, int64_t step) { return every > 0 && step % every == 0; }

  // Whether step number `step`, counted from 1, ends with an overlap report.
  bool overlap_due(int64_t step) const {
    return world_.size() > 1 && (due(config_.log().overlap_every(), step) || step == config_.train().steps());
  }
  void overlap(int64_t step) {
    const OverlapReport report = trainer_.overlap();
    if (!log_) return;
    std::cout << overlap_table(report) << std::flush;
    log_->write(overlap_json(report, step));
  }

  // Run folder, resume or initial weights, log.
  void prepare() {
    const std::string folder = config_.run().folder(), checkpoints = folder + "/checkpoints";
    const std::string newest = latest(checkpoints);
    world_.barrier("run folder").wait_host();
    check<ConfigError>(newest.empty() || config_.checkpoint().resume() == "auto", "run.folder ", folder,
                       " holds checkpoints and checkpoint.resume is never; choose another folder or resume: \"auto\"");
    if (!newest.empty()) {
      const std::string warning = resume(checkpoints, newest);
      if (world_.rank() == 0) {
        if (!warning.empty()) LOG(WARNING) << warning;
        std::cout << "continuing from " << newest << std::endl;
      }
    } else if (!config_.checkpoint().init_from().empty()) {
      const auto& k = config_.checkpoint();
      LoadOptions allow;
      allow.allow_missing.assign(k.allow_missing().begin(), k.allow_missing().end());
      allow.allow_unexpected.assign(k.allow_unexpected().begin(), k.allow_unexpected().end());
      allow.allow_shape.assign(k.allow_shape().begin(), k.allow_shape().end());
      trainer_.init_from(resolve_checkpoint(k.init_from()), allow);
    }
    if (world_.rank() == 0) {
      std::error_code error;
      std::filesystem::create_directories(folder, error);
      check<IoError>(!error, "run.folder ", folder, " cannot be created: ", error.message());
      write_text(folder + "/config.textproto", resolved_text(config_));
      log_ = std::make_unique<RunLog>(folder, trainer_.steps_done());
      int64_t samples = 0;
      for (const auto& f : data_.folders) samples += f->size();
      std::cout << "tpo_dist: " << world_.size() << " ranks x " << config_.run().threads() << " threads, "
                << trainer_.store().numel() << " parameters (" << trainer_.store().numel(true) << " train), " << samples
                << " samples in " << data_.folders.size() << " datasets, run folder " << folder << std::endl;
    }
  }

  // Continues, or says what can be done instead.
  std::string resume(const std::string& checkpoints, const std::string& newest) {
    try {
      return trainer_.resume(newest);
    } catch (const OtherTokenizer&) {
      throw;  // says itself what is allowed
    } catch (const ConfigError& e) {
      throw ConfigError(cat(e.what(),
                            "; a run that continues has to fit, whatever is allowed: to take the weights only, ",
                            "choose another run.folder and name this checkpoint in checkpoint.init_from, for which ",
                            "allow_missing and its like hold"));
    } catch (const DataError& e) {
      std::string before;  // the newest of the others whose manifest is sound
      for (const std::string& folder : list_checkpoints(checkpoints)) {
        try {
          if (folder != newest) before = describe(folder).folder;
        } catch (const Error&) {
        }
      }
      throw DataError(cat(e.what(), before.empty()
                                        ? "; no other checkpoint of this run can be read: start in another run.folder"
                                        : cat("; to continue from ", before, ", move ", newest, " out of its folder")));
    }
  }

  // mpirun binds each rank to one core unless told otherwise.
  void warn_of_few_processors() const {
    cpu_set_t allowed;
    CPU_ZERO(&allowed);
    if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) return;
    const int have = CPU_COUNT(&allowed), want = config_.run().threads();
    if (have < want)
      LOG(WARNING) << "rank " << world_.rank() << " may use " << have << " processors but run.threads is " << want
                   << "; start with mpirun --bind-to none, or --map-by slot:PE=" << want;
  }

  void save() {
    const auto begin = std::chrono::steady_clock::now();
    const std::string folder = trainer_.save();
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    if (log_) {
      std::cout << "saved " << folder << " in " << seconds << " s" << std::endl;
      log_->write(JsonLine()
                      .text("kind", "checkpoint")
                      .integer("step", trainer_.steps_done())
                      .text("folder", folder)
                      .number("seconds", seconds));
    }
  }

  void evaluate_all() {
    activity().phase = "evaluation";
    if (!eval_folders_.empty()) trainer_.sync().with_full_values([&] { evaluate_sets(); });
  }

  void evaluate_sets() {
    for (const auto& opened : eval_folders_) {
      const DatasetFolder& folder = *opened;
      EvalOptions options;
      options.samples = config_.eval().samples();
      options.generate = make_generate_options(config_, data_.templates->tokenizer());
      options.pictures = trainer_.mesh().tensor_rank() == 0 ? config_.eval().pictures() : 0;
      options.picture_folder = config_.run().folder() + "/pictures";
      const EvalResult r = evaluate(trainer_.model(), folder, *data_.templates, make_collate_options(config_), options,
                                    trainer_.mesh().data());
      if (!log_) continue;
      std::cout << describe(r) << std::endl;
      JsonLine line;
      line.text("kind", "eval")
          .integer("step", trainer_.steps_done())
          .text("dataset", r.dataset)
          .integer("samples", r.samples);
      if (r.boxes > 0)
        line.number("acc50", r.acc50)
            .number("mean_iou", r.mean_iou)
            .number("constant_acc50", r.constant_acc50)
            .integer("boxes", r.boxes)
            .integer("boxes_given", r.boxes_given);
      if (r.answers > 0)
        line.number("exact", r.exact).number("most_frequent", r.most_frequent).integer("answers", r.answers);
      log_->write(line);
    }
  }

  void finish() {
    const uint64_t parameters = trainer_.parameter_hash();
    if (!log_) return;
    const AllocatorStats memory = trainer_.stream().allocator()->stats();
    char hash[20];
    std::snprintf(hash, sizeof hash, "%016llx", static_cast<unsigned long long>(parameters));
    log_->write(JsonLine()
                    .text("kind", "end")
                    .integer("step", trainer_.steps_done())
                    .text("parameter_hash", hash)
                    .integer("tensor_peak_bytes", memory.peak_bytes)
                    .integer("allocator_held_peak_bytes", memory.held_peak_bytes)
                    .integer("baseline_bytes", baseline_bytes_)
                    .integer("process_peak_bytes", process_bytes("VmHWM")));
    std::cout << "done: parameter hash " << hash << ", tensor memory peak " << memory.peak_bytes / 1048576
              << " MiB (held " << memory.held_peak_bytes / 1048576 << "), process baseline "
              << baseline_bytes_ / 1048576 << " MiB and peak " << process_bytes("VmHWM") / 1048576 << " MiB\n"
              << "report: " << write_report(config_.run().folder()) << std::endl;
  }

  config::RunConfig config_;
  ProcessGroup& world_;
  TrainingData data_;
  Trainer trainer_;
  std::vector<std::unique_ptr<DatasetFolder>> eval_folders_;
  std::unique_ptr<RunLog> log_;  // on rank 0
  // Resident before the first step, without the allocator's part: code, libraries, tables, prefetched batches, the
  // matrix library's workspace, shared gradient buffers.
  int64_t baseline_bytes_ = 0;
};

}  // namespace

int run_train(std::span<const std::string> words, ProcessGroup& world) {
  const Args args(kHelp, words);
  if (args.help() || args.is_on("help-config")) {
    if (world.rank() == 0) std::cout << (args.help() ? args.usage() : config_reference());
    return kExitDone;
  }
  args.words(0);
  const config::RunConfig config = load_config(args.required("config"), args.list("set"), world.size());
  check<ConfigError>(config.run().device() != "meta", "run.device is meta, which computes nothing; train needs cpu");
  catch_stop_signals();
  guard_run(config.run().folder(), resolved_text(config), config.guard().stall_seconds(),
            config.guard().slow_phase_seconds());
  return Run(config, world).go();
}

}  // namespace tpo
