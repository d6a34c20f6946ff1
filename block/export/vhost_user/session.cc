// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/export/vhost_user/session.h"

#include <fmt/format.h>
#include <linux/virtio_config.h>
#include <sys/socket.h>

#include <algorithm>
#include <cstring>

#include "block/aio/run_in.h"
#include "block/base/error.h"
#include "block/base/log.h"

namespace strata::vhost_user {
namespace {

// How long a front end may take over a message that it has begun.
constexpr auto kMessageTime = std::chrono::seconds(30);

constexpr uint64_t kOfferedProtocolFeatures =
    feature::kMq | feature::kLogShmfd | feature::kReplyAck | feature::kBackendReq |
    feature::kConfig | feature::kBackendSendFd | feature::kInflightShmfd | feature::kResetDevice |
    feature::kConfigureMemSlots | feature::kStatus;

UniqueFd take_fd(std::vector<UniqueFd>& fds) noexcept {
  return fds.empty() ? UniqueFd() : std::move(fds.front());
}

}  // namespace

Session::Session(MainLoop& loop, UniqueFd connection, Backend& backend, const SessionTraits& traits)
    : loop_(loop),
      backend_(backend),
      traits_(traits),
      stream_(loop.context(), std::move(connection)),
      vrings_(traits.contexts.size()),
      memory_(std::make_shared<virtio::GuestMemory>()) {}

Session::~Session() = default;

Task<void> Session::run() {
  while (!(cut_ = handing_over_.is_cancelled()) && co_await receive_and_handle()) {
  }
  if (cut_)
    co_await collect_state();
  else
    stream_.shutdown();
  co_await end_queues();
}

void Session::complain(std::string_view text) const {
  log_error("vhost-user-blk export '{}': {}", traits_.export_id, text);
}

// Until `into` is full; what comes with it is kept.
Task<bool> Session::receive(IoVector into, Fds& fds, CancelToken cancel) {
  for (size_t done = 0; done < into.size();) {
    auto got =
        co_await stream_.read_some_with_fds(into.slice(done, into.size() - done), fds, cancel);
    if (!got || *got == 0) co_return false;
    done += *got;
  }
  co_return true;
}

Task<void> Session::limit_receiving(CancelToken done) {
  if (co_await loop_.context().sleep_for(kMessageTime, done)) {
    complain("the front end stopped in the middle of a message");
    stream_.shutdown();
  }
}

Task<bool> Session::receive_and_handle() {
  std::array<std::byte, kHeaderBytes> head;
  std::array<std::byte, kMostPayload> payload;
  Fds fds;
  // The first byte may be long in coming, the rest not.
  if (!co_await receive(IoVector::buffer(head.data(), 1), fds, handing_over_.token()))
    co_return handing_over_.is_cancelled();
  TaskScope timer;
  CancelSource received;
  timer.spawn(limit_receiving(received.token()));
  std::variant<Message, Fault> decoded = Fault{};
  if (co_await receive(IoVector::buffer(head.data() + 1, head.size() - 1), fds)) {
    std::variant<Header, Fault> header = decode_header(head);
    if (auto* fault = std::get_if<Fault>(&header)) {
      decoded = std::move(*fault);
    } else {
      const Header& sound = std::get<Header>(header);
      if (co_await receive(IoVector::buffer(payload.data(), sound.size), fds))
        decoded = decode_message(sound, {payload.data(), sound.size}, fds.size());
    }
  }
  received.cancel();
  co_await timer.join();
  if (auto* fault = std::get_if<Fault>(&decoded)) {
    if (!fault->text.empty()) complain(fault->text);
    co_return false;
  }
  co_return co_await handle(std::get<Message>(std::move(decoded)), std::move(fds));
}

Task<bool> Session::handle(Message message, Fds fds) {
  bool replied = false;
  std::optional<Error> failure;
  try {
    replied = co_await dispatch(message, fds);
  } catch (Error& error) {
    failure = std::move(error);
  }
  if (memory_->is_damaged()) {
    complain("the guest's memory was taken away");
    co_return false;
  }
  if (failure) complain(fmt::format("{}: {}", name_of(message.request), failure->text()));
  bool wants_reply = message.needs_reply && (protocol_features_ & feature::kReplyAck) != 0;
  if (replied) co_return true;
  if (!wants_reply) co_return !failure;
  co_return co_await send(Reply(message.request).u64(failure ? 1 : 0));
}

Task<bool> Session::send(Reply reply, int fd) {
  std::span<const int> fds(&fd, fd >= 0 ? 1 : 0);
  Status status = co_await stream_.write_with_fds(reply.bytes(), fds);
  co_return status.ok();
}

Task<bool> Session::dispatch(const Message& message, Fds& fds) {
  switch (message.request) {
    case Request::get_features:
    case Request::get_protocol_features:
    case Request::get_queue_num:
    case Request::get_max_mem_slots:
    case Request::get_status:
    case Request::get_config:
      return answer_query(message);
    case Request::set_mem_table:
    case Request::add_mem_reg:
    case Request::rem_mem_reg:
    case Request::set_log_base:
    case Request::set_log_fd:
    case Request::get_inflight_fd:
    case Request::set_inflight_fd:
      return change_memory(message, fds);
    case Request::set_vring_num:
    case Request::set_vring_addr:
    case Request::set_vring_base:
    case Request::get_vring_base:
    case Request::set_vring_kick:
    case Request::set_vring_call:
    case Request::set_vring_err:
    case Request::set_vring_enable:
      return change_ring(message, fds);
    default:
      return change_device(message, fds);
  }
}

Task<bool> Session::answer_query(const Message& message) {
  Reply reply(message.request);
  switch (message.request) {
    case Request::get_features:
      reply.u64(features());
      break;
    case Request::get_protocol_features:
      reply.u64(kOfferedProtocolFeatures);
      break;
    case Request::get_queue_num:
      reply.u64(vrings_.size());
      break;
    case Request::get_max_mem_slots:
      reply.u64(virtio::GuestMemory::kMostRegions);
      break;
    case Request::get_status:
      reply.u64(status_);
      break;
    default:
      reply = read_config(message.get<ConfigAccess>());
  }
  co_await send(reply);
  co_return true;
}

Task<bool> Session::change_device(const Message& message, Fds& fds) {
  switch (message.request) {
    case Request::set_features:
      co_await set_features(message.get<uint64_t>());
      break;
    case Request::set_protocol_features:
      if ((message.get<uint64_t>() & ~kOfferedProtocolFeatures) != 0)
        throw Error("features {:#x} are not offered", message.get<uint64_t>());
      protocol_features_ = message.get<uint64_t>();
      break;
    case Request::set_backend_req_fd:
      backend_channel_ = take_fd(fds);
      break;
    case Request::set_config:
      write_config(message.get<ConfigAccess>());
      break;
    case Request::set_status:
      co_await set_status(message.get<uint64_t>());
      break;
    case Request::reset_device:
      co_await reset();
      break;
    case Request::reset_owner:
      for (Vring& ring : vrings_) ring.enabled = false;
      co_await update_all();
      break;
    default:  // SET_OWNER says nothing that is not known
      break;
  }
  co_return false;
}

uint64_t Session::features() const noexcept {
  return virtio_blk::common_features(traits_.device.writable, vrings_.size()) |
         bit(VIRTIO_F_IN_ORDER) | bit(VIRTIO_BLK_F_SIZE_MAX) | bit(VIRTIO_BLK_F_CONFIG_WCE) |
         kLogAll | kProtocolFeatures;
}

Task<void> Session::set_features(uint64_t features) {
  if ((features & ~this->features()) != 0)
    throw Error("features {:#x} are not offered", features & ~this->features());
  bool runs = std::ranges::any_of(vrings_, &Vring::running);
  constexpr uint64_t kAnyTime = kLogAll | kProtocolFeatures;
  if (runs && ((features ^ features_) & ~kAnyTime) != 0)
    throw Error("features change while rings run");
  features_ = features;
  // A front end that knows no protocol features cannot enable rings.
  if ((features & kProtocolFeatures) == 0) {
    for (Vring& ring : vrings_) ring.enabled = true;
  }
  co_await update_all();
  for (uint32_t index = 0; index < vrings_.size(); ++index) co_await update_logging(index);
}

// QEMU resets the status of a device that stops before it asks where its rings stood: they stand
// still from here on, and nothing else is forgotten.
Task<void> Session::set_status(uint64_t status) {
  status_ = status & 0xff;
  if (status_ != 0) co_return;
  for (Vring& ring : vrings_) ring.has_kick = false;
  co_await update_all();
}

Task<void> Session::reset() {
  for (uint32_t index = 0; index < vrings_.size(); ++index) {
    co_await pause(index);
    Vring& ring = vrings_[index];
    if (ring.queue != nullptr) {
      co_await run_in(*traits_.contexts[index], ring.queue->set_kick({}));
    }
    std::unique_ptr<Queue> queue = std::move(ring.queue);
    ring = Vring();
    ring.queue = std::move(queue);
  }
  features_ = 0;
  status_ = 0;
  in_flight_.reset();
}

Reply Session::read_config(const ConfigAccess& access) const noexcept {
  virtio_blk_config config =
      virtio::make_blk_config({.bytes = backend_.length(),
                               .block_size = traits_.device.block_size,
                               .queues = static_cast<uint16_t>(vrings_.size()),
                               .write_cache = backend_.write_cache()});
  // Newer front ends know a longer space: what is not known here is zero.
  std::array<std::byte, kMostConfig> space{};
  std::memcpy(space.data(), &config, sizeof config);
  Reply reply(Request::get_config);
  if (access.offset > space.size() || access.size > space.size() - access.offset)
    return reply.config(access, {});
  return reply.config(access, ConstBytes(space).subspan(access.offset, access.size));
}

// Of the space, the write cache's mode is the one thing that can be written. A front end that
// restores the whole of it after a migration may say again what is so.
void Session::write_config(const ConfigAccess& access) {
  constexpr size_t kPlace = offsetof(virtio_blk_config, wce);
  bool whole = access.flags == kConfigForMigration && access.offset <= kPlace &&
               access.offset + access.size > kPlace;
  bool mode_only = access.flags == 0 && access.offset == kPlace && access.size == 1;
  if (!whole && !mode_only) throw Error("only the mode of the write cache can be written");
  if (traits_.device.writable)
    backend_.set_write_cache(access.data[kPlace - access.offset] != std::byte{0});
}

void Session::announce_config_change() noexcept {
  constexpr uint64_t kNeeded = feature::kBackendReq | feature::kConfig;
  if (!backend_channel_ || (protocol_features_ & kNeeded) != kNeeded) return;
  Reply message(BackendRequest::config_change);
  // Where the channel is full, the front end has not read the last news yet.
  std::ignore = ::send(backend_channel_.get(), message.bytes().data(), message.bytes().size(),
                       MSG_DONTWAIT | MSG_NOSIGNAL);
}

}  // namespace strata::vhost_user
