#include <algorithm>
#include <cstdio>
#include <set>

#include "core/error.h"
#include "launcher/commands/doctor.h"
#include "parallel/comm/arena.h"

namespace tpo {

namespace {

constexpr double kMiB = 1 << 20, kGiB = 1 << 30;

CheckResult ok(std::string fact) { return {Level::kOk, std::move(fact), ""}; }
CheckResult warn(std::string fact, std::string remedy) { return {Level::kWarn, std::move(fact), std::move(remedy)}; }
CheckResult fail(std::string fact, std::string remedy) { return {Level::kFail, std::move(fact), std::move(remedy)}; }

std::string amount(double bytes) {
  char text[32];
  std::snprintf(text, sizeof text, bytes < kGiB ? "%.0f MiB" : "%.1f GiB", bytes / (bytes < kGiB ? kMiB : kGiB));
  return text;
}
std::string amount(int64_t bytes) { return amount(static_cast<double>(bytes)); }

// Start-up

CheckResult check_mpi(const MachineFacts& f, const Cluster&) {
  return ok(cat(f.mpi_library, ", MPI ", f.mpi_standard));
}

CheckResult check_start(const MachineFacts& f, const Cluster& c) {
  if (f.slurm_step_tasks > 1 && c.ranks.size() == 1)
    return fail(cat("srun started ", f.slurm_step_tasks, " tasks, but each believes to be rank 0 of 1"),
                "srun and MPI do not share a PMI: use srun --mpi=pmix (srun --mpi=list shows what there is); without "
                "it, mpirun inside the allocation: examples/launch/slurm_mpirun.sbatch");
  if (f.launcher == "none") return ok("started alone; under mpirun or srun all ranks are examined");
  return ok(cat(c.ranks.size(), " rank(s), started by ", f.launcher));
}

CheckResult check_thread_level(const MachineFacts& f, const Cluster&) {
  if (f.mpi_running == 0) return ok("not asked: MPI is not running");
  if (f.mpi_one_thread != 0)
    return fail(cat("MPI allows calls from the main thread only (", f.thread_level, ")"),
                "the engine thread needs MPI_THREAD_SERIALIZED: an MPI built with threads (Open MPI: "
                "--enable-mpi-thread-multiple before 4.0)");
  return ok(f.thread_level);
}

// Cores

CheckResult check_binding(const MachineFacts& f, const Cluster& c) {
  const auto ranks = static_cast<int64_t>(c.node_of(f).size());
  const std::string fact = cat(f.core_count, " core(s) of ", f.machine_cores, " for ", f.threads, " thread(s) a rank");
  const std::string free =
      cat("mpirun --bind-to none or --map-by slot:PE=", f.threads + 1, "; srun --cpus-per-task=", f.threads + 1);
  if (f.core_count < f.threads) return warn(fact, cat("compute threads share cores: ", free));
  if (f.core_count == f.threads && f.machine_cores >= ranks * (f.threads + 1))
    return warn(fact + ", though cores are free",
                cat("loader and communication threads share the cores of compute threads: ", free));
  return ok(fact);
}

CheckResult check_oversubscription(const MachineFacts& f, const Cluster& c) {
  std::set<int64_t> cores;
  int64_t threads = 0, ranks = 0;
  for (const MachineFacts* r : c.node_of(f)) {
    for (const int64_t core : parse_cores(r->cores)) cores.insert(core);
    threads += r->threads, ++ranks;
  }
  const auto available = static_cast<int64_t>(cores.size());
  const std::string fact = cat(ranks, " rank(s) with ", threads, " thread(s) on ", available, " core(s) of the node");
  if (threads <= available) return ok(fact);
  const int64_t most = std::max<int64_t>(1, available / f.threads);
  return warn(fact, cat("threads take turns on cores: at most ", most, " rank(s) a node (mpirun --map-by ppr:", most,
                        ":node, srun --ntasks-per-node=", most, "), or a smaller run.threads"));
}

CheckResult check_cpu(const MachineFacts& f, const Cluster&) {
  if (!f.missing_cpu_feature.empty())
    return fail(cat(f.cpu_model, " lacks ", f.missing_cpu_feature, ", which this program was compiled for"),
                "build with -DTPO_NATIVE=OFF or on this machine");
  return ok(cat(f.cpu_model, ", vectors of ", f.vector_bits, " bits"));
}

// Width of the vectors of OpenBLAS's kernels, by their name. 0: unknown.
int64_t bits_of_kernels(const std::string& name) {
  const struct {
    int64_t bits;
    std::vector<std::string> names;
  } table[] = {{512, {"SkylakeX", "Cooperlake", "SapphireRapids", "Sapphirerapids"}},
               {256, {"Haswell", "Zen", "Excavator", "Steamroller", "Piledriver", "Bulldozer", "Sandybridge"}},
               {128,
                {"Nehalem", "Prescott", "Core2", "Penryn", "Dunnington", "Barcelona", "Bobcat", "Atom", "Katmai",
                 "Coppermine", "Northwood", "Banias", "Athlon", "Opteron", "Opteron_SSE3", "Nano"}}};
  for (const auto& row : table)
    if (std::find(row.names.begin(), row.names.end(), name) != row.names.end()) return row.bits;
  return 0;
}

CheckResult check_blas(const MachineFacts& f, const Cluster&) {
  const std::string fact = cat(f.blas_library, ", kernels ", f.blas_kernels);
  if (const int64_t bits = bits_of_kernels(f.blas_kernels); bits > 0 && bits < f.vector_bits) {
    const std::string slow = cat(fact, " of ", bits, " bits on a processor with ", f.vector_bits);
    if (!f.openblas_coretype.empty())
      return warn(
          cat(slow, ", forced by OPENBLAS_CORETYPE=", f.openblas_coretype),
          "products of OpenBLAS (where the build has AVX-512: those of bf16 and of one row) run at up to half the "
          "speed: unset OPENBLAS_CORETYPE");
    return warn(slow, "this OpenBLAS does not know the processor: install a newer one");
  }
  if (f.blas_library.find("pthread") != std::string::npos)
    return warn(fact, "its threads compete with ours: use the OpenMP build (libopenblas-openmp-dev)");
  return ok(fact);
}

CheckResult check_omp(const MachineFacts& f, const Cluster&) {
  if (f.omp_num_threads.empty() || f.omp_num_threads == std::to_string(f.threads))
    return ok(cat("run.threads = ", f.threads));
  return ok(cat("run.threads = ", f.threads, " decides; OMP_NUM_THREADS=", f.omp_num_threads, " is not used by train"));
}

// Memory

CheckResult check_shared_memory(const MachineFacts& f, const Cluster& c) {
  const auto n = static_cast<int64_t>(c.node_of(f).size());
  const std::string fact = cat("/dev/shm has ", amount(f.shm_free_bytes), " free of ", amount(f.shm_bytes));
  if (n == 1) return ok(fact + "; one rank on the node needs none");
  const double need = shared_memory_needed(n, c.several_nodes(), c.parameters);
  const std::string asked = cat("; ", n, " ranks take ", amount(need),
                                c.parameters > 0 ? "" : " and 4 bytes per trainable parameter and rank");
  if (static_cast<double>(f.shm_free_bytes) >= need) return ok(fact + asked);
  return warn(fact + asked, cat("the rest goes through MPI, several times slower: mount -o remount,size=",
                                static_cast<int64_t>(need / kMiB) + 1, "m /dev/shm, docker run --shm-size=",
                                static_cast<int64_t>(need / kMiB) + 1, "m, or remove leftovers in /dev/shm"));
}

CheckResult check_memory(const MachineFacts& f, const Cluster& c) {
  int64_t free = f.memory_free_bytes;
  std::string fact = cat(amount(free), " free of ", amount(f.memory_bytes));
  if (f.memory_limit_bytes >= 0 && f.memory_limit_bytes < f.memory_bytes) {
    fact += cat(", the control group allows ", amount(f.memory_limit_bytes));
    free = std::min(free, f.memory_limit_bytes);
  }
  const auto n = static_cast<double>(c.node_of(f).size());
  const double each = static_cast<double>(free) / n, need = std::max(kGiB / 4, 16 * c.parameters);
  if (each >= need) return ok(fact);
  return warn(
      cat(fact, ": ", amount(each), " a rank, below ", amount(need)),
      "weights, gradients and two moments take 16 bytes per trainable parameter where nothing is sharded: fewer "
      "ranks a node, or shard them (tpo_dist plan says what a rank holds)");
}

CheckResult check_huge_pages(const MachineFacts& f, const Cluster&) {
  if (f.huge_pages != "never") return ok(cat("transparent huge pages: ", f.huge_pages));
  return warn("transparent huge pages: never",
              "large tensors cost a page fault each 4 KiB: echo madvise > /sys/kernel/mm/transparent_hugepage/enabled");
}

CheckResult check_open_files(const MachineFacts& f, const Cluster&) {
  const std::string fact = f.open_files < 0 ? "no limit" : cat("at most ", f.open_files);
  if (f.open_files < 0 || f.open_files >= 4096) return ok(fact);
  return warn(fact,
              "every shard is an open file: raise the hard limit (ulimit -Hn, limits.conf, LimitNOFILE of slurmd)");
}

CheckResult check_locked_memory(const MachineFacts& f, const Cluster&) {
  const std::string fact = f.locked_bytes < 0 ? "no limit" : cat("at most ", amount(f.locked_bytes));
  if (f.locked_bytes < 0 || f.infiniband.empty()) return ok(fact);
  return warn(fact + " with " + f.infiniband,
              "the network registers memory: ulimit -l unlimited (limits.conf; LimitMEMLOCK=infinity of slurmd)");
}

// Files

CheckResult check_folder(const MachineFacts& f, const Cluster&) {
  if (!f.folder_error.empty()) return fail(f.folder_error, "name a folder that every rank may write with --folder");
  if (!f.fsync_error.empty())
    return warn(cat(f.folder, ": fsync fails: ", f.fsync_error),
                "checkpoints may be lost with the machine: another disk");
  return ok(cat(f.folder, ": writing and fsync work"));
}

CheckResult check_locking(const MachineFacts& f, const Cluster&) {
  if (!f.folder_error.empty()) return ok("not tried");
  const bool off = f.hdf5_locking == "FALSE" || f.hdf5_locking == "0" || f.hdf5_locking == "BEST_EFFORT";
  if (f.flock_error.empty() && f.fcntl_error.empty()) return ok("flock and fcntl work");
  const std::string fact = cat("flock: ", f.flock_error.empty() ? "works" : f.flock_error,
                               "; fcntl: ", f.fcntl_error.empty() ? "works" : f.fcntl_error);
  if (off) return ok(cat(fact, "; HDF5_USE_FILE_LOCKING=", f.hdf5_locking));
  const std::string remedy =
      "export HDF5_USE_FILE_LOCKING=FALSE (mpirun -x HDF5_USE_FILE_LOCKING), or mount with "
      "locks (Lustre: -o flock; NFS: a lock daemon)";
  return f.flock_error.empty() ? warn(fact, remedy) : fail(fact + "; HDF5 refuses files it cannot lock", remedy);
}

CheckResult check_direct(const MachineFacts& f, const Cluster&) {
  if (!f.folder_error.empty()) return ok("not tried");
  if (f.direct_error.empty()) return ok("O_DIRECT works");
  return warn(cat("no O_DIRECT: ", f.direct_error),
              "checkpoints are written through the page cache, slower on local "
              "disks; nothing to do on a network file system");
}

CheckResult check_disk(const MachineFacts& f, const Cluster& c) {
  if (!f.folder_error.empty()) return ok("not tried");
  const double need = std::max(kGiB, 2 * 12 * c.parameters);
  const std::string fact = cat(amount(f.disk_free_bytes), " free");
  if (static_cast<double>(f.disk_free_bytes) >= need) return ok(fact);
  return warn(fact, cat("two checkpoints (12 bytes per trainable parameter) want ", amount(need), ": another disk"));
}

CheckResult check_one_file_system(const MachineFacts& f, const Cluster& c) {
  if (!c.several_nodes()) return ok("one node");
  if (f.sees_rank0 != 0) return ok(cat("every node sees ", f.folder));
  return fail(cat(f.folder, " here is not that of rank 0"),
              "run folder, data and program must be on one file system that all nodes mount");
}

// Network

CheckResult check_network(const MachineFacts& f, const Cluster& c) {
  if (!c.several_nodes()) return ok(cat("one node; ", f.interfaces));
  if (f.address.empty())
    return warn(cat("the name ", f.host, " has no address"), "add it to DNS or /etc/hosts of every node");
  if (f.address.starts_with("127."))
    return warn(cat("the name ", f.host, " is ", f.address), "other nodes cannot reach that: correct /etc/hosts");
  if (f.interfaces.empty()) return fail("no network interface besides the loopback", "connect the node; see ip addr");
  for (const char* bridge : {"docker", "virbr"})
    if (f.interfaces.find(bridge) != std::string::npos)
      return warn(f.interfaces,
                  "MPI may pick a bridge that leads nowhere: OMPI_MCA_btl_tcp_if_include=NAME (and "
                  "OMPI_MCA_oob_tcp_if_include, UCX_NET_DEVICES)");
  return ok(cat(f.interfaces, f.infiniband.empty() ? "" : "; " + f.infiniband));
}

CheckResult check_clock(const MachineFacts& f, const Cluster& c) {
  if (c.ranks.size() == 1) return ok("one rank");
  const int64_t off = std::max(f.clock_ms, -f.clock_ms);
  if (off <= 1000) return ok("within 1 s of rank 0");
  return warn(cat(f.clock_ms, " ms beside rank 0"), "times in logs of ranks do not fit: run chrony or ntpd");
}

// GPU

CheckResult check_gpu(const MachineFacts& f, const Cluster&) {
  if (f.gpu_driver == 0) return ok("no driver: run.device=cpu works");
  const std::string fact = cat("CUDA driver ", f.gpu_driver / 1000, ".", f.gpu_driver % 1000 / 10);
  if (!f.gpu_error.empty())
    return warn(cat(fact, ": ", f.gpu_error),
                "run.device=cpu works; nvidia-smi says what is wrong, "
                "CUDA_VISIBLE_DEVICES may hide devices");
  return ok(cat(fact, "; ", f.gpu_devices));
}

CheckResult check_gpu_libraries(const MachineFacts& f, const Cluster&) {
  std::string found, missing;
  for (const auto& [name, path] : {std::pair{"NCCL", f.nccl}, {"cuBLASLt", f.cublaslt}, {"cuDNN", f.cudnn}}) {
    std::string& list = path.empty() ? missing : found;
    list += (list.empty() ? "" : ", ") + (path.empty() ? name : path);
  }
  if (missing.empty()) return ok(found);
  if (f.gpu_driver == 0) return ok(cat("without ", missing, ", which only run.device=cuda needs"));
  return warn(cat(found.empty() ? "" : found + "; ", "not found: ", missing),
              "install them, or add their folder to LD_LIBRARY_PATH (mpirun -x LD_LIBRARY_PATH)");
}

// Nodes that differ

template <std::string MachineFacts::*field>
CheckResult same_text(const MachineFacts& f, const Cluster& c) {
  const std::string &mine = f.*field, &first = c.ranks[0].*field;
  if (mine == first) return ok(mine.empty() ? "the same everywhere" : "the same everywhere: " + mine);
  const std::string fact = cat("here ", mine, ", on ", c.ranks[0].host, " ", first);
  return field == &MachineFacts::mpi_library
             ? fail(fact, "ranks of different MPI libraries do not understand each other: one module on all nodes")
             : warn(fact, "the slowest node sets the pace, and sums differ in their last bits: nodes alike");
}

template <int64_t MachineFacts::*field>
CheckResult same_limit(const MachineFacts& f, const Cluster& c) {
  const int64_t mine = f.*field, first = c.ranks[0].*field;
  if (mine == first) return ok("the same everywhere");
  return warn(cat("here ", mine, ", on ", c.ranks[0].host, " ", first), "configure nodes alike");
}

enum class Ask { kRank, kNode, kNodes };  // every rank; the first of every node; that too, if there are several nodes
struct Check {
  const char* name;
  Ask ask;
  CheckResult (*find)(const MachineFacts&, const Cluster&);
};
constexpr Check kChecks[] = {
    {"start", Ask::kNode, check_start},
    {"mpi", Ask::kNode, check_mpi},
    {"mpi threads", Ask::kNode, check_thread_level},
    {"binding", Ask::kRank, check_binding},
    {"oversubscription", Ask::kNode, check_oversubscription},
    {"processor", Ask::kNode, check_cpu},
    {"blas", Ask::kRank, check_blas},
    {"threads", Ask::kNode, check_omp},
    {"shared memory", Ask::kNode, check_shared_memory},
    {"memory", Ask::kNode, check_memory},
    {"huge pages", Ask::kNode, check_huge_pages},
    {"open files", Ask::kRank, check_open_files},
    {"locked memory", Ask::kRank, check_locked_memory},
    {"folder", Ask::kNode, check_folder},
    {"file locking", Ask::kNode, check_locking},
    {"direct writes", Ask::kNode, check_direct},
    {"disk", Ask::kNode, check_disk},
    {"one file system", Ask::kNode, check_one_file_system},
    {"network", Ask::kNode, check_network},
    {"clock", Ask::kRank, check_clock},
    {"gpu", Ask::kNode, check_gpu},
    {"gpu libraries", Ask::kNode, check_gpu_libraries},
    {"nodes: mpi", Ask::kNodes, same_text<&MachineFacts::mpi_library>},
    {"nodes: processor", Ask::kNodes, same_text<&MachineFacts::cpu_model>},
    {"nodes: blas", Ask::kNodes, same_text<&MachineFacts::blas_library>},
    {"nodes: blas kernels", Ask::kNodes, same_text<&MachineFacts::blas_kernels>},
    {"nodes: huge pages", Ask::kNodes, same_text<&MachineFacts::huge_pages>},
    {"nodes: gpus", Ask::kNodes, same_text<&MachineFacts::gpu_devices>},
    {"nodes: gpu driver", Ask::kNodes, same_limit<&MachineFacts::gpu_driver>},
    {"nodes: open files", Ask::kNodes, same_limit<&MachineFacts::open_files>},
    {"nodes: locked memory", Ask::kNodes, same_limit<&MachineFacts::locked_bytes>},
    {"nodes: shared memory", Ask::kNodes, same_limit<&MachineFacts::shm_bytes>},
};

// "ranks 0, 3 and 6 more", or hosts where a check is about nodes.
std::string where_of(const Check& check, const std::vector<int64_t>& ranks, size_t asked, const Cluster& c) {
  if (ranks.size() == asked) return "";
  std::string out = check.ask == Ask::kRank ? "rank " : "";
  constexpr size_t kNamed = 4;
  for (size_t i = 0; i < std::min(kNamed, ranks.size()); ++i)
    out += cat(i == 0 ? "" : ", ",
               check.ask == Ask::kRank ? std::to_string(ranks[i]) : c.ranks[static_cast<size_t>(ranks[i])].host);
  return ranks.size() > kNamed ? cat(out, " and ", ranks.size() - kNamed, " more") : out;
}

}  // namespace

const char* name_of(Level level) { return level == Level::kOk ? "OK" : level == Level::kWarn ? "WARN" : "FAIL"; }

double shared_memory_needed(int64_t ranks_of_node, bool several_nodes, double parameters) {
  constexpr double kGroups = 8;  // world, five axes of the mesh, the buckets', one to spare
  if (ranks_of_node < 2) return 0;
  const auto arena =
      Arena::bytes_needed(static_cast<int>(ranks_of_node), Arena::piece_bytes(ranks_of_node, several_nodes));
  return kGroups * static_cast<double>(arena) + 4 * parameters * static_cast<double>(ranks_of_node);
}

std::vector<const MachineFacts*> Cluster::node_of(const MachineFacts& f) const {
  std::vector<const MachineFacts*> out;
  for (const MachineFacts& r : ranks)
    if (r.node == f.node) out.push_back(&r);
  return out;
}

std::vector<Diagnosis> diagnose(const Cluster& c) {
  std::vector<Diagnosis> out;
  for (const Check& check : kChecks) {
    if (check.ask == Ask::kNodes && !c.several_nodes()) continue;
    const size_t begin = out.size();
    size_t asked = 0;
    for (const MachineFacts& f : c.ranks) {
      if (check.ask != Ask::kRank && f.node != f.rank) continue;
      ++asked;
      const CheckResult finding = check.find(f, c);
      const auto same = std::find_if(out.begin() + static_cast<std::ptrdiff_t>(begin), out.end(), [&](const auto& d) {
        return d.finding.level == finding.level && d.finding.fact == finding.fact;
      });
      if (same == out.end()) {
        out.push_back({check.name, finding, {f.rank}, ""});
      } else {
        same->ranks.push_back(f.rank);
      }
    }
    for (size_t i = begin; i < out.size(); ++i) out[i].where = where_of(check, out[i].ranks, asked, c);
  }
  return out;
}

}  // namespace tpo
