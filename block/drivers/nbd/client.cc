// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/drivers/nbd/client.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <algorithm>
#include <cassert>
#include <cerrno>

#include "block/aio/aio_context.h"
#include "block/aio/run_in.h"
#include "block/base/error.h"

namespace strata::nbd_client {
namespace {

// Between the tries to connect: the first pause, and what doubling it ends at.
constexpr Duration kFirstPause = std::chrono::milliseconds(50);
constexpr Duration kLongestPause = std::chrono::seconds(4);
// A server that accepts and then says nothing is as good as none.
constexpr Duration kHandshakeLimit = std::chrono::seconds(60);
// The request that has a context's own connection made is held up for so long at most.
constexpr Duration kOwnLimit = std::chrono::seconds(3);

// Shuts the stream down when the time is over, or when cancelled.
Task<void> limit_handshake(AioContext& context, Channel& channel, CancelToken done,
                           bool& timed_out) {
  if (!co_await context.sleep_for(kHandshakeLimit, done)) co_return;
  timed_out = true;
  channel.shutdown();
}

Task<void> cancel_after(AioContext& context, Duration limit, CancelToken done,
                        CancelSource& cancelled) {
  if (co_await context.sleep_for(limit, done)) cancelled.cancel();
}

// Ends a handshake whose client is closed.
class ShutDownWhenCancelled : CancelSource::Subscription {
 public:
  ShutDownWhenCancelled(Channel& channel, CancelToken cancel) noexcept : channel_(channel) {
    if (cancel.is_cancelled()) channel_.shutdown();
    subscribe(cancel);
  }

 private:
  void cancelled() noexcept override { channel_.shutdown(); }
  Channel& channel_;
};

void send_small_requests_at_once(int fd) noexcept {
  int one = 1;
  // Fails where it is not TCP.
  ::setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
}

bool changes_data(const Call& call) noexcept {
  switch (call.request.command) {
    case nbd::Command::write:
    case nbd::Command::write_zeroes:
    case nbd::Command::trim:
      return true;
    default:
      return false;
  }
}

void reset(Call& call) {
  call.outcome = Call::Outcome::pending;
  call.error = 0;
  call.extent.reset();
  call.on_wire = call.sent = call.done = false;
  call.covered.clear();
}

}  // namespace

// A context's own connections, one a client. They go with the context, in its thread.
class OwnConnections {
 public:
  explicit OwnConnections(AioContext& context) : context_(context) {}
  ~OwnConnections() {
    for (Entry& entry : entries_) entry.client->forget(context_);
  }
  OwnConnections(const OwnConnections&) = delete;
  OwnConnections& operator=(const OwnConnections&) = delete;

  struct Entry {
    Client* client;
    std::shared_ptr<Connection> connection;  // null: being made, lost, or could not be had
    bool connecting = false;
    TimePoint next_try{};
    Duration pause = kFirstPause;
    // Of the client, when the server let us wait for too long: it is not tried again before the
    // client's first connection is another one.
    std::optional<uint64_t> silent_since;

    bool may_try(TimePoint now, uint64_t generation) const noexcept {
      return !connection && !connecting && now >= next_try && silent_since != generation;
    }
    void failed(TimePoint now) noexcept {
      next_try = now + pause;
      pause = std::min(2 * pause, kLongestPause);
    }
  };

  Entry* find(const Client& client) noexcept {
    for (Entry& entry : entries_)
      if (entry.client == &client) return &entry;
    return nullptr;
  }
  Entry& add(Client& client) {
    client.remember(context_);
    return entries_.emplace_back(Entry{.client = &client});
  }

  static Task<void> close(AioContext& context, Client& client) {
    OwnConnections& own = context.service<OwnConnections>();
    Entry* entry = own.find(client);
    if (entry == nullptr) co_return;
    std::shared_ptr<Connection> connection = std::move(entry->connection);
    std::erase_if(own.entries_, [&](const Entry& each) { return each.client == &client; });
    if (connection) co_await connection->disconnect();
  }

 private:
  AioContext& context_;
  std::vector<Entry> entries_;
};

Client::Client(AioContext& home, PassedFds* passed, ClientSettings settings)
    : home_(home), passed_(passed), settings_(std::move(settings)) {}

Client::~Client() {
  assert(scope_.running() == 0 && others_.empty());
}

// ---- Connecting

Task<std::unique_ptr<Channel>> Client::connect(AioContext& context, CancelToken cancel) {
  PassedFds none;
  UniqueFd fd =
      co_await connect_to(context, settings_.address, passed_ != nullptr ? *passed_ : none, cancel);
  send_small_requests_at_once(fd.get());
  co_return std::make_unique<Channel>(context, std::move(fd));
}

// Throws Error.
Task<std::shared_ptr<Connection>> Client::establish(AioContext& context, CancelToken cancel) {
  std::unique_ptr<Channel> channel = co_await connect(context, cancel);
  ShutDownWhenCancelled watch(*channel, cancel);
  TaskScope timer;
  CancelSource done;
  bool timed_out = false;
  timer.spawn(limit_handshake(context, *channel, done.token(), timed_out));
  std::optional<Error> failure;
  ExportInfo info;
  try {
    Handshake handshake(*channel, settings_.handshake);
    info = co_await handshake.enter();
  } catch (const Error& error) {
    failure = error;
  }
  done.cancel();
  co_await timer.join();
  if (timed_out) throw Error::from_errno(ETIMEDOUT, "Failed to negotiate with the server");
  if (failure) throw *std::move(failure);
  co_return std::make_shared<Connection>(context, std::move(channel), std::move(info));
}

// Null where it cannot be had, or is not what the first one was.
Task<std::shared_ptr<Connection>> Client::try_to_establish(AioContext& context,
                                                           CancelToken cancel) {
  try {
    std::shared_ptr<Connection> made = co_await establish(context, cancel);
    if (is_same_export(made->info())) co_return made;
  } catch (const Error&) {
  }
  co_return nullptr;
}

// A connection of this context's own, or null. Other requests travel to the home meanwhile.
Task<void> Client::connect_here(OwnConnections& own) {
  AioContext& here = *AioContext::current();
  OwnConnections::Entry* entry = own.find(*this);
  entry->connecting = true;
  uint64_t generation = generation_.load(std::memory_order_relaxed);
  TaskScope timer;
  CancelSource done;
  CancelSource over;
  timer.spawn(cancel_after(here, kOwnLimit, done.token(), over));
  std::shared_ptr<Connection> made = co_await try_to_establish(here, over.token());
  done.cancel();
  co_await timer.join();
  entry = own.find(*this);
  entry->connecting = false;
  if (made)
    entry->pause = kFirstPause;
  else
    entry->failed(here.now());
  if (over.is_cancelled()) entry->silent_since = generation;
  entry->connection = std::move(made);
}

bool Client::is_same_export(const ExportInfo& found) const noexcept {
  // What the client relies on must still be there; the rest may have come.
  return found.size == info_.size && (info_.flags & ~found.flags & ~nbd::kReadOnly) == 0 &&
         found.read_only() == info_.read_only() &&
         found.context.has_value() >= info_.context.has_value() &&
         (found.mode == nbd::ReplyMode::extended || info_.mode != nbd::ReplyMode::extended);
}

Task<void> Client::open() {
  TimePoint deadline = home_.now() + settings_.open_timeout;
  Duration pause = kFirstPause;
  for (;;) {
    std::optional<Error> failure;
    try {
      connection_ = co_await establish(home_, {});
    } catch (const Error& error) {
      failure = error;
    }
    if (!failure) break;
    TimePoint now = home_.now();
    if (now >= deadline) throw *std::move(failure);
    co_await home_.sleep_for(std::min<Duration>(pause, deadline - now));
    pause = std::min(2 * pause, kLongestPause);
  }
  info_ = connection_->info();
  set_state(State::connected);
}

Task<void> Client::close() {
  set_state(State::closed);
  closing_.cancel();
  co_await scope_.join();
  std::vector<AioContext*> others;
  {
    std::lock_guard lock(mutex_);
    others.swap(others_);
  }
  for (AioContext* context : others)
    co_await run_in(*context, OwnConnections::close(*context, *this));
  if (connection_) co_await connection_->disconnect();
  connection_.reset();
}

// ---- Requests

Task<Status> Client::perform(Call& call) {
  if (home_.is_current()) return perform_at_home(call);
  struct Elsewhere {
    static Task<Status> perform(Client& client, Call& call) {
      if (client.info_.has(nbd::kCanMultiConn) && co_await client.perform_here(call))
        co_return Status::error(call.error);
      co_return co_await run_in(client.home_, client.perform_at_home(call));
    }
  };
  return Elsewhere::perform(*this, call);
}

// Over a connection of this context. False where there is none, or it was lost: the home decides
// then what becomes of the request.
Task<bool> Client::perform_here(Call& call) {
  AioContext& here = *AioContext::current();
  OwnConnections& own = here.service<OwnConnections>();
  OwnConnections::Entry* entry = own.find(*this);
  if (entry == nullptr) entry = &own.add(*this);
  if (!entry->connection &&
      entry->may_try(here.now(), generation_.load(std::memory_order_relaxed))) {
    co_await connect_here(own);
    entry = own.find(*this);
  }
  std::shared_ptr<Connection> connection = entry->connection;
  if (!connection) co_return false;
  co_await connection->perform(call);
  if (call.outcome == Call::Outcome::answered) co_return true;
  entry = own.find(*this);
  if (entry->connection == connection) {
    entry->connection.reset();
    entry->failed(here.now());
  }
  co_return false;
}

Task<Status> Client::perform_at_home(Call& call) {
  // One that was lost elsewhere is as lost as one lost here, if it matters whether the server has
  // done it.
  bool was_lost = call.outcome == Call::Outcome::lost && changes_data(call);
  for (;;) {
    if (was_lost && settings_.reconnect_delay == Duration::zero()) co_return Status::error(EIO);
    if (state_ == State::waiting) {
      co_await settled_.wait();
      continue;
    }
    if (state_ != State::connected) co_return Status::error(EIO);
    reset(call);
    std::shared_ptr<Connection> connection = connection_;
    co_await connection->perform(call);
    if (call.outcome == Call::Outcome::answered) co_return Status::error(call.error);
    if (connection == connection_) lost(*connection);
    was_lost = true;
  }
}

// ---- When the connection is lost

void Client::lost(const Connection& connection) {
  if (state_ != State::connected) return;
  // What a parent handed down cannot be had again.
  bool is_final = connection.is_hostile() || std::holds_alternative<FdAddress>(settings_.address);
  connection_.reset();
  if (is_final) return set_state(State::closed);
  bool waits = settings_.reconnect_delay != Duration::zero();
  set_state(waits ? State::waiting : State::failing);
  if (waits) scope_.spawn(stop_waiting());
  scope_.spawn(reconnect());
}

Task<void> Client::stop_waiting() {
  uint64_t generation = generation_;
  bool over = co_await home_.sleep_for(settings_.reconnect_delay, closing_.token());
  if (over && state_ == State::waiting && generation == generation_) set_state(State::failing);
}

Task<void> Client::reconnect() {
  Duration pause = kFirstPause;
  while (!closing_.is_cancelled()) {
    std::shared_ptr<Connection> made = co_await try_to_establish(home_, closing_.token());
    if (made && !closing_.is_cancelled()) {
      connection_ = std::move(made);
      co_return set_state(State::connected);
    }
    co_await home_.sleep_for(pause, closing_.token());
    pause = std::min(2 * pause, kLongestPause);
  }
}

void Client::set_state(State state) {
  if (state == State::connected) ++generation_;
  state_ = state;
  if (state == State::waiting)
    settled_.reset();
  else
    settled_.set();
}

// ---- Contexts with a connection of their own

void Client::remember(AioContext& context) {
  std::lock_guard lock(mutex_);
  others_.push_back(&context);
}

void Client::forget(AioContext& context) noexcept {
  std::lock_guard lock(mutex_);
  std::erase(others_, &context);
}

}  // namespace strata::nbd_client
