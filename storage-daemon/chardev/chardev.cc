// SPDX-License-Identifier: GPL-2.0-or-later
#include "storage-daemon/chardev/chardev.h"

#include <cassert>

#include "block/base/error.h"

namespace strata {

Chardev::~Chardev() {
  assert(stream_ == nullptr && "a character device is closed before it is destroyed");
}

void Chardev::attach() {
  if (attached_) throw Error("Device '{}' is in use", id_);
  attached_ = true;
}

Task<void> Chardev::wait_connected() {
  while (!stream_ && !closing_.is_cancelled()) {
    changed_.reset();
    co_await changed_.wait();
  }
}

Task<std::shared_ptr<Stream>> Chardev::next_stream() {
  co_await wait_connected();
  if (closing_.is_cancelled()) co_return nullptr;
  if (log_) co_return std::make_shared<LoggedStream>(stream_, log_);
  co_return stream_;
}

void Chardev::set_stream(std::shared_ptr<Stream> stream) {
  stream_ = std::move(stream);
  changed_.set();
}

void Chardev::stream_ended() {
  if (!stream_) return;
  stream_.reset();
  on_stream_ended();
}

void Chardev::begin_close() {
  closing_.cancel();
  if (stream_) stream_->shutdown();
  changed_.set();
}

Task<void> Chardev::close() {
  begin_close();
  stream_ended();
  co_await on_close();
}

}  // namespace strata
