// SPDX-License-Identifier: GPL-2.0-or-later
#include "storage-daemon/monitor/request.h"

#include <algorithm>
#include <vector>

#include "qapi/runtime/json_writer.h"

namespace strata {
namespace {

using boost::json::object;
using boost::json::value;

// Of several faults the first in QEMU's order of members is reported.
std::vector<std::string_view> member_names(const object& request) {
  std::vector<std::string_view> names;
  for (const auto& member : request) names.push_back(member.key());
  std::ranges::sort(names, {}, [](std::string_view name) { return qapi::dictionary_bucket(name); });
  return names;
}

void take_command(QmpRequest& request, const value& command, std::string_view member) {
  const boost::json::string* text = command.if_string();
  if (text == nullptr) throw Error("QMP input member '{}' must be a string", member);
  request.command = *text;
  request.out_of_band = member == "exec-oob";
}

}  // namespace

std::optional<value> id_of(const value& input) {
  const object* request = input.if_object();
  const value* id = request != nullptr ? request->if_contains("id") : nullptr;
  return id != nullptr ? std::optional(*id) : std::nullopt;
}

QmpRequest parse_request(const value& input, bool oob_enabled) {
  const object* members = input.if_object();
  if (members == nullptr) throw Error("QMP input must be a JSON object");
  QmpRequest request;
  bool has_command = false;
  for (std::string_view name : member_names(*members)) {
    const value& member = members->at(name);
    if (name == "execute" || (name == "exec-oob" && oob_enabled)) {
      if (has_command && member.is_string())
        throw Error("QMP input member 'execute' clashes with 'exec-oob'");
      take_command(request, member, name);
      has_command = true;
    } else if (name == "arguments") {
      const object* arguments = member.if_object();
      if (arguments == nullptr) throw Error("QMP input member 'arguments' must be an object");
      request.arguments = *arguments;
    } else if (name != "id") {
      throw Error("QMP input member '{}' is unexpected", name);
    }
  }
  if (!has_command) throw Error("QMP input lacks member 'execute'");
  return request;
}

object make_error_reply(const Error& error, const std::optional<value>& id) {
  object reply;
  reply["error"] = {{"class", to_string(error.error_class())}, {"desc", error.text()}};
  if (id) reply["id"] = *id;
  return reply;
}

object make_reply(value result, const std::optional<value>& id) {
  object reply;
  reply["return"] = std::move(result);
  if (id) reply["id"] = *id;
  return reply;
}

}  // namespace strata
