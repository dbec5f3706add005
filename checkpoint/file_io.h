#pragma once
// POSIX files: every failure is an IoError with path, bytes and the system's reason.
#include <cstddef>
#include <cstdint>
#include <functional>
#include <future>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace tpo {

class File {
 public:
  enum class Mode { kRead, kReadDirect, kWrite, kWriteDirect };
  // All open an existing file. The direct ones bypass the page cache; where the file system refuses that, is_open() is
  // false.
  File(std::string path, Mode mode);
  ~File();
  File(const File&) = delete;
  File& operator=(const File&) = delete;

  bool is_open() const { return fd_ >= 0; }
  const std::string& path() const { return path_; }
  int64_t size() const;
  void read(std::span<std::byte> out, int64_t offset) const;         // all of it; IoError if the file ends before
  int64_t try_read(std::span<std::byte> out, int64_t offset) const;  // how much there was; -1: EINVAL, as below
  void write(std::span<const std::byte> bytes, int64_t offset);
  bool try_write(std::span<const std::byte> bytes,
                 int64_t offset);  // false: EINVAL, as O_DIRECT gives where unsupported
  void reserve(int64_t bytes);     // allocates the blocks of [0, bytes), where the file system can
  void resize(int64_t bytes);
  void sync();

 private:
  std::string path_;
  int fd_ = -1;
};

// Writes pieces of an existing file and returns their checksums: whole blocks directly to the device, tails and what
// direct access refuses through the page cache. While some aligned buffers are on their way to the device, another
// is filled and checksummed. An error of a write may be thrown by the next write() or by finish().
class PieceWriter {
 public:
  explicit PieceWriter(const std::string& path);
  // Writes `total` bytes at `offset`; fill(at, to) is called for one stretch after the other and puts the bytes
  // [at, at + to.size()) there. A stretch is a multiple of 4,096 long, but for the last one.
  // Requires: offset is a multiple of 4,096, or total is less than that.
  using Fill = std::function<void(int64_t at, std::span<std::byte> to)>;
  uint64_t write(int64_t total, int64_t offset, const Fill& fill);
  void finish();  // waits for all writes and flushes
  File& file() { return buffered_; }

 private:
  struct FreeDeleter {
    void operator()(std::byte* p) const;
  };
  struct Buffer {
    std::unique_ptr<std::byte[], FreeDeleter> bytes;
    std::future<void> written;  // its destructor waits, so bytes outlives the write
  };
  File buffered_, direct_;
  static constexpr unsigned kBuffers = 4;  // three on their way: one alone waits for the device between writes
  Buffer buffers_[kBuffers];
  unsigned next_ = 0;
};

// Creates or replaces the file and fsyncs it.
void write_file(const std::string& path, std::string_view text);
// Throws IoError; DataError if it is longer than max_bytes.
std::string read_file(const std::string& path, int64_t max_bytes);
// Creates a folder and those above it, and makes their names durable.
void make_folders(const std::string& path);
// The names in a folder, in no order; none if there is no such folder.
std::vector<std::string> names_in(const std::string& folder);
// Makes the names in a folder durable.
void sync_folder(const std::string& path);
// Atomic in the file system; `to` must not be a folder with content.
void rename_path(const std::string& from, const std::string& to);
// Swaps two existing paths atomically; false where the file system cannot (NFS and some others).
bool exchange_paths(const std::string& a, const std::string& b);
int64_t free_bytes(const std::string& folder);
// "<what> <path>: <the system's reason for errno>"
std::string io_message(const std::string& what, const std::string& path);

}  // namespace tpo
