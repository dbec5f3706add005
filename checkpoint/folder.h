#pragma once
// Names inside a folder of checkpoints, shared by the writer and checkpointer.h's listing functions (in folder.cpp).
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace tpo {

inline constexpr char kTempPrefix[] = ".tmp_";
inline constexpr char kTrashPrefix[] = ".trash_";
inline constexpr char kAsideSuffix[] = ".old";  // see FORMAT.md: how it is written
inline constexpr char kLatestName[] = "latest";

std::string step_name(int64_t step);  // "step_00000100"
// The step of a folder with such a name, set aside or not; nothing for any other name.
std::optional<int64_t> step_of_name(std::string_view name);
// Deletes what killed saves and deletions left in dir, and what was set aside and replaced. What cannot be deleted
// stays: one sentence each. Requires: no save is running there.
std::vector<std::string> remove_leftovers(const std::string& dir);
// Deletes a file or folder with its content, if it exists. Throws IoError.
void remove_tree(const std::string& path);

}  // namespace tpo
