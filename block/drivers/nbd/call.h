// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <array>
#include <optional>
#include <vector>

#include "block/base/io_vector.h"
#include "block/coro/executor.h"
#include "block/nbd/extents.h"
#include "block/nbd/request.h"

namespace strata::nbd_client {

// Which bytes of a READ have come. A server may send its chunks in any order, but no byte twice and
// all of them: what it left out would be whatever the memory held before.
class Coverage {
 public:
  // False where part of [offset, offset + length) was there already.
  bool add(uint64_t offset, uint64_t length);
  bool is_whole(uint64_t offset, uint64_t length) const noexcept {
    return ranges_ == 0 ? length == 0
                        : ranges_ == 1 && first_.begin == offset && first_.end == offset + length;
  }
  void clear() noexcept {
    ranges_ = 0;
    others_.clear();
  }

 private:
  struct Range {
    uint64_t begin;
    uint64_t end;
  };
  bool add_out_of_order(Range range);

  // The usual case, chunks in order, needs only the first; the rest is sorted and allocates.
  size_t ranges_ = 0;
  Range first_{};
  std::vector<Range> others_;
};

// A request and where its answer goes. Lives in the frame of whoever makes the request.
struct Call {
  enum class Outcome {
    pending,
    answered,  // `error` says how
    lost,      // the connection broke; whether the server has done it is not known
  };

  nbd::Request request;  // the cookie is the connection's affair
  IoVector data;         // WRITE: what to send; READ: where to put it
  Outcome outcome = Outcome::pending;
  int error = 0;                      // errno
  std::optional<nbd::Extent> extent;  // BLOCK_STATUS: the first of the context agreed on

  // The connection's, from here on.
  Resumption waiter;
  Call* next = nullptr;  // to be sent
  bool on_wire = false;  // handed to the kernel, in part at least
  bool sent = false;
  bool done = false;  // the last reply has come
  Coverage covered;
  std::array<std::byte, nbd::kMaxRequestSize> header;
};

}  // namespace strata::nbd_client
