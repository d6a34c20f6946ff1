// SPDX-License-Identifier: GPL-2.0-or-later
//
// Checking an image that is in use.
#include "block/qcow2/check.h"

#include "block/base/error.h"
#include "block/qcow2/image_check.h"
#include "block/qcow2/qcow2.h"
#include "qapi/commands_strata.h"
#include "storage-daemon/commands/families.h"
#include "storage-daemon/daemon.h"

namespace strata {
namespace {

namespace cmd = qapi::cmd;

constexpr size_t kMostFindings = 1000;

Task<qapi::StrataCheck> check(CommandContext& context, cmd::XStrataCheck::Arguments arguments) {
  NodePtr node = context.daemon.layer().find_node(arguments.node_name);
  if (node == nullptr || !node->is_open())
    throw Error("Failed to find node with node-name='{}'", arguments.node_name);
  qcow2::Image* image = qcow2::image_of(*node);
  if (image == nullptr)
    throw Error("Block format '{}' does not support checks", node->format_name());
  bool fix = arguments.fix == qapi::StrataCheckFix::leaks;
  if (fix && !node->is_writable())
    throw Error("Node '{}' is read-only: nothing can be mended", node->name());
  qapi::StrataCheck answer;
  qcow2::CheckResult result = co_await qcow2::check_live_image(
      context.loop, *image, fix, [&](qcow2::CheckSays, const std::string& line) {
        if (answer.findings.size() < kMostFindings) answer.findings.push_back(line);
      });
  static_cast<qapi::ImageCheck&>(answer) =
      qcow2::image_check(result, node->display_name(), node->format_name());
  co_return answer;
}

}  // namespace

void serve_check_commands(CommandTable& table) {
  table.serve<cmd::XStrataCheck>(&check);
}

}  // namespace strata
