#pragma once
// Finding and reading the picture files that annotations name.
#include <cstddef>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "core/error.h"
#include "data/sample.pb.h"

namespace tpo {

// A picture that an annotation names was not found; counted apart from other errors when bad records are skipped.
struct MissingPicture : DataError {
  using DataError::DataError;
};

// Not thread-safe.
class MediaFinder {
 public:
  // root: folder that names start from; empty: the base given to find. index: JSON object {picture id or path: path
  // beside the index file}; empty: none. search_names: look for the bare file name anywhere below the root. Throws
  // IoError or DataError for a bad index.
  MediaFinder(std::string root, const std::string& index, bool search_names);

  // Path of an existing file, or folder of frames. Order: the name itself if absolute; below the root; in the index by
  // whole name, by file name, by the last number in the file name ("COCO_train2014_000000000071.jpg" -> 71); below the
  // root by file name alone. Throws MissingPicture naming what was tried, DataError naming both candidates when a file
  // name is not unique.
  std::string find(const std::string& name, const std::string& base);

 private:
  void walk(const std::string& root);

  std::string root_;
  bool search_names_;
  std::unordered_map<std::string, std::string> index_;  // id, path or file name -> path
  std::string walked_;                                  // root that by_name_ was made of
  std::unordered_map<std::string, std::vector<std::string>> by_name_;
};

// A picture file, decoded once to be sure that training can.
struct PictureFile {
  std::string path;
  std::vector<std::byte> bytes;
  data::Media::Kind kind = data::Media::JPEG;
  int width = 0, height = 0;
};

// Throws IoError when the file cannot be read, DataError when it is not a whole JPEG or PNG picture.
std::shared_ptr<const PictureFile> load_picture(const std::string& path);

// Sorted .jpg and .jpeg files of a folder; DataError when there are none.
std::vector<std::string> frames_in(const std::string& folder);

}  // namespace tpo
