#pragma once
// The supervisor of a node: a process of its own that reads the event rings of the node's ranks a few times a second
// and writes to the standard error it inherited. It reports a stall once, again each minute, and when it is over; when
// a rank ends without having finished it says why and leaves a black box; it ends when all its ranks are gone.
//
// Several nodes: where ranks of other nodes belong to the job, the supervisors exchange what their rings say through
// small files in <run.folder>/guard, which all nodes must see; only while somebody waits. Without a run folder a
// verdict knows the ranks of its own node only.
#include <cstdint>
#include <string>

namespace tpo {

struct SupervisedJob {
  std::string folder;  // with ring.<rank>, lock and config.textproto
  std::string id;
  int64_t starter_pid = 0;  // the rank that started us: if it is gone before there is a ring, there will be none
};

// Returns when all ranks are gone; the folder is removed then.
void supervise(const SupervisedJob& job);

// The files that a job makes in its folder, then the folder. Whatever else is there stays.
void remove_job_folder(const std::string& folder) noexcept;

}  // namespace tpo
