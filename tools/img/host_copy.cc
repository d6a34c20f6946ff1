// SPDX-License-Identifier: GPL-2.0-or-later
#include "tools/img/host_copy.h"

#include "block/aio/disk.h"
#include "block/drivers/file/file.h"

namespace strata::tools {
namespace {

// The node whose bytes are the image's; a raw image may be a part of its file, and then is none.
Node& protocol_of(Node& image) noexcept {
  Edge* file = image.child_in_role(ChildRole::filtered);
  bool is_raw = image.descriptor().name == qapi::BlockdevDriver::raw;
  return is_raw && file != nullptr ? file->node() : image;
}

}  // namespace

Task<uint64_t> copy_in_host(Node& from, uint64_t offset, Node& to, uint64_t to_offset,
                            uint64_t bytes) {
  Node& file = protocol_of(to);
  Disk* source = host_disk_of(protocol_of(from));
  Disk* target = host_disk_of(file);
  if (source == nullptr || target == nullptr) co_return 0;
  Result<uint64_t> copied = co_await source->copy_range(offset, *target, to_offset, bytes);
  to.io().dirty = true;
  file.io().dirty = true;
  co_return copied ? *copied : 0;
}

}  // namespace strata::tools
