#pragma once
// One loop over threads. OpenMP shares its pool with OpenBLAS; the thread-sanitizer build uses std::thread, since
// libgomp is not instrumented.
#include <cstdint>
#include <functional>

namespace tpo {

// Threads that parallel_for and BLAS use on the calling thread from now on; >= 1.
void set_num_threads(int n);
int num_threads();

// Until its scope ends, if `alone`, parallel_for and BLAS of the calling thread use that thread only: for work that is
// over before a second thread has been waited for.
class SingleThreadScope {
 public:
  explicit SingleThreadScope(bool alone);
  ~SingleThreadScope();
  SingleThreadScope(const SingleThreadScope&) = delete;
  SingleThreadScope& operator=(const SingleThreadScope&) = delete;

 private:
  int threads_;  // to go back to; 0: nothing was changed
};

// Calls body(begin, end) over disjoint pieces of [0, n), each at least `grain` long, on up to num_threads() threads.
// Pieces depend on n, grain and the thread count only. Nested calls run inline. Exceptions of a piece are rethrown.
void parallel_for(int64_t n, int64_t grain, const std::function<void(int64_t, int64_t)>& body);

}  // namespace tpo
