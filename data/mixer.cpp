#include "data/mixer.h"

#include <algorithm>
#include <numeric>
#include <queue>
#include <set>

#include "core/error.h"
#include "data/bytes.h"
#include "data/shuffle.h"

namespace tpo {
namespace {

constexpr int64_t kMaxCycle = 4096;  // a plan walks one cycle: below 1 ms

// Deals the slots of one dataset over its microbatches: longest first, always to the lightest that has room.
std::vector<std::vector<Slot>> deal(std::vector<Slot> slots, size_t bins, size_t room,
                                    const std::vector<LengthEntry>& lengths) {
  const auto tokens = [&](const Slot& s) { return lengths[static_cast<size_t>(s.sample)].tokens; };
  std::stable_sort(slots.begin(), slots.end(), [&](const Slot& a, const Slot& b) { return tokens(a) > tokens(b); });
  using Bin = std::pair<int64_t, size_t>;  // tokens, index
  std::priority_queue<Bin, std::vector<Bin>, std::greater<>> open;
  for (size_t b = 0; b < bins; ++b) open.emplace(0, b);
  std::vector<std::vector<Slot>> out(bins);
  for (const Slot& s : slots) {
    const auto [load, b] = open.top();
    open.pop();
    out[b].push_back(s);
    if (out[b].size() < room) open.emplace(load + tokens(s), b);
  }
  for (auto& bin : out) std::sort(bin.begin(), bin.end(), [](const Slot& a, const Slot& b) { return a.draw < b.draw; });
  return out;
}

}  // namespace

void Counts::add(const LengthEntry& e) {
  add(Counts{1, e.tokens, e.loss_tokens, e.media, e.regions, e.box_inputs, e.views, e.connector_tokens});
}

void Counts::add(const Counts& c) {
  samples += c.samples, tokens += c.tokens, loss_tokens += c.loss_tokens;
  media += c.media, regions += c.regions, box_inputs += c.box_inputs, views += c.views;
  connector_tokens += c.connector_tokens;
}

std::pair<int, int> StepPlan::local(int rank, int world) const {
  check<ConfigError>(world >= 1 && rank >= 0 && rank < world, "rank ", rank, " of a world of ", world);
  const int64_t n = static_cast<int64_t>(microbatches.size());
  return {static_cast<int>(n * rank / world), static_cast<int>(n * (rank + 1) / world)};
}

Mixer::Mixer(uint64_t seed, std::vector<MixtureDataset> datasets, int64_t microbatches_per_step)
    : seed_(seed), datasets_(std::move(datasets)), per_step_(microbatches_per_step) {
  check<ConfigError>(!datasets_.empty() && datasets_.size() <= 32767, "a mixture needs 1..32767 datasets, got ",
                     datasets_.size());
  check<ConfigError>(per_step_ >= 1, "microbatches_per_step is ", per_step_, ", expected 1 or more");
  std::set<int64_t> starts{0};
  uint64_t hash = xxh3(cat("mixer ", seed_, " ", per_step_));
  for (const MixtureDataset& d : datasets_) {
    check<ConfigError>(!d.lengths.empty(), "dataset '", d.name, "' is empty");
    check<ConfigError>(d.weight >= 1 && d.samples_per_microbatch >= 1, "dataset '", d.name, "' has weight ", d.weight,
                       " and samples_per_microbatch ", d.samples_per_microbatch, ", expected 1 or more");
    check<ConfigError>(d.first_step >= 0 && (d.end_step == 0 || d.end_step > d.first_step), "dataset '", d.name,
                       "' takes part from step ", d.first_step, " to before step ", d.end_step, "; that is no step");
    starts.insert(d.first_step);
    if (d.end_step > 0) starts.insert(d.end_step);
    hash = mix64(hash ^ xxh3(std::as_bytes(std::span(d.lengths)))) ^ xxh3(cat(d.name, " ", d.samples_per_microbatch));
  }
  for (int64_t step : starts) {
    Section section = make_section(step);
    if (!sections_.empty()) {  // what the section before it drew
      const Section& last = sections_.back();
      const int64_t length = section.first - last.first, width = static_cast<int64_t>(last.cycle.size());
      section.before = last.before;
      for (size_t d = 0; d < datasets_.size(); ++d) section.before[d] += length / width * last.share[d];
      std::vector<Draw> rest;
      walk(last, section.first - length % width, section.first, rest);
      for (const Draw& r : rest) ++section.before[static_cast<size_t>(r.dataset)];
    }
    hash = mix64(hash ^ static_cast<uint64_t>(section.first)) ^ xxh3(std::as_bytes(std::span(section.cycle)));
    sections_.push_back(std::move(section));
  }
  fingerprint_ = hash;
}

Mixer::Section Mixer::make_section(int64_t step) const {
  std::vector<size_t> active;
  int64_t divisor = 0;
  for (size_t d = 0; d < datasets_.size(); ++d) {
    if (step < datasets_[d].first_step || (datasets_[d].end_step > 0 && step >= datasets_[d].end_step)) continue;
    active.push_back(d);
    divisor = std::gcd(divisor, datasets_[d].weight);
  }
  check<ConfigError>(!active.empty(), "no dataset takes part from step ", step,
                     " on; let one begin earlier or end later");
  Section s{step * per_step_, {}, std::vector<int64_t>(datasets_.size()), std::vector<int64_t>(datasets_.size())};
  for (size_t d : active) {
    s.share[d] = datasets_[d].weight / divisor;
    check<ConfigError>(static_cast<int64_t>(s.cycle.size()) + s.share[d] <= kMaxCycle, "weights add up to more than ",
                       kMaxCycle, " (divided by ", divisor, "); use smaller numbers of the same ratio");
    s.cycle.insert(s.cycle.end(), static_cast<size_t>(s.share[d]), static_cast<int32_t>(d));
  }
  return s;
}

// In cycle c of a section a dataset has c * share microbatches before it, plus those before it within the cycle.
void Mixer::walk(const Section& s, int64_t first, int64_t end, std::vector<Draw>& out) const {
  const int64_t width = static_cast<int64_t>(s.cycle.size());
  for (int64_t c = (first - s.first) / width; s.first + c * width < end; ++c) {
    // Numbers of cycles never meet between sections, since a section starts after more microbatches than cycles.
    const Permutation order(RngKey(seed_).with("mixer.cycle").with(static_cast<uint64_t>(s.first + c)), width);
    std::vector<int64_t> seen(datasets_.size());
    for (int64_t i = 0; i < width && s.first + c * width + i < end; ++i) {
      const int32_t dataset = s.cycle[static_cast<size_t>(order(i))];
      const size_t d = static_cast<size_t>(dataset);
      const int64_t earlier = s.before[d] + c * s.share[d] + seen[d]++;
      if (s.first + c * width + i >= first) out.push_back({dataset, earlier});
    }
  }
}

std::vector<Mixer::Draw> Mixer::draws(int64_t first, int64_t count) const {
  std::vector<Draw> out;
  for (size_t k = 0; k < sections_.size(); ++k) {
    const int64_t begin = std::max(first, sections_[k].first);
    const int64_t end = k + 1 < sections_.size() ? std::min(first + count, sections_[k + 1].first) : first + count;
    if (begin < end) walk(sections_[k], begin, end, out);
  }
  return out;
}

Mixer::Draw Mixer::draw(int64_t m) const {
  check<ConfigError>(m >= 0, "microbatch ", m, " is negative");
  return draws(m, 1).front();
}

std::vector<Slot> Mixer::samples_of(int dataset, int64_t first_draw, int64_t count) const {
  const MixtureDataset& d = datasets_[static_cast<size_t>(dataset)];
  const int64_t size = static_cast<int64_t>(d.lengths.size());
  const RngKey key = RngKey(seed_).with("mixer.epoch").with(d.name).with(static_cast<uint64_t>(dataset));
  std::vector<Slot> out;
  for (int64_t draw = first_draw; draw < first_draw + count; ++draw) {
    const Permutation order(key.with(static_cast<uint64_t>(draw / size)), size);
    out.push_back({static_cast<int16_t>(dataset), order(draw % size), draw});
  }
  return out;
}

StepPlan Mixer::plan(int64_t step) const {
  check<ConfigError>(step >= 0, "step ", step, " is negative");
  const std::vector<Draw> drawn = draws(step * per_step_, per_step_);
  std::vector<std::vector<size_t>> places(datasets_.size());  // microbatches of each dataset within the step
  for (size_t m = 0; m < drawn.size(); ++m) places[static_cast<size_t>(drawn[m].dataset)].push_back(m);
  std::vector<std::vector<Slot>> contents(drawn.size());
  for (size_t d = 0; d < datasets_.size(); ++d) {
    if (places[d].empty()) continue;
    const int64_t room = datasets_[d].samples_per_microbatch, bins = static_cast<int64_t>(places[d].size());
    auto dealt = deal(samples_of(static_cast<int>(d), drawn[places[d][0]].earlier * room, bins * room),
                      places[d].size(), static_cast<size_t>(room), datasets_[d].lengths);
    for (size_t b = 0; b < dealt.size(); ++b) contents[places[d][b]] = std::move(dealt[b]);
  }
  StepPlan plan;
  plan.step = step;
  plan.per_dataset.resize(datasets_.size());
  for (size_t m = 0; m < drawn.size(); ++m) {
    const size_t d = static_cast<size_t>(drawn[m].dataset);
    MicrobatchPlan mb{
        drawn[m].dataset, static_cast<int64_t>(plan.slots.size()), static_cast<int64_t>(contents[m].size()), {}};
    for (const Slot& s : contents[m]) {
      const LengthEntry& e = datasets_[d].lengths[static_cast<size_t>(s.sample)];
      mb.counts.add(e), plan.total.add(e), plan.per_dataset[d].add(e);
      plan.slots.push_back(s);
    }
    plan.microbatches.push_back(mb);
  }
  return plan;
}

}  // namespace tpo
