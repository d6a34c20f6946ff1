// SPDX-License-Identifier: GPL-2.0-or-later
//
// Jobs, and the commands that start them.
#include "block/base/error.h"
#include "block/graph/reopen.h"
#include "block/jobs/amend.h"
#include "block/jobs/create.h"
#include "block/qcow2/image.h"
#include "block/qcow2/qcow2.h"
#include "qapi/commands_block_create.h"
#include "qapi/commands_block_job.h"
#include "qapi/commands_job.h"
#include "qapi/visit_blockdev.h"
#include "storage-daemon/commands/families.h"
#include "storage-daemon/daemon.h"

namespace strata {
namespace {

namespace cmd = qapi::cmd;

void job_pause(CommandContext& context, cmd::JobPause::Arguments arguments) {
  context.daemon.jobs().pause(arguments.id);
}

void job_resume(CommandContext& context, cmd::JobResume::Arguments arguments) {
  context.daemon.jobs().resume(arguments.id);
}

void job_cancel(CommandContext& context, cmd::JobCancel::Arguments arguments) {
  context.daemon.jobs().cancel(arguments.id);
}

void job_complete(CommandContext& context, cmd::JobComplete::Arguments arguments) {
  context.daemon.jobs().complete(arguments.id);
}

Task<void> job_finalize(CommandContext& context, cmd::JobFinalize::Arguments arguments) {
  return context.daemon.jobs().finalize(std::move(arguments.id));
}

void job_dismiss(CommandContext& context, cmd::JobDismiss::Arguments arguments) {
  context.daemon.jobs().dismiss(arguments.id);
}

std::vector<qapi::JobInfo> query_jobs(CommandContext& context, qapi::NoArguments) {
  return context.daemon.jobs().query();
}

void blockdev_create(CommandContext& context, cmd::BlockdevCreate::Arguments arguments) {
  start_create_job(context.loop, context.daemon.layer(), context.daemon.jobs(),
                   std::move(arguments.job_id), std::move(arguments.options));
}

Task<void> x_blockdev_amend(CommandContext& context, cmd::XBlockdevAmend::Arguments arguments) {
  return start_amend_job(context.loop, context.daemon.layer(), context.daemon.jobs(),
                         std::move(arguments.job_id), std::move(arguments.node_name),
                         std::move(arguments.options), arguments.force.value_or(false));
}

bool chain_contains(const Node& top, const Node& wanted) {
  for (const Node* node = &top; node != nullptr;) {
    if (node == &wanted) return true;
    Edge* next = node->child_in_role(ChildRole::cow);
    if (node->descriptor().is_filter) next = node->child_in_role(ChildRole::filtered);
    node = next != nullptr ? &next->node() : nullptr;
  }
  return false;
}

Task<void> set_read_only(CommandContext& context, NodePtr image, bool read_only) {
  boost::json::object options = current_options(*image);
  options["read-only"] = read_only;
  std::vector<NewOptions> nodes;
  nodes.push_back({std::move(image), qapi::from_json<qapi::BlockdevOptions>(options)});
  co_await reopen_nodes(context.loop, context.daemon.layer(), std::move(nodes));
}

// What the image says of its backing file, for which it may be written to; the node behind it stays
// as it is.
Task<void> change_backing_file(CommandContext& context,
                               cmd::ChangeBackingFile::Arguments arguments) {
  BlockLayer& layer = context.daemon.layer();
  NodePtr top = layer.lookup_node(arguments.device);
  NodePtr image = layer.find_node(arguments.image_node_name);
  if (!image || !image->is_open()) throw Error("image file not found");
  if (image->backing() == nullptr)
    throw Error("not allowing backing file change on an image without a backing file");
  if (!chain_contains(*top, *image))
    throw Error("'{}' and image file are not in the same chain", arguments.device);
  bool read_only = image->is_read_only();
  if (read_only) co_await set_read_only(context, image, false);
  qcow2::Image* target = qcow2::image_of(*image);
  Status status = Status::error(ENOTSUP);
  if (!image->is_writable()) {
    status = Status::error(EACCES);
  } else if (target != nullptr) {
    status = co_await target->change_backing_file(arguments.backing_file,
                                                  std::string(image->format_name()));
  }
  if (read_only) co_await set_read_only(context, image, true);
  if (!status.ok())
    throw Error::from_errno(status.error_number(), "Could not change backing file to '{}'",
                            arguments.backing_file);
}

}  // namespace

void serve_job_commands(CommandTable& table) {
  table.serve<cmd::JobPause>(&job_pause);
  table.serve<cmd::JobResume>(&job_resume);
  table.serve<cmd::JobCancel>(&job_cancel);
  table.serve<cmd::JobComplete>(&job_complete);
  table.serve<cmd::JobFinalize>(&job_finalize);
  table.serve<cmd::JobDismiss>(&job_dismiss);
  table.serve<cmd::QueryJobs>(&query_jobs);
  table.serve<cmd::BlockdevCreate>(&blockdev_create);
  table.serve<cmd::XBlockdevAmend>(&x_blockdev_amend);
  table.serve<cmd::ChangeBackingFile>(&change_backing_file);
}

}  // namespace strata
