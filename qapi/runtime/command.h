// SPDX-License-Identifier: GPL-2.0-or-later
//
// What the schema says about commands and events, for tables of handlers and for introspection.
#pragma once

#include <boost/json/value.hpp>
#include <cstdint>
#include <optional>
#include <string_view>

#include "qapi/runtime/type_info.h"
#include "qapi/runtime/visitor.h"

namespace strata::qapi {

// The arguments of a command that takes none, and the data of an event that has none.
struct NoArguments {
  friend constexpr bool operator==(NoArguments, NoArguments) noexcept = default;
};
template <>
const TypeInfo& type_info<NoArguments>() noexcept;

struct CommandDescription {
  std::string_view name;
  TypeRef arguments;
  TypeRef returns;  // null: an empty object
  bool allow_oob = false;
  bool allow_preconfig = false;
  bool coroutine = false;
  bool success_response = true;
  Features features{};
  std::uint16_t index = 0;  // its place in the schema, among commands and events
};

struct EventDescription {
  std::string_view name;
  TypeRef data;
  Features features{};
  std::uint16_t index = 0;
};

// An event on its way to the monitors; they add the time and limit the rate.
struct Event {
  const EventDescription* info;
  std::optional<boost::json::value> data;  // none where the event carries none

  std::string_view name() const noexcept { return info->name; }
};

// make_event(event::BlockJobPending{.type = JobType::backup, .id = "job0"})
template <class E>
Event make_event(const E& event) {
  const EventDescription& info = E::info();
  if (info.data == type_info<NoArguments>) return Event{&info, std::nullopt};
  return Event{&info, write_value(info.data(), &event)};
}

}  // namespace strata::qapi
