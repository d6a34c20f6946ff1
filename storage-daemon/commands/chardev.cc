// SPDX-License-Identifier: GPL-2.0-or-later
#include <algorithm>

#include "block/base/base64.h"
#include "block/base/error.h"
#include "qapi/commands_char.h"
#include "storage-daemon/chardev/pty.h"
#include "storage-daemon/chardev/registry.h"
#include "storage-daemon/chardev/ringbuf.h"
#include "storage-daemon/commands/families.h"
#include "storage-daemon/daemon.h"

namespace strata {
namespace {

namespace cmd = qapi::cmd;

std::vector<qapi::ChardevInfo> query_chardev(CommandContext& context, qapi::NoArguments) {
  std::vector<qapi::ChardevInfo> infos;
  for (const auto& device : context.daemon.chardevs().all())
    infos.push_back({device->id(), device->filename(), device->has_front_end()});
  return infos;
}

std::vector<qapi::ChardevBackendInfo> query_chardev_backends(CommandContext&, qapi::NoArguments) {
  std::vector<qapi::ChardevBackendInfo> infos;
  for (qapi::ChardevBackendKind kind : ChardevRegistry::backends())
    infos.push_back({std::string(to_string(kind))});
  return infos;
}

qapi::ChardevReturn describe_new(const Chardev& device) {
  const auto* pty = dynamic_cast<const PtyChardev*>(&device);
  if (pty == nullptr) return {};
  return {.pty = pty->device()};
}

// `task` makes a device; what it throws says which device it was about.
Task<qapi::ChardevReturn> make_device(Task<Chardev*> task, std::string prefix) {
  try {
    co_return describe_new(*co_await std::move(task));
  } catch (Error& error) {
    throw std::move(error).prepend(prefix);
  }
}

Task<qapi::ChardevReturn> chardev_add(CommandContext& context,
                                      cmd::ChardevAdd::Arguments arguments) {
  ChardevRegistry& chardevs = context.daemon.chardevs();
  if (chardevs.find(arguments.id) != nullptr)
    throw Error("Chardev with id '{}' already exists", arguments.id);
  return make_device(chardevs.add(context.loop, arguments.id, std::move(arguments.backend)),
                     "Failed to add chardev '" + arguments.id + "': ");
}

Task<qapi::ChardevReturn> chardev_change(CommandContext& context,
                                         cmd::ChardevChange::Arguments arguments) {
  ChardevRegistry& chardevs = context.daemon.chardevs();
  chardevs.check_changeable(arguments.id);
  return make_device(chardevs.change(context.loop, arguments.id, std::move(arguments.backend)),
                     "Failed to add chardev '" + arguments.id + "': ");
}

Task<void> chardev_remove(CommandContext& context, cmd::ChardevRemove::Arguments arguments) {
  return context.daemon.chardevs().remove(context.loop, std::move(arguments.id));
}

void chardev_send_break(CommandContext& context, cmd::ChardevSendBreak::Arguments arguments) {
  Chardev* device = context.daemon.chardevs().find(arguments.id);
  if (device == nullptr) throw Error("Chardev '{}' not found", arguments.id);
  device->send_break();
}

RingBuffer& find_ring(CommandContext& context, const std::string& id) {
  Chardev* device = context.daemon.chardevs().find(id);
  if (device == nullptr) throw Error("Device '{}' not found", id);
  auto* ring = dynamic_cast<RingbufChardev*>(device);
  if (ring == nullptr) throw Error("{} is not a ringbuf device", id);
  return ring->buffer();
}

void ringbuf_write(CommandContext& context, cmd::RingbufWrite::Arguments arguments) {
  RingBuffer& ring = find_ring(context, arguments.device);
  if (arguments.format == qapi::DataFormat::base64)
    ring.write(decode_base64(arguments.data));
  else
    ring.write(arguments.data);
}

std::string ringbuf_read(CommandContext& context, cmd::RingbufRead::Arguments arguments) {
  RingBuffer& ring = find_ring(context, arguments.device);
  if (arguments.size <= 0) throw Error("size must be greater than zero");
  std::string data = ring.read(static_cast<size_t>(arguments.size));
  if (arguments.format == qapi::DataFormat::base64) return encode_base64(data);
  return data;
}

}  // namespace

void serve_chardev_commands(CommandTable& table) {
  table.serve<cmd::QueryChardev>(&query_chardev);
  table.serve<cmd::QueryChardevBackends>(&query_chardev_backends);
  table.serve<cmd::ChardevAdd>(&chardev_add);
  table.serve<cmd::ChardevChange>(&chardev_change);
  table.serve<cmd::ChardevRemove>(&chardev_remove);
  table.serve<cmd::ChardevSendBreak>(&chardev_send_break);
  table.serve<cmd::RingbufWrite>(&ringbuf_write);
  table.serve<cmd::RingbufRead>(&ringbuf_read);
}

}  // namespace strata
