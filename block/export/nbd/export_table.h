// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <memory>
#include <string_view>
#include <vector>

#include "block/coro/event.h"

namespace strata::nbd_export {

class NbdExport;

// The exports a server offers, in the order of their adding. Main loop only.
class ExportTable {
 public:
  // Null where there is none of that name.
  std::shared_ptr<NbdExport> find(std::string_view name) const noexcept;
  // The name must not be taken.
  void add(std::shared_ptr<NbdExport> added);
  void remove(const NbdExport& removed) noexcept;
  const std::vector<std::shared_ptr<NbdExport>>& all() const noexcept { return exports_; }

  // Not set while more exports are promised: who asks for one that is not there yet waits for it.
  Event& complete() const noexcept { return complete_; }

 private:
  mutable Event complete_{true};
  std::vector<std::shared_ptr<NbdExport>> exports_;
};

}  // namespace strata::nbd_export
