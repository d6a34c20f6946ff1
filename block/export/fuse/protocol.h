// SPDX-License-Identifier: GPL-2.0-or-later
//
// What goes over /dev/fuse: requests from bytes to values, and the answer to the first of them.
// Pure.
#pragma once

#include <linux/fuse.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "block/base/result.h"

namespace strata::fuse_export {

// Data of one request at most: what the kernel is told, and it asks for no more.
inline constexpr uint32_t kMostData = 1 << 20;
// What precedes the data of a write. A message is received in two pieces, the second of which is
// aligned memory, so that the data need not be copied.
inline constexpr size_t kHeadSize = sizeof(fuse_in_header) + sizeof(fuse_write_in);
// Each message is about the one file.
inline constexpr uint64_t kFileNode = FUSE_ROOT_ID;

// A request. Which members mean something depends on the opcode.
struct Request {
  uint32_t opcode = 0;
  uint64_t unique = 0;
  uint64_t offset = 0;
  uint64_t bytes = 0;  // READ, WRITE, FALLOCATE
  uint32_t mode = 0;   // FALLOCATE: its mode; LSEEK: whence; OPEN: its flags
  fuse_setattr_in attributes{};
  fuse_init_in init{};
};

// `head` is the first kHeadSize bytes of a message, or all of it, `rest` what follows. EINVAL where
// it is none; request.unique is then 0 or that of the request to be refused.
Status parse_request(std::span<const std::byte> head, std::span<const std::byte> rest,
                     Request& request) noexcept;

// Whether anybody waits for an answer.
bool wants_answer(uint32_t opcode) noexcept;

// What is agreed upon with the kernel; nothing where it is too old.
std::optional<fuse_init_out> answer_init(const fuse_init_in& offer) noexcept;

}  // namespace strata::fuse_export
