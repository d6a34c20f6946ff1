// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/export/nbd/service.h"

#include <sys/socket.h>

#include <cassert>

#include "block/base/error.h"
#include "block/base/log.h"
#include "block/export/nbd/export.h"
#include "block/graph/bitmaps.h"

namespace strata {

using nbd_export::ExportSettings;
using nbd_export::NbdExport;
using nbd_export::NbdServer;

// The NbdExport in the registry's terms.
class NbdService::ServedExport final : public Export {
 public:
  ServedExport(std::string id, NbdServer& server, std::shared_ptr<NbdExport> served)
      : Export(std::move(id), qapi::BlockExportType::nbd),
        server_(server),
        served_(std::move(served)) {}

  const NbdServer& server() const noexcept { return server_; }

  Backend& backend() const noexcept override { return served_->backend(); }
  size_t users() const noexcept override { return served_->users(); }

 private:
  Task<void> shut_down(MainLoop& loop) override {
    co_await server_.remove_export(served_);
    co_await served_->backend().close(loop);
  }

  NbdServer& server_;
  std::shared_ptr<NbdExport> served_;
};

namespace {

Error not_running(const std::string& id) {
  if (id.empty()) return Error("NBD server not running");
  return Error("NBD server '{}' not running", id);
}

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
  return settings;
}

// Those named alone are looked for in the chain of the exported node, and judged together with it;
// those of a node are taken as they are.
std::vector<DirtyBitmapPtr> find_bitmaps(BlockLayer& layer, Node& exported,
                                         const qapi::BlockExportOptions& options) {
  std::vector<DirtyBitmapPtr> found;
  const auto& wanted = options.get_if<qapi::BlockExportOptionsNbd>()->bitmaps;
  if (!wanted) return found;
  for (const qapi::BlockDirtyBitmapOrStr& each : *wanted) {
    if (const auto* name = std::get_if<std::string>(&each)) {
      found.push_back(
          nbd_export::find_exported_bitmap(exported, *name, options.writable.value_or(false)));
      continue;
    }
    const auto& external = std::get<qapi::BlockDirtyBitmap>(each);
    NodePtr node = layer.find_node(external.node);
    if (!node || !node->is_open()) throw Error("Node '{}' not found", external.node);
    found.push_back(lookup_bitmap(*node, external.name));
    found.back()->check(DirtyBitmap::Use::read);
  }
  return found;
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
  assert(servers_.empty() && "NBD servers are stopped before they end");
}

NbdServer* NbdService::find(const std::string& id) const noexcept {
  auto found = servers_.find(id);
  return found != servers_.end() ? found->second.get() : nullptr;
}

void NbdService::check_startable(const std::string& id, bool is_named) const {
  if (is_named && !is_wellformed_id(id)) throw Error("Invalid NBD server id '{}'", id);
  if (!servers_.contains(id) && !starting_.contains(id)) return;
  if (id.empty()) throw Error("NBD server already running");
  throw Error("NBD server '{}' already running", id);
}

Task<void> NbdService::start(MainLoop& loop, std::string id, SocketAddress address,
                             nbd_export::ServerLimits limits, nbd_export::TlsPolicy tls) {
  check_startable(id, !id.empty());
  struct Starting {
    std::set<std::string>& ids;
    const std::string& id;
    Starting(std::set<std::string>& all, const std::string& one) : ids(all), id(one) {
      ids.insert(id);
    }
    ~Starting() { ids.erase(id); }
  } starting(starting_, id);
  std::vector<ListeningSocket> sockets =
      co_await listen_on(loop.context(), std::move(address), SOMAXCONN, passed_);
  auto server = std::make_unique<NbdServer>(loop, limits, std::move(tls), std::move(sockets),
                                            [](std::string_view text) { log_error("{}", text); });
  // A client may be there already, and be quick.
  if (more_exports_) server->expect_exports();
  server->begin();
  servers_.emplace(id, std::move(server));
}

void NbdService::expect_exports() noexcept {
  more_exports_ = true;
  for (auto& [id, server] : servers_) server->expect_exports();
}

void NbdService::exports_complete() noexcept {
  more_exports_ = false;
  for (auto& [id, server] : servers_) server->exports_complete();
}

Task<void> NbdService::stop(MainLoop& loop, std::string id) {
  NbdServer* stopped = find(id);
  if (stopped == nullptr) throw not_running(id);
  co_await exports_.remove_all(loop, [stopped](const Export& known) {
    const auto* served = dynamic_cast<const ServedExport*>(&known);
    return served != nullptr && &served->server() == stopped;
  });
  auto found = servers_.find(id);
  if (found == servers_.end() || found->second.get() != stopped)
    co_return;  // somebody else stopped it meanwhile
  std::unique_ptr<NbdServer> server = std::move(found->second);
  servers_.erase(found);
  co_await server->stop();
}

Task<void> NbdService::stop_all(MainLoop& loop) {
  while (!servers_.empty()) co_await stop(loop, servers_.begin()->first);
}

NbdServer& NbdService::server_of(const qapi::BlockExportOptions& options) const {
  std::string id = options.get_if<qapi::BlockExportOptionsNbd>()->nbd_server.value_or("");
  NbdServer* server = find(id);
  if (server == nullptr) throw not_running(id);
  return *server;
}

Task<std::unique_ptr<Export>> NbdService::make_export(ExportParts parts) {
  std::exception_ptr failure;
  try {
    NbdServer& server = server_of(parts.options);
    ExportSettings settings = settings_from(parts.options, parts.contexts);
    settings.multi_conn = server.limits().max_connections != 1;
    if (server.exports().find(settings.name))
      throw Error("NBD server already has export named '{}'", settings.name);
    settings.bitmaps = find_bitmaps(parts.layer, parts.backend->node(), parts.options);
    forbid_resize(parts.loop, *parts.backend);
    auto served = std::make_shared<NbdExport>(std::move(parts.backend), std::move(settings));
    server.add_export(served);
    co_return std::make_unique<ServedExport>(parts.options.id, server, std::move(served));
  } catch (const Error&) {
    failure = std::current_exception();
  }
  co_await parts.backend->close(parts.loop);
  std::rethrow_exception(failure);
}

}  // namespace strata
