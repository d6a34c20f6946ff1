// SPDX-License-Identifier: GPL-2.0-or-later
#include "storage-daemon/monitor/events.h"

#include <array>
#include <chrono>
#include <optional>

#include "block/base/trace.h"
#include "qapi/runtime/json_writer.h"

namespace strata {
namespace {

const TracePoint trace_monitor_protocol_event_emit("monitor_protocol_event_emit");

constexpr auto kInterval = std::chrono::seconds(1);
// Beyond so many limited kinds at a time (each has its own key) events are not limited, but are not
// remembered either.
constexpr size_t kMostLimiters = 1024;

// Events that are limited, and the members of their data that tell one flood from another.
struct Limited {
  std::string_view event;
  std::array<std::string_view, 2> keys;
};
constexpr std::array kLimited = {
    Limited{"BLOCK_IO_ERROR", {"qom-path", "node-name"}},
    Limited{"QUORUM_FAILURE", {}},
    Limited{"QUORUM_REPORT_BAD", {"node-name"}},
    Limited{"VSERPORT_CHANGE", {"id"}},
};

// Nothing if the event is not limited.
std::optional<std::string> flood_key(std::string_view name, const boost::json::object& data) {
  for (const Limited& limited : kLimited) {
    if (limited.event != name) continue;
    std::string key(name);
    for (std::string_view member : limited.keys) {
      key += '\0';
      if (const boost::json::value* value = data.if_contains(member))
        key += qapi::write_json(*value);
    }
    return key;
  }
  return std::nullopt;
}

boost::json::object make_event_object(std::string_view name, boost::json::object data) {
  int64_t now = std::chrono::duration_cast<std::chrono::microseconds>(
                    std::chrono::system_clock::now().time_since_epoch())
                    .count();
  boost::json::object event;
  event["timestamp"] = {{"seconds", now / 1000000}, {"microseconds", now % 1000000}};
  event["event"] = name;
  if (!data.empty()) event["data"] = std::move(data);
  return event;
}

}  // namespace

// Exists for a second after an event was sent.
class EventHub::Limiter final : public TimerHeap::Timer {
 public:
  Limiter(EventHub& hub, std::string key) : hub_(hub), key_(std::move(key)) { arm(); }
  ~Limiter() { hub_.context_.timers().disarm(*this); }

  void hold_back(boost::json::object event) { latest_ = std::move(event); }

 private:
  void arm() { hub_.context_.timers().arm(*this, hub_.context_.now() + kInterval); }
  void expired() noexcept override {
    if (!latest_) {
      hub_.limiters_.erase(key_);  // destroys this
      return;
    }
    hub_.send(*std::exchange(latest_, std::nullopt));
    arm();
  }

  EventHub& hub_;
  std::string key_;
  std::optional<boost::json::object> latest_;
};

EventHub::EventHub(AioContext& context) : context_(context) {}
EventHub::~EventHub() = default;

void EventHub::emit(std::string_view name, boost::json::object data) {
  std::optional<std::string> key = flood_key(name, data);
  boost::json::object event = make_event_object(name, std::move(data));
  if (key) {
    auto limiter = limiters_.find(*key);
    if (limiter != limiters_.end()) return limiter->second->hold_back(std::move(event));
    if (limiters_.size() < kMostLimiters)
      limiters_.emplace(*key, std::make_unique<Limiter>(*this, *key));
  }
  send(event);
}

void EventHub::send(const boost::json::object& event) {
  if (trace_monitor_protocol_event_emit.is_enabled())
    trace_monitor_protocol_event_emit("{}", qapi::write_json(event));
  for (EventListener* listener : listeners_) listener->on_event(event);
}

}  // namespace strata
