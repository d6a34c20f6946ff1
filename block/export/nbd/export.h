// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "block/bitmap/dirty_bitmap.h"
#include "block/coro/event.h"
#include "block/coro/task.h"
#include "block/nbd/meta_context.h"
#include "block/nbd/option_replies.h"

namespace strata {
class AioContext;
class Backend;
class Node;
}  // namespace strata

namespace strata::nbd_export {

struct ExportSettings {
  std::string name;         // at most 4096 bytes
  std::string description;  // at most 4096 bytes
  bool writable = false;
  bool allocation_depth = false;
  bool multi_conn = true;  // tells clients that several connections see one cache
  std::vector<std::shared_ptr<DirtyBitmap>> bitmaps;  // what clients may see
  // Where connections are served, in turn. If empty: where the node is at home.
  std::vector<AioContext*> contexts;
};

// The bitmap that an export of `top` shows under this name: the first in the chain. Throws Error.
std::shared_ptr<DirtyBitmap> find_exported_bitmap(Node& top, const std::string& name,
                                                  bool writable);

// What clients of one name reach. Its settings do not change, and the node's size does not either:
// an export does not share the resize permission. Connections use it in any context; users are
// counted in the main loop.
class NbdExport {
 public:
  NbdExport(std::unique_ptr<Backend> backend, ExportSettings settings);
  ~NbdExport();
  NbdExport(const NbdExport&) = delete;
  NbdExport& operator=(const NbdExport&) = delete;

  const std::string& name() const noexcept { return settings_.name; }
  const std::string& description() const noexcept { return settings_.description; }
  uint64_t size() const noexcept { return size_; }  // bytes
  bool read_only() const noexcept { return !settings_.writable; }
  Backend& backend() const noexcept { return *backend_; }

  // Transmission flags for a connection in this mode.
  uint16_t flags(nbd::ReplyMode mode) const noexcept;
  nbd::BlockSizes block_sizes() const noexcept { return block_sizes_; }
  nbd::MetaOffer meta_offer() const noexcept {
    return {.allocation_depth = settings_.allocation_depth, .bitmaps = bitmap_names_};
  }
  size_t bitmaps() const noexcept { return bitmap_names_.size(); }
  // While a connection uses the export.
  const DirtyBitmap& bitmap(size_t index) const noexcept { return *bitmaps_[index]; }

  // Main loop only, from here on.
  AioContext& next_context() noexcept;
  size_t users() const noexcept { return users_; }
  // No connection may begin from now on.
  void begin_closing() noexcept { closing_ = true; }
  bool is_closing() const noexcept { return closing_; }
  // Waits until nobody uses the export any more, and lets go of its bitmaps.
  Task<void> unused();

 private:
  friend class ExportUser;
  void remove_user() noexcept;

  std::unique_ptr<Backend> backend_;
  ExportSettings settings_;
  std::vector<std::string> bitmap_names_;
  std::vector<BusyBitmap> bitmaps_;  // nobody else may change them
  uint64_t size_;
  nbd::BlockSizes block_sizes_;
  size_t next_context_ = 0;
  size_t users_ = 0;
  bool closing_ = false;
  Event unused_;
};

// Counts as a user of an export while it lives.
class ExportUser {
 public:
  ExportUser() noexcept = default;
  explicit ExportUser(std::shared_ptr<NbdExport> used) noexcept : used_(std::move(used)) {
    if (used_) ++used_->users_;
  }
  ExportUser(ExportUser&& other) noexcept = default;
  ExportUser& operator=(ExportUser&& other) noexcept {
    std::swap(used_, other.used_);
    return *this;
  }
  ~ExportUser() {
    if (used_) used_->remove_user();
  }

  NbdExport* get() const noexcept { return used_.get(); }
  NbdExport& operator*() const noexcept { return *used_; }
  NbdExport* operator->() const noexcept { return used_.get(); }

 private:
  std::shared_ptr<NbdExport> used_;
};

}  // namespace strata::nbd_export
