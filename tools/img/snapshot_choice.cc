// SPDX-License-Identifier: GPL-2.0-or-later
#include "tools/img/snapshot_choice.h"

#include <boost/json/object.hpp>

#include "block/base/error.h"
#include "block/base/log.h"
#include "block/qcow2/qcow2.h"
#include "tools/common/image.h"

namespace strata::tools {

SnapshotChoice parse_snapshot_choice(const std::string& text) {
  SnapshotChoice choice;
  if (!text.starts_with("snapshot.")) {
    choice.any = text;
    return choice;
  }
  boost::json::object options = parse_image_options(text);
  for (const auto& [key, value] : options.at("snapshot").as_object()) {
    if (value.is_string() && key == "id") {
      choice.id = std::string(value.get_string());
    } else if (value.is_string() && key == "name") {
      choice.name = std::string(value.get_string());
    } else {
      log_error("Invalid parameter 'snapshot.{}'", std::string_view(key));
      throw Error("Failed in parsing snapshot param '{}'", text);
    }
  }
  return choice;
}

Task<void> show_snapshot(Node& node, SnapshotChoice choice) {
  std::optional<Error> failed;
  try {
    if (choice.any)
      co_await qcow2::show_snapshot(node, *choice.any);
    else
      co_await qcow2::show_snapshot(node, {.id = choice.id, .name = choice.name});
  } catch (Error& error) {
    failed = std::move(error).prepend("Failed to load snapshot: ");
  }
  if (failed) throw *failed;
}

}  // namespace strata::tools
