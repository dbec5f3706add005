#include "core/tensor.h"

#include <cstring>

#include "core/kernels/basic.h"
#include "core/launch.h"

namespace tpo {

Storage::Storage(std::shared_ptr<Allocator> allocator, size_t bytes)
    : allocator_(std::move(allocator)),
      bytes_(bytes),
      data_(static_cast<std::byte*>(allocator_->allocate(bytes, kind_))) {}

Storage::Storage(std::shared_ptr<Allocator> allocator, size_t bytes, StorageSource& source)
    : allocator_(std::move(allocator)), bytes_(bytes), data_(nullptr), source_(&source), released_(true) {}

Storage::~Storage() {
  if (!released()) allocator_->free(data_, bytes_, kind_);
}

void Storage::release(StorageSource& source) {
  TPO_ASSERT(!released());
  allocator_->free(data_, bytes_, kind_);
  data_ = nullptr;
  source_ = &source;
  released_ = true;
}

void Storage::restore() {
  TPO_ASSERT(released());
  data_ = static_cast<std::byte*>(allocator_->allocate(bytes_, kind_));
  source_ = nullptr;
  released_ = false;
}

Tensor Tensor::empty(const Shape& shape, DType dtype, Stream& stream) {
  Tensor t;
  t.shape_ = shape;
  t.dtype_ = dtype;
  t.storage_ = std::make_shared<Storage>(stream.allocator(), static_cast<size_t>(t.nbytes()));
  return t;
}

Tensor Tensor::deferred(const Shape& shape, DType dtype, StorageSource& source, Stream& stream) {
  Tensor t;
  t.shape_ = shape;
  t.dtype_ = dtype;
  t.storage_ = std::make_shared<Storage>(stream.allocator(), static_cast<size_t>(t.nbytes()), source);
  return t;
}

Tensor Tensor::zeros(const Shape& shape, DType dtype, Stream& stream) {
  Tensor t = empty(shape, dtype, stream);
  launch(FillZero{t.raw(), t.nbytes()}, stream);
  return t;
}

Tensor Tensor::from_bytes(std::span<const std::byte> bytes, const Shape& shape, DType dtype, Stream& stream) {
  const int64_t want = shape.numel() * static_cast<int64_t>(size_of(dtype));
  check_shape(static_cast<int64_t>(bytes.size()) == want, "[tensor] ", bytes.size(), " bytes given for ", shape, " ",
              dtype, ", which takes ", want);
  Tensor t = empty(shape, dtype, stream);
  if (t.device() == Device::kCpu && want > 0) std::memcpy(t.raw(), bytes.data(), bytes.size());
  return t;
}

Device Tensor::device() const {
  check_shape(defined(), "[tensor] device of an undefined tensor");
  return storage_->device();
}

Tensor Tensor::view(const Shape& shape) const {
  check_shape(defined(), "[view] undefined tensor");
  check_shape(shape.numel() == numel(), "[view] ", shape, " of a tensor ", shape_, ": element counts differ");
  Tensor t = *this;
  t.shape_ = shape;
  return t;
}

Tensor Tensor::rows(int64_t begin, int64_t end) const {
  check_shape(defined() && rank() >= 1, "[rows] needs a tensor with at least one dim, got ", shape_);
  check_shape(0 <= begin && begin <= end && end <= shape_[0], "[rows] [", begin, ", ", end, ") of ", shape_);
  Tensor t = detach();
  const int64_t row = shape_[0] == 0 ? 0 : numel() / shape_[0];
  t.offset_bytes_ += begin * row * static_cast<int64_t>(size_of(dtype_));
  Shape s{end - begin};
  for (int i = 1; i < rank(); ++i) s.push_back(shape_[i]);
  t.shape_ = s;
  return t;
}

Tensor Tensor::detach() const {
  Tensor t = *this;
  t.set_slot(0, -1);
  return t;
}

void* Tensor::raw() const {
  check_shape(defined(), "[tensor] address of an undefined tensor");
  return storage_->data() + offset_bytes_;
}

void Tensor::check_access(DType want) const {
  check_shape(defined(), "[tensor] data of an undefined tensor");
  check<DeviceError>(device() == Device::kCpu, "[tensor] host access to a tensor ", shape_, " on ", device());
  check_shape(dtype_ == want, "[tensor] ", shape_, " is ", dtype_, ", read as ", want);
}

float Tensor::item() const {
  check_shape(numel() == 1, "[item] needs one element, got ", shape_);
  return *data<float>();
}

Tensor empty_like(const Tensor& x) { return Tensor::empty(x.shape(), x.dtype()); }

int64_t last_dim(const Tensor& x) {
  check_shape(x.defined() && x.rank() >= 1, "[last_dim] needs at least one dim, got ", x.shape());
  return x.shape()[-1];
}

}  // namespace tpo
