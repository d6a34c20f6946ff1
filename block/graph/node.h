// SPDX-License-Identifier: GPL-2.0-or-later
//
// A node of the graph: a driver, its options, its children and parents.
#pragma once

#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "block/bitmap/dirty_bitmaps.h"
#include "block/coro/mutex.h"
#include "block/coro/range_lock.h"
#include "block/graph/driver.h"
#include "block/graph/edge.h"
#include "block/graph/io_stats.h"
#include "block/graph/permissions.h"

namespace strata {

class AioContext;

// The files of the overlays for which an image is opened, the nearest first.
struct OverlayTrail {
  uint64_t device = 0;
  uint64_t inode = 0;
  unsigned depth = 1;
  std::shared_ptr<const OverlayTrail> above;
};

// What is in force for a node, after inheritance by child role.
struct NodeOptions {
  bool read_only = false;
  bool auto_read_only = false;
  bool cache_direct = false;
  bool cache_no_flush = false;
  bool discard_unmap = false;
  bool force_share = false;
  qapi::BlockdevDetectZeroesOptions detect_zeroes = qapi::BlockdevDetectZeroesOptions::off;
  // The format was not named but recognised by what is in the file, which others may have written:
  // the driver trusts the image less.
  bool guessed_format = false;
  // Only what the image says about itself is wanted: guest data, keys and files that hold data
  // elsewhere are left alone. Children inherit it.
  bool metadata_only = false;
  // Set while what lies below an overlay is opened.
  std::shared_ptr<const OverlayTrail> overlays;
};

// What the requests of all contexts share. Everything is atomic, or a lock for coroutines.
struct NodeIo {
  std::atomic<uint64_t> length{0};  // bytes; the driver's, rounded up to its request alignment
  Limits limits;                    // changes only while the node is drained
  RangeLock writes;                 // shared: a plain write; exclusive: read-modify-write
  // Whether something was written since the last flush began. Written only when it changes, so that
  // requests of different threads do not fight for it.
  std::atomic<bool> dirty{false};
  Mutex flushing;
  std::atomic<uint64_t> write_threshold{0};  // 0: none
  std::atomic<uint64_t> highest_write{0};    // end of the furthest write, bytes
  std::atomic<bool> inactive{false};
  bool hears_events = false;  // the driver's; from its adoption on
  IoStats stats;
};

class Node final : public EdgeParent, public std::enable_shared_from_this<Node> {
 public:
  Node(BlockLayer& layer, std::string name, NodeOptions options);
  ~Node() override;

  const std::string& name() const noexcept { return name_; }
  BlockLayer& layer() const noexcept { return layer_; }
  Driver& driver() const noexcept { return *driver_; }
  bool has_driver() const noexcept { return driver_ != nullptr; }
  // False while the driver's open() has not ended yet.
  bool is_open() const noexcept { return open_; }
  const DriverDescriptor& descriptor() const noexcept { return driver_->descriptor(); }
  std::string_view format_name() const noexcept { return descriptor().format_name(); }
  const NodeOptions& options() const noexcept { return options_; }
  NodeOptions& mutable_options() noexcept { return options_; }
  NodeIo& io() noexcept { return io_; }
  const NodeIo& io() const noexcept { return io_; }
  // Requests record in them what they change (block/io).
  DirtyBitmaps& bitmaps() noexcept { return bitmaps_; }
  const DirtyBitmaps& bitmaps() const noexcept { return bitmaps_; }

  // What the user said, to compare a reopen with. Null for nodes opened by other means.
  const std::shared_ptr<const qapi::BlockdevOptions>& explicit_options() const noexcept {
    return explicit_options_;
  }

  // Whose options define this node as a child, inline; null where it stands for itself.
  std::shared_ptr<Node> definer() const noexcept { return definer_.lock(); }
  void set_definer(const std::weak_ptr<Node>& parent) noexcept { definer_ = parent; }

  const std::vector<std::unique_ptr<Edge>>& children() const noexcept { return children_; }
  const std::vector<Edge*>& parents() const noexcept { return parents_; }
  // Null if there is no such child.
  Edge* child(std::string_view name) const noexcept;
  Edge* child_in_role(ChildRole role) const noexcept;
  Node* backing() const noexcept;

  // The union of what the parents need, and the intersection of what they share.
  Permissions cumulative_permissions() const noexcept;
  bool is_read_only() const noexcept { return options_.read_only; }
  // Whether the node may be written to, now that its options and its activity are as they are.
  bool is_writable() const noexcept { return !options_.read_only && !io_.inactive.load(); }

  FileName file_name() const { return driver_->file_name(); }
  // The exact name, or "json:{...}".
  std::string display_name() const;

  // Bytes.
  uint64_t length() const noexcept { return io_.length.load(std::memory_order_acquire); }
  // Asks the driver again, after a resize or an open; tells the parents. Throws.
  Task<void> refresh_length();
  // Merges what the children and the driver say. The node is drained, or not in use yet.
  void refresh_limits() noexcept;

  // Where this node's background work and its exports without an iothread run. I/O may come from
  // any context.
  AioContext& home_context() const noexcept { return *home_context_; }
  void set_home_context(AioContext& context) noexcept { home_context_ = &context; }

  std::string describe_parent() const override { return "node '" + name_ + "'"; }
  Node* parent_node() noexcept override { return this; }
  void child_resized() noexcept override {}

 private:
  friend class Edge;
  friend class GraphPlan;
  friend class NodeOpener;
  friend class Reopening;

  void adopt_driver(std::unique_ptr<Driver> driver) noexcept;

  BlockLayer& layer_;
  std::string name_;
  bool open_ = false;
  NodeOptions options_;
  std::shared_ptr<const qapi::BlockdevOptions> explicit_options_;
  std::weak_ptr<Node> definer_;
  NodeIo io_;
  DirtyBitmaps bitmaps_;
  AioContext* home_context_;
  std::vector<Edge*> parents_;
  // The driver goes before the children it uses.
  std::vector<std::unique_ptr<Edge>> children_;
  std::unique_ptr<Driver> driver_;
};

}  // namespace strata
