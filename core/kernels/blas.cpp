// OpenBLAS, loaded at start instead of linked. It chooses its kernels when it is loaded, by a table of processors; the
// release in Debian 12 knows no AMD processor with AVX-512 and takes kernels of half the width there. Loading it
// ourselves leaves the moment to say which kernels it shall take.
#include "core/kernels/blas.h"

#include <cblas.h>
#include <dlfcn.h>

#include <cstdlib>

#include "core/error.h"
#include "core/kernels/gemm.h"

namespace tpo {

namespace {

struct Blas {
  decltype(&cblas_sgemm) sgemm = nullptr;
  decltype(&cblas_sgemv) sgemv = nullptr;
  decltype(&openblas_set_num_threads) set_num_threads = nullptr;
  decltype(&openblas_get_corename) corename = nullptr;
};

void* open_library() {
  constexpr const char* kChoice = "OPENBLAS_CORETYPE";
  const bool wide_amd = __builtin_cpu_is("amd") && __builtin_cpu_supports("avx512f") &&
                        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
                        __builtin_cpu_supports("avx512vl");
  const bool choose = wide_amd && std::getenv(kChoice) == nullptr;
  if (choose) setenv(kChoice, "SkylakeX", 1);
  void* library = nullptr;
  for (const char* name : {"libopenblas.so.0", TPO_OPENBLAS_FOLDER "/libopenblas.so", "libopenblas.so"})
    if (library == nullptr) library = dlopen(name, RTLD_NOW | RTLD_LOCAL);
  if (choose) unsetenv(kChoice);
  return library;
}

template <class Fn>
void find(void* library, const char* name, Fn& fn) {
  fn = reinterpret_cast<Fn>(dlsym(library, name));
  check<DeviceError>(fn != nullptr, "libopenblas has no function ", name, "; install libopenblas-openmp-dev");
}

Blas load() {
  void* library = open_library();
  check<DeviceError>(library != nullptr, "libopenblas.so.0 was not found (", dlerror(),
                     "); install libopenblas-openmp-dev or add its folder to LD_LIBRARY_PATH");
  Blas b;
  find(library, "cblas_sgemm", b.sgemm);
  find(library, "cblas_sgemv", b.sgemv);
  find(library, "openblas_set_num_threads", b.set_num_threads);
  find(library, "openblas_get_corename", b.corename);
  return b;
}

// Loaded on first use, which is the first set_num_threads or product of the process.
const Blas& blas() {
  static const Blas b = load();
  return b;
}

}  // namespace

void set_blas_threads(int n) { blas().set_num_threads(n); }

const char* blas_kernels() { return blas().corename(); }

void blas_sgemm(bool trans_a, bool trans_b, int64_t m, int64_t n, int64_t k, float alpha, const float* a, int64_t lda,
                const float* b, int64_t ldb, float beta, float* c, int64_t ldc) {
  const auto size = [](int64_t v) { return static_cast<blasint>(v); };
  blas().sgemm(CblasRowMajor, trans_a ? CblasTrans : CblasNoTrans, trans_b ? CblasTrans : CblasNoTrans, size(m),
               size(n), size(k), alpha, a, size(lda), b, size(ldb), beta, c, size(ldc));
}

void blas_sgemv(bool trans, int64_t rows, int64_t cols, float alpha, const float* a, const float* x, float beta,
                float* y) {
  const auto size = [](int64_t v) { return static_cast<blasint>(v); };
  blas().sgemv(CblasRowMajor, trans ? CblasTrans : CblasNoTrans, size(rows), size(cols), alpha, a, size(cols), x, 1,
               beta, y, 1);
}

}  // namespace tpo
