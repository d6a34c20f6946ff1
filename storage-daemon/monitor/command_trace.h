// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <map>
#include <string>
#include <string_view>

#include "block/base/trace.h"
#include "storage-daemon/commands/context.h"

namespace strata {

// Two trace points a command: qmp_enter_NAME with the arguments and qmp_exit_NAME with the result.
class CommandTrace {
 public:
  explicit CommandTrace(const CommandTable& commands);

  // `command` is one of the table's.
  void enter(std::string_view command, const boost::json::object& arguments) const;
  void exit(std::string_view command, const boost::json::value& result) const;
  void fail(std::string_view command, const std::string& text) const;

 private:
  struct Points {
    explicit Points(const std::string& name)
        : enter("qmp_enter_" + name), exit("qmp_exit_" + name) {}
    TracePoint enter;
    TracePoint exit;
  };
  const Points& points(std::string_view command) const { return points_.find(command)->second; }

  std::map<std::string, Points, std::less<>> points_;
};

}  // namespace strata
