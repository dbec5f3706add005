#include "data/import/media.h"

#include <algorithm>
#include <cctype>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "data/decode/image.h"
#include "data/import/json.h"

namespace tpo {

namespace fs = std::filesystem;

namespace {

std::string file_name(const std::string& path) { return fs::path(path).filename().string(); }

// Last run of digits in the stem, without leading zeros; "" when there is none.
std::string last_number(const std::string& path) {
  const std::string stem = fs::path(path).stem().string();
  const auto digit = [](char c) { return std::isdigit(static_cast<unsigned char>(c)) != 0; };
  const auto last = std::find_if(stem.rbegin(), stem.rend(), digit);
  const auto first = std::find_if_not(last, stem.rend(), digit);
  const std::string number(first.base(), last.base());
  const size_t nonzero = number.find_first_not_of('0');
  return nonzero == std::string::npos ? number.substr(0, number.empty() ? 0 : 1) : number.substr(nonzero);
}

}  // namespace

MediaFinder::MediaFinder(std::string root, const std::string& index, bool search_names)
    : root_(std::move(root)), search_names_(search_names) {
  check<ConfigError>(root_.empty() || fs::is_directory(root_), "image_root ", root_, " is not a folder");
  if (index.empty()) return;
  const Json json = Json::parse_file(index);
  for (const std::string& key : json.keys()) {
    index_[key] = (fs::path(index).parent_path() / json.at(key).text()).string();
  }
}

void MediaFinder::walk(const std::string& root) {
  if (walked_ == root) return;
  by_name_.clear();
  for (const auto& entry : fs::recursive_directory_iterator(root, fs::directory_options::skip_permission_denied)) {
    if (entry.is_regular_file()) by_name_[entry.path().filename().string()].push_back(entry.path().string());
  }
  walked_ = root;
}

std::string MediaFinder::find(const std::string& name, const std::string& base) {
  check<DataError>(!name.empty(), "the name of the picture is empty");
  const std::string root = root_.empty() ? (base.empty() ? "." : base) : root_;
  const std::string direct = fs::path(name).is_absolute() ? name : (fs::path(root) / name).string();
  if (fs::exists(direct)) return direct;
  for (const std::string& key : {name, file_name(name), last_number(name)}) {
    const auto found = index_.find(key);
    if (found == index_.end()) continue;
    check<MissingPicture>(fs::exists(found->second), "picture ", name, ": the index names ", found->second,
                          ", which does not exist");
    return found->second;
  }
  if (search_names_) {
    walk(root);
    const auto found = by_name_.find(file_name(name));
    if (found != by_name_.end()) {
      check<DataError>(found->second.size() == 1, "picture ", name, " is not unique below ", root, ": ",
                       found->second[0], " and ", found->second.back());
      return found->second[0];
    }
  }
  throw MissingPicture(cat("picture ", name, " is missing: no file ", direct,
                           index_.empty() ? "" : ", not in the image index",
                           search_names_ ? ", no file of that name below the root" : ""));
}

std::shared_ptr<const PictureFile> load_picture(const std::string& path) {
  auto out = std::make_shared<PictureFile>();
  out->path = path;
  std::ifstream in(path, std::ios::binary | std::ios::ate);
  check<IoError>(in.good() && fs::is_regular_file(path), path, ": cannot be opened for reading");
  out->bytes.resize(static_cast<size_t>(in.tellg()));
  in.seekg(0);
  in.read(reinterpret_cast<char*>(out->bytes.data()), static_cast<std::streamsize>(out->bytes.size()));
  check<IoError>(in.good(), path, ": cannot be read");
  const Image image = decode_image(out->bytes, path);
  const bool png = out->bytes.size() > 3 && std::memcmp(out->bytes.data(), "\x89PNG", 4) == 0;
  out->kind = png ? data::Media::PNG : data::Media::JPEG;
  out->width = image.width;
  out->height = image.height;
  return out;
}

std::vector<std::string> frames_in(const std::string& folder) {
  std::vector<std::string> out;
  for (const auto& entry : fs::directory_iterator(folder)) {
    const std::string kind = entry.path().extension().string();
    if (kind == ".jpg" || kind == ".jpeg") out.push_back(entry.path().string());
  }
  check<DataError>(!out.empty(), folder, ": a clip's folder must hold .jpg frames");
  std::sort(out.begin(), out.end());
  return out;
}

}  // namespace tpo
