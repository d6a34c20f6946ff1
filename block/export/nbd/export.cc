// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/export/nbd/export.h"

#include <algorithm>

#include "block/base/error.h"
#include "block/graph/bitmaps.h"
#include "block/io/backend.h"

namespace strata::nbd_export {
namespace {

constexpr uint32_t kPreferredBlock = 4096;
// The largest minimum that the protocol allows to be advertised.
constexpr uint32_t kLargestMinimum = 64 * 1024;

nbd::BlockSizes block_sizes_of(const Limits& limits) noexcept {
  nbd::BlockSizes sizes;
  sizes.minimum = std::min(limits.request_alignment, kLargestMinimum);
  sizes.preferred = std::max(sizes.minimum, kPreferredBlock);
  if (limits.max_transfer != 0) {
    uint64_t most = std::min<uint64_t>(limits.max_transfer, nbd::kMaxPayload);
    sizes.maximum = static_cast<uint32_t>(std::max<uint64_t>(most, sizes.preferred));
  }
  return sizes;
}

}  // namespace

DirtyBitmapPtr find_exported_bitmap(Node& top, const std::string& name, bool writable) {
  FoundBitmap found = find_bitmap_in_chain(top, name);
  if (!found.bitmap) throw Error("Bitmap '{}' is not found", name);
  found.bitmap->check(DirtyBitmap::Use::read);
  // Clients would take what they are shown for something that stays as it is.
  if (!writable && !found.node->is_read_only() && found.bitmap->is_enabled())
    throw Error("Enabled bitmap '{}' incompatible with readonly export", name);
  return found.bitmap;
}

NbdExport::NbdExport(std::unique_ptr<Backend> backend, ExportSettings settings)
    : backend_(std::move(backend)),
      settings_(std::move(settings)),
      size_(backend_->length()),
      block_sizes_(block_sizes_of(backend_->limits())) {
  for (DirtyBitmapPtr& bitmap : settings_.bitmaps) {
    bitmap_names_.push_back(bitmap->name());
    bitmaps_.emplace_back(std::move(bitmap));
  }
}

NbdExport::~NbdExport() = default;

uint16_t NbdExport::flags(nbd::ReplyMode mode) const noexcept {
  unsigned flags = nbd::kHasFlags | nbd::kSendFlush | nbd::kSendFua | nbd::kSendCache;
  if (read_only()) {
    flags |= nbd::kReadOnly;
  } else {
    flags |= nbd::kSendTrim | nbd::kSendWriteZeroes | nbd::kSendFastZero;
  }
  if (settings_.multi_conn) flags |= nbd::kCanMultiConn;
  if (mode != nbd::ReplyMode::simple) flags |= nbd::kSendDf;
  if (mode == nbd::ReplyMode::extended) flags |= nbd::kBlockStatusPayload;
  return static_cast<uint16_t>(flags);
}

AioContext& NbdExport::next_context() noexcept {
  if (settings_.contexts.empty()) return backend_->node().home_context();
  return *settings_.contexts[next_context_++ % settings_.contexts.size()];
}

void NbdExport::remove_user() noexcept {
  if (--users_ == 0) unused_.set();
}

Task<void> NbdExport::unused() {
  while (users_ != 0) {
    unused_.reset();
    co_await unused_.wait();
  }
  bitmaps_.clear();
}

}  // namespace strata::nbd_export
