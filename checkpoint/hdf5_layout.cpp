#include "checkpoint/hdf5_layout.h"

#include <hdf5.h>

#include <array>

#include "checkpoint/file_io.h"
#include "core/error.h"

namespace tpo {
namespace {

// O_DIRECT wants multiples of the device's block, which is 512 or 4,096. Smaller objects are not aligned: with
// thousands of them HDF5 spends seconds on the gaps (3,000 datasets: 1.5 s aligned, 0.05 s not).
constexpr hsize_t kAlignment = 4096;

// An HDF5 identifier with its closing function.
class Handle {
 public:
  Handle(hid_t id, herr_t (*close)(hid_t)) : id_(id), close_(close) {}
  ~Handle() {
    if (id_ >= 0) close_(id_);
  }
  Handle(const Handle&) = delete;
  Handle& operator=(const Handle&) = delete;
  operator hid_t() const { return id_; }
  herr_t close() {
    const hid_t id = id_;
    id_ = -1;
    return close_(id);
  }

 private:
  hid_t id_;
  herr_t (*close_)(hid_t);
};

// HDF5 prints its error stack by default; a library must not print.
class Quiet {
 public:
  Quiet() {
    // Everything is closed here. The library's own handler at exit follows dangling pointers to what a full disk kept
    // it from closing, and crashes.
    static const herr_t ignored = H5dont_atexit();
    static_cast<void>(ignored);
    H5Eget_auto2(H5E_DEFAULT, &function_, &data_);
    H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);
  }
  ~Quiet() { H5Eset_auto2(H5E_DEFAULT, function_, data_); }

 private:
  H5E_auto2_t function_ = nullptr;
  void* data_ = nullptr;
};

herr_t keep_innermost(unsigned n, const H5E_error2_t* e, void* out) {
  if (n == 0 && e->desc != nullptr) *static_cast<std::string*>(out) = e->desc;
  return 0;
}

std::string innermost_reason() {
  std::string reason = "no reason given";
  H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, keep_innermost, &reason);
  return reason;
}

hid_t file_type(DType t) {
  switch (t) {
    case DType::kF32:
      return H5T_IEEE_F32LE;
    case DType::kBF16:
      return H5T_STD_U16LE;
    case DType::kI32:
      return H5T_STD_I32LE;
    case DType::kI64:
      return H5T_STD_I64LE;
    case DType::kU8:
      return H5T_STD_U8LE;
  }
  throw ConfigError(cat("[checkpoint] element type ", static_cast<int>(t), " has no HDF5 type"));
}

// Upper mark of what HDF5 itself writes: headers, index and names.
int64_t metadata_bytes(std::span<const DatasetLayout> datasets) {
  int64_t bytes = 32 << 10;
  for (const DatasetLayout& d : datasets) bytes += 1024 + 2 * static_cast<int64_t>(d.name.size());
  return bytes;
}

// HDF5 cannot close a file whose metadata it failed to write, and complains until the process ends. So that space and
// that length are taken and given back once before it starts: a full disk is then an error of ours. The space for the
// data is not probed: giving back gigabytes is slow where the file system discards blocks.
void probe(const std::string& path, int64_t metadata, int64_t length) {
  write_file(path, "");
  File file(path, File::Mode::kWrite);
  file.reserve(metadata);
  file.resize(length);
}

int64_t create_dataset(hid_t file, hid_t create_list, const DatasetLayout& d) {
  std::array<hsize_t, Shape::kMaxRank> dims{};
  for (int i = 0; i < d.shape.rank(); ++i) dims[i] = static_cast<hsize_t>(d.shape[i]);
  Handle space(d.shape.rank() == 0 ? H5Screate(H5S_SCALAR) : H5Screate_simple(d.shape.rank(), dims.data(), nullptr),
               H5Sclose);
  Handle set(H5Dcreate2(file, d.name.c_str(), file_type(d.dtype), space, H5P_DEFAULT, create_list, H5P_DEFAULT),
             H5Dclose);
  if (set < 0) return -1;
  const haddr_t offset = H5Dget_offset(set);
  return offset == HADDR_UNDEF ? -1 : static_cast<int64_t>(offset);
}

}  // namespace

int64_t shard_bytes(std::span<const DatasetLayout> datasets) {
  constexpr int64_t kBlock = static_cast<int64_t>(kAlignment);
  int64_t bytes = metadata_bytes(datasets);
  for (const DatasetLayout& d : datasets) {
    bytes += d.shape.numel() * static_cast<int64_t>(size_of(d.dtype)) + kBlock;
  }
  return bytes;
}

std::vector<int64_t> create_shard(const std::string& path, std::span<const DatasetLayout> datasets) {
  Quiet quiet;
  const int64_t bytes = shard_bytes(datasets);
  probe(path, metadata_bytes(datasets), bytes);
  const auto demand = [&](bool ok, const char* what) {
    check<IoError>(ok, "cannot lay out checkpoint shard ", path, " of ", bytes, " bytes: HDF5 failed to ", what, ": ",
                   innermost_reason());
  };
  Handle access(H5Pcreate(H5P_FILE_ACCESS), H5Pclose);
  Handle create(H5Pcreate(H5P_DATASET_CREATE), H5Pclose);
  demand(H5Pset_alignment(access, kAlignment, kAlignment) >= 0 && H5Pset_layout(create, H5D_CONTIGUOUS) >= 0 &&
             H5Pset_alloc_time(create, H5D_ALLOC_TIME_EARLY) >= 0 && H5Pset_fill_time(create, H5D_FILL_TIME_NEVER) >= 0,
         "set file properties");
  Handle file(H5Fcreate(path.c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, access), H5Fclose);
  demand(file >= 0, "create the file");
  std::vector<int64_t> offsets;
  for (const DatasetLayout& d : datasets) {
    offsets.push_back(create_dataset(file, create, d));
    demand(offsets.back() > 0, cat("create dataset ", d.name).c_str());
    const bool small = d.shape.numel() * size_of(d.dtype) < kAlignment;
    TPO_ASSERT(small || static_cast<hsize_t>(offsets.back()) % kAlignment == 0);
  }
  demand(file.close() >= 0, "close the file");
  return offsets;
}

std::vector<std::string> faults_of_shard(const std::string& path, std::span<const PlacedDataset> wanted) {
  Quiet quiet;
  const Handle file(H5Fopen(path.c_str(), H5F_ACC_RDONLY, H5P_DEFAULT), H5Fclose);
  if (file < 0) return {cat("checkpoint shard ", path, " is no HDF5 file: ", innermost_reason())};
  std::vector<std::string> faults;
  for (const PlacedDataset& w : wanted) {
    const Handle set(H5Dopen2(file, w.name.c_str(), H5P_DEFAULT), H5Dclose);
    if (set < 0) {
      faults.push_back(cat("checkpoint shard ", path, " has no dataset ", w.name, ": ", innermost_reason()));
      continue;
    }
    const auto offset = static_cast<int64_t>(H5Dget_offset(set)),
               bytes = static_cast<int64_t>(H5Dget_storage_size(set));
    if (offset == w.offset && bytes == w.bytes) continue;
    faults.push_back(cat("checkpoint shard ", path, " has dataset ", w.name, " of ", bytes, " bytes at ", offset,
                         "; the manifest says ", w.bytes, " at ", w.offset));
  }
  return faults;
}

}  // namespace tpo
