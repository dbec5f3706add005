#pragma once
// Reads a large file forwards, several blocks ahead and past the page cache: a device gives its rate only to several
// requests at a time, and copying through the cache costs a second of processor time a gigabyte.
#include <array>
#include <cstddef>
#include <cstdint>
#include <future>
#include <memory>
#include <span>
#include <string>

#include "checkpoint/file_io.h"

namespace tpo {

class ReadAhead {
 public:
  explicit ReadAhead(const std::string& path);
  // Bytes [offset, offset + out.size()), which the file must have. The caller will go on, up to `end`; a jump costs
  // what was read ahead. Of a run below 1 MiB (from `begin` to `end`) there is nothing to read ahead. One thread.
  // Throws IoError.
  void read(int64_t offset, std::span<std::byte> out, int64_t begin, int64_t end);
  void release();  // gives its 32 MiB back, until the next read
  static bool keeps_blocks(int64_t run_bytes) { return run_bytes >= kSmall; }
  int64_t bytes_read() const { return bytes_read_; }  // from the file
  const File& file() const { return buffered_; }

 private:
  static constexpr int64_t kBlock = 8 << 20, kBlocks = 4, kSmall = 1 << 20;
  struct FreeDeleter {
    void operator()(std::byte* p) const;
  };
  struct Block {
    std::unique_ptr<std::byte[], FreeDeleter> bytes;
    std::future<void> arrival;  // its destructor waits, so bytes outlives the read
  };
  Block& at(int64_t number) { return blocks_[static_cast<size_t>(number % kBlocks)]; }
  void start(int64_t number);

  File buffered_, direct_;
  int64_t size_, bytes_read_ = 0;
  std::array<Block, kBlocks> blocks_;
  int64_t first_ = 0, next_ = 0;  // blocks [first_, next_) of the file are here or on their way
};

}  // namespace tpo
