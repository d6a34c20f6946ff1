// SPDX-License-Identifier: GPL-2.0-or-later
#include "tools/nbd/serve.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "block/aio/fd_watch.h"
#include "block/aio/thread_pool.h"
#include "block/export/nbd/export.h"
#include "block/export/nbd/server.h"
#include "block/graph/open.h"
#include "block/qcow2/qcow2.h"
#include "qapi/runtime/scalars.h"
#include "storage-daemon/program/pid_file.h"
#include "tools/common/access_objects.h"
#include "tools/common/image.h"
#include "tools/nbd/device.h"

namespace strata::tools {
namespace {

using nbd_export::ExportSettings;
using nbd_export::NbdExport;
using nbd_export::NbdServer;

// Between looks at whether a device runs.
constexpr Duration kDevicePause = std::chrono::milliseconds(1);

// A new socket file belongs to this label; the next ones to none.
class SelinuxLabel {
 public:
  explicit SelinuxLabel(const std::optional<std::string>& label) : label_(label) {
    if (label_ && !set(*label_))
      throw Error::from_errno(errno, "Cannot set SELinux socket create context to {}", *label_);
  }
  ~SelinuxLabel() {
    if (label_) set("");
  }
  SelinuxLabel(const SelinuxLabel&) = delete;
  SelinuxLabel& operator=(const SelinuxLabel&) = delete;

 private:
  static bool set(const std::string& label) {
    UniqueFd fd(::open("/proc/thread-self/attr/sockcreate", O_WRONLY | O_CLOEXEC));
    return fd && ::write(fd.get(), label.c_str(), label.size() + 1) >= 0;
  }
  const std::optional<std::string>& label_;
};

nbd_export::TlsPolicy tls_policy(const NbdCommandLine& line) {
  nbd_export::TlsPolicy tls;
  if (!line.tls_creds) return tls;
  try {
    tls.credentials = find_defined_credentials(*line.tls_creds);
    if (tls.credentials->endpoint() != TlsEndpoint::server)
      throw Error("Expected TLS credentials for a server endpoint");
  } catch (Error& error) {
    throw std::move(error).prepend("Failed to get TLS creds: ");
  }
  if (line.tls_authz) tls.authorization = find_defined_authorization(*line.tls_authz);
  return tls;
}

ImageSource source_of(const NbdCommandLine& line) {
  ImageSource source;
  if (line.image_options)
    source.options = parse_image_options(line.image, "file");
  else
    source.filename = line.image;
  source.format = line.format;
  if (line.detect_zeroes) source.options["detect-zeroes"] = qapi::to_string(*line.detect_zeroes);
  return source;
}

// The image from `offset` on.
Task<NodePtr> open_window(Tool& tool, NodePtr image, uint64_t offset, bool writable) {
  if (offset > INT64_MAX) throw qapi::not_a_size("offset", static_cast<int64_t>(offset));
  qapi::BlockdevOptions options;
  options.select(qapi::BlockdevDriver::raw);
  options.read_only = !writable;
  auto& raw = *options.get_if<qapi::BlockdevOptionsRaw>();
  raw.offset = static_cast<int64_t>(offset);
  raw.file = image->name();
  co_return co_await open_node(tool.loop(), tool.layer(), std::move(options));
}

Task<void> show_snapshot(Node& node, const NbdCommandLine& line) {
  try {
    if (line.any_snapshot)
      co_await qcow2::show_snapshot(node, *line.any_snapshot);
    else
      co_await qcow2::show_snapshot(node, {.id = line.snapshot_id, .name = line.snapshot_name});
  } catch (Error& error) {
    throw std::move(error).prepend("Failed to load snapshot: ");
  }
}

// The image itself, without a window.
Task<std::unique_ptr<Backend>> open_whole(Tool& tool, const NbdCommandLine& line) {
  std::unique_ptr<Backend> image;
  try {
    image = co_await open_backend(tool, source_of(line), line.flags);
  } catch (Error& error) {
    throw std::move(error).prepend(fmt::format("Failed to blk_new_open '{}': ", line.image));
  }
  co_return image;
}

// Takes the place of `image`, showing it from an offset on.
Task<std::unique_ptr<Backend>> cut_off(Tool& tool, const NbdCommandLine& line, Backend& image) {
  image.set_permissions(tool.loop(), {{}, kAllPermissions});
  NodePtr node =
      co_await open_window(tool, image.node().shared_from_this(), line.offset, line.flags.writable);
  auto window = std::make_unique<Backend>(tool.layer());
  PermissionSet needed = Permission::consistent_read;
  if (line.flags.writable) needed |= Permission::write;
  window->attach(tool.loop(), std::move(node), {needed, kAllPermissions});
  window->set_write_cache(!line.flags.write_through);
  co_return window;
}

Task<std::unique_ptr<Backend>> open_served(Tool& tool, const NbdCommandLine& line) {
  std::unique_ptr<Backend> image = co_await open_whole(tool, line);
  std::unique_ptr<Backend> window;
  std::optional<Error> failure;
  try {
    if (line.wants_snapshot()) co_await show_snapshot(image->node(), line);
    if (line.offset != 0) window = co_await cut_off(tool, line, *image);
  } catch (const Error& error) {
    failure = error;
  }
  if (!failure && !window) co_return image;
  co_await image->close(tool.loop());
  if (failure) throw *std::move(failure);
  co_return window;
}

// Told when the server is to end.
struct End {
  explicit End(const NbdCommandLine& command_line) : line(command_line) {}

  const NbdCommandLine& line;
  Event reached;
  NbdServer* server = nullptr;

  void client_gone(bool served) {
    if (served && !line.persistent && server->clients() == 0) reached.set();
  }
};

Task<void> end_on_signal(MainLoop& loop, int fd, CancelToken cancel, Event& end) {
  FdWatch watch(loop.context(), fd);
  if (co_await watch.readable(cancel)) end.set();
}

// Makes the kernel a client of this very server.
Task<void> connect_device(Tool& tool, NbdServer& server, KernelDevice& device, std::string name) {
  int pair[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0)
    throw Error::from_errno(errno, "Failed to set NBD socket");
  server.accept(UniqueFd(pair[0]));
  UniqueFd kernels(pair[1]);
  UniqueFd ours(::fcntl(kernels.get(), F_DUPFD_CLOEXEC, 0));
  if (!ours) throw Error::from_errno(errno, "Failed to set NBD socket");
  nbd_client::Channel channel(tool.context(), std::move(ours));
  nbd_client::Handshake handshake(channel,
                                  {.export_name = std::move(name), .simple_replies = true});
  nbd_client::ExportInfo info = co_await handshake.enter();
  device.connect(kernels.get(), info);
}

// While the kernel uses the device, which is over when somebody disconnects it.
Task<void> run_device(MainLoop& loop, KernelDevice& device, Event& end) {
  co_await loop.context().service<ThreadPool>().run([&device] { device.run(); });
  end.set();
}

// Who starts the program uses the device as soon as it returns.
Task<void> wait_until_it_runs(MainLoop& loop, const KernelDevice& device, const Event& end) {
  while (!device.is_running() && !end.is_set()) co_await loop.context().sleep_for(kDevicePause);
}

Task<void> find_partitions(MainLoop& loop, const KernelDevice& device) {
  co_await loop.context().service<ThreadPool>().run([&device] { device.find_partitions(); });
}

Task<std::vector<ListeningSocket>> listen(Tool& tool, const NbdStart& start) {
  std::vector<ListeningSocket> sockets;
  if (start.line.connect) co_return sockets;  // no client comes from outside
  if (start.passed) {
    sockets.push_back({UniqueFd(*start.passed), SocketFile()});
    co_return sockets;
  }
  SelinuxLabel label(start.line.selinux_label);
  co_return co_await listen_on(tool.context(), nbd_address(start.line), SOMAXCONN,
                               tool.passed_fds());
}

ExportSettings settings_of(const NbdCommandLine& line) {
  ExportSettings settings;
  settings.name = line.export_name;
  settings.description = line.description;
  settings.writable = line.flags.writable;
  settings.allocation_depth = line.allocation_depth;
  settings.multi_conn = line.shared != 1;
  return settings;
}

}  // namespace

SocketAddress nbd_address(const NbdCommandLine& line) {
  if (line.socket) return UnixAddress{.path = *line.socket};
  return InetAddress{.host = line.bind.value_or("0.0.0.0"), .port = line.port.value_or("10809")};
}

Task<int> serve_image(Tool& tool, NbdStart& start) {
  const NbdCommandLine& line = start.line;
  nbd_export::TlsPolicy tls = tls_policy(line);
  std::vector<ListeningSocket> sockets = co_await listen(tool, start);
  std::unique_ptr<Backend> backend = co_await open_served(tool, line);
  std::optional<Error> failure;
  CancelSource stop_watching;
  TaskScope watching;
  std::optional<KernelDevice> device;
  TaskScope using_device;
  std::unique_ptr<NbdServer> server;
  std::shared_ptr<NbdExport> served;
  Backend& image = *backend;
  try {
    if (line.connect) device.emplace(*line.connect);
    ExportSettings settings = settings_of(line);
    for (const std::string& name : line.bitmaps)
      settings.bitmaps.push_back(
          nbd_export::find_exported_bitmap(image.node(), name, settings.writable));
    served = std::make_shared<NbdExport>(std::move(backend), std::move(settings));
    nbd_export::ServerLimits limits{.max_connections = static_cast<uint32_t>(line.shared),
                                    .handshake_seconds = line.handshake_seconds};
    End end(line);
    server = std::make_unique<NbdServer>(tool.loop(), limits, std::move(tls), std::move(sockets),
                                         [](std::string_view text) { log_error("{}", text); });
    end.server = server.get();
    server->on_client_gone([&end](bool had_export) { end.client_gone(had_export); });
    server->add_export(served);
    server->begin();
    PidFile pid_file;
    if (line.pid_file) pid_file = PidFile(*line.pid_file);
    pid_file.keep();  // as qemu-nbd's: whoever reads it to end the server may remove it
    if (device) {
      co_await connect_device(tool, *server, *device, line.export_name);
      using_device.spawn(run_device(tool.loop(), *device, end.reached));
      co_await wait_until_it_runs(tool.loop(), *device, end.reached);
      using_device.spawn(find_partitions(tool.loop(), *device));
      if (line.verbose && !line.fork)
        fmt::print(stderr, "NBD device {} is now connected to {}\n", *line.connect, line.image);
    }
    start.ready();
    watching.spawn(
        end_on_signal(tool.loop(), start.signals.get(), stop_watching.token(), end.reached));
    co_await end.reached.wait();
    server->on_client_gone({});
  } catch (const Error& error) {
    failure = error;
  }
  stop_watching.cancel();
  co_await watching.join();
  if (server) {
    co_await server->remove_export(served);
    co_await server->stop();
  }
  co_await using_device.join();
  co_await image.close(tool.loop());
  if (failure) throw *std::move(failure);
  co_return 0;
}

}  // namespace strata::tools
