#include "launcher/trainer.h"

#include <glog/logging.h>

#include <array>
#include <bit>
#include <chrono>
#include <cmath>
#include <cstring>
#include <limits>
#include <set>
#include <sstream>

#include "checkpoint/manifest.h"
#include "core/ops/attention.h"
#include "core/ops/matmul.h"
#include "core/parallel_for.h"
#include "core/profile.h"
#include "launcher/fault.h"
#include "launcher/step_plan.h"
#include "launcher/world.h"
#include "parallel/program/event_ring.h"

namespace tpo {

namespace {

using Clock = std::chrono::steady_clock;
double seconds_since(Clock::time_point t) { return std::chrono::duration<double>(Clock::now() - t).count(); }

std::unique_ptr<Stream> make_stream(const std::string& device) {
  check<DeviceError>(device != "cuda" || kHasCuda, "run.device is cuda, but this build has no CUDA backend; use cpu");
  return device == "meta" ? Stream::make_meta() : Stream::make_cpu();
}

std::string join_ids(const std::vector<std::string>& ids, size_t most) {
  std::string out;
  for (size_t i = 0; i < ids.size() && i < most; ++i) out += (i ? ", " : "") + ids[i];
  if (ids.size() > most) out += cat(" and ", ids.size() - most, " more");
  return out;
}

// Every rank's text, joined; collective.
std::string gather_text(ProcessGroup& world, const std::string& mine) {
  std::string all;
  for (const auto& part :
       world.all_gather_bytes(std::as_bytes(std::span(mine.data(), mine.size())), "failure report")) {
    const std::string text(reinterpret_cast<const char*>(part.data()), part.size());
    if (!text.empty()) all += (all.empty() ? "" : "; ") + text;
  }
  return all;
}

// Lines of one text that the other lacks, "- old" and "+ now"; the run folder may differ, and check_tokenizer()
// compares tokenizers.
std::string changed_lines(const std::string& old_text, const std::string& new_text) {
  const auto lines = [](const std::string& text) {
    std::multiset<std::string> out;
    std::istringstream in(text);
    for (std::string line; std::getline(in, line);)
      if (line.find(" folder: ") == std::string::npos && line.find("tokenizer_") == std::string::npos) out.insert(line);
    return out;
  };
  const auto before = lines(old_text), now = lines(new_text);
  std::string out;
  for (const auto& line : before)
    if (now.count(line) < before.count(line)) out += "\n  - " + line;
  for (const auto& line : now)
    if (before.count(line) < now.count(line)) out += "\n  + " + line;
  return out;
}

// Before load(), which would speak of fingerprints and shapes where the tokenizer is another.
void check_tokenizer_of(const std::string& checkpoint, const config::RunConfig& config) {
  std::string saved;
  try {
    saved = read_checkpoint_manifest(checkpoint).config();
  } catch (const Error&) {
    return;  // load() says what is wrong, on all ranks alike
  }
  check_tokenizer(saved, checkpoint, config);
}

std::vector<std::vector<double>> gather_doubles(ProcessGroup& world, const std::vector<double>& mine) {
  const ProfileScope waiting("wait for ranks", ProfileScope::Kind::kWait);
  std::vector<std::vector<double>> all;
  for (const auto& part : world.all_gather_bytes(std::as_bytes(std::span(mine)), "step statistics")) {
    all.emplace_back(part.size() / sizeof(double));
    std::memcpy(all.back().data(), part.data(), part.size());
  }
  return all;
}

}  // namespace

MicrobatchSize size_of(const HostBatch& host, const Counts& counts) {
  MicrobatchSize size;
  const auto ends = host.arrays.at("cu_seqlens").as<int32_t>();
  for (size_t i = 1; i < ends.size(); ++i) size.sequences.push_back(ends[i] - ends[i - 1]);
  size.media = counts.views;
  if (const auto sizes = host.extents.find("picture_sizes"); sizes != host.extents.end())
    for (size_t i = 0; i < sizes->second.size(); i += 2)
      size.pictures.push_back({sizes->second[i], sizes->second[i + 1]});
  if (const auto images = host.arrays.find("images"); images != host.arrays.end())
    size.frames = images->second.shape[1];
  if (const auto joint = host.arrays.find("connector_text.joint_cu"); joint != host.arrays.end()) {
    const auto ends = joint->second.as<int32_t>();
    const int64_t slots = host.arrays.at("visual_rows").shape.numel() / size.media;
    for (size_t i = 1; i < ends.size(); ++i) size.connector_texts.push_back(ends[i] - ends[i - 1] - slots);
  }
  size.regions = counts.regions;
  size.box_inputs = counts.box_inputs;
  size.loss_rows = counts.loss_tokens;
  return size;
}

// What this rank's microbatches of one step added up to.
struct Trainer::Sums {
  double region = 0;              // scaled
  std::vector<double> lm_of_set;  // scaled, by dataset
  double exposed_s = 0;           // in waits for communication
  int64_t flops = 0, model_flops = 0;
  std::vector<std::string> ids;  // of all samples run
  std::vector<std::string> bad;  // of microbatches with a loss that is not finite
};

Trainer::Trainer(const config::RunConfig& config, const TrainingData& data, ProcessGroup& world)
    : config_(config),
      data_(data),
      world_(world),
      stream_(make_stream(config.run().device())),
      scope_(*stream_),
      lr_(make_lr_schedule(config)) {
  config_.clear_profile();  // what is measured is no part of what is trained: checkpoints do not differ by it
  config_.clear_guard();
  if (data.tokenizer)
    resolve_tokenizer(*data.tokenizer, data.templates ? data.templates->connector_tokenizer() : nullptr, config_);
  set_num_threads(config.run().threads());
  mesh_ = std::make_unique<Mesh>(world, make_mesh_shape(config, world.size()));
  store_ = std::make_unique<ParamStore>(config.run().seed(), make_precision(config).weights);
  model_ = std::make_unique<TpoModel>(*store_, make_model_config(config, data.vocab), mesh_->tensor());
  apply_training_rules(config, *store_);
  BucketOptions options = make_bucket_options(config);
  options.forward_order = order_of_use(config, data.vocab);
  sync_ = std::make_unique<BucketSync>(*store_, *mesh_, options);
}

Trainer::~Trainer() {
  loader_.reset();  // its threads read data_ and nothing of ours, but stop them before anything goes
}

void Trainer::start_loader() {
  LoaderOptions options;
  options.rank = mesh_->data_rank();
  options.world = mesh_->shape().data;
  options.threads = config_.data().workers();
  options.prefetch_steps = config_.data().prefetch_steps();
  options.start_step = steps_done_;
  options.end_step = config_.train().steps();
  options.collate = make_collate_options(config_);
  options.on_read = [](int thread, const std::string& dataset, int64_t record, bool begin) {
    if (EventRing* ring = EventRing::of_process()) ring->reading(thread, dataset, record, begin);
    if (begin) fault_in_loader(activity().step);
  };
  loader_ = std::make_unique<Loader>(*data_.mixer, data_.loader_sets(), options);
}

void Trainer::warm_up() {
  if (!loader_) start_loader();
  loader_->wait_full();
  constexpr int64_t kSide = 256;  // large enough for the blocked path of the library
  Tape tape;
  const TapeScope scope(tape);
  const Tensor a = Tensor::zeros({kSide, kSide});
  matmul_nn(a, a);
  // Six query heads and one key head, which threads share.
  const Tensor qkv = tape.watch(Tensor::zeros({kSide, kSide}));
  const Tensor y =
      attention_packed(qkv, Tensor::from(std::vector<int32_t>{0, kSide}, {2}), {.q_heads = 6, .head_dim = 32});
  tape.backward(std::array{y}, std::array{Tensor::zeros(y.shape())});
}

StepUse Trainer::use_of(const StepPlan& plan) const {
  StepUse use;
  for (int rank = 0; rank < mesh_->shape().data; ++rank) {
    const auto [first, last] = plan.local(rank, mesh_->shape().data);
    for (int m = first; m < last; ++m) {
      const Counts& c = plan.microbatches[static_cast<size_t>(m)].counts;
      const uint64_t groups = model_->groups_used(c.media > 0, c.regions > 0, c.box_inputs > 0, c.connector_tokens > 0);
      const auto round = static_cast<size_t>(m - first);
      if (use.global.size() <= round) use.global.resize(round + 1);
      use.global[round] |= groups;
      if (rank == mesh_->data_rank()) use.local.push_back(groups);
    }
  }
  return use;
}

// Names what follows, for errors and for the memory's peaks.
void Trainer::enter(const char* phase) {
  activity().phase = phase;
  stream_->allocator()->begin_phase(phase);
}

void Trainer::run_microbatch(const HostBatch& host, const TpoModel::Scales& scales, Sums& sums) {
  const RngKey dropout = RngKey(store_->seed()).with("dropout").with(static_cast<uint64_t>(steps_done_));
  Tape tape;
  TpoModel::Losses losses;
  bool trains = false;  // not without boxes if only the heads do, nor without pictures if only the connector does
  {
    enter("forward");
    sync_->begin_microbatch();
    const ProfileScope region("forward");
    const TapeScope scope(tape);
    losses = model_->loss(upload(host), scales, dropout);
    trains = any_wants_grad({losses.total});
  }
  sync_->end_forward();
  if (trains) {
    enter("backward");
    const ProfileScope region("backward");
    tape.backward(losses.total);
  }
  sums.ids.insert(sums.ids.end(), host.sample_ids.begin(), host.sample_ids.end());
  if (stream_->device() == Device::kMeta) return;
  const double lm = losses.lm.item(), region = losses.region.defined() ? losses.region.item() : 0;
  sums.lm_of_set[static_cast<size_t>(host.dataset)] += lm;
  sums.region += region;
  if (std::isfinite(lm) && std::isfinite(region)) return;
  const auto set = static_cast<size_t>(host.dataset);  // what bench overlap runs is of none
  sums.bad.push_back(cat("dataset ", set < data_.folders.size() ? data_.folders[set]->name() : "of shapes", ": loss ",
                         lm + region, " of samples ", join_ids(host.sample_ids, 64)));
}

StepStats Trainer::step() {
  const auto begin = Clock::now();
  const ProfileScope region("step");
  activity().step = steps_done_ + 1;  // as the log counts
  enter("load");
  if (!loader_) start_loader();
  const LocalStep local = [&] {
    const ProfileScope waiting("wait for loader", ProfileScope::Kind::kWait);
    EventRing* ring = EventRing::of_process();
    if (ring) ring->loader(true);
    LocalStep next = loader_->next();
    if (ring) ring->loader(false);
    for (const HostBatch& host : next.batches)
      if (ring) ring->samples(steps_done_ + 1, host.sample_ids);
    return next;
  }();
  const StepStats s = step(local);
  last_step_s_ = seconds_since(begin) - again_s_;
  return s;
}

// begin_step to finish_grads.
void Trainer::run_gradients(const LocalStep& local, Sums& sums) {
  const Counts& total = local.plan.total;
  const auto scale = [](double weight, int64_t count) {
    return count > 0 ? static_cast<float>(weight / static_cast<double>(count)) : 0.0f;
  };
  const TpoModel::Scales scales{scale(config_.loss().lm(), total.loss_tokens),
                                scale(config_.loss().region(), total.regions)};
  sums.lm_of_set.assign(local.plan.per_dataset.size(), 0);
  const double blocked = world_.log().blocked_s();
  sync_->begin_step(use_of(local.plan));
  const int first = local.plan.local(mesh_->data_rank(), mesh_->shape().data).first;
  for (size_t i = 0; i < local.batches.size(); ++i) {
    run_microbatch(local.batches[i], scales, sums);
    const MicrobatchSize size =
        size_of(local.batches[i], local.plan.microbatches[static_cast<size_t>(first) + i].counts);
    sums.flops += model_->flops(size);
    sums.model_flops += model_->flops(size, Flops::kModel);
  }
  enter("reduce");
  const ProfileScope reduce("reduce");
  sync_->finish_grads(*stream_);
  sums.exposed_s = world_.log().blocked_s() - blocked;
}

StepStats Trainer::step(const LocalStep& local) {
  const auto begin = Clock::now();
  world_.log().take();  // what evaluation or a checkpoint left
  Sums sums;
  const double blocked_before = world_.log().blocked_s();
  run_gradients(local, sums);
  const double gradients_s = seconds_since(begin);
  // The whole of the step before this one, whose end is known; of the first step, what has passed so far.
  const StepStats s = finish(local, sums, last_step_s_ > 0 ? last_step_s_ : gradients_s + local.wait_s);
  const double step_s = seconds_since(begin);
  const double update_blocked_s = world_.log().blocked_s() - blocked_before - sums.exposed_s;
  ++overlap_.steps, overlap_.seconds += step_s;
  overlap_.add_uses(world_.log().take());
  again_s_ = 0;
  if (pair_next_) {
    pair_next_ = false;
    const double blocked = world_.log().blocked_s();
    const auto again = Clock::now();
    {
      const CommStub stub(world_);
      run_again(local);
    }
    again_s_ = seconds_since(again);
    // Values that the update still sent around were waited for here instead of in the next step.
    overlap_.pairs.push_back({step_s, gradients_s + update_blocked_s, again_s_ - (world_.log().blocked_s() - blocked)});
    overlap_.add_uses(world_.log().take());
  }
  return s;
}

void Trainer::run_again(const LocalStep& local) {
  Sums thrown_away;
  run_gradients(local, thrown_away);
  sync_->discard_grads();
}

OverlapReport Trainer::overlap() { return gather_overlap(std::exchange(overlap_, {}), world_); }

void Trainer::check_finite(const Sums& sums) const {
  const std::string bad = gather_text(world_, mesh_->tensor_rank() == 0 ? join_ids(sums.bad, 8) : "");
  throw NonFiniteGradient(cat("the loss is not finite, nothing was updated: ", bad));
}

// Everything after the sums are there: agree on the numbers, refuse what is not finite, update.
StepStats Trainer::finish(const LocalStep& local, const Sums& sums, double seconds) {
  std::vector<double> mine{sums.region,
                           static_cast<double>(sums.flops),
                           seconds,
                           local.wait_s,
                           last_step_s_ > 0 ? last_exposed_s_ : sums.exposed_s,  // of the step that `seconds` is of
                           stop_requested() ? 1.0 : 0.0,
                           static_cast<double>(sums.model_flops)};
  last_exposed_s_ = sums.exposed_s;
  const size_t fixed = mine.size();
  mine.insert(mine.end(), sums.lm_of_set.begin(), sums.lm_of_set.end());
  StepStats s;
  s.lm_of_set.assign(sums.lm_of_set.size(), 0);
  double loss = 0;
  const auto all = gather_doubles(world_, mine);
  for (size_t rank = 0; rank < all.size(); ++rank) {
    const auto& theirs = all[rank];
    s.step_s = std::max(s.step_s, theirs[2]);
    s.wait_s = std::max(s.wait_s, theirs[3]);
    s.exposed_s = std::max(s.exposed_s, theirs[4]);
    s.stop = s.stop || theirs[5] > 0;
    // Ranks of the tensor axis, which are neighbours, have the same losses.
    if (rank % static_cast<size_t>(mesh_->shape().tensor) != 0) continue;
    s.region += theirs[0];
    s.flops += static_cast<int64_t>(theirs[1]);
    s.model_flops += static_cast<int64_t>(theirs[6]);
    for (size_t d = 0; d < s.lm_of_set.size(); ++d) s.lm_of_set[d] += theirs[fixed + d];
  }
  for (double lm : s.lm_of_set) s.lm += lm;
  loss = s.lm + s.region;
  if (!std::isfinite(loss)) check_finite(sums);
  enter("optimizer");
  const ProfileScope region("optimizer");
  s.lr = lr_.at(steps_done_);
  try {
    s.grad_norm = sync_->clip(config_.optimizer().clip());
  } catch (const NonFiniteGradient& e) {
    throw NonFiniteGradient(cat(e.what(), "; nothing was updated; samples of the step: ",
                                gather_text(world_, mesh_->tensor_rank() == 0 ? join_ids(sums.ids, 64) : "")));
  }
  const auto& o = config_.optimizer();
  sync_->step({static_cast<float>(s.lr), static_cast<float>(o.beta1()), static_cast<float>(o.beta2()),
               static_cast<float>(o.eps()), static_cast<float>(o.weight_decay())});
  s.step = ++steps_done_;
  activity().step.end();
  s.counts = local.plan.total;
  // Terms were summed with weight / count; undo the weight, and for one dataset the share of tokens it had.
  const auto& w = config_.loss();
  if (w.lm() > 0) s.lm /= w.lm();
  if (w.region() > 0) s.region /= w.region();
  for (size_t d = 0; d < s.lm_of_set.size(); ++d) {
    const int64_t tokens = local.plan.per_dataset[d].loss_tokens;
    s.lm_of_set[d] = tokens > 0 && w.lm() > 0 ? s.lm_of_set[d] / w.lm() * static_cast<double>(s.counts.loss_tokens) /
                                                    static_cast<double>(tokens)
                                              : std::numeric_limits<double>::quiet_NaN();
  }
  return s;
}

TrainState Trainer::state(bool with_optimizer) {
  TrainState state;
  sync_->for_each_state([&](const StateEntry& e) {
    if (with_optimizer || !e.name.starts_with("optim."))
      state.tensors.push_back({e.name, e.value, e.param->full, e.begin, e.rect});
  });
  state.config_text = resolved_text(config_);
  state.model_fingerprint = model_fingerprint(config_, data_.vocab);
  return state;
}

std::string Trainer::save() {
  activity().phase = "checkpoint";
  EventRing* ring = EventRing::of_process();
  if (ring) ring->checkpoint(true);
  TrainState s = state(true);
  s.counters["step"] = steps_done_;
  s.counters["mixture"] = static_cast<int64_t>(data_.mixer->fingerprint());
  for (const auto& [group, steps] : sync_->group_steps()) s.counters["group." + group] = steps;
  SaveOptions options;
  options.keep_last = config_.checkpoint().keep();
  options.warn = [](const std::string& text) { LOG(WARNING) << text; };
  std::string folder = tpo::save(config_.run().folder() + "/checkpoints", steps_done_, s, world_, options);
  if (ring) ring->checkpoint(false);
  return folder;
}

std::string Trainer::resume(const std::string& checkpoint) {
  activity().phase = "resume";
  check_tokenizer_of(checkpoint, config_);
  TrainState s = state(true);
  s.counters = {{"step", 0}, {"mixture", 0}};  // every one of them must be there, or the load throws
  for (const auto& [group, steps] : sync_->group_steps()) s.counters["group." + group] = steps;
  const LoadReport report = load(checkpoint, s, world_);
  sync_->state_loaded();
  check<DataError>(s.counters["step"] == report.step, checkpoint, ": its counter step is ", s.counters["step"],
                   ", but it is the checkpoint of step ", report.step);
  std::map<std::string, int64_t> groups;
  for (const auto& [name, value] : s.counters)
    if (name.starts_with("group.")) groups[name.substr(6)] = value;
  sync_->set_group_steps(groups);
  steps_done_ = s.counters["step"];
  loader_.reset();
  std::string warning = changed_lines(report.config_text, resolved_text(config_));
  if (!warning.empty()) warning = cat("the configuration differs from the one that saved ", checkpoint, ":", warning);
  if (s.counters["mixture"] != static_cast<int64_t>(data_.mixer->fingerprint()))
    warning += cat(warning.empty() ? "" : "\n", checkpoint,
                   " was trained on another mixture, seed or dataset; the order of samples from step ", steps_done_,
                   " on is that of the present one");
  return warning;
}

void Trainer::init_from(const std::string& checkpoint, LoadOptions allow) {
  check_tokenizer_of(checkpoint, config_);
  TrainState s = state(false);
  s.model_fingerprint.clear();
  allow.allow_unexpected.push_back("optim.*");
  load(checkpoint, s, world_, allow);
  sync_->state_loaded();
}

uint64_t Trainer::parameter_hash() {
  uint64_t mine = 0;
  sync_->for_each_state([&](const StateEntry& e) {
    if (!e.owner || e.name.starts_with("optim.")) return;
    const auto bits = [&e](int64_t i) {
      return e.value.dtype() == DType::kBF16 ? uint32_t{e.value.data<BF16>()[i].bits}
                                             : std::bit_cast<uint32_t>(e.value.data<float>()[i]);
    };
    const int64_t width = whole_of(e.param->full).cols;
    const uint64_t name = hash_name(e.name);
    for (int64_t i = 0; i < e.value.numel(); ++i) {
      const int64_t row = e.rect.row + (e.begin + i) / e.rect.cols, col = e.rect.col + (e.begin + i) % e.rect.cols;
      mine += mix64(mix64(name ^ static_cast<uint64_t>(row * width + col)) ^ bits(i));
    }
  });
  uint64_t sum = 0;
  for (const auto& part : world_.all_gather_bytes(std::as_bytes(std::span(&mine, 1)), "parameter hash")) {
    uint64_t theirs = 0;
    std::memcpy(&theirs, part.data(), sizeof theirs);
    sum += theirs;
  }
  return sum;
}

void load_weights(const std::string& checkpoint, ParamStore& store, ProcessGroup& world, LoadOptions allow) {
  TrainState s;
  for (const auto& p : store.params()) {
    const Tensor flat = p->value.view({p->value.numel()});
    int64_t at = 0;
    for (const Rect& r : p->rects()) {  // the value holds one rectangle after the other
      s.tensors.push_back({p->name, flat.rows(at, at + r.numel()), p->full, 0, r});
      at += r.numel();
    }
  }
  allow.allow_unexpected.push_back("optim.*");
  load(checkpoint, s, world, allow);
}

}  // namespace tpo
