// SPDX-License-Identifier: GPL-2.0-or-later
//
// Backend: the handle of whoever uses a node from outside the graph: an export, a job, a tool, a
// command. Requests enter the graph here.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <string>

#include "block/coro/gate.h"
#include "block/graph/edge.h"
#include "block/graph/io_stats.h"
#include "block/io/block_status.h"
#include "block/io/request.h"

namespace strata {

class BlockLayer;
class MainLoop;

class Backend final : public EdgeParent {
 public:
  // `name` appears in error texts as "block device 'name'"; without one it is "an unnamed block
  // device".
  Backend(BlockLayer& layer, std::string name = "");
  // Closed before, if it was ever attached.
  ~Backend() override;

  // --- Control plane ---

  // Takes hold of `node`. Throws Error on a permission conflict.
  void attach(MainLoop& loop, NodePtr node, Permissions permissions);
  void set_permissions(MainLoop& loop, Permissions permissions);
  // Those it has while the node is active.
  Permissions permissions() const noexcept { return wanted_; }
  // Waits until no request is inside, then lets go of the node, which is flushed and closed if this
  // was its last user.
  Task<void> close(MainLoop& loop);
  bool is_attached() const noexcept { return root_ != nullptr; }
  Node& node() const noexcept { return root_->node(); }
  Edge& root() const noexcept { return *root_; }
  const std::string& name() const noexcept { return name_; }

  // Off: each write is on the medium when it ends.
  // Any thread.
  void set_write_cache(bool enabled) noexcept { write_cache_.store(enabled); }
  bool write_cache() const noexcept { return write_cache_.load(std::memory_order_relaxed); }
  // On: what reads find in backing files only is written to the node.
  void set_copy_on_read(bool enabled) noexcept { copy_on_read_ = enabled; }
  bool copies_on_read() const noexcept { return copy_on_read_; }
  // Called in the context that resized the node, when the length has changed.
  void on_resize(std::function<void()> callback) { on_resize_ = std::move(callback); }
  // Whether the node may be moved to another AioContext while this user is there.
  void allow_context_change(bool allow) noexcept { allows_context_change_ = allow; }

  // Whether the node may become inactive, or be it already, while this user is there: it asks for
  // nothing then, and its writes fail.
  void allow_inactive(bool allow) noexcept { allows_inactive_ = allow; }

  // --- Requests: any AioContext ---
  //
  // As in block/io/request.h, and: they wait while the node is drained, are counted in stats(), and
  // must lie inside the node (EIO). A writer has the write permission.

  uint64_t length() const noexcept { return root_->node().length(); }
  const Limits& limits() const noexcept { return root_->node().io().limits; }
  Task<Status> preadv(uint64_t offset, IoVector into, ReadFlags flags = {});
  Task<Status> pwritev(uint64_t offset, IoVector from, WriteFlags flags = {});
  Task<Status> pwrite_zeroes(uint64_t offset, uint64_t bytes, WriteFlags flags = {});
  Task<Status> pdiscard(uint64_t offset, uint64_t bytes);
  Task<Status> flush();
  // Brings the data closer (copy-on-read filters act on it); nothing is returned.
  Task<Status> prefetch(uint64_t offset, uint64_t bytes);
  // About the whole chain. `bytes` of the answer is 0 only at the end of the node.
  Task<Result<io::ChainStatus>> block_status(uint64_t offset, uint64_t bytes,
                                             StatusWant want = StatusWant::mapping);
  // Whether block_status() may find zeroes there without asking the host: else a reader need not
  // ask.
  bool knows_zeroes(uint64_t offset, uint64_t bytes) noexcept {
    Gate::Pass pass = gate_.try_enter();
    return !pass || root_->node().driver().knows_zeroes(offset, bytes);
  }
  // Bytes that the node takes where it is stored. Unknown also while the node is drained.
  std::optional<uint64_t> allocated_size() noexcept;
  // Changes when something has been written to the node, through whichever user of it.
  uint64_t node_writes() noexcept;
  // Throws Error. The resize permission is needed.
  Task<void> truncate(uint64_t size, TruncateOptions options = {});

  IoStats& stats() noexcept { return stats_; }
  const IoStats& stats() const noexcept { return stats_; }

  // EdgeParent.
  std::string describe_parent() const override;
  Gate* request_gate() noexcept override { return &gate_; }
  void child_resized() noexcept override {
    if (on_resize_) on_resize_();
  }
  bool allows_context_change() const noexcept override { return allows_context_change_; }
  std::string parent_name() const override { return name_; }
  std::optional<Permissions> permissions_while(bool active) const override;

 private:
  Status check_inside(uint64_t offset, uint64_t bytes) const noexcept;
  WriteFlags with_cache_mode(WriteFlags flags) const noexcept {
    return write_cache() ? flags : flags | WriteFlag::fua;
  }

  BlockLayer& layer_;
  std::string name_;
  std::unique_ptr<Edge> root_;
  Gate gate_;
  IoStats stats_;
  std::atomic<bool> write_cache_{true};
  bool copy_on_read_ = false;
  bool allows_context_change_ = false;
  bool allows_inactive_ = false;
  Permissions wanted_;  // while the node is active
  std::function<void()> on_resize_;
};

}  // namespace strata
