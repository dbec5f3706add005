#pragma once
// Prefetching loader: worker threads read, decode, tokenize and collate the microbatches of this rank; next() hands out
// steps in order. What it returns is a function of (mixer, step, rank, world) only, whatever the number of threads.
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "data/collate.h"
#include "data/mixer.h"

namespace tpo {

struct LoaderDataset {
  const DatasetFolder* folder = nullptr;  // not owned, must outlive the loader
  const Templates* templates = nullptr;   // not owned
};

struct LoaderOptions {
  int rank = 0, world = 1;
  int threads = 1;         // >= 1
  int prefetch_steps = 2;  // >= 1: steps that may be ready or in work beyond the one handed out last; bounds the memory
  int64_t start_step = 0;  // the first next() returns this step
  int64_t end_step = -1;   // no step from here on is prefetched; -1: none
  CollateOptions collate;
  // If set: called by loader thread number `thread` when it begins and when it ends reading a record, by an error too;
  // the latter call must not throw.
  std::function<void(int thread, const std::string& dataset, int64_t record, bool begin)> on_read;
};

struct LocalStep {
  StepPlan plan;
  std::vector<HostBatch> batches;  // microbatches plan.local(rank, world), in order
  double wait_s = 0;               // how long next() stood still
};

class Loader {
 public:
  // datasets: one per mixer dataset, same order. Mixer not owned. Throws ConfigError for options out of range or sizes
  // that differ.
  Loader(const Mixer& mixer, std::vector<LoaderDataset> datasets, const LoaderOptions& options);
  ~Loader();  // stops and joins the workers; never waits for more than the microbatches in work

  // The next step. An error of a worker comes out of the next() whose step it belongs to, with dataset, sample id and
  // record in its text and the type of the original (DataError, IoError); later calls throw it again.
  // One thread only. Throws ConfigError past end_step.
  LocalStep next();
  // Blocks until everything that may be prefetched is there, or a worker failed (which next() then tells).
  void wait_full();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace tpo
