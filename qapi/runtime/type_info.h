// SPDX-License-Identifier: GPL-2.0-or-later
//
// A description of every schema type, as constant tables. One visitor in each direction walks them,
// and introspection reads them; the generator emits the tables (visit_<module>.cc).
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>

#include "qapi/runtime/types.h"

namespace strata::qapi {

struct TypeInfo;
using TypeRef = const TypeInfo& (*)() noexcept;
using Features = std::span<const std::string_view>;

enum class Kind : std::uint8_t {
  boolean,
  int8,
  int16,
  int32,
  int64,
  uint8,
  uint16,
  uint32,
  uint64,
  size,
  number,
  string,
  null,
  any,
  enumeration,
  array,
  object,
  alternate,
};

// How to reach the value inside a std::optional, a Box, or nothing at all.
struct Access {
  // Null when an optional is empty.
  const void* (*get)(const void* holder) noexcept;
  // Makes the value exist and returns it.
  void* (*emplace)(void* holder);
};

struct MemberInfo {
  std::string_view name;
  std::uint32_t offset = 0;
  TypeRef type = nullptr;
  Access access{};
  bool optional = false;
  Features features{};
};

// A branch of a union or an alternate, inside a std::variant.
struct BranchInfo {
  TypeRef type;  // null: the branch has no members
  // The value of this branch, or null when the variant holds another one.
  const void* (*get)(const void* variant) noexcept;
  void* (*emplace)(void* variant);
};

struct ArrayInfo {
  TypeRef element;
  std::size_t (*size)(const void* array) noexcept;
  const void* (*at)(const void* array, std::size_t index) noexcept;
  // Appends a fresh element and returns it.
  void* (*append)(void* array);
};

struct ObjectInfo {
  TypeRef base;  // lies at offset 0
  std::span<const MemberInfo> members;
  // A union has these as well. `branches` is indexed by the value of the tag.
  std::string_view tag{};
  std::uint32_t tag_offset = 0;
  const EnumInfo& (*tag_enum)() noexcept = nullptr;
  std::uint32_t variant_offset = 0;
  std::span<const BranchInfo> branches{};
};

struct AlternateInfo {
  std::span<const BranchInfo> alternatives;
};

struct TypeInfo {
  Kind kind;
  std::string_view name;
  const EnumInfo& (*enumeration)() noexcept = nullptr;
  const ArrayInfo* array = nullptr;
  const ObjectInfo* object = nullptr;
  const AlternateInfo* alternate = nullptr;
  Features features{};
};

// The table of type T. Generated types specialise it; arrays are in type_access.h.
template <class T>
const TypeInfo& type_info() noexcept;

// Generated enums are stored as int; this is how the tables' readers touch them.
inline int load_enum(const void* place) noexcept {
  int value;
  std::memcpy(&value, place, sizeof value);
  return value;
}
inline void store_enum(void* place, int value) noexcept {
  std::memcpy(place, &value, sizeof value);
}

// Sets the tag of the union `object` and makes its variant hold the fresh branch of that value.
void select_branch(const TypeInfo& type, void* object, int value);

}  // namespace strata::qapi
