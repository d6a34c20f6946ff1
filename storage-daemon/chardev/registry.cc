// SPDX-License-Identifier: GPL-2.0-or-later
#include "storage-daemon/chardev/registry.h"

#include <algorithm>
#include <cassert>

#include "block/base/error.h"
#include "block/base/log.h"
#include "storage-daemon/chardev/pty.h"
#include "storage-daemon/chardev/ringbuf.h"
#include "storage-daemon/chardev/simple.h"
#include "storage-daemon/chardev/socket.h"

namespace strata {
namespace {

using Kind = qapi::ChardevBackendKind;

bool waits_for_client(const qapi::ChardevBackend& backend) {
  const auto* socket = backend.get_if<qapi::ChardevSocketWrapper>();
  return socket != nullptr && socket->data.server.value_or(true) &&
         socket->data.wait.value_or(false);
}

const qapi::ChardevCommon* common_options(const qapi::ChardevBackend& backend) {
  return std::visit(
      [](const auto& branch) -> const qapi::ChardevCommon* {
        if constexpr (requires { branch.data; })
          return &branch.data;
        else
          return nullptr;
      },
      backend.u);
}

}  // namespace

ChardevRegistry::~ChardevRegistry() {
  assert(devices_.empty() && "character devices are closed before they are destroyed");
}

std::vector<Kind> ChardevRegistry::backends() {
  return {Kind::ringbuf, Kind::null,   Kind::stdio, Kind::socket,
          Kind::file,    Kind::memory, Kind::pty};
}

Chardev* ChardevRegistry::find(std::string_view id) const {
  for (const auto& device : devices_) {
    if (device->id() == id) return device.get();
  }
  return nullptr;
}

Task<std::unique_ptr<Chardev>> ChardevRegistry::open_backend(MainLoop& loop, std::string id,
                                                             qapi::ChardevBackend backend) {
  switch (backend.type) {
    case Kind::socket:
      co_return co_await SocketChardev::open(
          loop, passed_, std::move(id),
          std::move(backend.get_if<qapi::ChardevSocketWrapper>()->data));
    case Kind::file:
      co_return std::make_unique<FileChardev>(loop, std::move(id),
                                              backend.get_if<qapi::ChardevFileWrapper>()->data);
    case Kind::stdio:
      if (stdio_forbidden_) throw Error("cannot use stdio with -daemonize");
      for (const auto& device : devices_) {
        if (dynamic_cast<StdioChardev*>(device.get()) != nullptr)
          throw Error("cannot use stdio by multiple character devices");
      }
      co_return std::make_unique<StdioChardev>(loop, std::move(id),
                                               backend.get_if<qapi::ChardevStdioWrapper>()->data);
    case Kind::pty:
      co_return std::make_unique<PtyChardev>(loop, std::move(id),
                                             backend.get_if<qapi::ChardevPtyWrapper>()->data);
    case Kind::ringbuf:
    case Kind::memory:
      co_return std::make_unique<RingbufChardev>(
          std::move(id), backend.get_if<qapi::ChardevRingbufWrapper>()->data.size.value_or(
                             RingbufChardev::kDefaultSize));
    case Kind::null:
      co_return std::make_unique<NullChardev>(std::move(id));
    default:
      throw Error("'{}' is not a valid char driver name", to_string(backend.type));
  }
}

Task<std::unique_ptr<Chardev>> ChardevRegistry::open(MainLoop& loop, std::string id,
                                                     qapi::ChardevBackend backend) {
  std::shared_ptr<LogFile> log;
  const qapi::ChardevCommon* common = common_options(backend);
  if (common != nullptr && common->logfile)
    log = std::make_shared<LogFile>(*common->logfile, common->logappend.value_or(false),
                                    common->logtimestamp.value_or(false));
  std::unique_ptr<Chardev> opened = co_await open_backend(loop, std::move(id), std::move(backend));
  opened->set_log(std::move(log));
  co_return opened;
}

Task<Chardev*> ChardevRegistry::add(MainLoop& loop, std::string id, qapi::ChardevBackend backend) {
  if (find(id) != nullptr)
    throw Error("attempt to add duplicate property '{}' to object (type 'container')", id);
  if (id.empty() || id.find('/') != std::string::npos)
    throw Error("Parameter 'id' expects an identifier");
  bool wait = waits_for_client(backend);
  std::unique_ptr<Chardev> opened = co_await open(loop, std::move(id), std::move(backend));
  Chardev* device = opened.get();
  devices_.push_back(std::move(opened));
  if (wait) {
    log_error("info: QEMU waiting for connection on: {}", device->filename());
    co_await device->wait_connected();
  }
  co_return device;
}

void ChardevRegistry::check_changeable(const std::string& id) const {
  const Chardev* device = find(id);
  if (device == nullptr) throw Error("Chardev '{}' does not exist", id);
  if (device->has_front_end()) throw Error("Chardev user does not support chardev hotswap");
}

Task<Chardev*> ChardevRegistry::change(MainLoop& loop, std::string id,
                                       qapi::ChardevBackend backend) {
  check_changeable(id);
  std::unique_ptr<Chardev> opened = co_await open(loop, id, std::move(backend));
  // Commands come one at a time, so it is still there and free.
  Chardev* old = find(id);
  co_await old->close();
  Chardev* device = opened.get();
  auto place = std::ranges::find(devices_, old, &std::unique_ptr<Chardev>::get);
  *place = std::move(opened);
  co_return device;
}

Task<void> ChardevRegistry::remove(MainLoop&, std::string id) {
  Chardev* device = find(id);
  if (device == nullptr) throw Error("Chardev '{}' not found", id);
  if (device->has_front_end()) throw Error("Chardev '{}' is busy", id);
  auto place = std::ranges::find(devices_, device, &std::unique_ptr<Chardev>::get);
  std::unique_ptr<Chardev> owned = std::move(*place);
  devices_.erase(place);
  co_await owned->close();
}

void ChardevRegistry::begin_close_all(MainLoop&) {
  for (auto& device : devices_) device->begin_close();
}

Task<void> ChardevRegistry::close_all(MainLoop&) {
  for (auto& device : devices_) co_await device->close();
  devices_.clear();
}

}  // namespace strata
