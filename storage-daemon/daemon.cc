// SPDX-License-Identifier: GPL-2.0-or-later
#include "storage-daemon/daemon.h"

#include <algorithm>

#include "block/aio/tls/credentials.h"
#include "block/base/error.h"
#include "block/drivers/builtin.h"
#include "block/export/fuse/export.h"
#include "block/export/vduse/export.h"
#include "block/export/vhost_user/export.h"
#include "block/graph/open.h"
#include "storage-daemon/commands/families.h"
#include "storage-daemon/metrics/collect.h"
#include "storage-daemon/monitor/monitor.h"
#include "storage-daemon/objects/authorization.h"
#include "storage-daemon/objects/event_loop.h"
#include "storage-daemon/sandbox/sandbox.h"
#include "storage-daemon/version.h"

namespace strata {

Daemon::Daemon(MainLoop& loop, PassedFds passed, std::shared_ptr<fuse_export::Mounter> mounter)
    : passed_(std::move(passed)),
      events_(loop.context()),
      chardevs_(passed_),
      objects_([this](const UserObject& object) { return is_in_use(object); }),
      layer_(loop, builtin_drivers(),
             [this](std::string_view name, boost::json::object data) {
               events_.emit(name, std::move(data));
             }),
      exports_(layer_,
               [this](const std::string& id) -> AioContext& {
                 AioContext* context = find_iothread(id);
                 if (context == nullptr) throw Error("iothread \"{}\" not found", id);
                 return *context;
               }),
      nbd_(exports_, passed_),
      commands_(make_command_table()),
      command_trace_(commands_) {
  layer_.set_surroundings(
      {.passed_fds = &passed_,
       .find_tls_credentials = [this](const auto& id) { return objects_.find_tls_credentials(id); },
       .find_secret = [this](std::string_view id) { return objects_.find_secret(id); }});
  layer_.keep_bitmaps_ahead();
  register_vhost_user_blk(exports_, passed_, service_store_.if_there());
  register_fuse(exports_, std::move(mounter));
#ifdef CONFIG_VDUSE_BLK_EXPORT
  register_vduse_blk(exports_, service_store_.if_there());
#endif
}

Daemon::~Daemon() = default;

qapi::VersionInfo Daemon::version() {
  return {.qemu = {.major = kQemuMajor, .minor = kQemuMinor, .micro = kQemuMicro},
          .package = std::string("strata-") + kStrataVersion};
}

AioContext* Daemon::find_iothread(std::string_view id) const noexcept {
  auto* thread = objects_.find_as<IothreadObject>(id);
  return thread != nullptr ? &thread->context() : nullptr;
}

bool Daemon::is_in_use(const UserObject& object) const {
  const auto* thread = dynamic_cast<const IothreadObject*>(&object);
  if (thread == nullptr) return false;
  bool has_node = std::ranges::any_of(layer_.nodes(), [thread](const Node* node) {
    return &node->home_context() == &thread->context();
  });
  return has_node || std::ranges::any_of(export_threads_, [&](const auto& entry) {
           return entry.second == object.id() && exports_.find(entry.first) != nullptr;
         });
}

Error Daemon::explain(Error error) const {
  return sandboxed_ ? explain_refusal(std::move(error)) : error;
}

Task<void> Daemon::add_node(MainLoop& loop, qapi::BlockdevOptions options) {
  if (!options.node_name) throw Error("'node-name' must be specified for the root node");
  layer_.add_monitor_node(co_await open_node(loop, layer_, std::move(options)));
}

Task<void> Daemon::add_export(MainLoop& loop, qapi::BlockExportOptions options) {
  std::erase_if(export_threads_,
                [this](const auto& entry) { return exports_.find(entry.first) == nullptr; });
  std::string id = options.id;
  std::vector<std::string> threads = iothread_names(options);
  co_await exports_.add(loop, std::move(options));
  for (std::string& thread : threads) export_threads_.emplace(id, std::move(thread));
}

namespace {

std::shared_ptr<const TlsCredentials> find_server_credentials(const ObjectRegistry& objects,
                                                              const std::string& id) {
  std::shared_ptr<const TlsCredentials> found = objects.find_tls_credentials(id);
  if (found->endpoint() != TlsEndpoint::server)
    throw Error("Expected TLS credentials for a server endpoint");
  return found;
}

std::shared_ptr<Authorization> find_authorization(const ObjectRegistry& objects,
                                                  const std::string& id) {
  const UserObject* object = objects.find(id);
  if (object == nullptr) throw Error("Cannot find QAuthZ object ID {}", id);
  const auto* authorization = dynamic_cast<const AuthorizationObject*>(object);
  if (authorization == nullptr) throw Error("Object '{}' is not a QAuthZ subclass", id);
  return authorization->authorization();
}

}  // namespace

Task<void> Daemon::start_nbd_server(MainLoop& loop, SocketAddress address,
                                    qapi::NbdServerOptionsBase options) {
  std::string id = options.id.value_or("");
  nbd_.check_startable(id, options.id.has_value());
  nbd_export::TlsPolicy tls;
  if (options.tls_creds) tls.credentials = find_server_credentials(objects_, *options.tls_creds);
  if (options.tls_authz) {
    if (!tls.credentials)
      throw Error("TLS authorization '{}' needs TLS credentials", *options.tls_authz);
    tls.authorization = find_authorization(objects_, *options.tls_authz);
  }
  if (options.tls_required && !tls.credentials)
    throw Error("Parameter 'tls-required' needs 'tls-creds'");
  tls.required = options.tls_required.value_or(true);
  nbd_export::ServerLimits limits;
  limits.max_connections = options.max_connections.value_or(limits.max_connections);
  limits.handshake_seconds = options.handshake_max_seconds.value_or(limits.handshake_seconds);
  co_await nbd_.start(loop, std::move(id), std::move(address), limits, std::move(tls));
}

std::vector<const AioContext*> Daemon::contexts() const {
  std::vector<const AioContext*> contexts{&layer_.main_loop().context()};
  for (const auto& object : objects_.all()) {
    if (const auto* thread = dynamic_cast<const IothreadObject*>(object.get()))
      contexts.push_back(&thread->context());
  }
  return contexts;
}

Task<void> Daemon::start_metrics(MainLoop& loop, const std::string& address) {
  constexpr int kBacklog = 16;
  std::vector<ListeningSocket> sockets =
      co_await listen_on(loop.context(), parse_metrics_address(address), kBacklog, passed_);
  metrics_.push_back(std::make_unique<MetricsServer>(loop.context(), std::move(sockets), [this] {
    return collect_metrics(layer_, exports_, contexts());
  }));
}

void Daemon::add_monitor(MainLoop& loop, const qapi::MonitorOptions& options) {
  bool taken = options.id && std::ranges::any_of(monitors_, [&](const auto& monitor) {
                 return monitor->id() == *options.id;
               });
  if (taken) throw Error("Duplicate ID '{}' for mon", *options.id);
  monitors_.push_back(std::make_unique<Monitor>(*this, loop, options));
}

void Daemon::request_shutdown() noexcept {
  shutdown_.set();
}

Task<void> Daemon::wait_for_shutdown() {
  started_ = true;
  co_await shutdown_.wait();
}

void Daemon::interrupt_options(MainLoop& loop) {
  if (!started_) chardevs_.begin_close_all(loop);
}

Task<void> Daemon::shut_down(MainLoop& loop) {
  shutdown_.set();
  // The command that is being executed is the last.
  Mutex::Lock no_more_commands = co_await command_lock_.lock();
  co_await nbd_.stop_all(loop);
  co_await exports_.remove_all(loop);
  co_await jobs_.shut_down();
  while (!layer_.monitor_nodes().empty()) {
    NodePtr node = layer_.monitor_nodes().back();
    layer_.forget_monitor_node(*node);
    co_await layer_.release(loop, std::move(node));
  }
  for (auto& server : metrics_) co_await server->stop();
  metrics_.clear();
  for (auto& monitor : monitors_) co_await monitor->stop();
  monitors_.clear();
  chardevs_.begin_close_all(loop);
  co_await chardevs_.close_all(loop);
  objects_.remove_all(loop);
}

}  // namespace strata
