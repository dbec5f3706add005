#pragma once
// The subcommands. Each takes the words after its name, prints for people, and returns an exit code (exit_codes.h);
// errors are exceptions. `--help` prints usage with an example.
#include <span>
#include <string>

#include "parallel/comm/process_group.h"

namespace tpo {

// Collective commands: started by mpirun or alone.
int run_train(std::span<const std::string> args, ProcessGroup& world);
int run_eval(std::span<const std::string> args, ProcessGroup& world);
int run_bench(std::span<const std::string> args, ProcessGroup& world);
int run_doctor(std::span<const std::string> args, ProcessGroup& world);
int run_ckpt(std::span<const std::string> args, ProcessGroup& world);  // import; its other verbs run in one process

// Commands of one process.
int run_predict(std::span<const std::string> args);
int run_data(std::span<const std::string> args);
int run_plan(std::span<const std::string> args);
int run_report(std::span<const std::string> args);

}  // namespace tpo
