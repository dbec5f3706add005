#include "launcher/guard.h"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <iostream>
#include <thread>

#include "core/error.h"
#include "launcher/exit_codes.h"
#include "launcher/run_files.h"
#include "launcher/supervisor.h"
#include "parallel/program/rank_view.h"

namespace tpo {
namespace {

constexpr int64_t kLeftover_s = 60;
constexpr int kHear_ms = 600;  // four looks of the supervisor

std::string g_job_folder;  // of this process; set once by Guard::start

std::string environment(std::initializer_list<const char*> names) {
  for (const char* name : names)
    if (const char* value = std::getenv(name)) return value;
  return "";
}

int number(const std::string& text, int otherwise) { return text.empty() ? otherwise : std::atoi(text.c_str()); }

std::string host_name() {
  char name[64] = {};
  gethostname(name, sizeof name - 1);
  return name;
}

// A folder of ours that nobody else may enter.
void make_private(const std::string& path) {
  struct stat info {};
  const bool made = mkdir(path.c_str(), 0700) == 0 || errno == EEXIST;
  check<IoError>(made && lstat(path.c_str(), &info) == 0 && S_ISDIR(info.st_mode) && info.st_uid == getuid() &&
                     (info.st_mode & 077) == 0,
                 path, " is not a private folder of this user");
}

std::string root_folder() {
  const std::string base = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : environment({"TMPDIR"});
  return cat(base.empty() ? "/tmp" : base, "/tpo_guard.", getuid());
}

std::vector<std::string> names_in(const std::string& folder) {
  std::vector<std::string> names;
  DIR* dir = opendir(folder.c_str());
  if (dir == nullptr) return names;
  while (const dirent* entry = readdir(dir))
    if (entry->d_name[0] != '.') names.emplace_back(entry->d_name);
  closedir(dir);
  return names;
}

bool is_living_ring(const std::string& path) {
  const auto reader = RingReader::open(path);
  return reader && process_state(reader->header().pid).start_ticks == reader->header().start_ticks;
}

bool has_living_rank(const std::string& folder) {
  for (const std::string& name : names_in(folder))
    if (is_living_ring(folder + "/" + name)) return true;
  return false;
}

// Opens the lock of a job folder. The supervisor holds it as long as it lives: `taken` tells whether we got it.
int open_lock(const std::string& folder, bool create, bool& taken) {
  const int fd = open((folder + "/lock").c_str(), O_RDWR | O_CLOEXEC | (create ? O_CREAT : 0), 0600);
  taken = fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) == 0;
  return fd;
}

// Folders of jobs of this node without a supervisor and without a living rank.
void remove_leftovers(const std::string& root, const std::string& except) {
  for (const std::string& name : names_in(root)) {
    const std::string folder = root + "/" + name;
    struct stat info {};
    const bool old = stat(folder.c_str(), &info) == 0 && std::time(nullptr) - info.st_mtime > kLeftover_s;
    if (folder == except || !old) continue;  // a young one may belong to a job that starts at this moment
    bool taken = false;
    const int lock = open_lock(folder, false, taken);
    if ((taken || lock < 0) && !has_living_rank(folder)) remove_job_folder(folder);
    if (lock >= 0) close(lock);
  }
}

// Returns whether this process is the one that starts the supervisor; then `lock` is held.
bool become_starter(const std::string& root, const std::string& folder, int& lock) {
  for (int attempt = 0; attempt < 3; ++attempt) {
    make_private(root);
    make_private(folder);
    bool taken = false;
    lock = open_lock(folder, true, taken);
    struct stat opened {
    }, named{};
    // Somebody may have tidied it away between the two calls.
    const bool same = lock >= 0 && fstat(lock, &opened) == 0 && stat((folder + "/lock").c_str(), &named) == 0 &&
                      opened.st_ino == named.st_ino;
    if (same && taken) return true;
    if (lock >= 0) close(lock);
    if (same) return false;
  }
  throw IoError(cat("cannot make ", folder, "/lock"));
}

// So that nobody who looks for ranks by their command line finds the supervisor.
void rename_process(int argc, char** argv, const std::string& title) {
  size_t room = 0;
  for (int i = 0; i < argc; ++i) room += std::strlen(argv[i]) + 1;
  char* begin = argv[0];
  for (int i = 0; i < argc; ++i) std::memset(argv[i], 0, std::strlen(argv[i]));
  std::strncpy(begin, title.c_str(), room - 1);
}

void start_supervisor(const std::string& folder, const JobPlace& place, int lock, int argc, char** argv) {
  const pid_t rank_pid = getpid();
  const pid_t pid = fork();
  check<IoError>(pid >= 0, "fork of the supervisor: ", std::strerror(errno));
  if (pid > 0) {
    close(lock);  // the supervisor has it
    return;
  }
  setsid();  // Open MPI kills the process groups of its ranks
  for (const int s : {SIGTERM, SIGINT, SIGHUP, SIGPIPE, SIGUSR1, SIGUSR2}) signal(s, SIG_IGN);
  for (const int s : {SIGSEGV, SIGABRT}) signal(s, SIG_DFL);
  rename_process(argc, argv, cat("tpo_dist: guard of job ", place.id));
  const int null = open("/dev/null", O_RDWR);
  dup2(null, 0);
  dup2(null, 1);
  for (int fd = 3; fd < 64; ++fd)
    if (fd != lock) close(fd);
  try {
    supervise({folder, place.id, rank_pid});
  } catch (...) {  // this is a copy of the rank: its own handlers must not see it
    _exit(1);
  }
  _exit(0);
}

// Leaves the number of a deadly signal in the ring, then dies of it.
void on_crash(int signal_number) {
  if (EventRing* ring = EventRing::of_process()) {
    ring->header().signal = signal_number;
    ring->header().end = static_cast<int32_t>(RankEnd::kSignal);
  }
  raise(signal_number);  // the default action, once this returns
}

void note_crashes() {
  for (const int s : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT}) {
    struct sigaction now = {};
    if (sigaction(s, nullptr, &now) != 0 || now.sa_handler != SIG_DFL) continue;  // a sanitizer's, which tells more
    now.sa_handler = on_crash;
    now.sa_flags = static_cast<int>(SA_RESETHAND);
    sigaction(s, &now, nullptr);
  }
}

}  // namespace

JobPlace job_place() {
  JobPlace p;
  const std::string rank = environment({"OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK", "SLURM_PROCID"});
  p.launched = !environment({"OMPI_COMM_WORLD_SIZE", "PMIX_RANK", "PMI_RANK"}).empty();
  p.id = environment({"PMIX_NAMESPACE", "OMPI_MCA_ess_base_jobid", "PMI_JOBID"});
  if (p.id.empty() && !environment({"SLURM_JOB_ID"}).empty())
    p.id = cat("slurm", environment({"SLURM_JOB_ID"}), ".", environment({"SLURM_STEP_ID"}));
  if (!p.launched || p.id.empty()) p.id = cat("pid", getpid());
  for (char& c : p.id)
    if (std::isalnum(static_cast<unsigned char>(c)) == 0 && c != '.') c = '_';
  if (p.launched) {
    p.rank = number(rank, 0);
    p.world = number(environment({"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS", "SLURM_NTASKS"}), 1);
  }
  return p;
}

std::unique_ptr<Guard> Guard::start(const JobPlace& place, int argc, char** argv) {
  if (environment({"TPO_GUARD"}) == "0") return nullptr;
  try {
    const std::string root = root_folder(), folder = cat(root, "/", place.id, ".", host_name());
    int lock = -1;
    if (become_starter(root, folder, lock)) {
      remove_leftovers(root, folder);
      for (const std::string& name : names_in(folder)) {  // of a dead job of this number; .new: one of ours being made
        const std::string path = folder + "/" + name;
        if (name.starts_with("ring.") && name.find(".new") == std::string::npos && !is_living_ring(path))
          unlink(path.c_str());
      }
      start_supervisor(folder, place, lock, argc, argv);
    }
    g_job_folder = folder;
    auto ring = EventRing::create(cat(folder, "/ring.", place.rank), place.rank, place.world, host_name());
    return std::unique_ptr<Guard>(new Guard(std::move(ring)));
  } catch (const IoError& e) {
    std::cerr << "tpo_dist guard: off: " + std::string(e.what()) + "\n";
    return nullptr;
  }
}

Guard::Guard(std::unique_ptr<EventRing> ring) : ring_(std::move(ring)) {
  EventRing::set_of_process(ring_.get());
  note_crashes();
}

void Guard::failed(int exit_code, const std::string& error) {
  ring_->end(RankEnd::kError, exit_code, error);
  if (exit_code == kExitFixConfig) return;
  const std::string heard = cat(g_job_folder, "/heard.", ring_->header().rank);
  for (int waited_ms = 0; waited_ms < kHear_ms && access(heard.c_str(), F_OK) != 0; waited_ms += 10)
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
}

Guard::~Guard() { EventRing::set_of_process(nullptr); }

void guard_run(const std::string& run_folder, const std::string& resolved_config, double stall_seconds,
               double slow_phase_seconds) {
  EventRing* ring = EventRing::of_process();
  if (ring == nullptr) return;
  const std::string config = g_job_folder + "/config.textproto";
  if (access(config.c_str(), F_OK) != 0) {  // ranks write the same text
    write_text(cat(config, getpid()), resolved_config);
    rename(cat(config, getpid()).c_str(), config.c_str());
  }
  ring->run(run_folder, stall_seconds, slow_phase_seconds);
}

void guard_terminated() {
  if (EventRing* ring = EventRing::of_process()) ring->header().terminated_ns = steady_ns();
}

}  // namespace tpo
