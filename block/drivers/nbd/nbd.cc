// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/drivers/nbd/nbd.h"

#include <atomic>
#include <cerrno>

#include "block/base/error.h"
#include "block/drivers/nbd/client.h"
#include "block/graph/open.h"
#include "block/graph/reopen.h"
#include "block/graph/socket_options.h"
#include "block/nbd/protocol.h"
#include "block/nbd/request.h"

namespace strata {
namespace {

using nbd::Command;
using nbd_client::Call;
using nbd_client::Client;
using nbd_client::ClientSettings;
using nbd_client::ExportInfo;

constexpr std::string_view kAllocationDepth = "qemu:allocation-depth";
// What zeroes and discards may span where lengths have 32 bits.
constexpr uint64_t kLongest32 = uint64_t{1} << 31;

class NbdDriver final : public Driver {
 public:
  using Driver::Driver;

  Task<void> open(OpenContext& context) override;
  Task<void> close(MainLoop& loop) override;
  Task<void> prepare_reopen(ReopenContext& context) override;

  Task<Status> preadv(uint64_t offset, IoVector into, ReadFlags flags) override;
  Task<Status> pwritev(uint64_t offset, IoVector from, WriteFlags flags) override;
  Task<Status> pwrite_zeroes(uint64_t offset, uint64_t bytes, WriteFlags flags) override;
  Task<Status> pdiscard(uint64_t offset, uint64_t bytes) override;
  Task<Status> flush() override;
  Task<Result<BlockStatus>> block_status(uint64_t offset, uint64_t bytes, StatusWant want) override;
  bool knows_zeroes(uint64_t, uint64_t) const noexcept override { return false; }
  Task<Result<uint64_t>> length() override { return Task<Result<uint64_t>>::ready(info().size); }
  Task<void> truncate(uint64_t size, TruncateOptions options) override;

  WriteFlags write_flags() const noexcept override {
    return info().has(nbd::kSendFua) ? WriteFlags(WriteFlag::fua) : WriteFlags();
  }
  WriteFlags zero_flags() const noexcept override;
  Limits limits(const Limits&) const noexcept override;

  FileName file_name() const override;
  std::optional<ImageFacts> image_facts() const override { return std::nullopt; }
  std::optional<uint64_t> allocated_size() const override { return std::nullopt; }

 private:
  const ExportInfo& info() const noexcept { return client_->info(); }
  Task<Status> make(nbd::Request request, IoVector data = {}) const;
  Task<Status> change(nbd::Request request, IoVector data = {});
  Task<Status> flush_changes(uint64_t upto);
  Result<uint64_t> bytes_there(uint64_t offset, uint64_t bytes) const noexcept;
  BlockStatus interpret(uint64_t offset, uint64_t bytes, nbd::Extent extent) const;

  std::optional<Client> client_;
  // How many changes the server has made, and how many of them a flush has covered.
  std::atomic<uint64_t> changes_{0};
  std::atomic<uint64_t> flushed_{0};
  qapi::SocketAddress server_;
};

std::shared_ptr<const TlsCredentials> find_credentials(const BlockLayer& layer,
                                                       const std::string& id) {
  if (id.empty()) throw Error("TLS needs credentials").hint("Did you forget a valid tls-creds?\n");
  const auto& find = layer.surroundings().find_tls_credentials;
  if (!find) throw Error("No TLS credentials with id '{}'", id);
  std::shared_ptr<const TlsCredentials> found = find(id);
  if (found->endpoint() != TlsEndpoint::client)
    throw Error("Expected TLS credentials for a client endpoint");
  return found;
}

ClientSettings settings_of(const BlockLayer& layer, const qapi::BlockdevOptionsNbd& options) {
  ClientSettings settings;
  if (options.tls_creds) {
    settings.handshake.tls = find_credentials(layer, *options.tls_creds);
    const auto* inet = options.server.get_if<qapi::InetSocketAddress>();
    settings.handshake.tls_hostname =
        options.tls_hostname.value_or(inet != nullptr ? inet->host : "");
  }
  settings.address = to_socket_address(options.server);
  settings.handshake.export_name = options.export_.value_or("");
  if (settings.handshake.export_name.size() > nbd::kMaxString)
    throw Error("export name too long to send to server");
  if (options.x_dirty_bitmap) {
    if (options.x_dirty_bitmap->size() > nbd::kMaxString)
      throw Error("x-dirty-bitmap query too long to send to server");
    settings.handshake.context = *options.x_dirty_bitmap;
  }
  settings.reconnect_delay = std::chrono::seconds(options.reconnect_delay.value_or(0));
  settings.open_timeout = std::chrono::seconds(options.open_timeout.value_or(0));
  return settings;
}

Task<void> NbdDriver::open(OpenContext& context) {
  const auto& options = context.branch<qapi::BlockdevOptionsNbd>();
  server_ = options.server;
  client_.emplace(context.loop.context(), context.layer.surroundings().passed_fds,

                  settings_of(context.layer, options));
  co_await client_->open();
  std::optional<Error> failure;
  NodeOptions& node_options = context.node.mutable_options();
  if (options.x_dirty_bitmap && !info().context)
    failure = Error("requested x-dirty-bitmap {} not found", *options.x_dirty_bitmap);
  else if (info().size > kMaxLength)
    failure = Error("NBD export is too large");
  else if (info().read_only() && !node_options.read_only && !node_options.auto_read_only)
    failure = Error("request on write denied without write permission");
  if (info().read_only()) node_options.read_only = true;
  if (!failure) co_return;
  co_await client_->close();
  throw *std::move(failure);
}

Task<void> NbdDriver::close(MainLoop&) {
  co_await client_->close();
}

Task<void> NbdDriver::prepare_reopen(ReopenContext& context) {
  NodeOptions& wanted = context.in_force;
  if (info().read_only() && !wanted.read_only && !wanted.auto_read_only)
    throw Error::from_text("Can't reopen read-only NBD mount as read/write", EACCES);
  if (info().read_only()) wanted.read_only = true;
  co_return;
}

Task<Status> NbdDriver::make(nbd::Request request, IoVector data) const {
  Call call{.request = request, .data = data};
  co_return co_await const_cast<Client&>(*client_).perform(call);
}

Task<Status> NbdDriver::change(nbd::Request request, IoVector data) {
  Status status = co_await make(request, data);
  changes_.fetch_add(1, std::memory_order_release);
  co_return status;
}

// Requests keep to the server's alignment and may so reach past the end of what it has.
Task<Status> NbdDriver::preadv(uint64_t offset, IoVector into, ReadFlags) {
  uint64_t there = offset < info().size ? info().size - offset : 0;
  if (there < into.size()) {
    into.slice(there, into.size() - there).fill(std::byte{0});
    into = into.slice(0, there);
  }
  if (into.empty()) return Task<Status>::ready(Status());
  return make({.offset = offset, .length = into.size(), .command = Command::read}, into);
}

// Of a range that is written, what the server has room for. Behind the last unit nothing is kept.
Result<uint64_t> NbdDriver::bytes_there(uint64_t offset, uint64_t bytes) const noexcept {
  uint64_t size = info().size;
  uint64_t unit = std::max<uint64_t>(kSectorSize, info().sizes ? info().sizes->minimum : 1);
  if (offset + bytes > align_up(size, unit)) return Status::error(ENOSPC);
  return offset < size ? std::min(bytes, size - offset) : 0;
}

Task<Status> NbdDriver::pwritev(uint64_t offset, IoVector from, WriteFlags flags) {
  Result<uint64_t> there = bytes_there(offset, from.size());
  if (!there) return Task<Status>::ready(there.status());
  from = from.slice(0, *there);
  if (from.empty()) return Task<Status>::ready(Status());
  auto wire = static_cast<uint16_t>(flags.has(WriteFlag::fua) ? nbd::kCmdFua : 0);
  return change({.offset = offset, .length = from.size(), .command = Command::write, .flags = wire},
                from);
}

Task<Status> NbdDriver::pwrite_zeroes(uint64_t offset, uint64_t bytes, WriteFlags flags) {
  if (!info().has(nbd::kSendWriteZeroes)) return Task<Status>::ready(Status::error(ENOTSUP));
  Result<uint64_t> there = bytes_there(offset, bytes);
  if (!there) return Task<Status>::ready(there.status());
  bytes = *there;
  if (bytes == 0) return Task<Status>::ready(Status());
  unsigned wire = 0;
  if (flags.has(WriteFlag::fua)) wire |= nbd::kCmdFua;
  if (!flags.has(WriteFlag::may_unmap)) wire |= nbd::kCmdNoHole;
  if (flags.has(WriteFlag::no_fallback)) wire |= nbd::kCmdFastZero;
  return change({.offset = offset,
                 .length = bytes,
                 .command = Command::write_zeroes,
                 .flags = static_cast<uint16_t>(wire)});
}

Task<Status> NbdDriver::pdiscard(uint64_t offset, uint64_t bytes) {
  if (!info().has(nbd::kSendTrim)) return Task<Status>::ready(Status());
  uint64_t there = offset < info().size ? info().size - offset : 0;
  bytes = std::min(bytes, there);
  if (bytes == 0) return Task<Status>::ready(Status());
  return change({.offset = offset, .length = bytes, .command = Command::trim});
}

// Where nothing has changed since the last one the server is not asked, and not waited for if it is
// gone.
Task<Status> NbdDriver::flush() {
  uint64_t changes = changes_.load(std::memory_order_acquire);
  if (!info().has(nbd::kSendFlush) || flushed_.load(std::memory_order_relaxed) == changes)
    return Task<Status>::ready(Status());
  return flush_changes(changes);
}

Task<Status> NbdDriver::flush_changes(uint64_t upto) {
  Status status = co_await make({.command = Command::flush});
  uint64_t before = flushed_.load(std::memory_order_relaxed);
  while (status.ok() && before < upto && !flushed_.compare_exchange_weak(before, upto)) {
  }
  co_return status;
}

WriteFlags NbdDriver::zero_flags() const noexcept {
  WriteFlags flags;
  if (!info().has(nbd::kSendWriteZeroes)) return flags;
  flags |= WriteFlag::may_unmap;
  if (info().has(nbd::kSendFua)) flags |= WriteFlag::fua;
  if (info().has(nbd::kSendFastZero)) flags |= WriteFlag::no_fallback;
  return flags;
}

Limits NbdDriver::limits(const Limits&) const noexcept {
  Limits limits;
  uint64_t most = nbd::kMaxPayload;
  if (info().sizes) {
    limits.request_alignment = info().sizes->minimum;
    limits.optimal_transfer = info().sizes->preferred;
    if (info().sizes->maximum != 0) most = std::min<uint64_t>(most, info().sizes->maximum);
  }
  uint64_t unit = limits.request_alignment;
  limits.max_transfer = std::max(most / unit * unit, unit);
  if (info().mode != nbd::ReplyMode::extended)
    limits.max_pdiscard = limits.max_pwrite_zeroes = kLongest32 / unit * unit;
  limits.optimal_memory_alignment = 1;
  return limits;
}

// Two bits of the context say what there is. `extent` starts at `offset`.
BlockStatus NbdDriver::interpret(uint64_t offset, uint64_t bytes, nbd::Extent extent) const {
  // Of an allocation depth it matters whether it is none, this layer or one below.
  if (client_->settings().handshake.context == kAllocationDepth)
    extent.flags = std::min<uint64_t>(extent.flags, 2);
  // The block layer wants whole units; what is shorter is taken for data.
  uint64_t unit = info().sizes ? info().sizes->minimum : 1;
  if (extent.length < std::min(unit, bytes)) extent = {.length = unit, .flags = 0};
  if (extent.length < bytes) extent.length = extent.length / unit * unit;
  BlockStatus status;
  status.bytes = std::min(extent.length, bytes);
  if ((extent.flags & nbd::kStateHole) == 0) status.flags |= StatusFlag::data;
  if ((extent.flags & nbd::kStateZero) != 0) status.flags |= StatusFlag::zero;
  if (status.flags.empty()) return status;
  status.flags |= StatusFlag::offset_valid;
  status.map_offset = offset;
  status.file = &node();
  return status;
}

Task<Result<BlockStatus>> NbdDriver::block_status(uint64_t offset, uint64_t bytes, StatusWant) {
  if (offset >= info().size) co_return interpret(offset, bytes, {bytes, nbd::kStateZero});
  if (!info().context) co_return interpret(offset, bytes, {bytes, 0});
  uint64_t asked = std::min(bytes, info().size - offset);
  if (info().mode != nbd::ReplyMode::extended) {
    uint64_t unit = info().sizes ? info().sizes->minimum : 1;
    asked = std::min(asked, kLongest32 / unit * unit);
  }
  Call call{.request = {.offset = offset,
                        .length = asked,
                        .command = Command::block_status,
                        .flags = nbd::kCmdReqOne}};
  Status status = co_await client_->perform(call);
  if (!status.ok()) co_return status;
  call.extent->length = std::min(call.extent->length, asked);
  // The last unit may reach past the end.
  if (offset + call.extent->length == info().size) call.extent->length = bytes;
  co_return interpret(offset, bytes, *call.extent);
}

// The size is the server's affair; a size it has already, or one that may be larger, will do.
Task<void> NbdDriver::truncate(uint64_t size, TruncateOptions options) {
  if (size != info().size && options.exact)
    throw Error::from_text("Cannot resize NBD nodes", ENOTSUP);
  if (size > info().size) throw Error::from_text("Cannot grow NBD nodes", EINVAL);
  co_return;
}

std::string inet_authority(const qapi::InetSocketAddress& address) {
  bool is_v6 = address.host.find(':') != std::string::npos;
  return fmt::format("{}:{}", is_v6 ? "[" + address.host + "]" : address.host, address.port);
}

FileName NbdDriver::file_name() const {
  FileName name;
  const std::string& exported = client_->settings().handshake.export_name;
  if (const auto* inet = server_.get_if<qapi::InetSocketAddress>()) {
    name.exact = "nbd://" + inet_authority(*inet);
    if (!exported.empty()) name.exact += "/" + exported;
  } else if (const auto* local = server_.get_if<qapi::UnixSocketAddress>()) {
    name.exact = exported.empty() ? fmt::format("nbd+unix://?socket={}", local->path)
                                  : fmt::format("nbd+unix:///{}?socket={}", exported, local->path);
  }
  return name;
}

std::unique_ptr<Driver> create(const DriverDescriptor& descriptor) {
  return std::make_unique<NbdDriver>(descriptor);
}

}  // namespace

const DriverDescriptor kNbdDriver{
    .name = qapi::BlockdevDriver::nbd, .is_protocol = true, .reopens = true, .create = create};

}  // namespace strata
