// SPDX-License-Identifier: GPL-2.0-or-later
//
// One device descriptor at work in one context: requests are received from the kernel, done, and
// answered.
#pragma once

#include <array>
#include <functional>
#include <memory>
#include <vector>

#include "block/aio/aio_context.h"
#include "block/aio/fd_watch.h"
#include "block/base/unique_fd.h"
#include "block/coro/event.h"
#include "block/coro/scope.h"
#include "block/export/buffer_pool.h"
#include "block/export/fuse/file.h"
#include "block/export/fuse/protocol.h"
#include "block/export/request_slots.h"

namespace strata::fuse_export {

// Made and destroyed in the main loop; start() and stop() run in its context, and all else happens
// there. The file outlives it.
class Queue {
 public:
  // Data of requests under way, after which no more are taken.
  static constexpr uint64_t kMostBytes = uint64_t{64} << 20;

  // `gone` is called, in the context, when the file system was unmounted from outside.
  Queue(AioContext& context, ExportedFile& file, UniqueFd device, std::function<void()> gone);
  ~Queue();
  Queue(const Queue&) = delete;
  Queue& operator=(const Queue&) = delete;

  AioContext& context() const noexcept { return context_; }

  Task<void> start();
  // Takes no more, and waits until what was taken has been answered.
  Task<void> stop();

 private:
  struct Slot {
    Slot* next = nullptr;  // free
    uint64_t cost = 0;     // of kMostBytes
    Request request;
    BufferPool::Buffer data;
  };
  enum class Taken { request, none, no_memory, gone };
  struct Answer {
    int error = 0;  // a positive errno
    size_t size = 0;
    const void* data = nullptr;
  };

  Task<void> run(CancelToken cancel);
  Taken process();
  Taken take_one();
  Task<void> wait(Taken why, FdWatch& watch, CancelToken cancel);
  void launch(Slot& slot, Status parsed, size_t rest);
  bool keep_payload(Slot& slot, size_t rest) noexcept;
  void answer_at_once(Slot& slot);
  void answer_init_request(Slot& slot);
  RequestJob serve_read(Slot& slot);
  RequestJob serve_write(Slot& slot);
  RequestJob serve_other(Slot& slot);
  void finish(Slot& slot, Answer answer) noexcept;
  void finish(Slot& slot, Status status) noexcept {
    finish(slot, {.error = status.error_number()});
  }
  template <class T>
  void finish_with(Slot& slot, const T& answer) noexcept {
    finish(slot, {.size = sizeof answer, .data = &answer});
  }
  void send(uint64_t unique, Answer answer) noexcept;
  void give_back(Slot& slot) noexcept;
  bool may_take() const noexcept { return cost_ < kMostBytes; }

  AioContext& context_;
  ExportedFile& file_;
  UniqueFd device_;
  std::function<void()> gone_;

  alignas(8) std::array<std::byte, kHeadSize> head_{};
  BufferPool::Buffer buffer_;  // for what follows the head of the next message
  bool stopping_ = false;
  CancelSource stop_;
  TaskScope scope_;

  uint64_t cost_ = 0;
  unsigned in_flight_ = 0;
  Event progress_;  // something has been given back
  RequestSlots<Slot> slots_;
};

}  // namespace strata::fuse_export
