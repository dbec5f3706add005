#pragma once
// The verbs of `tpo_dist bench`. Collective: under mpirun or alone.
#include <span>
#include <string>
#include <vector>

#include "launcher/commands/bench_comm.h"

namespace tpo {

int run_bench_comm(std::span<const std::string> args, ProcessGroup& world);
int run_bench_overlap(std::span<const std::string> args, ProcessGroup& world);

// Asked before hours of measuring: throws IoError on every rank if rank 0 cannot write `file`, which stays as it is. ""
// is none. Collective.
void check_writable(const std::string& file, ProcessGroup& world);
// "8", "64K", "1.5M", "2G" as bytes (K = 1024). Throws ConfigError naming the text.
int64_t parse_bytes(const std::string& text);
// Of a table: the two lines above the figures, and one line per way ours works.
std::string comm_table_head();
std::string comm_table_rows(const CommLine& line);
std::string comm_line_json(const std::string& group, const CommLine& line);

}  // namespace tpo
