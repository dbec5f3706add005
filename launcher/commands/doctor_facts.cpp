#include <arpa/inet.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <glob.h>
#include <ifaddrs.h>
#include <netdb.h>
#include <sched.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <memory>

#include "core/cpu_features.h"
#include "core/error.h"
#include "core/kernels/gemm.h"
#include "launcher/commands/doctor.h"
#include "parallel/comm/mpi_reference.h"

namespace tpo {

namespace {

std::string reason() { return std::strerror(errno); }

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

int64_t number(const std::string& text, int64_t otherwise) {
  int64_t value = otherwise;
  std::from_chars(text.data(), text.data() + text.size(), value);
  return value;
}

// What follows "NAME...: " in a file of such lines; empty if absent.
std::string field_of(const std::string& path, const std::string& name) {
  std::ifstream in(path);
  for (std::string line; std::getline(in, line);) {
    if (line.rfind(name, 0) != 0) continue;
    const size_t begin = line.find_first_not_of(" \t", line.find(':') + 1);
    return begin == std::string::npos ? "" : line.substr(begin);
  }
  return "";
}

std::string first_word(const std::string& path) {
  std::ifstream in(path);
  std::string word;
  in >> word;
  return word;
}

void find_start(MachineFacts& f) {
  const MpiFacts mpi = mpi_facts();
  f.mpi_library = mpi.library, f.mpi_standard = mpi.standard, f.thread_level = mpi.thread_level;
  f.mpi_running = mpi.running ? 1 : 0, f.mpi_one_thread = mpi.one_thread ? 1 : 0;
  f.slurm_step_tasks = number(environment("SLURM_STEP_NUM_TASKS"), 0);
  f.launcher = "none";
  if (f.slurm_step_tasks > 0) f.launcher = "srun";
  // Open MPI's mpirun and Hydra; within Slurm they start their daemons by srun.
  if (!environment("OMPI_COMM_WORLD_SIZE").empty() || !environment("HYDI_CONTROL_FD").empty()) {
    f.launcher = "mpirun";
    f.slurm_step_tasks = 0;
  }
}

// "0-3,8" of an affinity mask. The mask may be wider than cpu_set_t on large machines.
void find_cores(MachineFacts& f) {
  for (int wide = 1024; wide <= 1 << 16; wide *= 2) {
    const std::unique_ptr<cpu_set_t, void (*)(cpu_set_t*)> set(CPU_ALLOC(static_cast<size_t>(wide)),
                                                               [](cpu_set_t* s) { CPU_FREE(s); });
    const size_t bytes = CPU_ALLOC_SIZE(static_cast<size_t>(wide));
    if (sched_getaffinity(0, bytes, set.get()) != 0) continue;
    f.core_count = CPU_COUNT_S(bytes, set.get());
    for (int core = 0; core < wide; ++core) {
      if (!CPU_ISSET_S(static_cast<size_t>(core), bytes, set.get())) continue;
      int last = core;
      while (last + 1 < wide && CPU_ISSET_S(static_cast<size_t>(last + 1), bytes, set.get())) ++last;
      f.cores += cat(f.cores.empty() ? "" : ",", core, last > core ? cat("-", last) : "");
      core = last;
    }
    break;
  }
  f.machine_cores = sysconf(_SC_NPROCESSORS_ONLN);
  f.cpu_model = field_of("/proc/cpuinfo", "model name");
  const std::string flags = " " + field_of("/proc/cpuinfo", "flags") + " ";
  const auto has = [&](const char* flag) { return flags.find(flag) != std::string::npos; };
  f.vector_bits = has(" avx512f ") ? 512 : has(" avx2 ") ? 256 : 128;
  if (const char* missing = missing_cpu_feature()) f.missing_cpu_feature = missing;
}

void find_blas(MachineFacts& f) {
  f.blas_kernels = blas_kernels();
  f.openblas_coretype = environment("OPENBLAS_CORETYPE");
  f.omp_num_threads = environment("OMP_NUM_THREADS");
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line) && f.blas_library.empty();) {
    const size_t path = line.find('/');
    if (path != std::string::npos && line.find("blas", path) != std::string::npos) f.blas_library = line.substr(path);
  }
}

void find_memory(MachineFacts& f) {
  struct statvfs shm {};
  if (statvfs("/dev/shm", &shm) == 0) {
    f.shm_bytes = static_cast<int64_t>(shm.f_blocks * shm.f_frsize);
    f.shm_free_bytes = static_cast<int64_t>(shm.f_bavail * shm.f_frsize);
  }
  f.memory_bytes = number(field_of("/proc/meminfo", "MemTotal"), 0) << 10;
  f.memory_free_bytes = number(field_of("/proc/meminfo", "MemAvailable"), 0) << 10;
  for (const char* path : {"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"}) {
    const int64_t limit = number(first_word(path), -1);  // "max" is no number
    if (limit > 0) f.memory_limit_bytes = limit;
  }
  std::ifstream pages("/sys/kernel/mm/transparent_hugepage/enabled");
  std::string line;
  std::getline(pages, line);
  if (const size_t begin = line.find('['); begin != std::string::npos)
    f.huge_pages = line.substr(begin + 1, line.find(']') - begin - 1);
}

void find_limits(MachineFacts& f) {
  const auto limit = [](auto resource) {
    rlimit value{};
    if (getrlimit(resource, &value) != 0 || value.rlim_max == RLIM_INFINITY) return int64_t{-1};
    return static_cast<int64_t>(value.rlim_max);
  };
  f.open_files = limit(RLIMIT_NOFILE);
  f.locked_bytes = limit(RLIMIT_MEMLOCK);
}

// A probe file of this rank, removed with this object.
struct ProbeFile {
  ProbeFile(const std::string& folder, int64_t rank, int flags)
      : path(cat(folder, "/.tpo_doctor.", rank, ".", getpid())), fd(open(path.c_str(), flags, 0600)) {}
  ~ProbeFile() {
    if (fd < 0) return;
    close(fd);
    unlink(path.c_str());
  }
  ProbeFile(const ProbeFile&) = delete;
  ProbeFile& operator=(const ProbeFile&) = delete;
  std::string path;
  int fd;
};

void find_files(MachineFacts& f) {
  f.hdf5_locking = environment("HDF5_USE_FILE_LOCKING");
  constexpr size_t kBlock = 4096;
  const std::unique_ptr<void, void (*)(void*)> block(std::aligned_alloc(kBlock, kBlock), std::free);
  std::memset(block.get(), 0, kBlock);
  {
    const ProbeFile file(f.folder, f.rank, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC);
    if (file.fd < 0 || pwrite(file.fd, block.get(), kBlock, 0) != static_cast<ssize_t>(kBlock)) {
      f.folder_error = cat("cannot write in ", f.folder, ": ", reason());
      return;
    }
    if (fsync(file.fd) != 0) f.fsync_error = reason();
    if (flock(file.fd, LOCK_EX | LOCK_NB) != 0) f.flock_error = reason();
    flock(file.fd, LOCK_UN);
    struct flock region {};
    region.l_type = F_WRLCK;
    region.l_whence = SEEK_SET;
    if (fcntl(file.fd, F_SETLK, &region) != 0) f.fcntl_error = reason();
    struct statvfs disk {};
    if (fstatvfs(file.fd, &disk) == 0) f.disk_free_bytes = static_cast<int64_t>(disk.f_bavail * disk.f_frsize);
  }
  // Some file systems refuse at open, others at write.
  const ProbeFile direct(f.folder, f.rank, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_DIRECT);
  if (direct.fd < 0 || pwrite(direct.fd, block.get(), kBlock, 0) != static_cast<ssize_t>(kBlock))
    f.direct_error = reason();
}

std::string printed(const sockaddr* address) {
  std::array<char, INET6_ADDRSTRLEN> text{};
  const auto* v4 = reinterpret_cast<const sockaddr_in*>(address);
  inet_ntop(AF_INET, &v4->sin_addr, text.data(), text.size());
  return text.data();
}

void find_network(MachineFacts& f) {
  addrinfo wanted{}, *found = nullptr;
  wanted.ai_family = AF_INET;
  if (getaddrinfo(f.host.c_str(), nullptr, &wanted, &found) == 0) {
    f.address = printed(found->ai_addr);
    freeaddrinfo(found);
  }
  ifaddrs* all = nullptr;
  if (getifaddrs(&all) == 0) {
    for (const ifaddrs* i = all; i != nullptr; i = i->ifa_next) {
      if (i->ifa_addr == nullptr || i->ifa_addr->sa_family != AF_INET) continue;
      const std::string address = printed(i->ifa_addr);
      if (!address.starts_with("127."))
        f.interfaces += cat(f.interfaces.empty() ? "" : ", ", i->ifa_name, " ", address);
    }
    freeifaddrs(all);
  }
  glob_t adapters{};
  if (glob("/sys/class/infiniband/*", 0, nullptr, &adapters) == 0)
    for (size_t i = 0; i < adapters.gl_pathc; ++i)
      f.infiniband += cat(i == 0 ? "" : ", ", std::strrchr(adapters.gl_pathv[i], '/') + 1);
  globfree(&adapters);
}

// The first of these libraries that can be loaded. It stays: NVIDIA's carry a C++ runtime of their own, whose memory is
// lost when they leave.
std::string loadable(std::initializer_list<const char*> names) {
  for (const char* name : names)
    if (dlopen(name, RTLD_LAZY | RTLD_LOCAL) != nullptr) return name;
  return "";
}

void find_gpu(MachineFacts& f) {
  f.nccl = loadable({"libnccl.so.2"});
  f.cublaslt = loadable({"libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so.11"});
  f.cudnn = loadable({"libcudnn.so.9", "libcudnn.so.8"});
  void* driver = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_LOCAL);
  if (driver == nullptr) return;
  const auto init = reinterpret_cast<int (*)(unsigned)>(dlsym(driver, "cuInit"));
  const auto version = reinterpret_cast<int (*)(int*)>(dlsym(driver, "cuDriverGetVersion"));
  const auto count = reinterpret_cast<int (*)(int*)>(dlsym(driver, "cuDeviceGetCount"));
  const auto name = reinterpret_cast<int (*)(char*, int, int)>(dlsym(driver, "cuDeviceGetName"));
  if (init == nullptr || version == nullptr || count == nullptr || name == nullptr) return;
  int v = 0, devices = 0;
  version(&v);
  f.gpu_driver = std::max(v, 1);
  if (const int code = init(0); code != 0) {
    f.gpu_error = cat("cuInit gives error ", code);
    return;
  }
  count(&devices);
  if (devices == 0) f.gpu_error = "no device";
  for (int d = 0; d < devices; ++d) {
    std::array<char, 256> text{};
    name(text.data(), static_cast<int>(text.size()) - 1, d);
    f.gpu_devices += cat(d == 0 ? "" : ", ", text.data());
  }
}

}  // namespace

std::vector<int64_t> parse_cores(const std::string& list) {
  std::vector<int64_t> cores;
  for (size_t at = 0; at < list.size();) {
    const size_t comma = std::min(list.find(',', at), list.size());
    const std::string part = list.substr(at, comma - at);
    const int64_t first = number(part, 0);
    const size_t dash = part.find('-');
    const int64_t last = dash == std::string::npos ? first : number(part.substr(dash + 1), first);
    for (int64_t core = first; core <= last; ++core) cores.push_back(core);
    at = comma + 1;
  }
  return cores;
}

std::string to_text(const MachineFacts& facts) {
  std::string out;
  each_field(facts, [&](const char*, const auto& value) {
    std::string line = cat(value);
    std::replace(line.begin(), line.end(), '\n', ' ');
    out += line + "\n";
  });
  return out;
}

MachineFacts facts_from_text(const std::string& text) {
  MachineFacts facts;
  size_t at = 0;
  each_field(facts, [&](const char* name, auto& value) {
    const size_t end = text.find('\n', at);
    check<DataError>(end != std::string::npos, "facts of a rank end before ", name);
    const std::string line = text.substr(at, end - at);
    at = end + 1;
    if constexpr (std::is_same_v<std::decay_t<decltype(value)>, std::string>) {
      value = line;
    } else {
      value = number(line, 0);
    }
  });
  return facts;
}

MachineFacts collect_facts(int64_t rank, int64_t ranks, int64_t node, const std::string& folder, int64_t threads) {
  MachineFacts f;
  f.rank = rank, f.ranks = ranks, f.node = node, f.folder = folder, f.threads = threads;
  std::array<char, 256> host{};
  gethostname(host.data(), host.size() - 1);
  f.host = host.data();
  find_start(f);
  find_cores(f);
  find_blas(f);
  find_limits(f);
  if (rank != node) return f;
  find_memory(f);
  find_files(f);
  find_network(f);
  find_gpu(f);
  return f;
}

}  // namespace tpo
