// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/aio/fd_watch.h"

#include <boost/asio/bind_allocator.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/post.hpp>

#include "block/aio/aio_context.h"
#include "block/aio/handler_memory.h"

namespace asio = boost::asio;
using asio::posix::stream_descriptor;

namespace strata {

struct FdWatch::Impl {
  Impl(AioContext& context, int fd) : descriptor(context.reactor()) {
    boost::system::error_code error;
    descriptor.assign(fd, error);
    watchable = !error;  // EPERM: a regular file or a directory
  }
  // The descriptor is the owner's to close.
  ~Impl() {
    if (watchable) descriptor.release();
  }

  stream_descriptor descriptor;
  bool watchable = false;
  HandlerMemory memory[2];
};

FdWatch::FdWatch(AioContext& context, int fd) : impl_(std::make_unique<Impl>(context, fd)) {}
FdWatch::~FdWatch() = default;

void FdWatch::wait(Direction direction, Awaiter& awaiter) {
  auto ready =
      asio::bind_allocator(HandlerAllocator<void>(impl_->memory[static_cast<size_t>(direction)]),
                           [&awaiter](auto&&...) { awaiter.ready(); });
  if (!impl_->watchable) return asio::post(impl_->descriptor.get_executor(), std::move(ready));
  impl_->descriptor.async_wait(
      direction == Direction::read ? stream_descriptor::wait_read : stream_descriptor::wait_write,
      std::move(ready));
}

void FdWatch::cancel() noexcept {
  boost::system::error_code ignored;
  if (impl_->watchable) impl_->descriptor.cancel(ignored);
}

}  // namespace strata
