// Made-up machines: what doctor says about each, and what it advises.
#include "launcher/commands/doctor.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <functional>

#include "core/error.h"

namespace tpo {
namespace {

constexpr int64_t kGiB = int64_t{1} << 30;

// A machine that nothing is wrong with.
MachineFacts healthy(int64_t rank, int64_t node) {
  MachineFacts f;
  f.rank = rank, f.node = node, f.host = "node" + std::to_string(node);
  f.mpi_library = "Open MPI v5.0.3", f.mpi_standard = "3.1", f.thread_level = "MPI_THREAD_MULTIPLE";
  f.launcher = "mpirun", f.mpi_running = 1;
  f.cores = rank == node ? "0-7" : "8-15", f.core_count = 8, f.machine_cores = 16, f.threads = 4;
  f.cpu_model = "EPYC", f.vector_bits = 512, f.blas_library = "/lib/libopenblas-openmp.so", f.blas_kernels = "SkylakeX";
  f.shm_bytes = f.shm_free_bytes = f.memory_bytes = f.memory_free_bytes = f.disk_free_bytes = 64 * kGiB;
  f.huge_pages = "madvise", f.open_files = 65536, f.locked_bytes = -1, f.folder = "/runs";
  f.address = "10.0.0.1", f.interfaces = "eth0 10.0.0.1";
  return f;
}

Cluster cluster(int64_t nodes, int64_t ranks_of_node) {
  Cluster c;
  for (int64_t r = 0; r < nodes * ranks_of_node; ++r) {
    c.ranks.push_back(healthy(r, r / ranks_of_node * ranks_of_node));
    c.ranks.back().ranks = nodes * ranks_of_node;
  }
  return c;
}

const Diagnosis* find(const std::vector<Diagnosis>& all, const std::string& check, Level level) {
  const auto found = std::find_if(all.begin(), all.end(),
                                  [&](const Diagnosis& d) { return d.check == check && d.finding.level == level; });
  return found == all.end() ? nullptr : &*found;
}

TEST(doctor, a_healthy_cluster_has_nothing_but_ok) {
  for (const auto& [nodes, ranks] : {std::pair{1, 1}, {1, 2}, {2, 1}, {3, 2}}) {
    for (const Diagnosis& d : diagnose(cluster(nodes, ranks))) {
      EXPECT_EQ(d.finding.level, Level::kOk) << d.check << ": " << d.finding.fact;
      EXPECT_EQ(d.finding.remedy, "") << d.check;
      EXPECT_EQ(d.where, "") << d.check << ": " << d.finding.fact;
    }
  }
}

struct Sick {
  const char* check;
  Level level;
  std::function<void(Cluster&)> spoil;  // of two nodes of two ranks
  const char* fact;
  const char* remedy;
  const char* where;
};

std::function<void(Cluster&)> every(void (*change)(MachineFacts&)) {
  return [change](Cluster& c) { std::for_each(c.ranks.begin(), c.ranks.end(), change); };
}
std::function<void(Cluster&)> last_node(void (*change)(MachineFacts&)) {
  return [change](Cluster& c) { change(c.ranks[2]); };
}

const Sick kCases[] = {
    {"mpi threads", Level::kFail, every([](MachineFacts& f) { f.mpi_one_thread = 1, f.thread_level = "FUNNELED"; }),
     "main thread only (FUNNELED)", "MPI_THREAD_SERIALIZED", ""},
    {"binding", Level::kWarn,
     [](Cluster& c) { c.ranks[1].cores = "8", c.ranks[1].core_count = 1, c.ranks[1].threads = 4; },
     "1 core(s) of 16 for 4 thread(s)", "--map-by slot:PE=5", "rank 1"},
    {"binding", Level::kWarn, every([](MachineFacts& f) { f.core_count = 4; }), "though cores are free",
     "srun --cpus-per-task=5", ""},
    {"oversubscription", Level::kWarn, every([](MachineFacts& f) { f.cores = "0-5"; }),
     "2 rank(s) with 8 thread(s) on 6 core(s)", "at most 1 rank(s) a node (mpirun --map-by ppr:1:node", ""},
    {"processor", Level::kFail, last_node([](MachineFacts& f) { f.missing_cpu_feature = "AVX-512"; }),
     "EPYC lacks AVX-512", "-DTPO_NATIVE=OFF", "node2"},
    {"blas", Level::kWarn, every([](MachineFacts& f) { f.blas_kernels = "Haswell", f.openblas_coretype = "Haswell"; }),
     "256 bits on a processor with 512, forced by OPENBLAS_CORETYPE=Haswell", "unset OPENBLAS_CORETYPE", ""},
    {"blas", Level::kWarn, every([](MachineFacts& f) { f.blas_kernels = "Prescott"; }), "kernels Prescott of 128 bits",
     "install a newer one", ""},
    {"blas", Level::kWarn,
     every([](MachineFacts& f) { f.blas_library = "/usr/lib/openblas-pthread/libopenblas.so.0"; }), "pthread",
     "libopenblas-openmp-dev", ""},
    {"shared memory", Level::kWarn, every([](MachineFacts& f) { f.shm_bytes = f.shm_free_bytes = 32 << 20; }),
     "32 MiB free of 32 MiB; 2 ranks take 192 MiB and 4 bytes", "--shm-size=193m", ""},
    {"shared memory", Level::kWarn,
     [](Cluster& c) {
       c.parameters = 1e9;
       for (MachineFacts& f : c.ranks) f.shm_free_bytes = 4 * kGiB;
     },
     "4.0 GiB free of 64.0 GiB; 2 ranks take 7.6 GiB", "/dev/shm", ""},  // 8 * 24 MiB + 2 * 4e9 bytes
    {"memory", Level::kWarn, last_node([](MachineFacts& f) { f.memory_limit_bytes = 256 << 20; }),
     "the control group allows 256 MiB: 128 MiB a rank, below 256 MiB", "fewer ranks a node", "node2"},
    {"huge pages", Level::kWarn, every([](MachineFacts& f) { f.huge_pages = "never"; }), "never", "echo madvise", ""},
    {"open files", Level::kWarn, every([](MachineFacts& f) { f.open_files = 1024; }), "at most 1024", "ulimit -Hn", ""},
    {"locked memory", Level::kWarn, every([](MachineFacts& f) { f.locked_bytes = 8 << 20, f.infiniband = "mlx5_0"; }),
     "at most 8 MiB with mlx5_0", "ulimit -l unlimited", ""},
    {"folder", Level::kFail,
     last_node([](MachineFacts& f) { f.folder_error = "cannot write in /runs: Permission denied"; }),
     "Permission denied", "--folder", "node2"},
    {"folder", Level::kWarn, every([](MachineFacts& f) { f.fsync_error = "Invalid argument"; }), "fsync fails",
     "another disk", ""},
    {"file locking", Level::kFail, every([](MachineFacts& f) { f.flock_error = "Function not implemented"; }),
     "flock: Function not implemented; fcntl: works; HDF5 refuses", "HDF5_USE_FILE_LOCKING=FALSE", ""},
    {"file locking", Level::kWarn, every([](MachineFacts& f) { f.fcntl_error = "No locks available"; }),
     "fcntl: No locks available", "HDF5_USE_FILE_LOCKING=FALSE", ""},
    {"direct writes", Level::kWarn, every([](MachineFacts& f) { f.direct_error = "Invalid argument"; }), "no O_DIRECT",
     "page cache", ""},
    {"disk", Level::kWarn, every([](MachineFacts& f) { f.disk_free_bytes = kGiB / 2; }), "512 MiB free", "1.0 GiB", ""},
    {"one file system", Level::kFail, last_node([](MachineFacts& f) { f.sees_rank0 = 0; }),
     "/runs here is not that of rank 0", "one file system", "node2"},
    {"network", Level::kWarn, last_node([](MachineFacts& f) { f.address = ""; }), "node2 has no address", "/etc/hosts",
     "node2"},
    {"network", Level::kWarn, every([](MachineFacts& f) { f.interfaces += ", docker0 172.17.0.1"; }), "docker0",
     "OMPI_MCA_btl_tcp_if_include", ""},
    {"clock", Level::kWarn, [](Cluster& c) { c.ranks[3].clock_ms = -1500; }, "-1500 ms", "chrony", "rank 3"},
    {"gpu", Level::kWarn, every([](MachineFacts& f) {
       f.gpu_driver = 12040, f.gpu_error = "cuInit gives error 100";
       f.nccl = f.cublaslt = f.cudnn = "x";
     }),
     "CUDA driver 12.4: cuInit gives error 100", "nvidia-smi", ""},
    {"gpu libraries", Level::kWarn,
     every([](MachineFacts& f) { f.gpu_driver = 12040, f.nccl = "libnccl.so.2", f.cudnn = "c"; }),
     "libnccl.so.2, c; not found: cuBLASLt", "LD_LIBRARY_PATH", ""},
    {"nodes: mpi", Level::kFail, last_node([](MachineFacts& f) { f.mpi_library = "MPICH 4.2"; }),
     "here MPICH 4.2, on node0 Open MPI v5.0.3", "one module", "node2"},
    {"nodes: blas kernels", Level::kWarn, last_node([](MachineFacts& f) { f.blas_kernels = "Cooperlake"; }),
     "here Cooperlake, on node0 SkylakeX", "slowest node", "node2"},
    {"nodes: open files", Level::kWarn, last_node([](MachineFacts& f) { f.open_files = 4096; }),
     "here 4096, on node0 65536", "alike", "node2"},
};

// One field spoiled, on every rank or on some: one finding, its words, its ranks, and no other check that complains.
TEST(doctor, each_defect_is_found_with_its_remedy) {
  for (const Sick& k : kCases) {
    Cluster c = cluster(2, 2);
    k.spoil(c);
    const std::vector<Diagnosis> all = diagnose(c);
    const Diagnosis* d = find(all, k.check, k.level);
    ASSERT_NE(d, nullptr) << k.check << ": " << k.fact;
    EXPECT_NE(d->finding.fact.find(k.fact), std::string::npos) << d->finding.fact << "\nwanted " << k.fact;
    EXPECT_NE(d->finding.remedy.find(k.remedy), std::string::npos) << d->finding.remedy << "\nwanted " << k.remedy;
    EXPECT_EQ(d->where, k.where) << k.check;
    for (const Diagnosis& other : all)
      EXPECT_TRUE(other.finding.level == Level::kOk || other.check == k.check)
          << k.check << " made " << other.check << " say " << other.finding.fact;
  }
}

TEST(doctor, srun_without_pmi_is_a_failure_and_other_lone_processes_are_not) {
  Cluster c = cluster(1, 1);
  c.ranks[0].launcher = "srun", c.ranks[0].slurm_step_tasks = 4, c.ranks[0].mpi_running = 0;
  const auto all = diagnose(c);
  const Diagnosis* d = find(all, "start", Level::kFail);
  ASSERT_NE(d, nullptr);
  EXPECT_EQ(d->finding.fact, "srun started 4 tasks, but each believes to be rank 0 of 1");
  EXPECT_NE(d->finding.remedy.find("srun --mpi=pmix"), std::string::npos);
  c.ranks[0].slurm_step_tasks = 1;
  EXPECT_EQ(find(diagnose(c), "start", Level::kFail), nullptr);
}

TEST(doctor, hdf5_without_locks_is_accepted_when_told) {
  for (const char* value : {"FALSE", "0", "BEST_EFFORT"}) {
    Cluster c = cluster(1, 1);
    c.ranks[0].flock_error = "no", c.ranks[0].hdf5_locking = value;
    EXPECT_EQ(find(diagnose(c), "file locking", Level::kFail), nullptr);
  }
}

TEST(doctor, long_lists_of_ranks_are_shortened) {
  Cluster c = cluster(1, 10);
  for (int r = 1; r < 8; ++r) c.ranks[static_cast<size_t>(r)].clock_ms = 2000;
  const auto all = diagnose(c);
  EXPECT_EQ(find(all, "clock", Level::kWarn)->where, "rank 1, 2, 3, 4 and 3 more");
}

TEST(doctor, facts_travel_as_text_and_this_machine_has_some) {
  const std::string folder = std::filesystem::temp_directory_path() / "tpo_doctor_test";
  std::filesystem::create_directories(folder);
  const MachineFacts f = collect_facts(0, 1, 0, folder, 3);
  EXPECT_TRUE(std::filesystem::is_empty(folder)) << "probes are removed";
  std::filesystem::remove_all(folder);
  EXPECT_EQ(f.threads, 3);
  EXPECT_EQ(f.folder_error, "");
  EXPECT_EQ(static_cast<int64_t>(parse_cores(f.cores).size()), f.core_count);
  EXPECT_GT(f.memory_bytes, f.memory_free_bytes);
  EXPECT_GT(f.disk_free_bytes, 0);
  EXPECT_FALSE(f.mpi_library.empty() || f.blas_kernels.empty() || f.blas_library.empty() || f.host.empty());
  EXPECT_EQ(to_text(facts_from_text(to_text(f))), to_text(f));
  EXPECT_THROW(facts_from_text("0\n1\n"), DataError);
  const MachineFacts nowhere = collect_facts(0, 1, 0, folder + "/gone", 1);
  EXPECT_NE(nowhere.folder_error.find("/gone: No such file"), std::string::npos) << nowhere.folder_error;
  EXPECT_EQ(parse_cores("0-2,5,7-8"), (std::vector<int64_t>{0, 1, 2, 5, 7, 8}));
}

}  // namespace
}  // namespace tpo
