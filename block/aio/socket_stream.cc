// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/aio/socket_stream.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>

#include "block/base/error.h"

namespace strata {
namespace {

constexpr size_t kMostFds = 16;    // with one message
constexpr size_t kMostParts = 64;  // of a read; a longer vector is read piece by piece

bool is_socket(int fd) noexcept {
  struct stat info{};
  return ::fstat(fd, &info) == 0 && S_ISSOCK(info.st_mode);
}

bool would_block(long result) noexcept {
  return result == -EAGAIN;
}

// Drops `bytes` from the front of `parts`.
std::span<iovec> drop_front(std::span<iovec> parts, size_t bytes) noexcept {
  while (!parts.empty() && bytes >= parts.front().iov_len) {
    bytes -= parts.front().iov_len;
    parts = parts.subspan(1);
  }
  if (!parts.empty()) {
    parts.front().iov_base = static_cast<std::byte*>(parts.front().iov_base) + bytes;
    parts.front().iov_len -= bytes;
  }
  return parts;
}

template <class Call>
long retry(Call&& call) noexcept {
  for (;;) {
    long result = call();
    if (result >= 0) return result;
    if (errno != EINTR) return -errno;
  }
}

}  // namespace

SocketStream::SocketStream(AioContext& context, UniqueFd fd)
    : fd_(std::move(fd)),
      is_socket_(is_socket(fd_.get())),
      watch_(std::in_place, context, fd_.get()) {
  ::fcntl(fd_.get(), F_SETFL, ::fcntl(fd_.get(), F_GETFL) | O_NONBLOCK);
}

// A number of bytes, or -errno.
long SocketStream::receive(IoVector into, std::vector<UniqueFd>* fds) noexcept {
  std::array<iovec, kMostParts> parts;
  size_t count = into.export_to(parts);
  if (!is_socket_) return retry([&] { return ::readv(fd_.get(), parts.data(), int(count)); });
  alignas(cmsghdr) char control[CMSG_SPACE(kMostFds * sizeof(int))];
  msghdr message{};
  message.msg_iov = parts.data();
  message.msg_iovlen = count;
  if (fds != nullptr) {
    message.msg_control = control;
    message.msg_controllen = sizeof control;
  }
  long received =
      retry([&] { return ::recvmsg(fd_.get(), &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC); });
  if (received < 0 || fds == nullptr) return received;
  for (cmsghdr* c = CMSG_FIRSTHDR(&message); c != nullptr; c = CMSG_NXTHDR(&message, c)) {
    if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) continue;
    size_t number = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < number; ++i) {
      int fd;
      std::memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof fd);
      fds->emplace_back(fd);
    }
  }
  return received;
}

long SocketStream::send(std::span<const iovec> parts, std::span<const int> fds) noexcept {
  size_t count = std::min<size_t>(parts.size(), IOV_MAX);
  if (!is_socket_) return retry([&] { return ::writev(fd_.get(), parts.data(), int(count)); });
  alignas(cmsghdr) char control[CMSG_SPACE(kMostFds * sizeof(int))] = {};
  msghdr message{};
  message.msg_iov = const_cast<iovec*>(parts.data());
  message.msg_iovlen = count;
  if (!fds.empty()) {
    if (fds.size() > kMostFds) return -EMSGSIZE;
    message.msg_control = control;
    message.msg_controllen = CMSG_SPACE(fds.size_bytes());
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(fds.size_bytes());
    std::memcpy(CMSG_DATA(header), fds.data(), fds.size_bytes());
  }
  return retry([&] { return ::sendmsg(fd_.get(), &message, MSG_DONTWAIT | MSG_NOSIGNAL); });
}

namespace {

Result<size_t> to_result(long result) noexcept {
  if (result < 0) return Status::from_result(result);
  return static_cast<size_t>(result);
}

}  // namespace

Task<Result<size_t>> SocketStream::read_some(IoVector into, CancelToken cancel) {
  if (cancel.is_cancelled()) return Task<Result<size_t>>::ready(Status::error(ECANCELED));
  long received = receive(into, nullptr);
  if (!would_block(received)) return Task<Result<size_t>>::ready(to_result(received));
  return wait_and_read(into, nullptr, cancel);
}

Task<Result<size_t>> SocketStream::read_some_with_fds(IoVector into, std::vector<UniqueFd>& fds,
                                                      CancelToken cancel) {
  long received = receive(into, &fds);
  if (!would_block(received)) return Task<Result<size_t>>::ready(to_result(received));
  return wait_and_read(into, &fds, cancel);
}

Task<Result<size_t>> SocketStream::wait_and_read(IoVector into, std::vector<UniqueFd>* fds,
                                                 CancelToken cancel) {
  for (;;) {
    if (!co_await watch_->readable(cancel)) co_return Status::error(ECANCELED);
    long received = receive(into, fds);
    if (!would_block(received)) co_return to_result(received);
  }
}

Task<Status> SocketStream::write(std::span<iovec> parts, CancelToken cancel) {
  return wait_and_write(parts, {}, cancel);
}

Task<Status> SocketStream::write_with_fds(std::span<const std::byte> data, std::span<const int> fds,
                                          CancelToken cancel) {
  iovec part{const_cast<std::byte*>(data.data()), data.size()};
  co_return co_await wait_and_write({&part, 1}, fds, cancel);
}

Task<Status> SocketStream::wait_and_write(std::span<iovec> parts, std::span<const int> fds,
                                          CancelToken cancel) {
  parts = drop_front(parts, 0);
  while (!parts.empty()) {
    long sent = send(parts, fds);
    if (would_block(sent)) {
      if (!co_await watch_->writable(cancel)) co_return Status::error(ECANCELED);
      continue;
    }
    if (sent < 0) co_return Status::from_result(sent);
    fds = {};
    parts = drop_front(parts, static_cast<size_t>(sent));
  }
  co_return Status();
}

void SocketStream::shutdown() noexcept {
  ::shutdown(fd_.get(), SHUT_RDWR);
}

std::string Stream::describe_read_failure(int error) const {
  if (error == ENODATA || error == EPIPE)
    return "Unexpected end-of-file before all bytes were read";
  return "Unable to read from socket: " + Error::describe_errno(error);
}

Task<Status> Stream::read_exactly(IoVector into, CancelToken cancel) {
  size_t done = 0;
  while (done < into.size()) {
    Result<size_t> got = co_await read_some(into.slice(done, into.size() - done), cancel);
    if (!got) co_return got.status();
    if (*got == 0) co_return Status::error(done == 0 ? ENODATA : EPIPE);
    done += *got;
  }
  co_return Status();
}

Task<Status> Stream::write_all(std::span<const std::byte> data, CancelToken cancel) {
  iovec part{const_cast<std::byte*>(data.data()), data.size()};
  co_return co_await write({&part, 1}, cancel);
}

}  // namespace strata
