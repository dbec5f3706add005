#include "checkpoint/file_io.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <new>
#include <system_error>

#include "checkpoint/checksum.h"
#include "core/error.h"

namespace fs = std::filesystem;

namespace tpo {
namespace {

constexpr int64_t kBlock = 4096;
constexpr int64_t kBuffer =
    2 << 20;  // checksum and write find the copy in the cache; a thread start is 1 % of its write

int open_flags(File::Mode mode) {
  switch (mode) {
    case File::Mode::kRead:
      return O_RDONLY | O_CLOEXEC;
    case File::Mode::kReadDirect:
      return O_RDONLY | O_DIRECT | O_CLOEXEC;
    case File::Mode::kWrite:
      return O_WRONLY | O_CLOEXEC;
    case File::Mode::kWriteDirect:
      return O_WRONLY | O_DIRECT | O_CLOEXEC;
  }
  return O_RDONLY;
}

}  // namespace

std::string io_message(const std::string& what, const std::string& path) {
  return cat(what, " ", path, ": ", std::generic_category().message(errno));
}

File::File(std::string path, Mode mode) : path_(std::move(path)), fd_(::open(path_.c_str(), open_flags(mode))) {
  const bool direct = mode == Mode::kWriteDirect || mode == Mode::kReadDirect;
  const bool refused = direct && (errno == EINVAL || errno == EOPNOTSUPP);
  if (fd_ < 0 && !refused) throw IoError(io_message("cannot open", path_));
}

File::~File() {
  if (fd_ >= 0) ::close(fd_);
}

int64_t File::size() const {
  struct stat s {};
  if (::fstat(fd_, &s) != 0) throw IoError(io_message("cannot read the size of", path_));
  return s.st_size;
}

void File::read(std::span<std::byte> out, int64_t offset) const {
  const int64_t done = try_read(out, offset);
  if (done < 0) throw IoError(io_message(cat("cannot read ", out.size(), " bytes at ", offset, " of"), path_));
  check<IoError>(done == static_cast<int64_t>(out.size()), path_, " ends at ", offset + done, " while reading ",
                 out.size(), " bytes at ", offset);
}

int64_t File::try_read(std::span<std::byte> out, int64_t offset) const {
  size_t done = 0;
  while (done < out.size()) {
    const ssize_t n = ::pread(fd_, out.data() + done, out.size() - done, offset + static_cast<int64_t>(done));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno == EINVAL) return -1;
    if (n < 0) throw IoError(io_message(cat("cannot read ", out.size(), " bytes at ", offset, " of"), path_));
    if (n == 0) break;
    done += static_cast<size_t>(n);
  }
  return static_cast<int64_t>(done);
}

void File::write(std::span<const std::byte> bytes, int64_t offset) {
  if (!try_write(bytes, offset))
    throw IoError(io_message(cat("cannot write ", bytes.size(), " bytes at ", offset, " of"), path_));
}

bool File::try_write(std::span<const std::byte> bytes, int64_t offset) {
  size_t done = 0;
  while (done < bytes.size()) {
    const ssize_t n = ::pwrite(fd_, bytes.data() + done, bytes.size() - done, offset + static_cast<int64_t>(done));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno == EINVAL) return false;
    if (n <= 0) throw IoError(io_message(cat("cannot write ", bytes.size(), " bytes at ", offset, " of"), path_));
    done += static_cast<size_t>(n);
  }
  return true;
}

void File::reserve(int64_t bytes) {
  // fallocate, not posix_fallocate: where the file system cannot reserve, the latter writes every block.
  if (::fallocate(fd_, 0, 0, bytes) == 0 || errno == EOPNOTSUPP || errno == ENOSYS) return;
  throw IoError(io_message(cat("cannot reserve ", bytes, " bytes for"), path_));
}

void File::resize(int64_t bytes) {
  if (::ftruncate(fd_, bytes) != 0) throw IoError(io_message(cat("cannot take ", bytes, " bytes for"), path_));
}

void File::sync() {
  if (::fsync(fd_) != 0) throw IoError(io_message("cannot flush", path_));
}

void PieceWriter::FreeDeleter::operator()(std::byte* p) const { std::free(p); }

PieceWriter::PieceWriter(const std::string& path)
    : buffered_(path, File::Mode::kWrite), direct_(path, File::Mode::kWriteDirect) {
  for (Buffer& b : buffers_) {
    b.bytes.reset(static_cast<std::byte*>(std::aligned_alloc(kBlock, kBuffer)));
    if (b.bytes == nullptr) throw std::bad_alloc();
  }
}

uint64_t PieceWriter::write(int64_t total, int64_t offset, const Fill& fill) {
  TPO_ASSERT(offset % kBlock == 0 || total < kBlock);
  Checksum sum;
  for (int64_t at = 0; at < total; at += kBuffer) {
    const int64_t bytes = std::min(kBuffer, total - at);
    const int64_t whole = direct_.is_open() ? bytes / kBlock * kBlock : 0;
    Buffer& b = buffers_[next_++ % kBuffers];
    if (b.written.valid()) b.written.get();
    const std::span<std::byte> copy(b.bytes.get(), static_cast<size_t>(bytes));
    fill(at, copy);
    sum.add(copy);
    if (whole > 0) {
      b.written = std::async(std::launch::async, [=, this] {
        // Some file systems (FUSE, network) take O_DIRECT at open and refuse it at write.
        if (!direct_.try_write(copy.first(whole), offset + at)) buffered_.write(copy.first(whole), offset + at);
      });
    }
    buffered_.write(copy.subspan(whole), offset + at + whole);
  }
  return sum.value();
}

void PieceWriter::finish() {
  for (Buffer& b : buffers_) {
    if (b.written.valid()) b.written.get();
  }
  buffered_.sync();
}

void write_file(const std::string& path, std::string_view text) {
  const int fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (fd < 0) throw IoError(io_message("cannot create", path));
  ::close(fd);
  File f(path, File::Mode::kWrite);
  f.write(std::as_bytes(std::span(text.data(), text.size())), 0);
  f.sync();
}

std::string read_file(const std::string& path, int64_t max_bytes) {
  File f(path, File::Mode::kRead);
  const int64_t n = f.size();
  check<DataError>(n <= max_bytes, path, " has ", n, " bytes; at most ", max_bytes, " are legal");
  std::string text(static_cast<size_t>(n), '\0');
  f.read(std::as_writable_bytes(std::span(text.data(), text.size())), 0);
  return text;
}

void make_folders(const std::string& path) {
  std::error_code error;
  fs::path missing = fs::path(path).lexically_normal();
  if (!missing.has_filename()) missing = missing.parent_path();  // "a/b/"
  std::vector<fs::path> created;
  for (; !missing.empty() && !fs::exists(missing, error); missing = missing.parent_path()) created.push_back(missing);
  fs::create_directories(path, error);
  check<IoError>(!error, "cannot create folder ", path, ": ", error.message());
  for (const fs::path& p : created) sync_folder(p.has_parent_path() ? p.parent_path().string() : ".");
}

std::vector<std::string> names_in(const std::string& folder) {
  std::vector<std::string> names;
  std::error_code error;
  fs::directory_iterator it(folder, error);
  for (; !error && it != fs::directory_iterator(); it.increment(error)) names.push_back(it->path().filename().string());
  // A path that leads to no folder; anything else (no permission, say) must not look like an empty one.
  const bool none = error == std::errc::no_such_file_or_directory || error == std::errc::not_a_directory ||
                    error == std::errc::too_many_symbolic_link_levels;
  check<IoError>(!error || none, "cannot list folder ", folder, ": ", error.message());
  return names;
}

void sync_folder(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) throw IoError(io_message("cannot open folder", path));
  const int failed = ::fsync(fd);
  ::close(fd);
  if (failed != 0) throw IoError(io_message("cannot flush folder", path));
}

void rename_path(const std::string& from, const std::string& to) {
  if (::rename(from.c_str(), to.c_str()) != 0) throw IoError(io_message(cat("cannot rename ", from, " to"), to));
}

bool exchange_paths(const std::string& a, const std::string& b) {
  if (::renameat2(AT_FDCWD, a.c_str(), AT_FDCWD, b.c_str(), RENAME_EXCHANGE) == 0) return true;
  check<IoError>(errno == EINVAL || errno == ENOSYS || errno == EOPNOTSUPP,
                 io_message(cat("cannot exchange ", a, " with"), b));
  return false;
}

int64_t free_bytes(const std::string& folder) {
  struct statvfs s {};
  if (::statvfs(folder.c_str(), &s) != 0) throw IoError(io_message("cannot read the free space of", folder));
  return static_cast<int64_t>(s.f_bavail) * static_cast<int64_t>(s.f_frsize);
}

}  // namespace tpo
