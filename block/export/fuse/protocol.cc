// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/export/fuse/protocol.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

namespace strata::fuse_export {
namespace {

// A shared mapping of a file opened for direct I/O is allowed. Not in the headers of Debian 12.
constexpr uint64_t kDirectIoAllowMmap = uint64_t{1} << 36;
// The first version whose answer to INIT has today's size, and that knows all opcodes we serve.
constexpr uint32_t kOldestMinor = 27;
// Requests of asynchronous I/O that the kernel hands out at once (its own choice would be 12).
constexpr uint16_t kMostBackground = 256;

constexpr uint64_t kWantedFlags = FUSE_ASYNC_READ | FUSE_ATOMIC_O_TRUNC | FUSE_BIG_WRITES |
                                  FUSE_AUTO_INVAL_DATA | FUSE_ASYNC_DIO | FUSE_MAX_PAGES |
                                  FUSE_INIT_EXT | kDirectIoAllowMmap;

// The arguments behind the header, from wherever they lie.
class Arguments {
 public:
  Arguments(std::span<const std::byte> head, std::span<const std::byte> rest) noexcept
      : size_(head.size() + rest.size()) {
    size_t first = std::min(head.size(), bytes_.size());
    std::memcpy(bytes_.data(), head.data(), first);
    size_t second = std::min(rest.size(), bytes_.size() - first);
    if (second != 0) std::memcpy(bytes_.data() + first, rest.data(), second);
  }

  size_t size() const noexcept { return size_; }
  template <class T>
  bool read(T& out) const noexcept {
    static_assert(sizeof(T) <= sizeof(bytes_));
    if (size_ < sizeof(T)) return false;
    std::memcpy(&out, bytes_.data(), sizeof(T));
    return true;
  }
  // An older or newer sender's structure: what it lacks is zero.
  template <class T>
  bool read_prefix(T& out, size_t least) const noexcept {
    if (size_ < least) return false;
    std::memcpy(&out, bytes_.data(), std::min(size_, sizeof(T)));
    return true;
  }

 private:
  std::array<std::byte, 128> bytes_;
  size_t size_;
};

bool parse_transfer(const Arguments& arguments, Request& request) noexcept {
  // READ's arguments have the size and meaning of WRITE's.
  static_assert(sizeof(fuse_read_in) == sizeof(fuse_write_in));
  fuse_write_in transfer;
  if (!arguments.read(transfer) || transfer.size > kMostData) return false;
  request.offset = transfer.offset;
  request.bytes = transfer.size;
  return request.opcode == FUSE_READ || transfer.size == arguments.size() - sizeof transfer;
}

bool parse_fallocate(const Arguments& arguments, Request& request) noexcept {
  fuse_fallocate_in in;
  if (!arguments.read(in)) return false;
  request.offset = in.offset;
  request.bytes = in.length;
  request.mode = in.mode;
  return true;
}

bool parse_lseek(const Arguments& arguments, Request& request) noexcept {
  fuse_lseek_in in;
  if (!arguments.read(in)) return false;
  request.offset = in.offset;
  request.mode = in.whence;
  return true;
}

bool parse_arguments(const Arguments& arguments, Request& request) noexcept {
  switch (request.opcode) {
    case FUSE_READ:
    case FUSE_WRITE:
      return parse_transfer(arguments, request);
    case FUSE_FALLOCATE:
      return parse_fallocate(arguments, request);
    case FUSE_LSEEK:
      return parse_lseek(arguments, request);
    case FUSE_SETATTR:
      return arguments.read(request.attributes);
    case FUSE_INIT:
      request.init = {};
      return arguments.read_prefix(request.init, offsetof(fuse_init_in, flags2));
    case FUSE_OPEN: {
      fuse_open_in in;
      if (!arguments.read(in)) return false;
      request.mode = in.flags;
      return true;
    }
    default:
      return true;
  }
}

}  // namespace

Status parse_request(std::span<const std::byte> head, std::span<const std::byte> rest,
                     Request& request) noexcept {
  request.unique = 0;
  fuse_in_header header;
  if (head.size() < sizeof header) return Status::error(EINVAL);
  std::memcpy(&header, head.data(), sizeof header);
  request.unique = header.unique;
  request.opcode = header.opcode;
  if (header.len != head.size() + rest.size()) return Status::error(EINVAL);
  Arguments arguments(head.subspan(sizeof header), rest);
  return parse_arguments(arguments, request) ? Status() : Status::error(EINVAL);
}

bool wants_answer(uint32_t opcode) noexcept {
  return opcode != FUSE_FORGET && opcode != FUSE_BATCH_FORGET && opcode != FUSE_NOTIFY_REPLY;
}

std::optional<fuse_init_out> answer_init(const fuse_init_in& offer) noexcept {
  bool newer = offer.major > FUSE_KERNEL_VERSION;
  if (!newer && (offer.major < FUSE_KERNEL_VERSION || offer.minor < kOldestMinor))
    return std::nullopt;
  fuse_init_out answer{};
  answer.major = FUSE_KERNEL_VERSION;
  answer.minor = FUSE_KERNEL_MINOR_VERSION;
  if (newer) return answer;  // the kernel asks again, with our version
  uint64_t offered = offer.flags;
  if ((offer.flags & FUSE_INIT_EXT) != 0) offered |= uint64_t{offer.flags2} << 32;
  uint64_t agreed = offered & kWantedFlags;
  answer.flags = static_cast<uint32_t>(agreed);
  answer.flags2 = static_cast<uint32_t>(agreed >> 32);
  answer.max_readahead = offer.max_readahead;
  answer.max_background = kMostBackground;
  answer.congestion_threshold = kMostBackground / 4 * 3;
  answer.max_write = kMostData;
  answer.max_pages = kMostData / 4096;
  answer.time_gran = 1;
  return answer;
}

}  // namespace strata::fuse_export
