// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <string>
#include <string_view>

#include "block/qcow2/check.h"
#include "qapi/types_block_info.h"

namespace strata::qcow2 {

// The result in the schema's words. Figures that are zero are left out.
inline qapi::ImageCheck image_check(const CheckResult& result, std::string filename,
                                    std::string_view format) {
  auto unless_zero = [](uint64_t figure) {
    return figure != 0 ? std::optional(static_cast<int64_t>(figure)) : std::nullopt;
  };
  qapi::ImageCheck check;
  check.filename = std::move(filename);
  check.format = format;
  check.check_errors = static_cast<int64_t>(result.check_errors);
  check.image_end_offset = unless_zero(result.image_end_offset);
  check.corruptions = unless_zero(result.corruptions);
  check.leaks = unless_zero(result.leaks);
  check.corruptions_fixed = unless_zero(result.corruptions_fixed);
  check.leaks_fixed = unless_zero(result.leaks_fixed);
  check.total_clusters = unless_zero(result.total_clusters);
  check.allocated_clusters = unless_zero(result.allocated_clusters);
  check.fragmented_clusters = unless_zero(result.fragmented_clusters);
  check.compressed_clusters = unless_zero(result.compressed_clusters);
  return check;
}

}  // namespace strata::qcow2
