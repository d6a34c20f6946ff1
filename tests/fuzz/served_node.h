// SPDX-License-Identifier: GPL-2.0-or-later
//
// What targets that are doors have in common: a node of 1 MiB and its user, and inputs that are
// rows of messages.
#pragma once

#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <utility>

#include "block/aio/aio_context.h"
#include "block/base/unique_fd.h"
#include "block/drivers/null/null.h"
#include "block/graph/open.h"
#include "block/io/backend.h"
#include "tests/fuzz/fuzz.h"

namespace strata::fuzz {

class ServedNode {
 public:
  ServedNode() {
    qapi::BlockdevOptions options;
    options.select(qapi::BlockdevDriver::null_co);
    options.get_if<qapi::BlockdevOptionsNull>()->size = 1 << 20;
    NodePtr node = context.run_to_completion(open_node(loop, layer, std::move(options)));
    PermissionSet needed{Permission::consistent_read, Permission::write};
    user.attach(loop, std::move(node), {needed, kAllPermissions});
  }
  // Nothing is left of an input.
  void require_idle() { require(user.request_gate()->inside() == 0); }

  AioContext context{"main"};
  MainLoop loop{context};

 private:
  const DriverDescriptor* drivers_[1]{&kNullCoDriver};

 public:
  BlockLayer layer{loop, drivers_, [](std::string_view, boost::json::object) {}};
  Backend user{layer};
};

// The two ends of a connection; `type` as socket(2) has it.
inline std::pair<UniqueFd, UniqueFd> connected(int type) {
  std::array<int, 2> ends;
  require(::socketpair(AF_UNIX, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends.data()) == 0);
  return {UniqueFd(ends[0]), UniqueFd(ends[1])};
}

// A message of an input: a head of four bytes, whose last two or last but one say how long the rest
// is.
struct Message {
  const uint8_t* head;
  const uint8_t* payload;
  size_t bytes;
  size_t all_that_follows;  // from `payload` to the end of the input
};

// As long as `take` returns true, and for kMostMessages at most.
constexpr size_t kMostMessages = 64;
template <class Length, class Take>
void for_each_message(const uint8_t* data, size_t size, Length length, Take take) {
  for (size_t count = 0; count < kMostMessages && size >= 4; ++count) {
    size_t follows = size - 4;
    Message message{data, data + 4, std::min<size_t>(length(data), follows), follows};
    if (!take(message)) return;
    data += 4 + message.bytes;
    size = follows - message.bytes;
  }
}

}  // namespace strata::fuzz
