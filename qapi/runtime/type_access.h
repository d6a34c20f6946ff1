// SPDX-License-Identifier: GPL-2.0-or-later
//
// The few lines of template that differ between types: reaching into optionals, boxes, vectors and
// variants. Included by the generated visit_<module>.cc only.
#pragma once

#include <optional>
#include <utility>
#include <variant>
#include <vector>

#include "qapi/runtime/builtin.h"
#include "qapi/runtime/type_info.h"

namespace strata::qapi {

template <class T>
struct AccessTo {
  static const void* get(const void* holder) noexcept { return holder; }
  static void* emplace(void* holder) { return holder; }
};

template <class T>
struct AccessTo<Box<T>> {
  static const void* get(const void* holder) noexcept {
    return &**static_cast<const Box<T>*>(holder);
  }
  static void* emplace(void* holder) { return &**static_cast<Box<T>*>(holder); }
};

template <class T>
struct AccessTo<std::optional<T>> {
  static const void* get(const void* holder) noexcept {
    const auto& value = *static_cast<const std::optional<T>*>(holder);
    return value ? AccessTo<T>::get(&*value) : nullptr;
  }
  static void* emplace(void* holder) {
    return AccessTo<T>::emplace(&static_cast<std::optional<T>*>(holder)->emplace());
  }
};

// Members that are values themselves all share one pair of functions.
template <class M>
inline constexpr Access kAccess{AccessTo<void>::get, AccessTo<void>::emplace};
template <class T>
inline constexpr Access kAccess<Box<T>>{AccessTo<Box<T>>::get, AccessTo<Box<T>>::emplace};
template <class T>
inline constexpr Access kAccess<std::optional<T>>{AccessTo<std::optional<T>>::get,
                                                  AccessTo<std::optional<T>>::emplace};

template <class Variant, class Held>
struct BranchAccess {
  static const void* get(const void* variant) noexcept {
    const auto* held = std::get_if<Held>(static_cast<const Variant*>(variant));
    return held ? AccessTo<Held>::get(held) : nullptr;
  }
  static void* emplace(void* variant) {
    return AccessTo<Held>::emplace(&static_cast<Variant*>(variant)->template emplace<Held>());
  }
};

template <class Variant, class Held, class T>
inline constexpr BranchInfo kBranch{type_info<T>, BranchAccess<Variant, Held>::get,
                                    BranchAccess<Variant, Held>::emplace};
template <class Variant>
inline constexpr BranchInfo kEmptyBranch{nullptr, BranchAccess<Variant, std::monostate>::get,
                                         BranchAccess<Variant, std::monostate>::emplace};

template <class T>
struct ArrayAccess {
  static const std::vector<T>& cast(const void* array) noexcept {
    return *static_cast<const std::vector<T>*>(array);
  }
  static std::size_t size(const void* array) noexcept { return cast(array).size(); }
  static const void* at(const void* array, std::size_t index) noexcept {
    return &cast(array)[index];
  }
  static void* append(void* array) { return &static_cast<std::vector<T>*>(array)->emplace_back(); }
};

template <class T>
struct TypeInfoOf;

template <class T>
struct TypeInfoOf<std::vector<T>> {
  static_assert(!std::is_same_v<T, bool>, "std::vector<bool> has no elements to point at");
  static constexpr ArrayInfo array{type_info<T>, ArrayAccess<T>::size, ArrayAccess<T>::at,
                                   ArrayAccess<T>::append};
  static constexpr TypeInfo info{Kind::array, "array", nullptr, &array};
};

template <class T>
const TypeInfo& type_info() noexcept {
  return TypeInfoOf<T>::info;
}

}  // namespace strata::qapi
