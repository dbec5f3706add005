#pragma once
// Names inside a folder of checkpoints, shared by the writer and checkpointer.h's listing functions (in folder.cpp).
#include <cstdint>
#include <string>

namespace tpo {

inline constexpr char kTempPrefix[] = ".tmp_";
inline constexpr char kTrashPrefix[] = ".trash_";
inline constexpr char kLatestName[] = "latest";

std::string step_name(int64_t step);  // "step_00000100"
// Deletes what killed saves and deletions left in dir. Requires: no save is running there. Throws IoError.
void remove_leftovers(const std::string& dir);
// Deletes a file or folder with its content, if it exists. Throws IoError.
void remove_tree(const std::string& path);

}  // namespace tpo
