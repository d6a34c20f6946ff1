// SPDX-License-Identifier: GPL-2.0-or-later
//
// What a block driver is to the rest: a description, and an object a node.
#pragma once

#include <boost/json/object.hpp>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "block/base/enum_set.h"
#include "block/base/io_vector.h"
#include "block/base/math.h"
#include "block/base/result.h"
#include "block/coro/task.h"
#include "block/graph/io_limits.h"
#include "block/graph/permissions.h"
#include "qapi/types_blockdev.h"

namespace strata::qapi {
struct BlockdevCreateOptions;
struct ImageInfoSpecific;
struct SnapshotInfo;
struct BlockStatsSpecific;
}  // namespace strata::qapi

namespace strata {

class BlockLayer;
class Edge;
class MainLoop;
class Node;
struct OpenContext;
struct ReopenContext;

enum class WriteFlag : uint32_t {
  fua = 1 << 0,          // on the medium before the request ends
  may_unmap = 1 << 1,    // zeroes: the space may be given back
  no_fallback = 1 << 2,  // zeroes: ENOTSUP rather than writing zero bytes
  compressed = 1 << 3,
  unchanged = 1 << 4,    // does not change what is read (needs only write_unchanged)
  serialising = 1 << 5,  // no overlapping write meanwhile
};
using WriteFlags = EnumSet<WriteFlag>;

enum class ReadFlag : uint32_t {
  copy_on_read = 1 << 0,  // what the node itself does not hold is written to it; block/io does it
};
using ReadFlags = EnumSet<ReadFlag>;

enum class StatusFlag : uint32_t {
  data = 1 << 0,          // reading goes to this layer's data
  zero = 1 << 1,          // reads as zeroes
  offset_valid = 1 << 2,  // map_offset says where in `file`
  allocated = 1 << 3,     // this layer decides the contents, not a backing file
  eof = 1 << 4,           // the range ends at the end of the image
  recurse = 1 << 5,       // `file` at map_offset may know more
  raw = 1 << 6,           // ask `file` instead
  compressed = 1 << 7,    // if not offset_valid, map_offset: how many bytes it takes in the file
};
using StatusFlags = EnumSet<StatusFlag>;

// One answer of block status, for `bytes` bytes from the offset asked.
struct BlockStatus {
  StatusFlags flags;
  uint64_t bytes = 0;
  uint64_t map_offset = 0;
  Node* file = nullptr;
};

enum class StatusWant {
  contents,  // cheap: data or zeroes, no need to be exact about zeroes or the mapping
  mapping,   // exact
};

struct TruncateOptions {
  bool exact = true;  // false: a larger size will do as well
  bool zero_new_area = false;
  qapi::PreallocMode preallocation = qapi::PreallocMode::off;
};

// What queries say about an image beyond its options.
struct ImageFacts {
  std::optional<uint64_t> cluster_size;  // bytes
  bool dirty = false;                    // was not closed cleanly
  uint64_t vm_state_offset = 0;          // bytes; where a machine's state would be saved
};

// How a node is called: by a plain file name where that says everything, else by its options.
struct FileName {
  std::string exact;            // empty where no name says it all
  boost::json::object options;  // what opens the same node again, without node names
};

struct DriverDescriptor;

// One node's driver. The first group runs in any AioContext, several requests at a time; block/io
// has made each request fit limits(). Buffers belong to the caller and stay until the task ends.
// The second group is the control plane's.
class Driver {
 public:
  explicit Driver(const DriverDescriptor& descriptor) noexcept : descriptor_(descriptor) {}
  virtual ~Driver() = default;
  Driver(const Driver&) = delete;
  Driver& operator=(const Driver&) = delete;

  const DriverDescriptor& descriptor() const noexcept { return descriptor_; }

  // Reads into.size() bytes. What lies behind the end of the driver's data reads as zeroes.
  virtual Task<Status> preadv(uint64_t offset, IoVector into, ReadFlags flags) = 0;
  // The range will be read soon: does what reading would do to this node (copy-on-read). Default:
  // the filtered child's.
  virtual Task<Status> prefetch(uint64_t offset, uint64_t bytes);
  // Only flags of write_flags() arrive here.
  virtual Task<Status> pwritev(uint64_t offset, IoVector from, WriteFlags flags);
  // ENOTSUP: block/io writes zero bytes instead, unless no_fallback.
  virtual Task<Status> pwrite_zeroes(uint64_t offset, uint64_t bytes, WriteFlags flags);
  // Advice; ENOTSUP counts as done.
  virtual Task<Status> pdiscard(uint64_t offset, uint64_t bytes);
  // First of the two halves of a flush: writes what the driver caches to its children, which
  // block/io then flushes. A driver without children puts it on the medium in flush().
  virtual Task<Status> write_back() { return Task<Status>::ready(Status()); }
  virtual Task<Status> flush() { return Task<Status>::ready(Status()); }
  // About [offset, offset + bytes), which is not empty; answers at least one aligned unit and at
  // most `bytes`. The default: a filter's child knows; else it is all data.
  virtual Task<Result<BlockStatus>> block_status(uint64_t offset, uint64_t bytes, StatusWant want);
  // Whether block_status() may answer zero for some of it without asking the host
  // (StatusWant::contents); where it does not, whoever would only like to know need not ask.
  virtual bool knows_zeroes(uint64_t /*offset*/, uint64_t /*bytes*/) const noexcept { return true; }
  // The node's size in bytes, asked when it may have changed.
  virtual Task<Result<uint64_t>> length() = 0;

  // A node above, or block/io on this node's behalf, has reached a point that this driver may act
  // on; see block/io/debug_event.h. Only where the descriptor says that it hears events.
  virtual Task<void> debug_event(qapi::BlkdebugEvent event) { return Task<void>::ready(); }

  // The state of a machine, which an image may keep beside what a guest sees, in a space of its own
  // that begins at 0. What was never saved reads as zeroes. Default: the primary child's; ENOTSUP
  // where there is none.
  virtual Task<Status> load_vm_state(uint64_t offset, IoVector into);
  virtual Task<Status> save_vm_state(uint64_t offset, IoVector from);

  // Makes the node `size` bytes long. Throws Error.
  virtual Task<void> truncate(uint64_t size, TruncateOptions options);
  // After truncate(), which may have failed, and with no range of the node held for it any more.
  virtual Task<void> truncated() { return Task<void>::ready(); }

  // Which flags pwritev and pwrite_zeroes honour themselves; block/io emulates fua by a flush.
  virtual WriteFlags write_flags() const noexcept { return {}; }
  virtual WriteFlags zero_flags() const noexcept { return {}; }
  // What requests to this driver must look like, given what its children's limits amount to. Starts
  // from byte granularity: the alignment of a child is the child's own affair.
  virtual Limits limits(const Limits& of_children) const noexcept { return of_children; }
  // Whether an image that was just created, or grown, reads as zeroes there.
  virtual bool has_zero_init() const noexcept { return false; }
  // Whether pwrite_zeroes with may_unmap leaves zeroes behind without writing them.
  virtual bool can_write_zeroes_with_unmap() const noexcept {
    return zero_flags().has(WriteFlag::may_unmap);
  }

  // --- Control plane ---

  // Opens the node from `context.options`: its children through the context, then itself. Throws
  // Error; what was opened so far goes with the driver and the node.
  virtual Task<void> open(OpenContext& context) = 0;
  // The last word before the node goes; what it wrote has been flushed. The driver tells what went
  // wrong itself: the node goes anyhow.
  virtual Task<void> close(MainLoop& loop) { return Task<void>::ready(); }

  // Other options for the open node, in two steps (block/graph/reopen.h). The gates above it are
  // shut meanwhile. prepare_reopen() checks them and takes what they need; they differ from those
  // in force in what the descriptor calls changeable alone. Throws Error. Then comes one of the
  // other two, and after a commit, when all nodes have theirs, after_reopen().
  virtual Task<void> prepare_reopen(ReopenContext& context);
  virtual void commit_reopen() noexcept {}
  virtual Task<void> abort_reopen(MainLoop& loop) { return Task<void>::ready(); }
  virtual Task<void> after_reopen(MainLoop& loop) { return Task<void>::ready(); }

  // What this node asks of a child, given the union of what its parents ask of it.
  virtual Permissions child_permissions(const Edge& child, Permissions of_parents) const;
  // What the parents ask of this node is about to become `permissions`: takes what that needs (file
  // locks), or throws. One of the other two follows.
  virtual void prepare_permissions(MainLoop& loop, Permissions permissions) {}
  virtual void commit_permissions() noexcept {}
  virtual void abort_permissions() noexcept {}

  // Default: the file child's name, where the options say nothing beyond the driver.
  virtual FileName file_name() const;
  // The options of this driver alone that change what is read (`offset`), without children.
  virtual boost::json::object strong_options() const { return {}; }
  // Null where there is nothing to say.
  virtual std::unique_ptr<qapi::ImageInfoSpecific> specific_info() const;
  virtual std::unique_ptr<qapi::BlockStatsSpecific> specific_stats() const;
  virtual bool is_encrypted() const noexcept { return false; }
  // Default: what the file says of whose data this driver only shows another view; else nothing.
  virtual std::optional<ImageFacts> image_facts() const;
  // Of the image itself, in the order of its table.
  virtual std::vector<qapi::SnapshotInfo> snapshots() const;
  // Bytes on the host. Default: those of the children that hold this node's own data and metadata.
  virtual std::optional<uint64_t> allocated_size() const;
  // The backing file as the image names it, with its format (empty: not recorded).
  struct BackingName {
    std::string name;
    std::string format;
  };
  virtual std::optional<BackingName> backing_name() const { return std::nullopt; }
  // Of the node's dirty bitmaps an image may keep those that are persistent. Whether it can keep
  // one more, like this. Throws Error.
  virtual void check_new_bitmap(const std::string& name, uint64_t granularity) const;
  // Runs `change`, which changes persistent bitmaps, while no write is under way; afterwards the
  // image says so, if that cannot wait until it is closed. Throws Error.
  virtual Task<void> change_bitmaps(std::function<void()> change);
  // The persistent bitmap of that name, if there is one, has no place in the image any more. Throws
  // Error.
  virtual Task<void> forget_bitmap(std::string name) { return Task<void>::ready(); }
  // Another process takes the image over, or has given it back: write out, and trust, no cached
  // state.
  virtual Task<void> inactivate(MainLoop& loop) { return Task<void>::ready(); }
  virtual Task<void> activate(MainLoop& loop) { return Task<void>::ready(); }

 protected:
  // Set by the node once it owns the driver, before open() runs.
  Node& node() const noexcept { return *node_; }

 private:
  friend class Node;
  const DriverDescriptor& descriptor_;
  Node* node_ = nullptr;
};

// A driver as the layer knows it. `block/drivers/builtin.cc` lists them all.
struct DriverDescriptor {
  qapi::BlockdevDriver name;
  bool is_protocol = false;  // stands on the host, not on another node
  bool is_filter = false;
  bool is_format = false;
  bool supports_backing = false;
  bool hears_events = false;  // acts on debug events
  bool reopens = false;       // its nodes can be given other options while they are open
  // Those of its own options that may differ then.
  std::span<const std::string_view> changeable = {};
  std::unique_ptr<Driver> (*create)(const DriverDescriptor& descriptor);
  // Makes a new image (blockdev-create, the tools' create). `options.driver` is this driver's. Null
  // where there is no such thing. Throws Error; an image that was begun may stay behind.
  Task<void> (*create_image)(MainLoop& loop, BlockLayer& layer,
                             const qapi::BlockdevCreateOptions& options) = nullptr;

  std::string_view format_name() const noexcept { return qapi::to_string(name); }
};

}  // namespace strata
