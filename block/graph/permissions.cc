// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/graph/permissions.h"

#include <array>
#include <utility>

namespace strata {
namespace {

constexpr std::array<std::pair<Permission, const char*>, 4> kNames{{
    {Permission::consistent_read, "consistent read"},
    {Permission::write, "write"},
    {Permission::write_unchanged, "write unchanged"},
    {Permission::resize, "resize"},
}};

// A backing file is only read; what others may do to it depends on what the parent's users put up
// with.
Permissions cow_permissions(Permissions of_parent, bool inactive) {
  Permissions result;
  result.needed = of_parent.needed & Permission::consistent_read;
  bool changes_are_fine = of_parent.shared.has(Permission::write) || inactive;
  result.shared = {Permission::consistent_read, Permission::write_unchanged};
  if (changes_are_fine) result.shared |= {Permission::write, Permission::resize};
  return result;
}

}  // namespace

std::string describe(PermissionSet permissions) {
  std::string text;
  for (auto [permission, name] : kNames) {
    if (!permissions.has(permission)) continue;
    if (!text.empty()) text += ", ";
    text += name;
  }
  return text;
}

Permissions default_child_permissions(ChildRoles roles, Permissions of_parent, bool writable,
                                      bool inactive) {
  if (roles.has(ChildRole::cow)) return cow_permissions(of_parent, inactive);
  Permissions result = of_parent;
  if (roles.has(ChildRole::filtered)) return result;
  if (roles.has(ChildRole::metadata)) {
    // A format touches its metadata even where nobody writes data, and nobody else may.
    if (writable) result.needed |= {Permission::write, Permission::resize};
    result.needed |= Permission::consistent_read;
    result.shared = result.shared.without({Permission::write, Permission::resize});
  }
  if (roles.has(ChildRole::data)) {
    // Writing may make the child grow, and a child that changes its size under the parent breaks
    // it.
    if (result.needed.has(Permission::write)) result.needed |= Permission::resize;
    result.shared = result.shared.without(Permission::resize);
  }
  return result;
}

}  // namespace strata
