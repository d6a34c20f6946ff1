// SPDX-License-Identifier: GPL-2.0-or-later
//
// The numbers of the NBD protocol (doc/proto.md of the NetworkBlockDevice project, section
// "Values", and its extended-headers extension), and the limits Strata keeps on both sides.
//
// An enumeration read from the wire may hold a value that has no name here; a switch over one needs
// a default.
#pragma once

#include <cstddef>
#include <cstdint>

namespace strata::nbd {

inline constexpr std::uint64_t kInitMagic = 0x4e42444d41474943;      // "NBDMAGIC"
inline constexpr std::uint64_t kOldstyleMagic = 0x0000420281861253;  // cliserv_magic
inline constexpr std::uint64_t kOptionMagic = 0x49484156454f5054;    // "IHAVEOPT"
inline constexpr std::uint64_t kOptionReplyMagic = 0x0003e889045565a9;
inline constexpr std::uint32_t kRequestMagic = 0x25609513;
inline constexpr std::uint32_t kExtendedRequestMagic = 0x21e41c71;
inline constexpr std::uint32_t kSimpleReplyMagic = 0x67446698;
inline constexpr std::uint32_t kStructuredReplyMagic = 0x668e33ef;
inline constexpr std::uint32_t kExtendedReplyMagic = 0x6e8a278c;

// Strings: export names, descriptions, meta context names and queries, error messages.
inline constexpr std::size_t kMaxString = 4096;
// A longer payload, of an option or of a request, is taken for an attack: the peer is disconnected.
inline constexpr std::uint32_t kMaxPayload = 32u << 20;
// What a server keeps in memory of one option. A longer one that is not an attack is read, thrown
// away and answered with ERR_TOO_BIG.
inline constexpr std::uint32_t kMaxInfoOption = 64u << 10;
inline constexpr std::uint32_t kMaxMetaOption = 256u << 10;
// What a client keeps of one option reply: two strings and their lengths, generously.
inline constexpr std::uint32_t kMaxOptionReply = 64u << 10;
// "Servers SHOULD NOT send more than 2^20 status descriptors in a single chunk."
inline constexpr std::uint32_t kMaxStatusExtents = 1u << 20;

// Handshake flags (server) and client flags: the same bits.
inline constexpr std::uint16_t kFlagFixedNewstyle = 1 << 0;
inline constexpr std::uint16_t kFlagNoZeroes = 1 << 1;

// Transmission flags of an export.
enum TransmissionFlag : std::uint16_t {
  kHasFlags = 1 << 0,
  kReadOnly = 1 << 1,
  kSendFlush = 1 << 2,
  kSendFua = 1 << 3,
  kRotational = 1 << 4,
  kSendTrim = 1 << 5,
  kSendWriteZeroes = 1 << 6,
  kSendDf = 1 << 7,
  kCanMultiConn = 1 << 8,
  kSendResize = 1 << 9,
  kSendCache = 1 << 10,
  kSendFastZero = 1 << 11,
  kBlockStatusPayload = 1 << 12,
};

enum class Option : std::uint32_t {
  export_name = 1,
  abort = 2,
  list = 3,
  peek_export = 4,  // withdrawn
  starttls = 5,
  info = 6,
  go = 7,
  structured_reply = 8,
  list_meta_context = 9,
  set_meta_context = 10,
  extended_headers = 11,
};

inline constexpr std::uint32_t kOptionErrorBit = 1u << 31;

enum class OptionReply : std::uint32_t {
  ack = 1,
  server = 2,
  info = 3,
  meta_context = 4,
  err_unsup = kOptionErrorBit | 1,
  err_policy = kOptionErrorBit | 2,
  err_invalid = kOptionErrorBit | 3,
  err_platform = kOptionErrorBit | 4,
  err_tls_reqd = kOptionErrorBit | 5,
  err_unknown = kOptionErrorBit | 6,
  err_shutdown = kOptionErrorBit | 7,
  err_block_size_reqd = kOptionErrorBit | 8,
  err_too_big = kOptionErrorBit | 9,
  err_ext_header_reqd = kOptionErrorBit | 10,
};

constexpr bool is_error(OptionReply reply) noexcept {
  return (static_cast<std::uint32_t>(reply) & kOptionErrorBit) != 0;
}

enum class Info : std::uint16_t { export_ = 0, name = 1, description = 2, block_size = 3 };

enum class Command : std::uint16_t {
  read = 0,
  write = 1,
  disconnect = 2,
  flush = 3,
  trim = 4,
  cache = 5,
  write_zeroes = 6,
  block_status = 7,
};

enum CommandFlag : std::uint16_t {
  kCmdFua = 1 << 0,
  kCmdNoHole = 1 << 1,
  kCmdDf = 1 << 2,
  kCmdReqOne = 1 << 3,
  kCmdFastZero = 1 << 4,
  kCmdPayloadLen = 1 << 5,
};

// What a client and a server have agreed on for replies; each mode includes what the former can do.
enum class ReplyMode : std::uint8_t { simple, structured, extended };

inline constexpr std::uint16_t kReplyDone = 1 << 0;
inline constexpr std::uint16_t kReplyErrorBit = 1 << 15;

enum class ReplyType : std::uint16_t {
  none = 0,
  offset_data = 1,
  offset_hole = 2,
  block_status = 5,
  block_status_ext = 6,
  error = kReplyErrorBit | 1,
  error_offset = kReplyErrorBit | 2,
};

constexpr bool is_error(ReplyType type) noexcept {
  return (static_cast<std::uint16_t>(type) & kReplyErrorBit) != 0;
}

// Errors on the wire (section "Error values").
enum class WireError : std::uint32_t {
  none = 0,
  eperm = 1,
  eio = 5,
  enomem = 12,
  einval = 22,
  enospc = 28,
  eoverflow = 75,
  enotsup = 95,
  eshutdown = 108,
};

// Status flags of base:allocation and qemu:dirty-bitmap:NAME.
inline constexpr std::uint32_t kStateHole = 1 << 0;
inline constexpr std::uint32_t kStateZero = 1 << 1;
inline constexpr std::uint32_t kStateDirty = 1 << 0;

}  // namespace strata::nbd
