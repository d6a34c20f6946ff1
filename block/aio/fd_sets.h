// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "block/base/unique_fd.h"

namespace strata {

// Descriptors handed over for files that this process may not open itself. A set has those of one
// file, open in different modes.
class FdSets {
 public:
  struct Member {
    UniqueFd fd;
    std::optional<std::string> opaque;  // whoever added it may say something about it
  };
  using Members = std::vector<Member>;

  // Adds to set number `set`, else to a new one. Returns its number.
  int64_t add(UniqueFd fd, std::optional<int64_t> set, std::optional<std::string> opaque);
  // Closes one of the set, or all. False if there is no such thing.
  bool remove(int64_t set, std::optional<int64_t> fd) noexcept;

  const std::map<int64_t, Members>& all() const noexcept { return sets_; }
  // A copy of the one that is open in the access mode of `flags` (open(2)), with O_DIRECT as
  // there; it shares the open file. Empty, with errno, where there is no such set (ENOENT) or none
  // open like that in it (EACCES).
  UniqueFd duplicate(int64_t set, int flags) const noexcept;

 private:
  std::map<int64_t, Members> sets_;
};

}  // namespace strata
