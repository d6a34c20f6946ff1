// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/io/padding.h"

namespace strata::io {

Padding::Padding(ByteRange range, IoVector memory, uint32_t alignment)
    : alignment_(alignment),
      aligned_(range.aligned_out(alignment)),
      head_(range.offset - aligned_.offset),
      tail_(aligned_.end() - range.end()),
      merged_(aligned_.bytes == alignment && (head_ != 0 || tail_ != 0)),
      needs_buffer_(head_ != 0 || tail_ != 0) {
  if (needs_buffer_) {
    bool two_units = head_ != 0 && tail_ != 0 && !merged_;
    buffer_ = AlignedBuffer(two_units ? 2 * alignment_ : alignment_);
    if (!buffer_) return;
    tail_buffer_ = buffer_.data() + (two_units ? alignment_ : 0);
  }
  parts_.reserve(memory.parts() + 2);
  if (head_ != 0) parts_.push_back({buffer_.data(), head_});
  memory.for_each([&](std::byte* data, size_t size) { parts_.push_back({data, size}); });
  if (tail_ != 0) parts_.push_back({tail_buffer_ + (alignment_ - tail_), tail_});
}

}  // namespace strata::io
