// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/base/io_vector.h"

#include <cassert>
#include <cstring>

namespace strata {

IoVector::IoVector(std::span<const iovec> parts) noexcept
    : parts_(parts.data()), count_(static_cast<uint32_t>(parts.size())) {
  for (const iovec& part : parts) size_ += part.iov_len;
  if (parts.size() == 1) *this = buffer(parts[0].iov_base, parts[0].iov_len);
}

IoVector IoVector::buffer(void* data, size_t size) noexcept {
  IoVector view;
  view.data_ = data;
  view.size_ = size;
  return view;
}

IoVector IoVector::slice(size_t offset, size_t size) const noexcept {
  assert(offset <= size_ && size <= size_ - offset);
  IoVector view = *this;
  view.size_ = size;
  if (parts_ == nullptr) {
    view.data_ = static_cast<std::byte*>(data_) + offset;
    return view;
  }
  view.skip_ += offset;
  while (view.count_ > 1 && view.skip_ >= view.parts_->iov_len) {
    view.skip_ -= view.parts_->iov_len;
    ++view.parts_;
    --view.count_;
  }
  if (view.count_ != 0 && size <= view.parts_->iov_len - view.skip_)
    return buffer(static_cast<std::byte*>(view.parts_->iov_base) + view.skip_, size);
  return view;
}

size_t IoVector::parts() const noexcept {
  size_t count = 0;
  for_each([&](std::byte*, size_t) { ++count; });
  return count;
}

size_t IoVector::export_to(std::span<iovec> out) const noexcept {
  size_t count = 0;
  for_each([&](std::byte* data, size_t size) {
    if (count < out.size()) out[count++] = {data, size};
  });
  return count;
}

std::span<const iovec> IoVector::as_array() const noexcept {
  if (parts_ == nullptr || skip_ != 0) return {};
  size_t total = 0;
  for (uint32_t i = 0; i < count_; ++i) {
    total += parts_[i].iov_len;
    if (total == size_) return {parts_, i + 1};
    if (total > size_) return {};
  }
  return {};
}

std::byte* IoVector::contiguous() const noexcept {
  return parts_ == nullptr ? static_cast<std::byte*>(data_) : nullptr;
}

void IoVector::copy_to(void* out) const noexcept {
  auto* to = static_cast<std::byte*>(out);
  for_each([&](std::byte* data, size_t size) {
    std::memcpy(to, data, size);
    to += size;
  });
}

void IoVector::copy_from(const void* data) noexcept {
  auto* from = static_cast<const std::byte*>(data);
  for_each([&](std::byte* to, size_t size) {
    std::memcpy(to, from, size);
    from += size;
  });
}

void IoVector::fill(std::byte value) noexcept {
  for_each([&](std::byte* data, size_t size) { std::memset(data, static_cast<int>(value), size); });
}

bool IoVector::is_zero() const noexcept {
  bool zero = true;
  for_each([&](std::byte* data, size_t size) { zero = zero && is_zero_memory(data, size); });
  return zero;
}

bool IoVector::is_aligned(size_t memory, size_t length) const noexcept {
  bool aligned = true;
  for_each([&](std::byte* data, size_t size) {
    if (reinterpret_cast<uintptr_t>(data) % memory != 0 || size % length != 0) aligned = false;
  });
  return aligned;
}

bool is_zero_memory(const void* data, size_t size) noexcept {
  // Most data that is not zero shows it at once; after the first bytes, the block is compared with
  // itself shifted, which libc does with the widest instructions there are.
  auto* bytes = static_cast<const unsigned char*>(data);
  constexpr size_t kProbe = 16;
  size_t probe = std::min(size, kProbe);
  for (size_t i = 0; i < probe; ++i) {
    if (bytes[i] != 0) return false;
  }
  return size <= kProbe || std::memcmp(bytes, bytes + kProbe, size - kProbe) == 0;
}

}  // namespace strata
