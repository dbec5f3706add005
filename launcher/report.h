#pragma once
// report.html of a run folder: loss curves, speed, evaluation table and the pictures with drawn predictions, one file
// that opens from disk without a network.
#include <string>

namespace tpo {

// Reads <folder>/log.jsonl and <folder>/pictures, writes <folder>/report.html and returns its path.
// Throws DataError if the folder has no log, IoError if the page cannot be written.
std::string write_report(const std::string& folder);

}  // namespace tpo
