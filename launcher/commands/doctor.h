#pragma once
// `tpo_dist doctor`: facts of every rank, gathered on rank 0, and what they mean for a run. Facts are plain values, so
// that tests make them up; a check is one small function of a table (doctor_checks.cpp).
#include <cstdint>
#include <string>
#include <vector>

namespace tpo {

// What one rank found. Probes of the node and its files are made by the first rank of a node; the others leave those
// fields empty. Bytes are -1 where there is no limit; texts of errors are empty where there was none.
struct MachineFacts {
  int64_t rank = 0, ranks = 1;
  int64_t node = 0;  // first rank of this node
  std::string host;
  // Start-up. slurm_step_tasks: processes that srun started (SLURM_STEP_NUM_TASKS); 0: not by srun. SLURM_NTASKS does
  // not tell: it stands in a batch script too, where a process is rightly alone.
  std::string mpi_library, mpi_standard, thread_level, launcher;
  int64_t mpi_running = 0, mpi_one_thread = 0, slurm_step_tasks = 0;
  // Cores.
  std::string cores;  // this rank may use: "0-3,8"
  int64_t core_count = 1, machine_cores = 1;
  int64_t threads = 1;  // run.threads
  std::string cpu_model, missing_cpu_feature;
  int64_t vector_bits = 0;  // widest of the processor: 128, 256 (AVX2), 512 (AVX-512)
  std::string blas_library, blas_kernels, openblas_coretype, omp_num_threads;
  // Memory.
  int64_t shm_bytes = 0, shm_free_bytes = 0;
  int64_t memory_bytes = 0, memory_free_bytes = 0, memory_limit_bytes = -1;  // limit: of the control group
  std::string huge_pages;                                                    // always, madvise or never
  int64_t open_files = -1, locked_bytes = -1;
  // The folder of runs. sees_rank0: a file that rank 0 made there is visible here.
  std::string folder, folder_error, flock_error, fcntl_error, fsync_error, direct_error, hdf5_locking;
  int64_t disk_free_bytes = 0, sees_rank0 = 1;
  // Network. clock_ms: the time of day here minus that of rank 0, read right after a barrier.
  std::string address, interfaces, infiniband;
  int64_t clock_ms = 0;
  // GPU. gpu_driver: 12040 is CUDA 12.4, 0: no driver.
  int64_t gpu_driver = 0;
  std::string gpu_error, gpu_devices, nccl, cublaslt, cudnn;
};

// Calls visit(name, member) for every field, in a fixed order.
template <class Facts, class F>
void each_field(Facts& f, F&& visit) {
  visit("rank", f.rank), visit("ranks", f.ranks), visit("node", f.node), visit("host", f.host);
  visit("mpi_library", f.mpi_library), visit("mpi_standard", f.mpi_standard), visit("thread_level", f.thread_level);
  visit("launcher", f.launcher), visit("mpi_running", f.mpi_running), visit("mpi_one_thread", f.mpi_one_thread);
  visit("slurm_step_tasks", f.slurm_step_tasks), visit("cores", f.cores), visit("core_count", f.core_count);
  visit("machine_cores", f.machine_cores), visit("threads", f.threads), visit("cpu_model", f.cpu_model);
  visit("missing_cpu_feature", f.missing_cpu_feature), visit("vector_bits", f.vector_bits);
  visit("blas_library", f.blas_library), visit("blas_kernels", f.blas_kernels);
  visit("openblas_coretype", f.openblas_coretype), visit("omp_num_threads", f.omp_num_threads);
  visit("shm_bytes", f.shm_bytes), visit("shm_free_bytes", f.shm_free_bytes), visit("memory_bytes", f.memory_bytes);
  visit("memory_free_bytes", f.memory_free_bytes), visit("memory_limit_bytes", f.memory_limit_bytes);
  visit("huge_pages", f.huge_pages), visit("open_files", f.open_files), visit("locked_bytes", f.locked_bytes);
  visit("folder", f.folder), visit("folder_error", f.folder_error), visit("flock_error", f.flock_error);
  visit("fcntl_error", f.fcntl_error), visit("fsync_error", f.fsync_error), visit("direct_error", f.direct_error);
  visit("hdf5_locking", f.hdf5_locking), visit("disk_free_bytes", f.disk_free_bytes), visit("sees_rank0", f.sees_rank0);
  visit("address", f.address), visit("interfaces", f.interfaces), visit("infiniband", f.infiniband);
  visit("clock_ms", f.clock_ms), visit("gpu_driver", f.gpu_driver), visit("gpu_error", f.gpu_error);
  visit("gpu_devices", f.gpu_devices), visit("nccl", f.nccl), visit("cublaslt", f.cublaslt), visit("cudnn", f.cudnn);
}
// One field a line, and back.
std::string to_text(const MachineFacts& facts);
MachineFacts facts_from_text(const std::string& text);

struct Cluster {
  std::vector<MachineFacts> ranks;
  double parameters = 0;  // trainable ones of the run to come; 0: not said
  bool several_nodes() const { return ranks.back().node != ranks[0].node; }
  std::vector<const MachineFacts*> node_of(const MachineFacts& f) const;  // ranks of its node
};

enum class Level { kOk, kWarn, kFail };
const char* name_of(Level level);  // OK, WARN, FAIL

struct CheckResult {
  Level level;
  std::string fact;
  std::string remedy;  // empty for kOk
};
// The same finding of a check for some ranks.
struct Diagnosis {
  std::string check;
  CheckResult finding;
  std::vector<int64_t> ranks;
  std::string where;  // "" (everywhere), or hosts or ranks
};
// Every check on every rank or node that it is about, equal findings joined, in the order of the table. Pure.
std::vector<Diagnosis> diagnose(const Cluster& cluster);
// Shared memory that a run takes on a node of n ranks: an arena (parallel/comm/arena.h) for each of 8 groups, and at
// most 4 bytes per trainable parameter and rank, the gradient buckets.
double shared_memory_needed(int64_t ranks_of_node, bool several_nodes, double parameters);
// Cores of a list such as "0-3,8".
std::vector<int64_t> parse_cores(const std::string& list);

// What this process can see by itself; `node` as in MachineFacts. Makes and removes small files in `folder`.
MachineFacts collect_facts(int64_t rank, int64_t ranks, int64_t node, const std::string& folder, int64_t threads);

}  // namespace tpo
