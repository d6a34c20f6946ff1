// SPDX-License-Identifier: GPL-2.0-or-later
//
// Descriptors that outlive this process: whoever manages it keeps them for its successor, which
// serves the same clients with the same options.
#pragma once

#include <string>

#include "block/base/unique_fd.h"

namespace strata {

// Main loop only.
class DescriptorStore {
 public:
  virtual ~DescriptorStore() = default;

  // From now on a copy of `fd` is kept under `name`. Names are made of letters, digits, '-', '.',
  // '_'; nothing happens where nobody keeps anything.
  virtual void keep(const std::string& name, int fd) noexcept = 0;
  virtual void forget(const std::string& name) noexcept = 0;
  // What a predecessor left; empty if it left nothing. It stays kept until forgotten.
  virtual UniqueFd take(const std::string& name) noexcept = 0;
  // Whether this process is ending and another will follow: clients are left to it.
  virtual bool expects_successor() const noexcept = 0;
};

}  // namespace strata
