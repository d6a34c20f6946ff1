// SPDX-License-Identifier: GPL-2.0-or-later
//
// The objects iothread and main-loop: an event loop and how it is tuned.
#pragma once

#include "block/aio/iothread.h"
#include "block/aio/main_loop.h"
#include "qapi/types_qom.h"
#include "storage-daemon/objects/object.h"

namespace strata {

// What both have in common.
class EventLoopObject : public UserObject {
 public:
  virtual AioContext& context() const noexcept = 0;

  int64_t aio_max_batch() const noexcept { return aio_max_batch_; }
  int64_t thread_pool_min() const noexcept { return thread_pool_min_; }
  int64_t thread_pool_max() const noexcept { return thread_pool_max_; }
  // Throw Error for values out of range.
  void set_aio_max_batch(int64_t requests);
  void set_thread_pool(int64_t min, int64_t max);

 protected:
  using UserObject::UserObject;
  // Checks the options before anything is made of them.
  static void check(const qapi::EventLoopBaseProperties& options);
  void apply(const qapi::EventLoopBaseProperties& options);

 private:
  int64_t aio_max_batch_ = 0;
  int64_t thread_pool_min_ = 0;
  int64_t thread_pool_max_ = 64;
};

class IothreadObject final : public EventLoopObject {
 public:
  static constexpr int64_t kDefaultPollMaxNs = 32768;

  IothreadObject(std::string id, const qapi::IothreadProperties& options);

  AioContext& context() const noexcept override { return thread_->context(); }
  pid_t thread_id() const noexcept { return thread_->thread_id(); }
  std::span<const Property> properties() const noexcept override { return property_table(); }
  static std::span<const Property> property_table() noexcept;

  const PollParameters& polling() const noexcept { return polling_; }
  // Throws Error for negative values.
  void set_polling(PollParameters polling);

 private:
  PollParameters polling_{.max_ns = kDefaultPollMaxNs};
  std::unique_ptr<IoThread> thread_;
};

class MainLoopObject final : public EventLoopObject {
 public:
  MainLoopObject(MainLoop& loop, std::string id, const qapi::MainLoopProperties& options);

  AioContext& context() const noexcept override { return context_; }
  std::span<const Property> properties() const noexcept override { return property_table(); }
  static std::span<const Property> property_table() noexcept;
  bool can_be_deleted() const noexcept override { return false; }

 private:
  AioContext& context_;
};

}  // namespace strata
