#include "data/h5_file.h"

#include <hdf5.h>
#include <unistd.h>

#include <mutex>

#include "core/error.h"

namespace tpo {
namespace {

std::mutex library_mutex;  // builds of HDF5 without thread support are common on clusters

// An HDF5 identifier and the function that closes it.
class Id {
 public:
  Id(hid_t id, herr_t (*close)(hid_t)) : id_(id), close_(close) {}
  Id(const Id&) = delete;
  ~Id() {
    if (id_ >= 0) close_(id_);
  }
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

// Everything is closed here; the library's own handler at exit loops over what a damaged file left behind, and prints
// about it.
void skip_exit_handler() {
  static const herr_t ignored = H5dont_atexit();
  static_cast<void>(ignored);
}

// Keeps HDF5 from printing its error stack while in scope.
class Quiet {
 public:
  Quiet() {
    H5Eget_auto2(H5E_DEFAULT, &func_, &data_);
    H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);
  }
  ~Quiet() { H5Eset_auto2(H5E_DEFAULT, func_, data_); }

 private:
  H5E_auto2_t func_ = nullptr;
  void* data_ = nullptr;
};

// The innermost message of HDF5's error stack, which names the cause.
std::string h5_reason() {
  std::string text = "no reason given";
  H5Ewalk2(
      H5E_DEFAULT, H5E_WALK_UPWARD,
      [](unsigned n, const H5E_error2_t* e, void* out) -> herr_t {
        if (n == 0 && e->desc != nullptr) *static_cast<std::string*>(out) = e->desc;
        return 0;
      },
      &text);
  return text;
}

template <class E>
void h5_check(bool ok, const std::string& path, const char* what) {
  check<E>(ok, what, " ", path, " (HDF5: ", ok ? "" : h5_reason(), ")");
}

hid_t type_of(H5Dataset::Type t) { return t == H5Dataset::Type::kU8 ? H5T_STD_U8LE : H5T_STD_U64LE; }

void write_attributes(hid_t file, const H5Contents& contents, const std::string& path) {
  const Id scalar(H5Screate(H5S_SCALAR), H5Sclose);
  for (const auto& [name, value] : contents.numbers) {
    const Id a(H5Acreate2(file, name.c_str(), H5T_STD_U64LE, scalar, H5P_DEFAULT, H5P_DEFAULT), H5Aclose);
    h5_check<IoError>(a >= 0 && H5Awrite(a, H5T_NATIVE_UINT64, &value) >= 0, path, "cannot write attributes of");
  }
  for (const auto& [name, value] : contents.texts) {
    const Id type(H5Tcopy(H5T_C_S1), H5Tclose);
    H5Tset_size(type, value.size() + 1);
    const Id a(H5Acreate2(file, name.c_str(), type, scalar, H5P_DEFAULT, H5P_DEFAULT), H5Aclose);
    h5_check<IoError>(a >= 0 && H5Awrite(a, type, value.c_str()) >= 0, path, "cannot write attributes of");
  }
}

void create_dataset(hid_t file, const std::string& name, H5Dataset& d, const std::string& path) {
  std::vector<hsize_t> dims(d.dims.begin(), d.dims.end());
  const Id space(H5Screate_simple(static_cast<int>(dims.size()), dims.data(), nullptr), H5Sclose);
  const Id plist(H5Pcreate(H5P_DATASET_CREATE), H5Pclose);
  H5Pset_layout(plist, H5D_CONTIGUOUS);
  H5Pset_alloc_time(plist, H5D_ALLOC_TIME_EARLY);
  H5Pset_fill_time(plist, H5D_FILL_TIME_NEVER);
  H5Pset_obj_track_times(plist, false);  // the same records give the same bytes, whenever they are written
  const Id set(H5Dcreate2(file, name.c_str(), type_of(d.type), space, H5P_DEFAULT, plist, H5P_DEFAULT), H5Dclose);
  h5_check<IoError>(set >= 0, path, "cannot create a dataset in");
  const haddr_t offset = H5Dget_offset(set);
  d.offset = d.bytes() == 0 ? 0 : offset;
  h5_check<IoError>(d.bytes() == 0 || offset != HADDR_UNDEF, path, "no space was allocated in");
}

struct Visit {
  const std::string& path;
  H5Contents contents;
  std::string problem;
};

herr_t read_attribute(hid_t object, const char* name, const H5A_info_t*, void* out) {
  auto& visit = *static_cast<Visit*>(out);
  const Id a(H5Aopen(object, name, H5P_DEFAULT), H5Aclose);
  if (a < 0) return -1;
  const Id type(H5Aget_type(a), H5Tclose), space(H5Aget_space(a), H5Sclose);
  if (H5Sget_simple_extent_npoints(space) != 1) return 0;
  if (H5Tget_class(type) == H5T_INTEGER) {
    return H5Aread(a, H5T_NATIVE_UINT64, &visit.contents.numbers[name]);
  }
  const size_t n = H5Tget_size(type);
  if (H5Tget_class(type) == H5T_STRING && H5Tis_variable_str(type) == 0 && n < 65536) {
    std::string text(n, '\0');
    if (H5Aread(a, type, text.data()) < 0) return -1;
    visit.contents.texts[name] = text.c_str();
  }
  return 0;
}

herr_t read_link(hid_t root, const char* name, const H5L_info_t*, void* out) {
  auto& visit = *static_cast<Visit*>(out);
  const Id set(H5Dopen2(root, name, H5P_DEFAULT), H5Dclose);
  if (set < 0) return -1;
  const Id type(H5Dget_type(set), H5Tclose), space(H5Dget_space(set), H5Sclose),
      plist(H5Dget_create_plist(set), H5Pclose);
  H5Dataset d;
  const bool u8 = H5Tequal(type, H5T_STD_U8LE) > 0, u64 = H5Tequal(type, H5T_STD_U64LE) > 0;
  if ((!u8 && !u64) || H5Pget_layout(plist) != H5D_CONTIGUOUS) {
    visit.problem = cat("dataset ", name, " of ", visit.path, " is not contiguous u8 or u64");
    return -1;
  }
  d.type = u8 ? H5Dataset::Type::kU8 : H5Dataset::Type::kU64;
  std::vector<hsize_t> dims(8);
  const int rank = H5Sget_simple_extent_ndims(space);
  if (rank < 0 || rank > 8 || H5Sget_simple_extent_dims(space, dims.data(), nullptr) < 0) return -1;
  d.dims.assign(dims.begin(), dims.begin() + rank);
  const haddr_t offset = H5Dget_offset(set);
  if (d.bytes() != 0 && offset == HADDR_UNDEF) {
    visit.problem = cat("dataset ", name, " of ", visit.path, " has no space allocated");
    return -1;
  }
  d.offset = d.bytes() == 0 ? 0 : offset;
  visit.contents.datasets[name] = d;
  return 0;
}

}  // namespace

H5Contents h5_create(const std::string& path, H5Contents contents) {
  const std::lock_guard lock(library_mutex);
  skip_exit_handler();
  const Quiet quiet;
  try {
    const Id access(H5Pcreate(H5P_FILE_ACCESS), H5Pclose);
    H5Pset_alignment(access, 1, 64);
    H5Pset_libver_bounds(access, H5F_LIBVER_V18, H5F_LIBVER_LATEST);  // superblock 2 and up: metadata with checksums
    const Id creation(H5Pcreate(H5P_FILE_CREATE), H5Pclose);
    H5Pset_obj_track_times(creation, false);  // of the root group
    Id file(H5Fcreate(path.c_str(), H5F_ACC_TRUNC, creation, access), H5Fclose);
    h5_check<IoError>(file >= 0, path, "cannot create");
    write_attributes(file, contents, path);
    for (auto& [name, dataset] : contents.datasets) create_dataset(file, name, dataset, path);
    h5_check<IoError>(H5Fflush(file, H5F_SCOPE_LOCAL) >= 0, path, "cannot write");
    h5_check<IoError>(file.close() >= 0, path, "cannot finish");
  } catch (...) {
    ::unlink(path.c_str());
    throw;
  }
  return contents;
}

H5Contents h5_inspect(const std::string& path) {
  check<DataError>(::access(path.c_str(), F_OK) == 0, "file ", path, " is missing");
  const std::lock_guard lock(library_mutex);
  skip_exit_handler();
  const Quiet quiet;
  const Id file(H5Fopen(path.c_str(), H5F_ACC_RDONLY, H5P_DEFAULT), H5Fclose);
  h5_check<DataError>(file >= 0, path, "not a readable HDF5 file:");
  Visit visit{path, {}, {}};
  hsize_t at = 0;
  const bool ok = H5Aiterate2(file, H5_INDEX_NAME, H5_ITER_NATIVE, &at, read_attribute, &visit) >= 0 &&
                  H5Literate(file, H5_INDEX_NAME, H5_ITER_NATIVE, nullptr, read_link, &visit) >= 0;
  check<DataError>(visit.problem.empty(), visit.problem);
  h5_check<DataError>(ok, path, "damaged HDF5 metadata in");
  return std::move(visit.contents);
}

}  // namespace tpo
