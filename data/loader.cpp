#include "data/loader.h"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <map>
#include <mutex>
#include <thread>
#include <utility>

#include "core/error.h"
#include "data/length_index.h"

namespace tpo {
namespace {

// Runs body; an Error that comes out gets the prefix and keeps its type.
template <class F>
auto with_context(const std::string& prefix, F&& body) {
  try {
    return body();
  } catch (const DataError& e) {
    throw DataError(prefix + e.what());
  } catch (const IoError& e) {
    throw IoError(prefix + e.what());
  }
}

}  // namespace

struct Loader::Impl {
  // A step in work or ready.
  struct Pending {
    StepPlan plan;
    int first = 0, taken = 0, done = 0;  // microbatches: first of this rank, handed to workers, finished
    std::vector<HostBatch> batches;
    std::exception_ptr error;  // of the lowest microbatch that failed
    int error_at = 0;
    bool ready() const { return done == static_cast<int>(batches.size()); }
  };

  const Mixer& mixer;
  const std::vector<LoaderDataset> datasets;
  const LoaderOptions options;
  std::mutex mutex;
  std::condition_variable work_ready, step_ready;
  std::map<int64_t, Pending> steps;  // by step; workers hold references, which a map keeps valid
  int64_t next_step;                 // the step that next() returns
  int64_t planned;                   // the first step without a plan
  bool stop = false;
  std::exception_ptr failed;
  std::vector<std::thread> threads;

  Impl(const Mixer& m, std::vector<LoaderDataset> d, const LoaderOptions& o)
      : mixer(m), datasets(std::move(d)), options(o), next_step(o.start_step), planned(o.start_step) {}

  ~Impl() {
    {
      const std::lock_guard lock(mutex);
      stop = true;
    }
    work_ready.notify_all();
    for (auto& t : threads) t.join();
  }

  // The step with a microbatch to give out, planned if need be and the window allows; null if there is none. Under the
  // lock.
  Pending* find_work() {
    for (auto& [step, p] : steps) {
      if (p.taken < static_cast<int>(p.batches.size()) && p.error == nullptr) return &p;
    }
    while (planned <= next_step + options.prefetch_steps - 1 && (options.end_step < 0 || planned < options.end_step)) {
      Pending p;
      p.plan = mixer.plan(planned);
      const auto [first, last] = p.plan.local(options.rank, options.world);
      p.first = first;
      p.batches.resize(static_cast<size_t>(last - first));
      Pending& stored = steps.emplace(planned++, std::move(p)).first->second;
      if (!stored.batches.empty()) return &stored;
      step_ready.notify_all();
    }
    return nullptr;
  }

  void run(int thread) {
    std::unique_lock lock(mutex);
    while (true) {
      Pending* p = nullptr;
      work_ready.wait(lock, [&] { return stop || (p = find_work()) != nullptr; });
      if (stop) return;
      const int k = p->taken++;
      lock.unlock();
      HostBatch batch;
      std::exception_ptr error;
      try {
        batch = make(p->plan, p->first + k, thread);
      } catch (...) {
        error = std::current_exception();
      }
      lock.lock();
      if (error != nullptr && (p->error == nullptr || k < p->error_at)) {
        p->error = error;
        p->error_at = k;
      }
      p->batches[static_cast<size_t>(k)] = std::move(batch);
      ++p->done;
      step_ready.notify_all();
    }
  }

  // Says that the reading of a record is over, by an error too: nobody must take this thread for one that stands still.
  struct ReadEnd {
    const LoaderOptions& options;
    int thread;
    const std::string& dataset;
    int64_t record;
    ~ReadEnd() {
      if (options.on_read) options.on_read(thread, dataset, record, false);
    }
  };

  HostBatch make(const StepPlan& plan, int microbatch, int thread) const {
    const MicrobatchPlan& mb = plan.microbatches[static_cast<size_t>(microbatch)];
    const LoaderDataset& set = datasets[static_cast<size_t>(mb.dataset)];
    std::vector<CollateItem> items;
    for (int64_t s = mb.first_slot; s < mb.first_slot + mb.slots; ++s) {
      const int64_t record = plan.slots[static_cast<size_t>(s)].sample;
      items.push_back(with_context(where(plan, mb, record), [&] {
        CollateItem item{{}, {}, s};
        {
          const ReadEnd end{options, thread, set.folder->name(), record};
          if (options.on_read) options.on_read(thread, set.folder->name(), record, true);
          item.raw = set.folder->read(record);
          item.text = set.templates->encode(item.raw.sample);
        }
        check_against_index(item, mb, record);
        return item;
      }));
    }
    CollateOptions collate_options = options.collate;
    collate_options.key = options.collate.key.with(static_cast<uint64_t>(plan.step));
    return with_context(where(plan, mb, -1), [&] { return collate(items, mb.dataset, collate_options); });
  }

  // The counts of the plan are normalisers on every rank, so a sample that disagrees with its index entry must stop the
  // run.
  void check_against_index(const CollateItem& item, const MicrobatchPlan& mb, int64_t record) const {
    const LengthEntry& e = mixer.datasets()[static_cast<size_t>(mb.dataset)].lengths[static_cast<size_t>(record)];
    const LengthEntry got = length_of(item.raw.sample, item.text);
    std::string differ;
    for (const auto& [field, name] : {std::pair{&LengthEntry::tokens, "tokens"},
                                      {&LengthEntry::loss_tokens, "labels"},
                                      {&LengthEntry::media, "media"},
                                      {&LengthEntry::regions, "boxes asked for"},
                                      {&LengthEntry::box_inputs, "boxes given"},
                                      {&LengthEntry::views, "views"},
                                      {&LengthEntry::visual_slots, "visual slots"},
                                      {&LengthEntry::connector_tokens, "tokens beside media"},
                                      {&LengthEntry::clips, "clips"}})
      if (got.*field != e.*field) differ += cat(differ.empty() ? "" : ", ", got.*field, " ", name, " (", e.*field, ")");
    check<DataError>(got == e, "sample '", item.raw.sample.id(), "' has ", differ,
                     ", in brackets what the length index says: rebuild the index");
  }

  std::string where(const StepPlan& plan, const MicrobatchPlan& mb, int64_t record) const {
    const std::string set = datasets[static_cast<size_t>(mb.dataset)].folder->folder();
    return record < 0 ? cat("step ", plan.step, ", dataset ", set, ": ")
                      : cat("step ", plan.step, ", dataset ", set, " record ", record, ": ");
  }
};

Loader::Loader(const Mixer& mixer, std::vector<LoaderDataset> datasets, const LoaderOptions& o) {
  check<ConfigError>(o.threads >= 1 && o.prefetch_steps >= 1, "loader has ", o.threads, " threads and ",
                     o.prefetch_steps, " prefetch steps, expected 1 or more of each");
  check<ConfigError>(o.world >= 1 && o.rank >= 0 && o.rank < o.world, "loader rank ", o.rank, " of a world of ",
                     o.world);
  check<ConfigError>(o.start_step >= 0 && o.collate.image_size >= 1 && o.collate.clip_frames >= 1, "loader start_step ",
                     o.start_step, ", image_size ", o.collate.image_size, ", clip_frames ", o.collate.clip_frames,
                     " out of range");
  check<ConfigError>(!o.collate.tiling || o.collate.tiling->tile == o.collate.image_size, "loader image_size ",
                     o.collate.image_size, " is not that of a tile");
  check<ConfigError>(datasets.size() == mixer.datasets().size(), "loader got ", datasets.size(),
                     " datasets, its mixer has ", mixer.datasets().size());
  for (size_t d = 0; d < datasets.size(); ++d) {
    const auto n = static_cast<int64_t>(mixer.datasets()[d].lengths.size());
    check<ConfigError>(datasets[d].folder->size() == n, "dataset ", datasets[d].folder->folder(), " has ",
                       datasets[d].folder->size(), " samples, the mixer knows ", n);
  }
  impl_ = std::make_unique<Impl>(mixer, std::move(datasets), o);
  for (int t = 0; t < o.threads; ++t) impl_->threads.emplace_back([impl = impl_.get(), t] { impl->run(t); });
}

Loader::~Loader() = default;

void Loader::wait_full() {
  Impl& m = *impl_;
  std::unique_lock lock(m.mutex);
  m.step_ready.wait(lock, [&] {
    const int64_t window = m.next_step + m.options.prefetch_steps;
    const int64_t last = m.options.end_step < 0 ? window : std::min(window, m.options.end_step);
    const auto failed = [](const auto& entry) { return entry.second.error != nullptr; };
    const auto ready = [](const auto& entry) { return entry.second.ready(); };
    return m.failed != nullptr || std::any_of(m.steps.begin(), m.steps.end(), failed) ||
           (m.planned >= last && std::all_of(m.steps.begin(), m.steps.end(), ready));
  });
}

LocalStep Loader::next() {
  Impl& m = *impl_;
  check<ConfigError>(m.options.end_step < 0 || m.next_step < m.options.end_step, "the loader ends at step ",
                     m.options.end_step);
  const auto begin = std::chrono::steady_clock::now();
  std::unique_lock lock(m.mutex);
  if (m.failed != nullptr) std::rethrow_exception(m.failed);
  const auto found = [&] { return m.steps.find(m.next_step); };
  m.step_ready.wait(lock, [&] {
    const auto it = found();
    // After an error the remaining microbatches are not started; those in work are waited for.
    return it != m.steps.end() &&
           (it->second.ready() || (it->second.error != nullptr && it->second.done == it->second.taken));
  });
  auto node = m.steps.extract(m.next_step);
  if (node.mapped().error != nullptr) {
    m.failed = node.mapped().error;
    std::rethrow_exception(m.failed);
  }
  ++m.next_step;
  lock.unlock();
  m.work_ready.notify_all();
  const std::chrono::duration<double> waited = std::chrono::steady_clock::now() - begin;
  return {std::move(node.mapped().plan), std::move(node.mapped().batches), waited.count()};
}

}  // namespace tpo
