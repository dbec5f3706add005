#pragma once
// The measured multiply-add peak of one thread, the yardstick of "share of peak" in the log.

namespace tpo {

// GFLOP/s in fp32, best of several short runs, about 0.1 s in all.
double measure_peak_gflops();

}  // namespace tpo
