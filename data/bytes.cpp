#include "data/bytes.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <vector>

#define XXH_INLINE_ALL  // compiled here, so that the vector width of this build is used
#include <xxhash.h>

#include "core/error.h"

namespace tpo {
namespace {

std::string reason() { return std::strerror(errno); }

std::string folder_of(const std::string& path) {
  const size_t slash = path.rfind('/');
  return slash == std::string::npos ? "." : slash == 0 ? "/" : path.substr(0, slash);
}

// A descriptor that is closed at the end of its scope.
struct Fd {
  int fd;
  explicit Fd(int f) : fd(f) {}
  Fd(const Fd&) = delete;
  ~Fd() {
    if (fd >= 0) ::close(fd);
  }
};

void sync_path(const std::string& path, int flags, const std::string& name) {
  Fd f(::open(path.c_str(), flags | O_CLOEXEC));
  check<IoError>(f.fd >= 0 && ::fsync(f.fd) == 0, "cannot sync ", name, ": ", reason());
}

}  // namespace

uint64_t xxh3(std::span<const std::byte> bytes) { return XXH3_64bits(bytes.data(), bytes.size()); }
uint64_t xxh3(std::string_view text) { return XXH3_64bits(text.data(), text.size()); }

InputFile::InputFile(const std::string& path) : path_(path), fd_(::open(path.c_str(), O_RDONLY | O_CLOEXEC)) {
  if (fd_ < 0) {
    check<DataError>(errno != ENOENT && errno != ENOTDIR, "file ", path, " is missing");
    throw IoError(cat("cannot open ", path, ": ", reason()));
  }
  struct stat st {};
  const bool regular = ::fstat(fd_, &st) == 0 && S_ISREG(st.st_mode);
  if (!regular) ::close(fd_);
  check<DataError>(regular, path, " is not a regular file");
  size_ = static_cast<uint64_t>(st.st_size);
}

InputFile::~InputFile() { ::close(fd_); }

void InputFile::read(uint64_t offset, std::span<std::byte> out) const {
  while (!out.empty()) {
    const ssize_t n = ::pread(fd_, out.data(), out.size(), static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    check<IoError>(n >= 0, "cannot read ", path_, " at byte ", offset, ": ", reason());
    check<DataError>(n > 0, "file ", path_, " ends at byte ", offset, ", ", out.size(),
                     " more were expected: truncated");
    offset += static_cast<uint64_t>(n);
    out = out.subspan(static_cast<size_t>(n));
  }
}

uint64_t InputFile::hash_all() const {
  const std::unique_ptr<XXH3_state_t, decltype(&XXH3_freeState)> state(XXH3_createState(), &XXH3_freeState);
  XXH3_64bits_reset(state.get());
  std::vector<std::byte> piece(1 << 20);
  for (uint64_t at = 0; at < size_;) {
    const size_t n = static_cast<size_t>(std::min<uint64_t>(piece.size(), size_ - at));
    read(at, {piece.data(), n});
    XXH3_64bits_update(state.get(), piece.data(), n);
    at += n;
  }
  return XXH3_64bits_digest(state.get());
}

std::string read_file(const std::string& path, uint64_t limit_bytes) {
  const InputFile file(path);
  check<DataError>(file.size() <= limit_bytes, "file ", path, " has ", file.size(), " bytes, at most ", limit_bytes,
                   " are expected here");
  std::string text(file.size(), '\0');
  file.read(0, std::as_writable_bytes(std::span<char>(text.data(), text.size())));
  return text;
}

void replace_file(const std::string& path, const std::function<void(const std::string&)>& fill) {
  const std::string folder = folder_of(path);
  const std::string base = path.substr(path.rfind('/') + 1);  // npos + 1 = 0
  const std::string temporary = cat(folder, "/.", base, ".partial-", ::getpid());
  try {
    fill(temporary);
    sync_path(temporary, O_RDONLY, path);
    check<IoError>(::rename(temporary.c_str(), path.c_str()) == 0, "cannot rename to ", path, ": ", reason());
    sync_path(folder, O_RDONLY | O_DIRECTORY, path);
  } catch (...) {
    ::unlink(temporary.c_str());
    throw;
  }
}

void replace_file(const std::string& path, std::span<const std::byte> bytes) {
  replace_file(path, [&](const std::string& temporary) {
    {
      Fd f(::open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644));
      check<IoError>(f.fd >= 0, "cannot create ", path, ": ", reason());
    }
    const Piece piece{0, bytes};
    try {
      write_pieces(temporary, {&piece, 1});
    } catch (const IoError& e) {
      throw IoError(cat("while writing ", path, ": ", e.what()));
    }
  });
}

void write_pieces(const std::string& path, std::span<const Piece> pieces) {
  Fd f(::open(path.c_str(), O_WRONLY | O_CLOEXEC));
  check<IoError>(f.fd >= 0, "cannot write ", path, ": ", reason());
  for (const Piece& piece : pieces) {
    size_t done = 0;
    while (done < piece.bytes.size()) {
      const ssize_t n =
          ::pwrite(f.fd, piece.bytes.data() + done, piece.bytes.size() - done, static_cast<off_t>(piece.offset + done));
      if (n < 0 && errno == EINTR) continue;
      check<IoError>(n > 0, "cannot write ", path, " at byte ", piece.offset + done, ": ", reason());
      done += static_cast<size_t>(n);
    }
  }
}

}  // namespace tpo
