#pragma once
// A dataset folder that appears whole or not at all: written beside its final place and renamed by publish().
#include <memory>
#include <string>

#include "data/dataset.h"

namespace tpo {

class StagedDataset {
 public:
  // Throws DataError when `folder` already exists. The name of the dataset is the folder's last part.
  StagedDataset(const std::string& folder, const std::string& task, const std::string& source);
  ~StagedDataset();  // without publish(): removes what was written
  StagedDataset(const StagedDataset&) = delete;
  StagedDataset& operator=(const StagedDataset&) = delete;

  DatasetWriter& writer() { return *writer_; }
  void
  publish();  // finishes the writer and renames. Throws what DatasetWriter::finish throws, IoError if it cannot rename

 private:
  std::string folder_, partial_;
  std::unique_ptr<DatasetWriter> writer_;
};

}  // namespace tpo
