// SPDX-License-Identifier: GPL-2.0-or-later
#include "tools/common/claims.h"

#include <algorithm>
#include <optional>

#include "block/base/math.h"
#include "block/io/block_status.h"

namespace strata::tools {
namespace {

// So much is done in a few seconds, whatever the length of an image's files.
constexpr uint64_t kFree = 1536 << 20;
// Two MiB of one byte, packed, and the entry that tells where they are, take some eighty bytes: one
// byte in the file can stand for 26,000. Half of that, see kPacked, and some more. Where nothing is
// packed, pieces of a sector cost most: see kPiece.
constexpr uint64_t kWorkPerByte = 16384;
constexpr uint64_t kWorkPerPlainByte = 32;
// What is done for any file, is done for its first MiB, or for the tables that every image has.
constexpr uint64_t kFreeBytes = 1 << 20;
constexpr uint64_t kClustersWithoutData = 4;
// Each byte lies in the file once; but the file may grow meanwhile, and some be looked at again.
constexpr uint64_t kTimes = 4;
// Slow ciphers take so many times as long as what is not encrypted.
constexpr uint64_t kDecrypting = 16;

uint64_t sum(uint64_t a, uint64_t b) noexcept {
  return checked_add(a, b).value_or(UINT64_MAX);
}
uint64_t product(uint64_t a, uint64_t b) noexcept {
  return checked_mul(a, b).value_or(UINT64_MAX);
}

// Of an image that has any, which may be packed.
std::optional<uint64_t> cluster_size_of(const Node& node) {
  auto facts = node.driver().image_facts();
  return facts ? facts->cluster_size : std::nullopt;
}

// What an image of a chain consists of, without what is below.
struct Files {
  uint64_t bytes = 0;
  bool may_be_packed = false;  // as where there is an image in an image
};

Files files_of(const Node& node, const Node* below = nullptr) {
  if (node.children().empty()) return {node.length()};
  Files files;
  for (const auto& edge : node.children()) {
    if (&edge->node() == below) continue;
    Files more = files_of(edge->node());
    bool may_be_packed = more.may_be_packed || cluster_size_of(edge->node()).has_value();
    files.bytes = sum(files.bytes, more.bytes);
    files.may_be_packed = files.may_be_packed || may_be_packed;
  }
  return files;
}

}  // namespace

Claims::Claims(const Node& image, const Node* base) : image_(&image) {
  bool is_encrypted = false;
  uint64_t free = 0;
  for (const Node* node = &image; node != nullptr && node != base;) {
    const Node* below = io::next_in_chain(*node);
    Files files = files_of(*node, below);
    uint64_t beyond = files.bytes;
    uint64_t work = files.may_be_packed ? kWorkPerByte : kWorkPerPlainByte;
    if (auto cluster_size = cluster_size_of(*node)) {
      uint64_t without_data = product(kClustersWithoutData, *cluster_size);
      beyond -= std::min(beyond, std::max(kFreeBytes, without_data));
      work = kWorkPerByte;
    }
    free = sum(free, kFree);
    most_work_ = sum(most_work_, sum(product(beyond, work), kFree));
    most_plain_ =
        sum(most_plain_, product(files.bytes, files.may_be_packed ? kWorkPerByte : kTimes));
    file_bytes_ = sum(file_bytes_, files.bytes);
    is_encrypted = is_encrypted || node->driver().is_encrypted();
    node = below;
  }
  most_plain_ = sum(most_plain_, is_encrypted ? free / kDecrypting : free);
}

Error Claims::refusal() const {
  return Error("'{}' says that more is in it than its {} bytes can hold", image_->display_name(),
               file_bytes_);
}

}  // namespace strata::tools
