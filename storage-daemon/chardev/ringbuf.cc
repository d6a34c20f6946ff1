// SPDX-License-Identifier: GPL-2.0-or-later
#include "storage-daemon/chardev/ringbuf.h"

#include <algorithm>

#include "block/base/error.h"
#include "block/base/math.h"
#include "storage-daemon/chardev/streams.h"

namespace strata {
namespace {

// As much as an untrusted client may make the daemon hold.
constexpr int64_t kMaxSize = int64_t(1) << 30;

class RingStream final : public NullStream {
 public:
  explicit RingStream(std::shared_ptr<RingBuffer> buffer) : buffer_(std::move(buffer)) {}
  Task<Status> write(std::span<iovec> parts, CancelToken) override {
    for (const iovec& part : parts)
      buffer_->write({static_cast<const char*>(part.iov_base), part.iov_len});
    return Task<Status>::ready(Status());
  }

 private:
  std::shared_ptr<RingBuffer> buffer_;
};

}  // namespace

RingBuffer::RingBuffer(int64_t size) {
  if (size < 0 || !is_power_of_two(static_cast<uint64_t>(size)))
    throw Error("size of ringbuf chardev must be power of two");
  if (size > kMaxSize) throw Error("size of ringbuf chardev must be at most {} bytes", kMaxSize);
  bytes_.resize(static_cast<size_t>(size));
}

void RingBuffer::write(std::string_view data) {
  uint64_t mask = bytes_.size() - 1;
  for (char c : data) bytes_[produced_++ & mask] = c;
  if (produced_ - consumed_ > bytes_.size()) consumed_ = produced_ - bytes_.size();
}

std::string RingBuffer::read(size_t count) {
  uint64_t mask = bytes_.size() - 1;
  count = std::min(count, size());
  std::string data;
  data.reserve(count);
  while (count-- != 0) data += bytes_[consumed_++ & mask];
  return data;
}

RingbufChardev::RingbufChardev(std::string id, int64_t size)
    : Chardev(std::move(id)), buffer_(std::make_shared<RingBuffer>(size)) {
  set_stream(std::make_shared<RingStream>(buffer_));
}

}  // namespace strata
