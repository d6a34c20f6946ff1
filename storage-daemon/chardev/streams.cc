// SPDX-License-Identifier: GPL-2.0-or-later
#include "storage-daemon/chardev/streams.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <ctime>

#include "block/base/error.h"
#include "block/coro/executor.h"

namespace strata {
namespace {

class UntilCancelled final : Resumption, CancelSource::Subscription {
 public:
  explicit UntilCancelled(CancelToken cancel) noexcept : cancel_(cancel) {}
  bool await_ready() const noexcept { return cancel_.is_cancelled(); }
  void await_suspend(std::coroutine_handle<> caller) noexcept {
    suspend(caller);
    subscribe(cancel_);
  }
  void await_resume() const noexcept {}

 private:
  void cancelled() noexcept override { resume_later(); }
  CancelToken cancel_;
};

std::string timestamp() {
  auto now = std::chrono::system_clock::now().time_since_epoch();
  time_t seconds = std::chrono::duration_cast<std::chrono::seconds>(now).count();
  auto millis = std::chrono::duration_cast<std::chrono::milliseconds>(now).count() % 1000;
  tm utc{};
  ::gmtime_r(&seconds, &utc);
  return fmt::format("[{:02}:{:02}:{:02}.{:03}] ", utc.tm_hour, utc.tm_min, utc.tm_sec, millis);
}

}  // namespace

Task<Result<size_t>> NullStream::read_some(IoVector, CancelToken cancel) {
  co_await UntilCancelled(cancel);
  co_return Status::error(ECANCELED);
}

Task<Status> NullStream::write(std::span<iovec>, CancelToken) {
  return Task<Status>::ready(Status());
}

LogFile::LogFile(const std::string& path, bool append, bool timestamps)
    : fd_(::open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC | (append ? O_APPEND : O_TRUNC),
                 0666)),
      timestamps_(timestamps) {
  if (!fd_) throw Error::from_errno(errno, "Could not create '{}'", path);
}

// A log that cannot be written does not stop the device.
void LogFile::write(std::span<const iovec> parts) noexcept {
  std::string text;
  for (const iovec& part : parts) {
    for (char c : std::string_view(static_cast<const char*>(part.iov_base), part.iov_len)) {
      if (timestamps_ && at_line_start_) text += timestamp();
      at_line_start_ = c == '\n';
      text += c;
    }
  }
  std::ignore = ::write(fd_.get(), text.data(), text.size());
}

}  // namespace strata
