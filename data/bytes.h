#pragma once
// Byte buffers and the file calls that the data folder needs: whole reads, positioned reads, crash-safe replacement.
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace tpo {

// Owned bytes, not zeroed. resize() keeps the allocation when it is large enough, so that a reused buffer costs no page
// faults.
class ByteBuffer {
 public:
  void resize(size_t n) {
    if (n > capacity_) {
      data_ = std::make_unique_for_overwrite<std::byte[]>(n);
      capacity_ = n;
    }
    size_ = n;
  }
  std::byte* data() { return data_.get(); }
  const std::byte* data() const { return data_.get(); }
  size_t size() const { return size_; }
  std::span<const std::byte> view() const { return {data_.get(), size_}; }

 private:
  std::unique_ptr<std::byte[]> data_;
  size_t size_ = 0, capacity_ = 0;
};

// XXH3, 64 bits, seed 0.
uint64_t xxh3(std::span<const std::byte> bytes);
uint64_t xxh3(std::string_view text);

// An open file for reading. Thread-safe after construction. Throws DataError when the file is missing or ends early,
// IoError else.
class InputFile {
 public:
  explicit InputFile(const std::string& path);
  ~InputFile();
  InputFile(const InputFile&) = delete;
  InputFile& operator=(const InputFile&) = delete;

  const std::string& path() const { return path_; }
  uint64_t size() const { return size_; }
  void read(uint64_t offset, std::span<std::byte> out) const;  // fills out or throws
  uint64_t hash_all() const;                                   // XXH3 of the whole file, read in pieces

 private:
  std::string path_;
  int fd_ = -1;
  uint64_t size_ = 0;
};

// Whole file as bytes. Throws as InputFile. Refuses files over `limit_bytes` with DataError.
std::string read_file(const std::string& path, uint64_t limit_bytes = uint64_t{1} << 32);

// Calls fill(temporary path), which must create the file; then syncs, renames it to `path` and syncs the folder. On any
// exception nothing is left: the temporary file is removed and a file that was at `path` before is untouched. Throws
// IoError naming `path`.
void replace_file(const std::string& path, const std::function<void(const std::string& temporary)>& fill);
void replace_file(const std::string& path, std::span<const std::byte> bytes);

// Writes all bytes at `offset` of an existing file. Throws IoError naming the file and the system's reason, as "No
// space left on device".
struct Piece {
  uint64_t offset;
  std::span<const std::byte> bytes;
};
void write_pieces(const std::string& path, std::span<const Piece> pieces);

}  // namespace tpo
