// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <map>
#include <set>
#include <string>
#include <string_view>

#include "block/aio/fd_sets.h"
#include "block/base/unique_fd.h"

namespace strata {

// The descriptors that a parent handed down, and those that came over a monitor. Each can be taken
// once, except from a set.
class PassedFds {
 public:
  // Knows nothing: every look-up fails.
  PassedFds() noexcept = default;
  // Those open now, except the standard streams. Call before opening anything.
  static PassedFds inherited();

  // A further name for an inherited descriptor.
  void add_name(std::string name, int fd);
  const std::map<std::string, int, std::less<>>& names() const noexcept { return names_; }
  bool has_name(std::string_view name) const { return names_.contains(name); }

  // One that came later. Closes what had that name.
  void add(std::string name, UniqueFd fd);

  FdSets& sets() noexcept { return sets_; }
  const FdSets& sets() const noexcept { return sets_; }

  // The socket called `str`: a name or a decimal number. Throws Error if there is none.
  UniqueFd take_socket(const std::string& str);
  // Whatever was handed down under `name`; empty if nothing was, or it has been taken.
  UniqueFd take(const std::string& name) noexcept;

 private:
  int find(const std::string& str) const;
  UniqueFd hand_out(int fd) noexcept;

  std::set<int> available_;
  std::map<std::string, int, std::less<>> names_;
  FdSets sets_;
};

}  // namespace strata
