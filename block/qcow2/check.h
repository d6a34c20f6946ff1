// SPDX-License-Identifier: GPL-2.0-or-later
//
// Check: whether an image's metadata agrees with itself, and making it so.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "block/qcow2/image.h"

namespace strata::qcow2 {

struct CheckResult {
  uint64_t corruptions = 0;
  uint64_t leaks = 0;
  uint64_t check_errors = 0;  // what could not be checked
  uint64_t corruptions_fixed = 0;
  uint64_t leaks_fixed = 0;
  uint64_t image_end_offset = 0;
  uint64_t total_clusters = 0;
  uint64_t allocated_clusters = 0;
  uint64_t fragmented_clusters = 0;
  uint64_t compressed_clusters = 0;
};

struct CheckFix {
  bool leaks = false;
  bool errors = false;
};

// Lines as QEMU words them.
using CheckReport = std::function<void(const std::string&)>;

// The image is settled, and nobody changes it meanwhile. Memory: two bytes for each cluster of the
// file, however the image tells it. EIO: the file could not be read.
Task<Result<CheckResult>> check_image(Image& image, CheckFix fix, CheckReport report);

// For an image that is opened for writing and was not closed cleanly. Throws Error.
Task<void> repair_dirty_image(Image& image);

}  // namespace strata::qcow2
