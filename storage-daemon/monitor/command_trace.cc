// SPDX-License-Identifier: GPL-2.0-or-later
#include "storage-daemon/monitor/command_trace.h"

#include <algorithm>

#include "qapi/runtime/json_writer.h"

namespace strata {

CommandTrace::CommandTrace(const CommandTable& commands) {
  for (const auto& entry : commands.entries()) {
    std::string name(entry.info->name);
    std::string word = name;
    std::ranges::replace(word, '-', '_');
    points_.try_emplace(std::move(name), word);
  }
}

void CommandTrace::enter(std::string_view command, const boost::json::object& arguments) const {
  const TracePoint& point = points(command).enter;
  if (point.is_enabled()) point("{}", qapi::write_json(arguments));
}

void CommandTrace::exit(std::string_view command, const boost::json::value& result) const {
  const TracePoint& point = points(command).exit;
  if (point.is_enabled()) point("{} 1", qapi::write_json(result));
}

void CommandTrace::fail(std::string_view command, const std::string& text) const {
  points(command).exit("{} 0", text);
}

}  // namespace strata
