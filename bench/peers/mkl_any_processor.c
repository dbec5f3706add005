// Preloaded into PyTorch: its MKL takes the widest vectors of the processor only if this answers yes, and keeps to AVX2
// on an AMD processor with AVX-512 otherwise. 2.2 times the GFLOP/s there; without effect on others.
int mkl_serv_intel_cpu_true(void) { return 1; }
