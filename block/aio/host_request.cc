// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/aio/host_request.h"

#include <fcntl.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>

#include "block/aio/host_disk.h"

namespace strata {

HostDisk& HostRequest::disk() const noexcept {
  return static_cast<HostDisk&>(request_.disk);
}

bool HostRequest::advance(int64_t answer) noexcept {
  if (answer == -EINTR) return false;
  if (request_.op == DiskRequest::Op::flush) {
    request_.result = disk().flushed(answer);
    return true;
  }
  if (answer < 0) {
    request_.result = answer;
    return true;
  }
  bool is_read = request_.op == DiskRequest::Op::read;
  size_t got = static_cast<size_t>(answer);
  done_ += got;
  if (done_ == request_.data.size()) {
    request_.result = static_cast<int64_t>(done_);
    return true;
  }
  // The end of the disk: nothing more, or less than whole blocks, which can be asked for only once.
  bool at_end =
      got == 0 || (got < asked && got % disk().geometry().request_alignment != 0 && is_read);
  if (!at_end) return false;
  request_.result = is_read ? static_cast<int64_t>(done_) : -ENOSPC;
  return true;
}

std::byte* HostRequest::next_piece() noexcept {
  IoVector rest = data();
  asked = rest.size();
  return rest.contiguous();
}

HostRequest::Part HostRequest::next_part(iovec* space) noexcept {
  IoVector rest = data();
  asked = rest.size();
  if (auto array = rest.as_array(); !array.empty() && array.size() <= IOV_MAX)
    return {array.data(), static_cast<unsigned>(array.size())};
  size_t count = rest.export_to({space, IOV_MAX});
  size_t bytes = 0;
  for (size_t i = 0; i < count; ++i) bytes += space[i].iov_len;
  if (bytes != asked) {
    // Cut short, to whole blocks. (Pieces too small for even one block are for the kernel to
    // refuse.)
    size_t surplus = bytes % disk().geometry().request_alignment;
    if (surplus == bytes) surplus = 0;
    asked = bytes - surplus;
    while (surplus != 0) {
      size_t cut = std::min(surplus, space[count - 1].iov_len);
      space[count - 1].iov_len -= cut;
      if (space[count - 1].iov_len == 0) --count;
      surplus -= cut;
    }
  }
  return {space, static_cast<unsigned>(count)};
}

int64_t HostRequest::transfer(iovec* space) noexcept {
  int fd = disk().fd();
  if (request_.op == DiskRequest::Op::flush) return ::fdatasync(fd) == 0 ? 0 : -errno;
  Part part = next_part(space);
  off_t at = static_cast<off_t>(offset());
  ssize_t moved =
      request_.op == DiskRequest::Op::read
          ? ::preadv(fd, part.pieces, int(part.count), at)
          : ::pwritev2(fd, part.pieces, int(part.count), at, request_.fua ? RWF_DSYNC : 0);
  return moved >= 0 ? moved : -errno;
}

void HostRequest::transfer_all() noexcept {
  iovec space[IOV_MAX];
  while (!advance(transfer(space))) {
  }
}

void HostRequest::work() noexcept {
  transfer_all();
  request_.resume_later();
}

iovec* VectorPool::take() noexcept {
  if (free_.empty()) {
    try {
      free_.reserve(all_.size() + 1);
      all_.push_back(std::make_unique<iovec[]>(IOV_MAX));
      free_.push_back(all_.back().get());
    } catch (const std::bad_alloc&) {
      return nullptr;
    }
  }
  iovec* vector = free_.back();
  free_.pop_back();
  return vector;
}

void VectorPool::give_back(iovec* vector) noexcept {
  if (vector != nullptr) free_.push_back(vector);
}

}  // namespace strata
