// SPDX-License-Identifier: GPL-2.0-or-later
//
// What the disk engines of a host know about a request under way. Private to this room.
#pragma once

#include <sys/uio.h>

#include <memory>
#include <new>
#include <vector>

#include "block/aio/disk.h"
#include "block/aio/thread_pool.h"

namespace strata {

class HostDisk;

// The most bytes that the loop's own thread copies to or from the page cache at a time.
inline constexpr size_t kLargestInline = 1 << 20;

// Lives in the DiskRequest's scratch space, from start() until its result is set.
class HostRequest final : public ThreadPool::Work {
 public:
  // `done` bytes have been read already.
  static HostRequest& begin(DiskRequest& request, size_t done) noexcept {
    static_assert(sizeof(HostRequest) <= sizeof request.scratch);
    return *new (request.scratch) HostRequest(request, done);
  }

  DiskRequest& request() const noexcept { return request_; }
  HostDisk& disk() const noexcept;
  // What is still to be transferred.
  uint64_t offset() const noexcept { return request_.offset + done_; }
  IoVector data() const noexcept {
    return request_.data.slice(done_, request_.data.size() - done_);
  }

  // Takes the kernel's answer for the part that was `asked` for, a number of bytes or -errno. True
  // if that settles the request; its result is set then. False: the rest has to be asked for.
  bool advance(int64_t answer) noexcept;

  // The vector for the next part: at most IOV_MAX pieces, which add up to `asked`.
  struct Part {
    const iovec* pieces;
    unsigned count;
  };
  // `space` has room for IOV_MAX pieces. Where the caller's own array will do, that is returned.
  Part next_part(iovec* space) noexcept;
  // If the rest is one piece of memory: that, with `asked` set. Null otherwise.
  std::byte* next_piece() noexcept;

  void transfer_all() noexcept;   // waits for the kernel
  void work() noexcept override;  // in a thread of the pool

  size_t asked = 0;
  iovec* vector = nullptr;      // taken from a VectorPool until the part has ended
  HostRequest* next = nullptr;  // the engine's list

 private:
  HostRequest(DiskRequest& request, size_t done) noexcept : request_(request), done_(done) {}
  int64_t transfer(iovec* space) noexcept;

  DiskRequest& request_;
  size_t done_;  // bytes transferred by earlier parts
};

// First in, first out.
class HostRequestQueue {
 public:
  bool empty() const noexcept { return first_ == nullptr; }
  HostRequest& front() const noexcept { return *first_; }
  void push(HostRequest& request) noexcept {
    request.next = nullptr;
    *last_ = &request;
    last_ = &request.next;
  }
  HostRequest& pop() noexcept {
    HostRequest& request = *first_;
    first_ = request.next;
    if (first_ == nullptr) last_ = &first_;
    return request;
  }

 private:
  HostRequest* first_ = nullptr;
  HostRequest** last_ = &first_;
};

// Arrays of IOV_MAX entries, for vectors that the kernel cannot take from the caller as they are.
// Used again and again; of one thread.
class VectorPool {
 public:
  iovec* take() noexcept;  // null where memory is short
  void give_back(iovec* vector) noexcept;

 private:
  std::vector<std::unique_ptr<iovec[]>> all_;
  std::vector<iovec*> free_;
};

}  // namespace strata
