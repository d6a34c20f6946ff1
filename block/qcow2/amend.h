// SPDX-License-Identifier: GPL-2.0-or-later
//
// Other options for an image that exists.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>

#include "block/coro/task.h"

namespace strata::qcow2 {

class Image;

// What is to change; nothing: stays as it is.
struct Amendment {
  std::optional<unsigned> version;
  std::optional<int64_t> refcount_bits;
  std::optional<bool> lazy_refcounts;
  std::optional<std::string> backing_file;
  std::optional<std::string> backing_format;
  std::optional<std::string> data_file;  // the name that is recorded; empty: none
  std::optional<bool> data_file_raw;
};

// Called as the work goes on: how much of how much.
using AmendProgress = std::function<void(uint64_t done, uint64_t total)>;

// The first half comes before the image is resized, the second (a lower version) after. Whatever is
// asked for is checked as a whole before anything changes. A power cut leaves the image as it was
// or as it shall be, and leaked clusters at worst. Nobody else uses the image meanwhile. Throws
// Error.
Task<void> amend(Image& image, Amendment amendment, AmendProgress progress);
Task<void> finish_amend(Image& image, Amendment amendment, AmendProgress progress);

}  // namespace strata::qcow2
