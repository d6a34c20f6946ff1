// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/export/vhost_user/export.h"

#include <fmt/format.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <algorithm>
#include <list>

#include "block/aio/listener.h"
#include "block/aio/run_in.h"
#include "block/aio/socket_connect.h"
#include "block/base/error.h"
#include "block/base/log.h"
#include "block/coro/semaphore.h"
#include "block/export/vhost_user/session.h"

namespace strata {
namespace {

using vhost_user::Session;
using vhost_user::SessionState;
using vhost_user::SessionTraits;

// What a guest reads as the disk's serial number: QEMU's export has this one.
constexpr const char* kSerial = "vhost_user_blk";
// At once, where clients only read.
constexpr size_t kMostReaders = 64;

// The context of each queue: as the map says, or one after the other.
std::vector<AioContext*> contexts_of_queues(const ExportParts& parts, uint16_t queues) {
  const auto& options = *parts.options.get_if<qapi::BlockExportOptionsVhostUserBlk>();
  std::vector<AioContext*> contexts(queues);
  if (!options.iothread_vq_mapping) {
    for (uint16_t i = 0; i < queues; ++i) contexts[i] = parts.contexts[i % parts.contexts.size()];
    return contexts;
  }
  const auto& mapping = *options.iothread_vq_mapping;
  if (parts.options.iothread)
    throw Error("iothread and iothread-vq-mapping properties cannot be set at the same time");
  if (mapping.empty()) throw Error("iothread-vq-mapping is empty");
  bool named = mapping.front().vqs.has_value();
  for (size_t i = 0; i < mapping.size(); ++i) {
    AioContext& context = parts.find_iothread(mapping[i].iothread);
    if (mapping[i].vqs.has_value() != named)
      throw Error("either all items in iothread-vq-mapping must have vqs or none of them must");
    for (size_t q = i; !named && q < queues; q += mapping.size()) contexts[q] = &context;
    if (!named) continue;
    for (uint16_t vq : *mapping[i].vqs) {
      if (vq >= queues)
        throw Error("vq index {} for IOThread \"{}\" must be less than num_queues {}", vq,
                    mapping[i].iothread, queues);
      if (contexts[vq] != nullptr)
        throw Error("cannot assign vq {} to IOThread \"{}\" because it is already assigned", vq,
                    mapping[i].iothread);
      contexts[vq] = &context;
    }
  }
  auto missing = std::ranges::find(contexts, nullptr);
  if (missing != contexts.end())
    throw Error("missing vq {} IOThread assignment in iothread-vq-mapping",
                missing - contexts.begin());
  return contexts;
}

SessionTraits traits_from(const ExportParts& parts) {
  const auto& options = *parts.options.get_if<qapi::BlockExportOptionsVhostUserBlk>();
  SessionTraits traits;
  traits.export_id = parts.options.id;
  traits.device.block_size =
      virtio_blk::checked_block_size(parts.options.id, options.logical_block_size.value_or(512));
  traits.device.writable = parts.options.writable.value_or(false);
  traits.device.serial = kSerial;
  traits.contexts =
      contexts_of_queues(parts, virtio_blk::checked_queues(options.num_queues.value_or(1)));
  return traits;
}

SocketAddress address_from(const qapi::SocketAddress& address) {
  if (const auto* unix_path = address.get_if<qapi::UnixSocketAddress>())
    return UnixAddress{.path = unix_path->path,
                       .abstract = unix_path->abstract.value_or(false),
                       .tight = unix_path->tight.value_or(true)};
  if (const auto* fd = address.get_if<qapi::FdSocketAddress>()) return FdAddress{fd->str};
  throw Error("Only socket address types 'unix' and 'fd' are supported");
}

// What is kept for a successor, by these names.
std::string listener_name(const std::string& id) {
  return "vhost-user-blk." + id + ".listener";
}
std::string session_name(const std::string& id, unsigned number) {
  return fmt::format("vhost-user-blk.{}.session.{}", id, number);
}

// Whether what a predecessor left can still be reached by `path`.
bool listens_at(const UniqueFd& fd, const std::string& path) {
  sockaddr_un address{};
  socklen_t size = sizeof address;
  int listens = 0;
  socklen_t flag_size = sizeof listens;
  struct stat status;
  return ::getsockopt(fd.get(), SOL_SOCKET, SO_ACCEPTCONN, &listens, &flag_size) == 0 &&
         listens != 0 &&
         ::getsockname(fd.get(), reinterpret_cast<sockaddr*>(&address), &size) == 0 &&
         address.sun_family == AF_UNIX && path == address.sun_path &&
         ::lstat(path.c_str(), &status) == 0 && S_ISSOCK(status.st_mode);
}

Task<std::vector<ListeningSocket>> listen(ExportParts& parts, SocketAddress address,
                                          PassedFds& passed, DescriptorStore* store) {
  const auto* local = std::get_if<UnixAddress>(&address);
  std::string name = listener_name(parts.options.id);
  std::vector<ListeningSocket> sockets;
  UniqueFd left = store != nullptr ? store->take(name) : UniqueFd();
  if (left && local != nullptr && listens_at(left, local->path)) {
    sockets.push_back({std::move(left), SocketFile(local->path)});
    co_return sockets;
  }
  bool is_file = local != nullptr && !local->abstract;
  sockets = co_await listen_on(parts.loop.context(), std::move(address), SOMAXCONN, passed);
  if (left) store->forget(name);
  if (store != nullptr && is_file) store->keep(name, sockets.front().fd.get());
  co_return sockets;
}

// Main loop only.
class VhostUserExport final : public Export {
 public:
  VhostUserExport(MainLoop& loop, std::unique_ptr<Backend> backend, SessionTraits traits,
                  std::vector<ListeningSocket> sockets, DescriptorStore* store)
      : Export(traits.export_id, qapi::BlockExportType::vhost_user_blk),
        loop_(loop),
        backend_(std::move(backend)),
        traits_(std::move(traits)),
        store_(store),
        places_(traits_.device.writable ? 1 : kMostReaders) {
    // Whoever resizes the node may do so in another context, and the news come when we are gone.
    backend_->on_resize([this, &context = loop.context(), alive = std::weak_ptr<bool>(alive_)] {
      post(context, [this, alive] {
        if (!alive.expired()) announce_resize();
      });
    });
    take_sessions_left();
    for (ListeningSocket& socket : sockets) {
      files_.push_back(std::move(socket.file));
      listeners_.push_back(std::make_unique<Listener>(loop.context(), std::move(socket.fd)));
      scope_.spawn(accept_loop(*listeners_.back()));
    }
  }

  Backend& backend() const noexcept override { return *backend_; }
  size_t users() const noexcept override { return sessions_.size(); }

 private:
  Task<void> shut_down(MainLoop& loop) override {
    stopping_.cancel();
    bool goes_on = store_ != nullptr && store_->expects_successor();
    for (Session* session : sessions_) goes_on ? session->hand_over() : session->shut_down();
    co_await scope_.join();
    listeners_.clear();
    for (SocketFile& file : files_) {
      if (goes_on) file.leave();
    }
    files_.clear();
    if (store_ != nullptr && !goes_on) store_->forget(listener_name(id()));
    co_await backend_->close(loop);
  }

  // Clients come one after the other, or some at once if none of them writes; the others wait in
  // the socket's backlog.
  Task<void> accept_loop(Listener& listener) {
    for (;;) {
      Semaphore::Units place = co_await places_.acquire();
      if (stopping_.is_cancelled()) co_return;
      Result<UniqueFd> accepted = co_await listener.accept(stopping_.token());
      if (!accepted) co_return;
      scope_.spawn(serve(std::move(accepted).value(), std::move(place)));
    }
  }

  Task<void> serve(UniqueFd connection, Semaphore::Units place) {
    Session session(loop_, std::move(connection), *backend_, traits_);
    co_await run(session, std::nullopt);
  }

  // `left`: what a predecessor has left of it.
  Task<void> run(Session& session, std::optional<SessionState> left) {
    auto entry = sessions_.insert(sessions_.end(), &session);
    if (left) co_await restore(session, *std::move(left));
    co_await session.run();
    sessions_.erase(entry);
    if (std::optional<SessionState> state = session.take_state()) leave(*state);
  }

  // For the successor.
  void leave(const SessionState& state) noexcept try {
    store_->keep(session_name(id(), sessions_left_++), vhost_user::pack(state).get());
  } catch (const Error& error) {
    log_error("vhost-user-blk export '{}': a client cannot be handed over: {}", id(), error.text());
  }

  void take_sessions_left() {
    for (unsigned number = 0; store_ != nullptr; ++number) {
      UniqueFd left = store_->take(session_name(id(), number));
      if (!left) break;
      store_->forget(session_name(id(), number));
      Semaphore::Units place;
      if (places_.try_acquire(place)) scope_.spawn(go_on(std::move(left), std::move(place)));
    }
  }

  Task<void> go_on(UniqueFd left, Semaphore::Units place) {
    std::optional<SessionState> state;
    try {
      state = vhost_user::unpack(std::move(left));
    } catch (const Error& error) {
      complain(error);
    }
    if (!state) co_return;
    Session session(loop_, std::move(state->connection), *backend_, traits_);
    co_await run(session, std::move(state));
  }

  Task<void> restore(Session& session, SessionState state) {
    std::optional<Error> failure;
    try {
      co_await session.restore(std::move(state));
    } catch (Error& error) {
      failure = std::move(error);
    }
    if (!failure) co_return;
    complain(*failure);
    session.shut_down();
  }

  void complain(const Error& error) const {
    log_error("vhost-user-blk export '{}': cannot go on with a client: {}", id(), error.text());
  }

  void announce_resize() noexcept {
    for (Session* session : sessions_) session->announce_config_change();
  }

  MainLoop& loop_;
  std::unique_ptr<Backend> backend_;
  SessionTraits traits_;
  DescriptorStore* store_;
  unsigned sessions_left_ = 0;
  Semaphore places_;
  std::vector<SocketFile> files_;
  std::vector<std::unique_ptr<Listener>> listeners_;
  std::list<Session*> sessions_;
  CancelSource stopping_;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
  TaskScope scope_;
};

Task<std::unique_ptr<Export>> make_export(ExportParts parts, PassedFds& passed,
                                          DescriptorStore* store) {
  std::exception_ptr failure;
  try {
    const auto& options = *parts.options.get_if<qapi::BlockExportOptionsVhostUserBlk>();
    SessionTraits traits = traits_from(parts);
    traits.may_hand_over = store != nullptr;
    SocketAddress address = address_from(options.addr);
    std::vector<ListeningSocket> sockets =
        co_await listen(parts, std::move(address), passed, store);
    co_return std::make_unique<VhostUserExport>(parts.loop, std::move(parts.backend),
                                                std::move(traits), std::move(sockets), store);
  } catch (const Error&) {
    failure = std::current_exception();
  }
  co_await parts.backend->close(parts.loop);
  std::rethrow_exception(failure);
}

}  // namespace

void register_vhost_user_blk(ExportRegistry& exports, PassedFds& passed, DescriptorStore* store) {
  exports.register_type(qapi::BlockExportType::vhost_user_blk, [&passed, store](ExportParts parts) {
    return make_export(std::move(parts), passed, store);
  });
}

}  // namespace strata
