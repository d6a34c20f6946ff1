// SPDX-License-Identifier: GPL-2.0-or-later
#include "storage-daemon/objects/event_loop.h"

#include <array>
#include <climits>

#include "block/base/error.h"

namespace strata {
namespace {

using boost::json::value;

int64_t check_range(int64_t number, std::string_view name) {
  if (number < 0) throw Error("{} value must be in range [0, {}]", name, INT64_MAX);
  return number;
}

void check_thread_pool(int64_t min, int64_t max) {
  if (min > max || max == 0 || min > INT_MAX || max > INT_MAX)
    throw Error("bad thread-pool-min/thread-pool-max values");
}

const EventLoopObject& loop_of(const UserObject& object) {
  return static_cast<const EventLoopObject&>(object);
}
EventLoopObject& loop_of(UserObject& object) {
  return static_cast<EventLoopObject&>(object);
}
IothreadObject& thread_of(UserObject& object) {
  return static_cast<IothreadObject&>(object);
}
const PollParameters& polling_of(const UserObject& object) {
  return static_cast<const IothreadObject&>(object).polling();
}

int64_t natural(const value& number, std::string_view name) {
  return check_range(integer_of(number, name), name);
}

constexpr Property kAioMaxBatch{
    "aio-max-batch", "int", [](const UserObject& o) -> value { return loop_of(o).aio_max_batch(); },
    [](UserObject& o, const value& v) {
      loop_of(o).set_aio_max_batch(integer_of(v, "aio-max-batch"));
    }};
constexpr Property kThreadPoolMin{
    "thread-pool-min", "int",
    [](const UserObject& o) -> value { return loop_of(o).thread_pool_min(); },
    [](UserObject& o, const value& v) {
      loop_of(o).set_thread_pool(natural(v, "thread-pool-min"), loop_of(o).thread_pool_max());
    }};
constexpr Property kThreadPoolMax{
    "thread-pool-max", "int",
    [](const UserObject& o) -> value { return loop_of(o).thread_pool_max(); },
    [](UserObject& o, const value& v) {
      loop_of(o).set_thread_pool(loop_of(o).thread_pool_min(), natural(v, "thread-pool-max"));
    }};
constexpr Property kPollMaxNs{"poll-max-ns", "int",
                              [](const UserObject& o) -> value { return polling_of(o).max_ns; },
                              [](UserObject& o, const value& v) {
                                PollParameters polling = polling_of(o);
                                polling.max_ns = natural(v, "poll-max-ns");
                                thread_of(o).set_polling(polling);
                              }};
constexpr Property kPollGrow{"poll-grow", "int",
                             [](const UserObject& o) -> value { return polling_of(o).grow; },
                             [](UserObject& o, const value& v) {
                               PollParameters polling = polling_of(o);
                               polling.grow = natural(v, "poll-grow");
                               thread_of(o).set_polling(polling);
                             }};
constexpr Property kPollShrink{"poll-shrink", "int",
                               [](const UserObject& o) -> value { return polling_of(o).shrink; },
                               [](UserObject& o, const value& v) {
                                 PollParameters polling = polling_of(o);
                                 polling.shrink = natural(v, "poll-shrink");
                                 thread_of(o).set_polling(polling);
                               }};

constexpr std::array kIothreadProperties{kThreadPoolMin, kAioMaxBatch, kThreadPoolMax,
                                         kPollMaxNs,     kPollGrow,    kPollShrink};
constexpr std::array kMainLoopProperties{kThreadPoolMin, kAioMaxBatch, kThreadPoolMax};

}  // namespace

void EventLoopObject::check(const qapi::EventLoopBaseProperties& options) {
  check_range(options.aio_max_batch.value_or(0), "aio-max-batch");
  check_thread_pool(check_range(options.thread_pool_min.value_or(0), "thread-pool-min"),
                    check_range(options.thread_pool_max.value_or(64), "thread-pool-max"));
}

void EventLoopObject::apply(const qapi::EventLoopBaseProperties& options) {
  set_aio_max_batch(options.aio_max_batch.value_or(0));
  set_thread_pool(options.thread_pool_min.value_or(0), options.thread_pool_max.value_or(64));
}

void EventLoopObject::set_aio_max_batch(int64_t requests) {
  aio_max_batch_ = check_range(requests, "aio-max-batch");
  context().set_aio_max_batch(static_cast<uint32_t>(std::min<int64_t>(requests, UINT32_MAX)));
}

void EventLoopObject::set_thread_pool(int64_t min, int64_t max) {
  check_thread_pool(min, max);
  thread_pool_min_ = min;
  thread_pool_max_ = max;
  context().set_thread_pool_limits(
      {.min = static_cast<size_t>(min), .max = static_cast<size_t>(max)});
}

IothreadObject::IothreadObject(std::string id, const qapi::IothreadProperties& options)
    : EventLoopObject(std::move(id), "iothread") {
  check(options);
  check_range(options.poll_max_ns.value_or(0), "poll-max-ns");
  check_range(options.poll_grow.value_or(0), "poll-grow");
  check_range(options.poll_shrink.value_or(0), "poll-shrink");
  thread_ = std::make_unique<IoThread>(this->id());
  apply(options);
  set_polling({.max_ns = options.poll_max_ns.value_or(kDefaultPollMaxNs),
               .grow = options.poll_grow.value_or(0),
               .shrink = options.poll_shrink.value_or(0)});
}

void IothreadObject::set_polling(PollParameters polling) {
  polling_ = polling;
  context().set_poll_parameters(polling);
}

std::span<const Property> IothreadObject::property_table() noexcept {
  return kIothreadProperties;
}

MainLoopObject::MainLoopObject(MainLoop& loop, std::string id,
                               const qapi::MainLoopProperties& options)
    : EventLoopObject(std::move(id), "main-loop"), context_(loop.context()) {
  check(options);
  apply(options);
}

std::span<const Property> MainLoopObject::property_table() noexcept {
  return kMainLoopProperties;
}

}  // namespace strata
