// SPDX-License-Identifier: GPL-2.0-or-later
//
// Descriptors that come over a monitor's socket.
#include <cctype>

#include "block/base/error.h"
#include "qapi/commands_descriptor.h"
#include "storage-daemon/commands/families.h"
#include "storage-daemon/daemon.h"
#include "storage-daemon/monitor/session.h"

namespace strata {
namespace {

namespace cmd = qapi::cmd;

UniqueFd received(CommandContext& context) {
  UniqueFd fd = context.session.take_received_fd();
  if (!fd) throw Error("No file descriptor supplied via SCM_RIGHTS");
  return fd;
}

[[noreturn]] void throw_not_found(const std::string& name) {
  throw Error("File descriptor named '{}' not found", name);
}

void getfd(CommandContext& context, cmd::Getfd::Arguments arguments) {
  UniqueFd fd = received(context);
  if (!arguments.fdname.empty() && std::isdigit(static_cast<unsigned char>(arguments.fdname[0])))
    throw Error("Parameter 'fdname' expects a name not starting with a digit");
  context.daemon.passed_fds().add(std::move(arguments.fdname), std::move(fd));
}

void closefd(CommandContext& context, cmd::Closefd::Arguments arguments) {
  if (!context.daemon.passed_fds().take(arguments.fdname)) throw_not_found(arguments.fdname);
}

qapi::AddfdInfo add_fd(CommandContext& context, cmd::AddFd::Arguments arguments) {
  UniqueFd fd = received(context);
  if (arguments.fdset_id.value_or(0) < 0)
    throw Error("Parameter 'fdset-id' expects a non-negative value");
  int number = fd.get();
  int64_t set = context.daemon.passed_fds().sets().add(std::move(fd), arguments.fdset_id,
                                                       std::move(arguments.opaque));
  return {set, number};
}

void remove_fd(CommandContext& context, cmd::RemoveFd::Arguments arguments) {
  if (context.daemon.passed_fds().sets().remove(arguments.fdset_id, arguments.fd)) return;
  std::string name = fmt::format("fdset-id:{}", arguments.fdset_id);
  if (arguments.fd) name += fmt::format(", fd:{}", *arguments.fd);
  throw_not_found(name);
}

std::vector<qapi::FdsetInfo> query_fdsets(CommandContext& context, qapi::NoArguments) {
  std::vector<qapi::FdsetInfo> infos;
  const auto& sets = context.daemon.passed_fds().sets().all();
  for (auto set = sets.rbegin(); set != sets.rend(); ++set) {
    qapi::FdsetInfo& info = infos.emplace_back();
    info.fdset_id = set->first;
    for (const FdSets::Member& member : set->second)
      info.fds.push_back({member.fd.get(), member.opaque});
  }
  return infos;
}

}  // namespace

void serve_descriptor_commands(CommandTable& table) {
  table.serve<cmd::Getfd>(&getfd);
  table.serve<cmd::Closefd>(&closefd);
  table.serve<cmd::AddFd>(&add_fd);
  table.serve<cmd::RemoveFd>(&remove_fd);
  table.serve<cmd::QueryFdsets>(&query_fdsets);
}

}  // namespace strata
