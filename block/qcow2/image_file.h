// SPDX-License-Identifier: GPL-2.0-or-later
//
// The file below an image, for its metadata.
#pragma once

#include <algorithm>

#include "block/base/bytes.h"
#include "block/io/request.h"
#include "block/qcow2/format/geometry.h"

namespace strata::qcow2 {

class ImageFile {
 public:
  ImageFile() noexcept = default;
  explicit ImageFile(Edge& edge) noexcept : edge_(&edge) {}

  Edge& edge() const noexcept { return *edge_; }
  uint64_t length() const noexcept { return edge_->node().length(); }
  // How many of the bytes from `at` on are there.
  uint64_t bytes_there(HostOffset at, uint64_t bytes) const noexcept {
    return std::min(bytes, length() - std::min(length(), at.value));
  }
  // Past the end of the file: zeroes.
  Task<Status> read(HostOffset at, Bytes into) const {
    return io::pread(*edge_, at.value, into.data(), into.size());
  }
  Task<Status> write(HostOffset at, ConstBytes from) const {
    return io::pwrite(*edge_, at.value, from.data(), from.size());
  }
  Task<Status> write_zeroes(HostOffset at, uint64_t bytes) const {
    return io::pwrite_zeroes(*edge_, at.value, bytes);
  }
  Task<Status> flush() const { return io::flush(edge_->node()); }

 private:
  Edge* edge_ = nullptr;
};

}  // namespace strata::qcow2
