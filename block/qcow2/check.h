// SPDX-License-Identifier: GPL-2.0-or-later
//
// Check: whether an image's metadata agrees with itself, and making it so.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>

#include "block/qcow2/image.h"

namespace strata {
class MainLoop;
}

namespace strata::qcow2 {

struct CheckResult {
  bool found_nothing() const noexcept {
    return corruptions == 0 && leaks == 0 && check_errors == 0;
  }
  bool mended_something() const noexcept { return corruptions_fixed != 0 || leaks_fixed != 0; }

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

// A finding is a line as QEMU words it; a failure is why something could not be done, for a program
// to put its name before.
enum class CheckSays : uint8_t { finding, failure };
using CheckReport = std::function<void(CheckSays, const std::string&)>;

// The image is settled, and nobody changes it meanwhile. Memory: some two bytes for each cluster of
// the file that is in use, and as much as the snapshot table takes, whatever the image claims to
// be. EIO and the like: there is no result.
Task<Result<CheckResult>> check_image(Image& image, CheckFix fix, CheckReport report);

// What was mended, with what was left the last time; and where something was, what is found in the
// image now.
struct Repair {
  CheckResult mended;
  std::optional<CheckResult> now;
};

// The same; and where errors are mended, until there is nothing more to be mended, or so many turns
// are over that there would always be something. Structures that lie over one another change each
// other as they are mended.
Task<Result<Repair>> repair_image(Image& image, CheckFix fix, CheckReport report);

// The same for an image in use, of which only leaks can be mended. Requests are held up for a
// moment at the beginning; from then on they go on, but a flush waits for the end. Throws Error.
Task<CheckResult> check_live_image(MainLoop& loop, Image& image, bool fix_leaks,
                                   CheckReport report);

// For an image that is opened for writing and was not closed cleanly. Throws Error.
Task<void> repair_dirty_image(Image& image);

}  // namespace strata::qcow2
