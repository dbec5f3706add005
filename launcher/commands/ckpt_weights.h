#pragma once
// `ckpt import` and `ckpt export`: public weights in and out.
#include "launcher/commands/args.h"
#include "parallel/comm/process_group.h"

namespace tpo {

const CommandHelp& import_help();
const CommandHelp& export_help();
// Every rank calls it: they share the tensors out, and each reads what it writes.
int ckpt_import(const Args& args, ProcessGroup& world);
int ckpt_export(const Args& args, ProcessGroup& world);

}  // namespace tpo
