// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/export/nbd/service.h"

#include <sys/socket.h>

#include <cassert>

#include "block/base/error.h"
#include "block/base/log.h"
#include "block/export/nbd/export.h"

namespace strata {

using nbd_export::ExportSettings;
using nbd_export::NbdExport;
using nbd_export::NbdServer;

// The NbdExport in the registry's terms.
class NbdService::ServedExport final : public Export {
 public:
  ServedExport(std::string id, NbdService& service, std::shared_ptr<NbdExport> served)
      : Export(std::move(id), qapi::BlockExportType::nbd),
        service_(service),
        served_(std::move(served)) {}

  Backend& backend() const noexcept override { return served_->backend(); }
  size_t users() const noexcept override { return served_->users(); }

 private:
  Task<void> shut_down(MainLoop& loop) override {
    co_await service_.server_->remove_export(served_);
    co_await served_->backend().close(loop);
  }

  NbdService& service_;
  std::shared_ptr<NbdExport> served_;
};

namespace {

ExportSettings settings_from(const qapi::BlockExportOptions& options,
                             std::vector<AioContext*> contexts) {
  const auto& nbd = *options.get_if<qapi::BlockExportOptionsNbd>();
  ExportSettings settings;
  settings.name = nbd.name.value_or(options.node_name);
  settings.description = nbd.description.value_or("");
  settings.writable = options.writable.value_or(false);
  settings.allocation_depth = nbd.allocation_depth.value_or(false);
  settings.contexts = std::move(contexts);
  if (settings.name.size() > nbd::kMaxString)
    throw Error("export name '{}' too long", settings.name);
  if (settings.description.size() > nbd::kMaxString)
    throw Error("description '{}' too long", settings.description);
  if (nbd.bitmaps && !nbd.bitmaps->empty()) {
    const auto& first = nbd.bitmaps->front();
    const auto* name = std::get_if<std::string>(&first);
    throw Error("Bitmap '{}' is not found",
                name != nullptr ? *name : std::get<qapi::BlockDirtyBitmap>(first).name);
  }
  return settings;
}

// A node that changes its size under its clients breaks them.
void forbid_resize(MainLoop& loop, Backend& backend) {
  Permissions permissions = backend.root().permissions();
  permissions.shared = permissions.shared.without(Permission::resize);
  backend.set_permissions(loop, permissions);
}

}  // namespace

NbdService::NbdService(ExportRegistry& exports, PassedFds& passed)
    : exports_(exports), passed_(passed) {
  exports_.register_type(qapi::BlockExportType::nbd,
                         [this](ExportParts parts) { return make_export(std::move(parts)); });
}

NbdService::~NbdService() {
  assert(!server_ && "the NBD server is stopped before it ends");
}

Task<void> NbdService::start(MainLoop& loop, SocketAddress address, nbd_export::ServerLimits limits,
                             nbd_export::TlsPolicy tls) {
  if (server_ || starting_) throw Error("NBD server already running");
  struct Starting {
    bool& flag;
    explicit Starting(bool& f) : flag(f) { flag = true; }
    ~Starting() { flag = false; }
  } starting(starting_);
  std::vector<ListeningSocket> sockets =
      co_await listen_on(loop.context(), std::move(address), SOMAXCONN, passed_);
  server_ = std::make_unique<NbdServer>(loop, limits, std::move(tls), std::move(sockets),
                                        [](std::string_view text) { log_error("{}", text); });
}

Task<void> NbdService::stop(MainLoop& loop) {
  if (!server_) throw Error("NBD server not running");
  co_await exports_.remove_all(loop, qapi::BlockExportType::nbd);
  if (!server_) co_return;  // somebody else stopped it meanwhile
  std::unique_ptr<NbdServer> server = std::move(server_);
  co_await server->stop();
}

Task<std::unique_ptr<Export>> NbdService::make_export(ExportParts parts) {
  std::exception_ptr failure;
  try {
    if (!server_) throw Error("NBD server not running");
    ExportSettings settings = settings_from(parts.options, parts.contexts);
    settings.multi_conn = server_->limits().max_connections != 1;
    if (server_->exports().find(settings.name))
      throw Error("NBD server already has export named '{}'", settings.name);
    forbid_resize(parts.loop, *parts.backend);
    auto served = std::make_shared<NbdExport>(std::move(parts.backend), std::move(settings));
    server_->add_export(served);
    co_return std::make_unique<ServedExport>(parts.options.id, *this, std::move(served));
  } catch (const Error&) {
    failure = std::current_exception();
  }
  co_await parts.backend->close(parts.loop);
  std::rethrow_exception(failure);
}

}  // namespace strata
