// SPDX-License-Identifier: GPL-2.0-or-later
//
// The tables of the built-in types.
#pragma once

#include <boost/json/value.hpp>
#include <string>

#include "qapi/runtime/type_info.h"

namespace strata::qapi {

template <>
const TypeInfo& type_info<bool>() noexcept;
template <>
const TypeInfo& type_info<std::int8_t>() noexcept;
template <>
const TypeInfo& type_info<std::int16_t>() noexcept;
template <>
const TypeInfo& type_info<std::int32_t>() noexcept;
template <>
const TypeInfo& type_info<std::int64_t>() noexcept;
template <>
const TypeInfo& type_info<std::uint8_t>() noexcept;
template <>
const TypeInfo& type_info<std::uint16_t>() noexcept;
template <>
const TypeInfo& type_info<std::uint32_t>() noexcept;
template <>
const TypeInfo& type_info<std::uint64_t>() noexcept;
template <>
const TypeInfo& type_info<double>() noexcept;
template <>
const TypeInfo& type_info<std::string>() noexcept;
template <>
const TypeInfo& type_info<Null>() noexcept;
template <>
const TypeInfo& type_info<boost::json::value>() noexcept;
template <>
const TypeInfo& type_info<QType>() noexcept;

// A std::uint64_t that takes size suffixes when it is given as text; the schema's 'size'.
const TypeInfo& size_type_info() noexcept;

}  // namespace strata::qapi
