// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <sys/uio.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "block/export/buffer_pool.h"
#include "block/nbd/reply.h"

namespace strata::nbd_export {

// A run of a READ: data that lies in the request's buffer, or a hole.
struct Piece {
  uint64_t offset = 0;  // of the export
  uint32_t length = 0;
  bool hole = false;
};

// The answer to one request, as the list of memory it is sent from. It keeps what memory it needed,
// so that answering the next request allocates nothing.
class Reply {
 public:
  // Chunks of one READ.
  static constexpr size_t kMostPieces = 1024;

  Reply();
  void clear() noexcept;

  void set_success(nbd::ReplyMode mode, const nbd::Request& request);
  // `error` is an errno. The text is left out where the mode has no place for it.
  void set_error(nbd::ReplyMode mode, const nbd::Request& request, int error,
                 std::string_view text);
  // All of a READ as one run of data, which stays where it is until the reply was sent.
  void set_data(nbd::ReplyMode mode, const nbd::Request& request, std::byte* data);
  // A READ in pieces, at least one and at most kMostPieces; `data` is where the first byte of the
  // request would be. False where memory is short.
  bool set_pieces(nbd::ReplyMode mode, const nbd::Request& request, std::span<const Piece> pieces,
                  std::byte* data, BufferPool& pool);

  // Makes room for add_block_status() to be called `contexts` times. False where memory is short.
  bool start_block_status(size_t contexts, BufferPool& pool);
  void add_block_status(nbd::ReplyMode mode, const nbd::Request& request, uint32_t id,
                        uint32_t count, nbd::ConstBytes extents, bool last);

  // Empty until one of the above was called.
  std::span<const iovec> parts() const noexcept { return parts_; }
  size_t size() const noexcept { return size_; }  // bytes

 private:
  using Header = std::array<std::byte, nbd::kReplyHeaderRoom>;

  void add_part(const void* data, size_t size);
  Header& next_header() noexcept;

  Header header_;
  BufferPool::Buffer more_headers_;
  size_t more_headers_used_ = 0;
  std::string text_;
  std::vector<iovec> parts_;
  size_t size_ = 0;
};

}  // namespace strata::nbd_export
