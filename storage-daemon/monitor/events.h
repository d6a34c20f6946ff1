// SPDX-License-Identifier: GPL-2.0-or-later
//
// Events on their way to all monitors.
#pragma once

#include <boost/json/object.hpp>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "block/aio/aio_context.h"

namespace strata {

class EventListener {
 public:
  virtual void on_event(const boost::json::object& event) = 0;

 protected:
  ~EventListener() = default;
};

// Stamps events with the time and sends them to whoever listens. Of the kinds that can come in
// floods at most one a second is sent: the first at once, then the latest of each further second.
// Main loop only.
class EventHub {
 public:
  explicit EventHub(AioContext& context);
  ~EventHub();

  void emit(std::string_view name, boost::json::object data);

  void add(EventListener& listener) { listeners_.push_back(&listener); }
  void remove(EventListener& listener) noexcept { std::erase(listeners_, &listener); }

 private:
  class Limiter;

  void send(const boost::json::object& event);

  AioContext& context_;
  std::vector<EventListener*> listeners_;
  std::map<std::string, std::unique_ptr<Limiter>, std::less<>> limiters_;
};

}  // namespace strata
