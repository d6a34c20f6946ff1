// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/export/nbd/export_table.h"

#include <algorithm>

#include "block/export/nbd/export.h"

namespace strata::nbd_export {

std::shared_ptr<NbdExport> ExportTable::find(std::string_view name) const noexcept {
  auto found = std::find_if(exports_.begin(), exports_.end(),
                            [&](const auto& each) { return each->name() == name; });
  return found != exports_.end() ? *found : nullptr;
}

void ExportTable::add(std::shared_ptr<NbdExport> added) {
  exports_.push_back(std::move(added));
}

void ExportTable::remove(const NbdExport& removed) noexcept {
  std::erase_if(exports_, [&](const auto& each) { return each.get() == &removed; });
}

}  // namespace strata::nbd_export
