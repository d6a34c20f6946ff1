// SPDX-License-Identifier: GPL-2.0-or-later
#include "tools/common/claims.h"

#include <algorithm>
#include <set>
#include <vector>

#include "block/base/math.h"

namespace strata::tools {
namespace {

// So much is done in a few seconds, whatever the files' length.
constexpr uint64_t kFree = 1536 << 20;
// Two MiB of one byte, packed, and the entry that tells where they are, take some eighty bytes: one
// byte in the file can stand for 26,000. Half of that, see kPacked, and some more.
constexpr uint64_t kWorkPerByte = 16384;
// Slow ciphers take so many times as long as what is not encrypted.
constexpr uint64_t kDecrypting = 16;
// Each byte lies in the file once; but the file may grow meanwhile, and some be looked at again.
constexpr uint64_t kTimes = 4;
// What is done for any file, is done for its first MiB, or for the tables that every image has.
constexpr uint64_t kFreeBytes = 1 << 20;
constexpr uint64_t kClustersWithoutData = 4;

}  // namespace

Claims::Claims(const Node& image, const Node* base) : image_(&image) {
  uint64_t without_data = 0;
  bool is_encrypted = false;
  std::set<const Node*> seen{&image, base};
  std::vector<const Node*> left{&image};
  while (!left.empty()) {
    const Node& node = *left.back();
    left.pop_back();
    if (node.children().empty())
      file_bytes_ = checked_add(file_bytes_, node.length()).value_or(UINT64_MAX);
    is_encrypted = is_encrypted || node.driver().is_encrypted();
    if (auto facts = node.driver().image_facts())
      without_data += kClustersWithoutData * facts->cluster_size.value_or(0);
    for (const auto& edge : node.children())
      if (seen.insert(&edge->node()).second) left.push_back(&edge->node());
  }
  uint64_t beyond = file_bytes_ - std::min(file_bytes_, std::max(kFreeBytes, without_data));
  uint64_t more = checked_mul(beyond, kWorkPerByte).value_or(UINT64_MAX);
  most_work_ = checked_add(kFree, more).value_or(UINT64_MAX);
  uint64_t free = is_encrypted ? kFree / kDecrypting : kFree;
  uint64_t plain = checked_mul(file_bytes_, kTimes).value_or(UINT64_MAX);
  most_plain_ = checked_add(plain, free).value_or(UINT64_MAX);
}

Error Claims::refusal() const {
  return Error("'{}' says that more is in it than its {} bytes can hold", image_->display_name(),
               file_bytes_);
}

}  // namespace strata::tools
