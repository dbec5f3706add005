#pragma once
// Tensor: a value handle of (storage, offset, shape, dtype, tape slot). Dense, row-major, no strides.
// Copying a handle shares the bytes. Ownership of bytes is shared by handles; the last one returns them to the
// allocator at once (a program point, never a completion callback), so memory is predictable.
// Thread rule: a tensor is used by the thread that made it; handing over needs an ordering of the caller.
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "core/dtype.h"
#include "core/shape.h"
#include "core/stream.h"

namespace tpo {

class Storage;

// Brings the bytes of a storage when somebody asks for them that are not there, or not yet.
class StorageSource {
 public:
  virtual ~StorageSource() = default;
  // Must call storage.restore(), if it is released, see to its contents and call storage.arrived(); or throw.
  virtual void fetch(Storage& storage) = 0;
};

// A block of an allocator. Freed by the destructor, or before by release(): handles then stay valid, and the next
// access to the bytes asks the source for them. That is how a tape keeps a weight that sharding frees in between.
class Storage {
 public:
  Storage(std::shared_ptr<Allocator> allocator, size_t bytes);
  // Released from the start.
  Storage(std::shared_ptr<Allocator> allocator, size_t bytes, StorageSource& source);
  ~Storage();
  Storage(const Storage&) = delete;
  Storage& operator=(const Storage&) = delete;
  std::byte* data() {
    if (source_ != nullptr) source_->fetch(*this);
    return data_;
  }
  size_t bytes() const { return bytes_; }
  Device device() const { return allocator_->device(); }

  // Gives the bytes back. Requires: no kernel that was given their address still runs. source (not owned) must outlive
  // the storage.
  void release(StorageSource& source);
  // Allocates again, uninitialised, as memory of the kind it had; access no longer asks the source.
  void restore();
  // The bytes are being filled: access asks source, until arrived().
  void expect(StorageSource& source) { source_ = &source; }
  void arrived() { source_ = nullptr; }
  bool released() const { return released_; }
  // The source goes: whoever asks for bytes that are not there asks `instead`.
  void orphan(StorageSource& instead) {
    if (source_ != nullptr) source_ = &instead;
  }

 private:
  std::shared_ptr<Allocator> allocator_;
  size_t bytes_;
  MemoryKind kind_ = MemoryScope::current();
  std::byte* data_;
  StorageSource* source_ = nullptr;  // asked on access, if not null
  bool released_ = false;
};

class Tensor {
 public:
  Tensor() = default;  // undefined: defined() is false, everything else throws ShapeError

  // Uninitialised memory on the stream's device.
  static Tensor empty(const Shape& shape, DType dtype = DType::kF32, Stream& stream = Stream::current());
  // Memory that is taken when it is accessed first, and then asked of `source` (see Storage), which outlives the
  // tensor.
  static Tensor deferred(const Shape& shape, DType dtype, StorageSource& source, Stream& stream = Stream::current());
  static Tensor zeros(const Shape& shape, DType dtype = DType::kF32, Stream& stream = Stream::current());
  // Copies host values; on meta only the shape is kept. Throws ShapeError if the count differs.
  template <class T>
  static Tensor from(std::span<const T> values, const Shape& shape, Stream& stream = Stream::current()) {
    return from_bytes(std::as_bytes(values), shape, DTypeOf<T>::value, stream);
  }
  template <class T>
  static Tensor from(const std::vector<T>& values, const Shape& shape, Stream& stream = Stream::current()) {
    return from(std::span<const T>(values), shape, stream);
  }
  static Tensor from_bytes(std::span<const std::byte> bytes, const Shape& shape, DType dtype,
                           Stream& stream = Stream::current());

  bool defined() const { return storage_ != nullptr; }
  const Shape& shape() const { return shape_; }
  int rank() const { return shape_.rank(); }
  int64_t dim(int i) const { return shape_[i]; }
  int64_t numel() const { return shape_.numel(); }
  int64_t nbytes() const { return numel() * static_cast<int64_t>(size_of(dtype_)); }
  DType dtype() const { return dtype_; }
  Device device() const;

  // The same elements under another shape, keeping the tape slot: a gradient flows through, no node is recorded.
  // Throws ShapeError if the element counts differ.
  Tensor view(const Shape& shape) const;
  // Rows [begin, end) of the first dim, detached. For a differentiable slice see ops/layout.h slice_rows.
  Tensor rows(int64_t begin, int64_t end) const;
  // The same bytes without a tape slot.
  Tensor detach() const;

  // Address of the first element for kernels; on meta a fake address that must not be touched.
  void* raw() const;
  // Typed host access. Throws DeviceError on meta or cuda, ShapeError if T is not the dtype.
  template <class T>
  T* data() const {
    check_access(DTypeOf<T>::value);
    return static_cast<T*>(raw());
  }
  template <class T>
  std::vector<T> to_vector() const {
    const T* p = data<T>();
    return std::vector<T>(p, p + numel());
  }
  float item() const;  // the single fp32 element

  // True if no other handle shares the bytes: an op may then write in place.
  bool unique() const { return storage_.use_count() == 1; }
  const void* storage_id() const { return storage_.get(); }
  Storage& storage() const { return *storage_; }

  // Tape bookkeeping, used by core/tape only.
  uint64_t tape_id() const { return tape_id_; }
  int32_t slot() const { return slot_; }
  void set_slot(uint64_t tape_id, int32_t slot) { tape_id_ = tape_id, slot_ = slot; }

 private:
  void check_access(DType want) const;

  std::shared_ptr<Storage> storage_;
  int64_t offset_bytes_ = 0;
  Shape shape_;
  DType dtype_ = DType::kF32;
  uint64_t tape_id_ = 0;
  int32_t slot_ = -1;
};

// Same shape, dtype and device kind as x, uninitialised.
Tensor empty_like(const Tensor& x);
// Extent of the last dim; throws ShapeError on a scalar or an undefined tensor.
int64_t last_dim(const Tensor& x);

}  // namespace tpo
