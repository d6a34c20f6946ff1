// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <cstdint>
#include <optional>
#include <utility>

#include "block/base/math.h"

namespace strata::tools {

// Of a disk: what reads as zeroes, or what has to be read.
struct Piece {
  ByteRange range;
  bool zero = false;
};

// Makes one of pieces that lie side by side, so that what an image has in many small ones is read
// and written in few large ones. Of more zeroes than a few among data, nothing becomes data.
class JoinedPiece {
 public:
  // The next one. If it does not go with those before, they are the answer, as one.
  std::optional<Piece> add(Piece next) {
    bool first = piece_.range.empty();
    if (!first && (next.range.offset != piece_.range.end() || !goes_with(next)))
      return std::exchange(piece_, next);
    piece_.zero = first ? next.zero : piece_.zero && next.zero;
    if (first) piece_.range.offset = next.range.offset;
    piece_.range.bytes += next.range.bytes;
    return piece_.range.bytes < kEnough ? std::nullopt : take();
  }
  // Those that are left.
  std::optional<Piece> take() {
    if (piece_.range.empty()) return std::nullopt;
    return std::exchange(piece_, {});
  }

 private:
  static constexpr uint64_t kEnough = 2 << 20;
  static constexpr uint64_t kZeroesOfTheirOwn = 64 << 10;

  bool goes_with(const Piece& next) const noexcept {
    uint64_t zeroes = next.zero ? next.range.bytes : piece_.range.bytes;
    return next.zero == piece_.zero || zeroes < kZeroesOfTheirOwn;
  }

  Piece piece_;
};

}  // namespace strata::tools
