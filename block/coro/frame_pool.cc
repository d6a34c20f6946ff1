// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/coro/frame_pool.h"

#include <array>
#include <new>

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define STRATA_NO_FRAME_POOL 1  // a recycled frame would hide a use after free
#endif
#endif

namespace strata {
namespace {

constexpr size_t kGranularity = 64;
constexpr size_t kLargestPooled = 4096;
constexpr size_t kMostIdleFrames = 1024;  // of one size in one thread

struct FreeFrame {
  FreeFrame* next;
};

struct FreeList {
  FreeFrame* head = nullptr;
  size_t idle = 0;
};

class ThreadPoolOfFrames {
 public:
  ~ThreadPoolOfFrames() {
    for (FreeList& list : lists_) {
      while (list.head != nullptr) ::operator delete(pop(list));
    }
  }

  void* allocate(size_t size) {
    FreeList& list = list_for(size);
    if (list.head != nullptr) return pop(list);
    return ::operator new(round_up(size));
  }

  void free(void* frame, size_t size) noexcept {
    FreeList& list = list_for(size);
    if (list.idle == kMostIdleFrames) return ::operator delete(frame);
    list.head = new (frame) FreeFrame{list.head};
    ++list.idle;
  }

 private:
  static size_t round_up(size_t size) noexcept {
    return (size + kGranularity - 1) / kGranularity * kGranularity;
  }
  FreeList& list_for(size_t size) noexcept { return lists_[(size - 1) / kGranularity]; }
  static void* pop(FreeList& list) noexcept {
    FreeFrame* frame = list.head;
    list.head = frame->next;
    --list.idle;
    return frame;
  }

  std::array<FreeList, kLargestPooled / kGranularity> lists_{};
};

[[maybe_unused]] thread_local ThreadPoolOfFrames frames;

}  // namespace

void* allocate_frame(size_t size) {
#ifndef STRATA_NO_FRAME_POOL
  if (size <= kLargestPooled) return frames.allocate(size);
#endif
  return ::operator new(size);
}

void free_frame(void* frame, size_t size) noexcept {
#ifndef STRATA_NO_FRAME_POOL
  if (size <= kLargestPooled) return frames.free(frame, size);
#endif
  ::operator delete(frame);
}

}  // namespace strata
