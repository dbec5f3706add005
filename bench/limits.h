#pragma once
// What this machine does at best, measured now: the yardsticks of op_bench and step_bench. Both run on num_threads()
// threads through parallel_for, as kernels do.

namespace tpo {

struct Limits {
  int threads = 1;
  double gflops = 0;    // fp32 multiply-adds in registers, at the widest vectors this build is compiled for
  double gb_per_s = 0;  // copy of 128 MiB; bytes read and bytes written both count, as in Cost
};

// Best of several short runs, about half a second in all.
Limits measure_limits();

}  // namespace tpo
