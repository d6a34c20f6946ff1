// SPDX-License-Identifier: GPL-2.0-or-later
//
// What a parent may do with a node, and what it lets others do meanwhile.
#pragma once

#include <string>

#include "block/base/enum_set.h"

namespace strata {

enum class Permission : uint32_t {
  consistent_read = 1 << 0,  // what is read makes sense (not, say, the overlay's base in a commit)
  write = 1 << 1,
  write_unchanged = 1 << 2,  // writes that do not change what the parents read
  resize = 1 << 3,
};
using PermissionSet = EnumSet<Permission>;

inline constexpr PermissionSet kAllPermissions{Permission::consistent_read, Permission::write,
                                               Permission::write_unchanged, Permission::resize};

struct Permissions {
  PermissionSet needed;                    // what this parent does
  PermissionSet shared = kAllPermissions;  // what it lets other parents do
  friend bool operator==(const Permissions&, const Permissions&) = default;
};

// "consistent read, write": as error texts name them.
std::string describe(PermissionSet permissions);

// What a child is for its parent. Roles are combined.
enum class ChildRole : uint32_t {
  data = 1 << 0,      // holds guest data
  metadata = 1 << 1,  // holds metadata of the parent's format
  filtered = 1 << 2,  // the parent passes its data on: same offsets, same length
  cow = 1 << 3,       // read where the parent has nothing of its own (backing file)
  primary = 1 << 4,   // gives the parent its name and position in the chain
};
using ChildRoles = EnumSet<ChildRole>;

inline constexpr ChildRoles kImageRoles{ChildRole::data, ChildRole::metadata, ChildRole::primary};
inline constexpr ChildRoles kFilterRoles{ChildRole::filtered, ChildRole::primary};

// What a parent with the given own users asks of a child in these roles. `writable` tells whether
// the parent node is open for writing, `inactive` whether another process owns its image for now.
Permissions default_child_permissions(ChildRoles roles, Permissions of_parent, bool writable,
                                      bool inactive = false);

}  // namespace strata
