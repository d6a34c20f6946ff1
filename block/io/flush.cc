// SPDX-License-Identifier: GPL-2.0-or-later
#include <algorithm>
#include <cerrno>
#include <exception>

#include "block/base/error.h"
#include "block/io/checks.h"
#include "block/io/debug_event.h"
#include "block/io/request.h"

namespace strata::io {
namespace {

using qapi::BlkdebugEvent;

constexpr PermissionSet kAnyWrite{Permission::write, Permission::write_unchanged};

// The flag falls before the flush starts: what is written meanwhile raises it again and waits for
// the next one. Who finds it down waited for the flush that took it down (node.io().flushing).
Task<Status> flush_to_medium(Node& node) {
  if (!node.io().dirty.exchange(false)) co_return Status();
  Status status = co_await node.driver().flush();
  if (!status.ok()) node.io().dirty = true;
  co_return status;
}

Task<Status> flush_children(Node& node) {
  Status result;
  for (const auto& edge : node.children()) {
    if (!edge->node_ptr() || !edge->permissions().needed.has_any(kAnyWrite)) continue;
    Status status = co_await flush(edge->node());
    if (result.ok()) result = status;
  }
  co_return result;
}

Task<Status> flush_counted(Node& node) {
  IoStats::Request request(node.io().stats, IoKind::flush, 0);
  Status status;
  {
    Mutex::Lock lock = co_await node.io().flushing.lock();
    Edge* primary = node.child_in_role(ChildRole::primary);
    if (primary != nullptr) co_await debug_event(*primary, BlkdebugEvent::flush_to_os);
    status = co_await node.driver().write_back();
    if (status.ok() && !node.options().cache_no_flush) {
      if (primary != nullptr) co_await debug_event(*primary, BlkdebugEvent::flush_to_disk);
      status = co_await flush_to_medium(node);
    }
    if (status.ok()) status = co_await flush_children(node);
  }
  request.done(status.ok());
  co_return status;
}

// Whoever writes before `first`, where the node stays as it is, goes on.
Task<std::exception_ptr> truncate_held(Node& node, uint64_t first, uint64_t size,
                                       TruncateOptions options) {
  RangeLock::Hold hold(node.io().writes, {first, kMaxLength}, RangeLock::Mode::exclusive);
  co_await hold.acquire();
  try {
    co_await node.driver().truncate(size, options);
    node.io().dirty = true;
    co_await node.refresh_length();
  } catch (...) {
    co_return std::current_exception();
  }
  co_return nullptr;
}

}  // namespace

Task<Status> flush(Node& node) {
  if (!node.is_writable()) return Task<Status>::ready(Status());
  return flush_counted(node);
}

Task<void> truncate(Edge& child, uint64_t size, TruncateOptions options) {
  Node& node = child.node();
  if (size > kMaxLength)
    throw Error("Required too big image size, it must be not greater than {}", kMaxLength);
  if (!node.is_writable()) throw Error("Image is read-only");
  uint64_t old_size = node.length();
  // The new part must not show what a longer backing file has there.
  Node* backing = node.backing();
  if (size > old_size && backing != nullptr && backing->length() > old_size)
    options.zero_new_area = true;
  Edge* filtered = node.child_in_role(ChildRole::filtered);
  if (filtered != nullptr && node.descriptor().is_filter) {
    co_await truncate(*filtered, size, options);
    node.io().dirty = true;
    co_await node.refresh_length();
  } else {
    std::exception_ptr failed =
        co_await truncate_held(node, std::min(old_size, size), size, options);
    co_await node.driver().truncated();
    if (failed) std::rethrow_exception(failed);
  }
}

}  // namespace strata::io
