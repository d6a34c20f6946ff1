// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <initializer_list>
#include <type_traits>

namespace strata {

// A set of flags whose enumerators are single bits: EnumSet<Permission>.
template <class Enum>
class EnumSet {
  using Bits = std::underlying_type_t<Enum>;

 public:
  constexpr EnumSet() noexcept = default;
  constexpr EnumSet(Enum value) noexcept : bits_(static_cast<Bits>(value)) {}
  constexpr EnumSet(std::initializer_list<Enum> values) noexcept {
    for (Enum value : values) bits_ |= static_cast<Bits>(value);
  }
  static constexpr EnumSet from_bits(Bits bits) noexcept {
    EnumSet set;
    set.bits_ = bits;
    return set;
  }

  constexpr Bits bits() const noexcept { return bits_; }
  constexpr bool empty() const noexcept { return bits_ == 0; }
  constexpr bool has(Enum value) const noexcept {
    return (bits_ & static_cast<Bits>(value)) == static_cast<Bits>(value);
  }
  constexpr bool has_any(EnumSet other) const noexcept { return (bits_ & other.bits_) != 0; }
  constexpr bool has_all(EnumSet other) const noexcept {
    return (bits_ & other.bits_) == other.bits_;
  }
  constexpr EnumSet without(EnumSet other) const noexcept {
    return from_bits(bits_ & ~other.bits_);
  }

  friend constexpr EnumSet operator|(EnumSet a, EnumSet b) noexcept {
    return from_bits(a.bits_ | b.bits_);
  }
  friend constexpr EnumSet operator&(EnumSet a, EnumSet b) noexcept {
    return from_bits(a.bits_ & b.bits_);
  }
  constexpr EnumSet& operator|=(EnumSet other) noexcept { return *this = *this | other; }
  constexpr EnumSet& operator&=(EnumSet other) noexcept { return *this = *this & other; }
  friend constexpr bool operator==(EnumSet, EnumSet) noexcept = default;

 private:
  Bits bits_ = 0;
};

}  // namespace strata
