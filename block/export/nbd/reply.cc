// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/export/nbd/reply.h"

#include <new>

#include "block/nbd/error_codes.h"
#include "block/nbd/option_replies.h"

namespace strata::nbd_export {
namespace {

constexpr size_t kUsualParts = 4;

}  // namespace

Reply::Reply() {
  parts_.reserve(kUsualParts);
}

void Reply::clear() noexcept {
  parts_.clear();
  more_headers_.reset();
  more_headers_used_ = 0;
  size_ = 0;
}

void Reply::add_part(const void* data, size_t size) {
  if (size == 0) return;
  parts_.push_back({const_cast<void*>(data), size});
  size_ += size;
}

Reply::Header& Reply::next_header() noexcept {
  return *new (more_headers_.data() + more_headers_used_++ * sizeof(Header)) Header;
}

void Reply::set_success(nbd::ReplyMode mode, const nbd::Request& request) {
  add_part(header_.data(), nbd::encode_success(header_, mode, request));
}

void Reply::set_error(nbd::ReplyMode mode, const nbd::Request& request, int error,
                      std::string_view text) {
  clear();
  text_ = mode == nbd::ReplyMode::simple ? std::string_view() : nbd::clip_string(text);
  add_part(header_.data(),
           nbd::encode_error(header_, mode, request, nbd::to_wire_error(error), text_.size()));
  add_part(text_.data(), text_.size());
}

void Reply::set_data(nbd::ReplyMode mode, const nbd::Request& request, std::byte* data) {
  auto length = static_cast<uint32_t>(request.length);
  add_part(header_.data(), nbd::encode_data(header_, mode, request, request.offset, length, true));
  add_part(data, length);
}

bool Reply::set_pieces(nbd::ReplyMode mode, const nbd::Request& request,
                       std::span<const Piece> pieces, std::byte* data, BufferPool& pool) {
  if (pieces.size() > 1) {
    more_headers_ = pool.get(pieces.size() * sizeof(Header));
    if (!more_headers_) return false;
  }
  for (const Piece& piece : pieces) {
    bool last = &piece == &pieces.back();
    Header& header = pieces.size() > 1 ? next_header() : header_;
    if (piece.hole) {
      add_part(header.data(),
               nbd::encode_hole(header, mode, request, piece.offset, piece.length, last));
    } else {
      add_part(header.data(),
               nbd::encode_data(header, mode, request, piece.offset, piece.length, last));
      add_part(data + (piece.offset - request.offset), piece.length);
    }
  }
  return true;
}

bool Reply::start_block_status(size_t contexts, BufferPool& pool) {
  more_headers_ = pool.get(contexts * sizeof(Header));
  return static_cast<bool>(more_headers_);
}

void Reply::add_block_status(nbd::ReplyMode mode, const nbd::Request& request, uint32_t id,
                             uint32_t count, nbd::ConstBytes extents, bool last) {
  Header& header = next_header();
  add_part(header.data(), nbd::encode_block_status(header, mode, request, id, count, last));
  add_part(extents.data(), extents.size());
}

}  // namespace strata::nbd_export
