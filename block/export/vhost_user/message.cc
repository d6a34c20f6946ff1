// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/export/vhost_user/message.h"

#include <fmt/format.h>

#include <algorithm>
#include <cassert>
#include <cstring>

namespace strata::vhost_user {
namespace {

enum class Shape : uint8_t {
  nothing,
  u64,
  state,
  address,
  fd,
  table,
  region,
  log,
  config,
  in_flight,
};

struct Rule {
  Request request;
  std::string_view name;
  Shape shape;
  uint8_t least_fds;
  uint8_t most_fds;
};

constexpr Rule kRules[] = {
    {Request::get_features, "GET_FEATURES", Shape::nothing, 0, 0},
    {Request::set_features, "SET_FEATURES", Shape::u64, 0, 0},
    {Request::set_owner, "SET_OWNER", Shape::nothing, 0, 0},
    {Request::reset_owner, "RESET_OWNER", Shape::nothing, 0, 0},
    {Request::set_mem_table, "SET_MEM_TABLE", Shape::table, 0, kMostTableRegions},
    {Request::set_log_base, "SET_LOG_BASE", Shape::log, 1, 1},
    {Request::set_log_fd, "SET_LOG_FD", Shape::nothing, 1, 1},
    {Request::set_vring_num, "SET_VRING_NUM", Shape::state, 0, 0},
    {Request::set_vring_addr, "SET_VRING_ADDR", Shape::address, 0, 0},
    {Request::set_vring_base, "SET_VRING_BASE", Shape::state, 0, 0},
    {Request::get_vring_base, "GET_VRING_BASE", Shape::state, 0, 0},
    {Request::set_vring_kick, "SET_VRING_KICK", Shape::fd, 0, 1},
    {Request::set_vring_call, "SET_VRING_CALL", Shape::fd, 0, 1},
    {Request::set_vring_err, "SET_VRING_ERR", Shape::fd, 0, 1},
    {Request::get_protocol_features, "GET_PROTOCOL_FEATURES", Shape::nothing, 0, 0},
    {Request::set_protocol_features, "SET_PROTOCOL_FEATURES", Shape::u64, 0, 0},
    {Request::get_queue_num, "GET_QUEUE_NUM", Shape::nothing, 0, 0},
    {Request::set_vring_enable, "SET_VRING_ENABLE", Shape::state, 0, 0},
    {Request::set_backend_req_fd, "SET_BACKEND_REQ_FD", Shape::nothing, 1, 1},
    {Request::get_config, "GET_CONFIG", Shape::config, 0, 0},
    {Request::set_config, "SET_CONFIG", Shape::config, 0, 0},
    {Request::get_inflight_fd, "GET_INFLIGHT_FD", Shape::in_flight, 0, 0},
    {Request::set_inflight_fd, "SET_INFLIGHT_FD", Shape::in_flight, 1, 1},
    {Request::reset_device, "RESET_DEVICE", Shape::nothing, 0, 0},
    {Request::get_max_mem_slots, "GET_MAX_MEM_SLOTS", Shape::nothing, 0, 0},
    {Request::add_mem_reg, "ADD_MEM_REG", Shape::region, 1, 1},
    {Request::rem_mem_reg, "REM_MEM_REG", Shape::region, 0, 1},
    {Request::set_status, "SET_STATUS", Shape::u64, 0, 0},
    {Request::get_status, "GET_STATUS", Shape::nothing, 0, 0},
};

const Rule* find_rule(uint32_t request) noexcept {
  const auto* rule = std::ranges::find(kRules, static_cast<Request>(request), &Rule::request);
  return rule != std::end(kRules) ? rule : nullptr;
}

constexpr size_t kRegionBytes = 32;

struct Range {
  size_t least;
  size_t most;
};
Range payload_range(Shape shape) noexcept {
  switch (shape) {
    case Shape::nothing:
      return {0, 0};
    case Shape::u64:
    case Shape::fd:
    case Shape::state:
      return {8, 8};
    case Shape::address:
      return {40, 40};
    case Shape::table:
      return {8, 8 + kMostTableRegions * kRegionBytes};
    case Shape::region:
      return {8 + kRegionBytes, 8 + kRegionBytes};
    case Shape::log:
      return {16, 16};
    case Shape::config:
      return {12, kMostPayload};
    case Shape::in_flight:
      return {20, 24};
  }
  return {0, 0};
}

template <class T>
T load(ConstBytes bytes, size_t offset) noexcept {
  assert(offset + sizeof(T) <= bytes.size());
  T value;
  std::memcpy(&value, bytes.data() + offset, sizeof value);
  return value;
}

virtio::RegionDescription load_region(ConstBytes bytes, size_t offset) noexcept {
  return {load<uint64_t>(bytes, offset), load<uint64_t>(bytes, offset + 8),
          load<uint64_t>(bytes, offset + 16), load<uint64_t>(bytes, offset + 24)};
}

// Empty where the numbers in the payload contradict its size or the descriptors.
std::variant<Payload, Fault> decode_table(ConstBytes bytes, size_t fds) {
  MemoryTable table;
  table.count = load<uint32_t>(bytes, 0);
  if (table.count > kMostTableRegions || bytes.size() < 8 + table.count * kRegionBytes)
    return Fault{fmt::format("{} memory regions in {} bytes", table.count, bytes.size())};
  if (fds != table.count)
    return Fault{fmt::format("{} memory regions with {} descriptors", table.count, fds)};
  for (size_t i = 0; i < table.count; ++i)
    table.regions[i] = load_region(bytes, 8 + i * kRegionBytes);
  return table;
}

std::variant<Payload, Fault> decode_config(ConstBytes bytes) {
  ConfigAccess access{load<uint32_t>(bytes, 0), load<uint32_t>(bytes, 4), load<uint32_t>(bytes, 8),
                      bytes.subspan(12)};
  if (access.size != access.data.size())
    return Fault{fmt::format("{} bytes of configuration space with {} bytes of data", access.size,
                             access.data.size())};
  return access;
}

std::variant<Payload, Fault> decode_fd(ConstBytes bytes, size_t fds) {
  auto value = load<uint64_t>(bytes, 0);
  VringFd vring{static_cast<uint32_t>(value & 0xff), (value & kVringNoFd) == 0};
  if (vring.has_fd != (fds == 1))
    return Fault{
        fmt::format("{} descriptors where the message says {}", fds, vring.has_fd ? 1 : 0)};
  return vring;
}

std::variant<Payload, Fault> decode_payload(Shape shape, ConstBytes bytes, size_t fds) {
  switch (shape) {
    case Shape::nothing:
      return Payload();
    case Shape::u64:
      return load<uint64_t>(bytes, 0);
    case Shape::state:
      return VringState{load<uint32_t>(bytes, 0), load<uint32_t>(bytes, 4)};
    case Shape::address:
      return VringAddress{load<uint32_t>(bytes, 0),  (load<uint32_t>(bytes, 4) & kVringLog) != 0,
                          load<uint64_t>(bytes, 8),  load<uint64_t>(bytes, 16),
                          load<uint64_t>(bytes, 24), load<uint64_t>(bytes, 32)};
    case Shape::fd:
      return decode_fd(bytes, fds);
    case Shape::table:
      return decode_table(bytes, fds);
    case Shape::region:
      return load_region(bytes, 8);
    case Shape::log:
      return LogArea{load<uint64_t>(bytes, 0), load<uint64_t>(bytes, 8)};
    case Shape::config:
      return decode_config(bytes);
    case Shape::in_flight:
      return InFlightArea{load<uint64_t>(bytes, 0), load<uint64_t>(bytes, 8),
                          load<uint16_t>(bytes, 16), load<uint16_t>(bytes, 18), bytes.size()};
  }
  return Payload();
}

}  // namespace

std::string_view name_of(Request request) noexcept {
  const Rule* rule = find_rule(static_cast<uint32_t>(request));
  return rule != nullptr ? rule->name : "unknown";
}

std::variant<Header, Fault> decode_header(std::span<const std::byte, kHeaderBytes> bytes) {
  Header header{load<uint32_t>(bytes, 0), load<uint32_t>(bytes, 4), load<uint32_t>(bytes, 8)};
  if ((header.flags & kVersionMask) != kVersion)
    return Fault{fmt::format("a message of version {}", header.flags & kVersionMask)};
  if ((header.flags & kReplyFlag) != 0) return Fault{"a reply to nothing"};
  const Rule* rule = find_rule(header.request);
  if (rule == nullptr) return Fault{fmt::format("unknown request {}", header.request)};
  Range range = payload_range(rule->shape);
  if (header.size < range.least || header.size > range.most)
    return Fault{fmt::format("{} with {} bytes", rule->name, header.size)};
  return header;
}

std::variant<Message, Fault> decode_message(const Header& header, ConstBytes payload, size_t fds) {
  const Rule* rule = find_rule(header.request);
  assert(rule != nullptr && payload.size() == header.size);
  if (fds < rule->least_fds || fds > rule->most_fds)
    return Fault{fmt::format("{} with {} descriptors", rule->name, fds)};
  auto decoded = decode_payload(rule->shape, payload, fds);
  if (auto* fault = std::get_if<Fault>(&decoded))
    return Fault{fmt::format("{}: {}", rule->name, fault->text)};
  return Message{rule->request, (header.flags & kNeedReplyFlag) != 0,
                 std::get<Payload>(std::move(decoded))};
}

Reply::Reply(uint32_t request, uint32_t flags) noexcept {
  std::memcpy(bytes_.data(), &request, sizeof request);
  std::memcpy(bytes_.data() + 4, &flags, sizeof flags);
}

Reply& Reply::put(const void* data, size_t size) noexcept {
  assert(used_ + size <= bytes_.size());
  if (size != 0) std::memcpy(bytes_.data() + used_, data, size);
  used_ += size;
  auto payload = static_cast<uint32_t>(used_ - kHeaderBytes);
  std::memcpy(bytes_.data() + 8, &payload, sizeof payload);
  return *this;
}

Reply& Reply::state(VringState state) noexcept {
  uint32_t words[] = {state.index, state.num};
  return put(words, sizeof words);
}

Reply& Reply::config(const ConfigAccess& access, ConstBytes data) noexcept {
  uint32_t words[] = {access.offset, static_cast<uint32_t>(data.size()), access.flags};
  return put(words, sizeof words).put(data.data(), data.size());
}

Reply& Reply::in_flight(const InFlightArea& area) noexcept {
  std::array<std::byte, 24> bytes{};
  std::memcpy(bytes.data(), &area.size, 8);
  std::memcpy(bytes.data() + 8, &area.offset, 8);
  std::memcpy(bytes.data() + 16, &area.queues, 2);
  std::memcpy(bytes.data() + 18, &area.queue_size, 2);
  return put(bytes.data(), area.wire_bytes);
}

}  // namespace strata::vhost_user
