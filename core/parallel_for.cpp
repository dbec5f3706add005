#include "core/parallel_for.h"

#include <algorithm>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

#include "core/kernels/gemm.h"

#ifndef TPO_TSAN
#include <omp.h>
#endif

namespace tpo {

namespace {

thread_local int t_threads = 0;  // 0: not set yet on this thread
thread_local bool t_inside = false;

// First exception of any piece; pieces after it still run, since OpenMP regions cannot be left early.
class FirstError {
 public:
  template <class F>
  void run(F&& f) {
    try {
      f();
    } catch (...) {
      const std::lock_guard lock(mutex_);
      if (!error_) error_ = std::current_exception();
    }
  }
  void rethrow() {
    if (error_) std::rethrow_exception(error_);
  }

 private:
  std::mutex mutex_;
  std::exception_ptr error_;
};

}  // namespace

void set_num_threads(int n) {
  t_threads = std::max(1, n);
#ifndef TPO_TSAN
  omp_set_num_threads(t_threads);
#endif
  set_blas_threads(t_threads);
}

int num_threads() {
  if (t_threads == 0) {
#ifdef TPO_TSAN
    t_threads = 1;
#else
    t_threads = omp_get_max_threads();
#endif
  }
  return t_threads;
}

// BLAS shares the pool: its OpenMP build asks for the calling thread's number of threads at every call.
SingleThreadScope::SingleThreadScope(bool alone) : threads_(alone && num_threads() > 1 ? num_threads() : 0) {
  if (threads_ == 0) return;
  t_threads = 1;
#ifndef TPO_TSAN
  omp_set_num_threads(1);
#endif
}

SingleThreadScope::~SingleThreadScope() {
  if (threads_ == 0) return;
  t_threads = threads_;
#ifndef TPO_TSAN
  omp_set_num_threads(threads_);
#endif
}

void parallel_for(int64_t n, int64_t grain, const std::function<void(int64_t, int64_t)>& body) {
  if (n <= 0) return;
  const int64_t pieces = std::min<int64_t>(num_threads(), (n + grain - 1) / std::max<int64_t>(1, grain));
  if (pieces <= 1 || t_inside) {
    body(0, n);
    return;
  }
  FirstError error;
  const auto piece = [&](int64_t i) {
    error.run([&] {
      t_inside = true;
      body(n * i / pieces, n * (i + 1) / pieces);
    });
    t_inside = false;
  };
#ifdef TPO_TSAN
  std::vector<std::thread> threads;
  for (int64_t i = 1; i < pieces; ++i) threads.emplace_back(piece, i);
  piece(0);
  for (auto& t : threads) t.join();
#else
  // The whole team even for fewer pieces: libgomp ends the threads that a smaller team leaves over, and with them what
  // kernels keep per thread.
#pragma omp parallel for num_threads(num_threads()) schedule(static, 1)
  for (int64_t i = 0; i < pieces; ++i) piece(i);
#endif
  error.rethrow();
}

}  // namespace tpo
