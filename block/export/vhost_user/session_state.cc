// SPDX-License-Identifier: GPL-2.0-or-later
//
// The state is one message in a socket of its own: JSON, in which descriptors are indexes into
// those that go with it.
#include "block/export/vhost_user/session_state.h"

#include <sys/socket.h>

#include <boost/json.hpp>
#include <cstring>

#include "block/base/error.h"

namespace strata::vhost_user {
namespace {

namespace json = boost::json;

constexpr int kVersion = 1;
constexpr size_t kMostFds = 250;  // of the 253 that a message can carry
constexpr size_t kMostBytes = 256 << 10;

class Writer {
 public:
  void put(json::object& object, std::string_view name, const UniqueFd& fd) {
    if (!fd) return;
    object[name] = fds_.size();
    fds_.push_back(fd.get());
  }
  const std::vector<int>& fds() const noexcept { return fds_; }

 private:
  std::vector<int> fds_;
};

class Reader {
 public:
  explicit Reader(std::vector<UniqueFd> fds) : fds_(std::move(fds)) {}
  UniqueFd get(const json::object& object, std::string_view name) {
    const json::value* index = object.if_contains(name);
    return index != nullptr ? std::move(fds_.at(index->to_number<size_t>())) : UniqueFd();
  }

 private:
  std::vector<UniqueFd> fds_;
};

json::object write_ring(Writer& writer, const RingState& ring) {
  const VringAddress& at = ring.addresses;
  json::object object{{"size", ring.size},
                      {"base", ring.base},
                      {"has-addresses", ring.has_addresses},
                      {"enabled", ring.enabled},
                      {"has-kick", ring.has_kick},
                      {"log", at.log},
                      {"addresses", {at.descriptors, at.used, at.available, at.log_address}}};
  writer.put(object, "kick", ring.events.kick);
  writer.put(object, "call", ring.events.call);
  writer.put(object, "err", ring.events.err);
  return object;
}

RingState read_ring(Reader& reader, const json::object& object, uint32_t index) {
  RingState ring;
  ring.size = object.at("size").to_number<uint16_t>();
  ring.base = object.at("base").to_number<uint32_t>();
  ring.has_addresses = object.at("has-addresses").as_bool();
  ring.enabled = object.at("enabled").as_bool();
  ring.has_kick = object.at("has-kick").as_bool();
  const json::array& at = object.at("addresses").as_array();
  ring.addresses = {.index = index,
                    .log = object.at("log").as_bool(),
                    .descriptors = at.at(0).to_number<uint64_t>(),
                    .used = at.at(1).to_number<uint64_t>(),
                    .available = at.at(2).to_number<uint64_t>(),
                    .log_address = at.at(3).to_number<uint64_t>()};
  ring.events = {reader.get(object, "kick"), reader.get(object, "call"), reader.get(object, "err")};
  return ring;
}

json::object write(Writer& writer, const SessionState& state) {
  json::object object{{"version", kVersion},
                      {"features", state.features},
                      {"protocol-features", state.protocol_features},
                      {"status", state.status},
                      {"in-flight",
                       {state.in_flight.size, state.in_flight.offset, state.in_flight.queues,
                        state.in_flight.queue_size}},
                      {"log", {state.log.size, state.log.offset}}};
  writer.put(object, "connection", state.connection);
  writer.put(object, "in-flight-fd", state.in_flight_fd);
  writer.put(object, "log-fd", state.log_fd);
  writer.put(object, "log-event", state.log_event);
  writer.put(object, "backend-channel", state.backend_channel);
  json::array regions;
  for (const RegionState& region : state.regions) {
    const virtio::RegionDescription& is = region.description;
    json::object one{{"is", {is.guest_address, is.size, is.user_address, is.mmap_offset}}};
    writer.put(one, "fd", region.fd);
    regions.push_back(std::move(one));
  }
  json::array rings;
  for (const RingState& ring : state.rings) rings.push_back(write_ring(writer, ring));
  object["regions"] = std::move(regions);
  object["rings"] = std::move(rings);
  return object;
}

SessionState read(Reader reader, const json::object& object) {
  if (object.at("version").to_number<int>() != kVersion)
    throw Error("it was left by another version");
  SessionState state;
  state.features = object.at("features").to_number<uint64_t>();
  state.protocol_features = object.at("protocol-features").to_number<uint64_t>();
  state.status = object.at("status").to_number<uint64_t>();
  const json::array& area = object.at("in-flight").as_array();
  state.in_flight = {.size = area.at(0).to_number<uint64_t>(),
                     .offset = area.at(1).to_number<uint64_t>(),
                     .queues = area.at(2).to_number<uint16_t>(),
                     .queue_size = area.at(3).to_number<uint16_t>()};
  const json::array& log = object.at("log").as_array();
  state.log = {log.at(0).to_number<uint64_t>(), log.at(1).to_number<uint64_t>()};
  state.connection = reader.get(object, "connection");
  state.in_flight_fd = reader.get(object, "in-flight-fd");
  state.log_fd = reader.get(object, "log-fd");
  state.log_event = reader.get(object, "log-event");
  state.backend_channel = reader.get(object, "backend-channel");
  for (const json::value& region : object.at("regions").as_array()) {
    const json::array& is = region.as_object().at("is").as_array();
    state.regions.push_back({{.guest_address = is.at(0).to_number<uint64_t>(),
                              .size = is.at(1).to_number<uint64_t>(),
                              .user_address = is.at(2).to_number<uint64_t>(),
                              .mmap_offset = is.at(3).to_number<uint64_t>()},
                             reader.get(region.as_object(), "fd")});
  }
  for (const json::value& ring : object.at("rings").as_array())
    state.rings.push_back(read_ring(reader, ring.as_object(), uint32_t(state.rings.size())));
  return state;
}

alignas(cmsghdr) thread_local char control[CMSG_SPACE(kMostFds * sizeof(int))];

std::vector<UniqueFd> descriptors_of(msghdr& message) {
  std::vector<UniqueFd> fds;
  for (cmsghdr* head = CMSG_FIRSTHDR(&message); head != nullptr;
       head = CMSG_NXTHDR(&message, head)) {
    if (head->cmsg_level != SOL_SOCKET || head->cmsg_type != SCM_RIGHTS) continue;
    size_t count = (head->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < count; ++i) {
      int fd;
      std::memcpy(&fd, CMSG_DATA(head) + i * sizeof fd, sizeof fd);
      fds.emplace_back(fd);
    }
  }
  return fds;
}

}  // namespace

UniqueFd pack(const SessionState& state) {
  Writer writer;
  std::string text = json::serialize(write(writer, state));
  if (writer.fds().size() > kMostFds || text.size() > kMostBytes)
    throw Error("there are too many memory regions or rings");
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) != 0)
    throw Error::from_errno(errno, "cannot make a socket");
  UniqueFd kept(ends[0]);
  UniqueFd sender(ends[1]);
  iovec part{text.data(), text.size()};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  size_t bytes = writer.fds().size() * sizeof(int);
  message.msg_control = control;
  message.msg_controllen = CMSG_SPACE(bytes);
  cmsghdr* rights = CMSG_FIRSTHDR(&message);
  rights->cmsg_level = SOL_SOCKET;
  rights->cmsg_type = SCM_RIGHTS;
  rights->cmsg_len = CMSG_LEN(bytes);
  std::memcpy(CMSG_DATA(rights), writer.fds().data(), bytes);
  if (::sendmsg(sender.get(), &message, MSG_NOSIGNAL) < 0)
    throw Error::from_errno(errno, "cannot pass its descriptors on");
  return kept;
}

SessionState unpack(UniqueFd packed) {
  std::string text(kMostBytes, '\0');
  iovec part{text.data(), text.size()};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  ssize_t got = ::recvmsg(packed.get(), &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  if (got <= 0) throw Error("there is nothing in it");
  text.resize(static_cast<size_t>(got));
  Reader reader(descriptors_of(message));
  try {
    return read(std::move(reader), json::parse(text).as_object());
  } catch (const std::exception& error) {  // of Boost.JSON and of at()
    throw Error("{}", error.what());
  }
}

}  // namespace strata::vhost_user
