#include "checkpoint/read_ahead.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>

#include "core/error.h"

namespace tpo {
namespace {

constexpr int64_t kAlign = 4096;

}  // namespace

void ReadAhead::FreeDeleter::operator()(std::byte* p) const { std::free(p); }

ReadAhead::ReadAhead(const std::string& path)
    : buffered_(path, File::Mode::kRead), direct_(path, File::Mode::kReadDirect), size_(buffered_.size()) {}

void ReadAhead::release() {
  for (Block& b : blocks_) {
    if (b.arrival.valid()) b.arrival.wait();
    b = Block();
  }
  next_ = first_;
}

void ReadAhead::start(int64_t number) {
  Block& b = at(number);
  if (b.arrival.valid()) b.arrival.wait();  // read ahead in vain, before a jump
  if (!b.bytes) b.bytes.reset(static_cast<std::byte*>(std::aligned_alloc(kAlign, kBlock)));
  if (!b.bytes) throw std::bad_alloc();
  const int64_t offset = number * kBlock, bytes = std::min(kBlock, size_ - offset);
  bytes_read_ += bytes;
  b.arrival = std::async(std::launch::async, [this, offset, bytes, to = b.bytes.get()] {
    // Direct reads come in whole units; the last one ends with the file.
    const int64_t units = (bytes + kAlign - 1) / kAlign * kAlign;
    if (direct_.is_open() && direct_.try_read({to, static_cast<size_t>(units)}, offset) >= bytes) return;
    buffered_.read({to, static_cast<size_t>(bytes)}, offset);
  });
}

void ReadAhead::read(int64_t offset, std::span<std::byte> out, int64_t begin, int64_t end) {
  if (!keeps_blocks(end - begin)) {
    bytes_read_ += static_cast<int64_t>(out.size());
    return buffered_.read(out, offset);
  }
  check<IoError>(offset + static_cast<int64_t>(out.size()) <= size_, buffered_.path(), " ends at ", size_,
                 " while reading ", out.size(), " bytes at ", offset);
  while (!out.empty()) {
    const int64_t number = offset / kBlock;
    if (number < first_ || number > next_) next_ = number;
    first_ = number;
    for (; next_ == number || (next_ < number + kBlocks && next_ * kBlock < end); ++next_) start(next_);
    Block& b = at(number);
    try {
      if (b.arrival.valid()) b.arrival.get();
    } catch (...) {
      next_ = first_;  // nothing is here
      throw;
    }
    const int64_t from = offset - number * kBlock;
    const auto n = static_cast<size_t>(std::min(static_cast<int64_t>(out.size()), kBlock - from));
    std::memcpy(out.data(), b.bytes.get() + from, n);
    out = out.subspan(n), offset += static_cast<int64_t>(n);
  }
}

}  // namespace tpo
