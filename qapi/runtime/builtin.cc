// SPDX-License-Identifier: GPL-2.0-or-later
#include "qapi/runtime/builtin.h"

namespace strata::qapi {

namespace {

constexpr TypeInfo kBool{Kind::boolean, "bool"};
constexpr TypeInfo kInt8{Kind::int8, "int8"};
constexpr TypeInfo kInt16{Kind::int16, "int16"};
constexpr TypeInfo kInt32{Kind::int32, "int32"};
constexpr TypeInfo kInt64{Kind::int64, "int"};
constexpr TypeInfo kUint8{Kind::uint8, "uint8"};
constexpr TypeInfo kUint16{Kind::uint16, "uint16"};
constexpr TypeInfo kUint32{Kind::uint32, "uint32"};
constexpr TypeInfo kUint64{Kind::uint64, "uint64"};
constexpr TypeInfo kSize{Kind::size, "size"};
constexpr TypeInfo kNumber{Kind::number, "number"};
constexpr TypeInfo kString{Kind::string, "str"};
constexpr TypeInfo kNull{Kind::null, "null"};
constexpr TypeInfo kAny{Kind::any, "any"};
constexpr TypeInfo kQType{Kind::enumeration, "QType", enum_info<QType>};

}  // namespace

template <>
const TypeInfo& type_info<bool>() noexcept {
  return kBool;
}
template <>
const TypeInfo& type_info<std::int8_t>() noexcept {
  return kInt8;
}
template <>
const TypeInfo& type_info<std::int16_t>() noexcept {
  return kInt16;
}
template <>
const TypeInfo& type_info<std::int32_t>() noexcept {
  return kInt32;
}
template <>
const TypeInfo& type_info<std::int64_t>() noexcept {
  return kInt64;
}
template <>
const TypeInfo& type_info<std::uint8_t>() noexcept {
  return kUint8;
}
template <>
const TypeInfo& type_info<std::uint16_t>() noexcept {
  return kUint16;
}
template <>
const TypeInfo& type_info<std::uint32_t>() noexcept {
  return kUint32;
}
template <>
const TypeInfo& type_info<std::uint64_t>() noexcept {
  return kUint64;
}
template <>
const TypeInfo& type_info<double>() noexcept {
  return kNumber;
}
template <>
const TypeInfo& type_info<std::string>() noexcept {
  return kString;
}
template <>
const TypeInfo& type_info<Null>() noexcept {
  return kNull;
}
template <>
const TypeInfo& type_info<boost::json::value>() noexcept {
  return kAny;
}
template <>
const TypeInfo& type_info<QType>() noexcept {
  return kQType;
}
const TypeInfo& size_type_info() noexcept {
  return kSize;
}

}  // namespace strata::qapi
