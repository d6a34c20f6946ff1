// SPDX-License-Identifier: GPL-2.0-or-later
//
// What an image says is in it, held against what its files can hold.
#pragma once

#include <cstdint>

#include "block/base/error.h"
#include "block/graph/driver.h"
#include "block/graph/node.h"

namespace strata::tools {

// In a small file a few tables can refer to each other, and to one cluster, so often that going
// through the disk takes years. Whoever does so counts here what he comes across; no image that was
// written as images are comes anywhere near the limits, since each part of the disk has a place of
// its own in the file, and needs a word there that says where.
class Claims {
 public:
  // Of `base`, and what is below it, nothing is counted. The image stays while this is used.
  explicit Claims(const Node& image, const Node* base = nullptr);

  // Another run of the disk, of which so many bytes are about to be used; if it is compressed,
  // map_offset tells how many it takes in the file. False: that makes more than can be.
  bool allow(const BlockStatus& run, uint64_t bytes) noexcept {
    work_ += run.flags.has(StatusFlag::allocated) ? kPiece : kRun;
    bool reads = run.flags.has(StatusFlag::data) && !run.flags.has(StatusFlag::zero);
    if (reads && run.flags.has(StatusFlag::compressed)) {
      work_ += bytes / kPacked + run.map_offset * kUnpacking;
    } else if (reads) {
      work_ += bytes;
      plain_ += bytes;
    }
    return work_ <= most_work_ && plain_ <= most_plain_;
  }
  // Throws Error where that says no.
  void add(const BlockStatus& run, uint64_t bytes) {
    if (!allow(run, bytes)) throw refusal();
  }
  void add(const BlockStatus& run) { add(run, run.bytes); }
  // So many bytes are gone through, whatever is in them.
  void add_work(uint64_t bytes) {
    work_ += bytes;
    if (work_ > most_work_) throw refusal();
  }
  Error refusal() const;

 private:
  // What it costs, in bytes of data, to look at a run of nothing; to begin with one of something;
  // to unpack a byte; and how many that come of it cost what one does that lies in the file as it
  // is.
  static constexpr uint64_t kRun = 512;
  static constexpr uint64_t kPiece = 8192;
  static constexpr uint64_t kUnpacking = 8;
  static constexpr uint64_t kPacked = 2;

  const Node* image_;
  uint64_t file_bytes_ = 0;
  uint64_t work_ = 0;
  uint64_t most_work_ = 0;
  uint64_t plain_ = 0;  // bytes that lie in the files as they are, or encrypted
  uint64_t most_plain_ = 0;
};

}  // namespace strata::tools
