#include "data/staged.h"

#include <unistd.h>

#include <filesystem>
#include <system_error>

#include "core/error.h"

namespace tpo {

namespace fs = std::filesystem;

StagedDataset::StagedDataset(const std::string& folder, const std::string& task, const std::string& source) {
  fs::path path = fs::path(folder).lexically_normal();
  if (path.filename().empty()) path = path.parent_path();
  check<ConfigError>(!path.empty(), "the folder of the new dataset has no name");
  check<DataError>(!fs::exists(path), path.string(), " already exists; choose another folder or remove it");
  folder_ = path.string();
  partial_ = cat(folder_, ".partial-", ::getpid());
  writer_ = std::make_unique<DatasetWriter>(partial_, path.filename().string(), task, source);
}

StagedDataset::~StagedDataset() {
  if (!writer_) return;
  writer_.reset();
  std::error_code ignored;  // nothing sensible can be done in a destructor; the name says that it is a leftover
  fs::remove_all(partial_, ignored);
}

void StagedDataset::publish() {
  writer_->finish();
  std::error_code error;
  fs::rename(partial_, folder_, error);
  check<IoError>(!error, "cannot rename ", partial_, " to ", folder_, ": ", error.message());
  writer_.reset();
}

}  // namespace tpo
