#pragma once
// Whether this machine has the instructions that the program was compiled for. A build with -march=native copied to an
// older machine would end in SIGILL somewhere; main asks first and ends with one line.

namespace tpo {

struct CpuFeature {
  const char* name;
  bool compiled;  // the compiler may use it
  bool present;   // this machine has it
};

// Name of the first of n features that is compiled in and absent, or null.
const char* first_missing(const CpuFeature* features, int n);

// The same for this program on this machine. Uses baseline instructions only, as do the lines of main around it.
const char* missing_cpu_feature();

}  // namespace tpo
