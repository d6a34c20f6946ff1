// SPDX-License-Identifier: GPL-2.0-or-later
//
// What the generated type headers need, and no more.
#pragma once

#include "qapi/runtime/box.h"
#include "qapi/runtime/enum.h"

namespace strata::qapi {

// JSON null, where a schema type tells it from absence.
struct Null {
  friend constexpr bool operator==(Null, Null) noexcept = default;
};

// The kinds of JSON values, as the schema's built-in QType names them.
enum class QType { none, qnull, qnum, qstring, qdict, qlist, qbool };
template <>
const EnumInfo& enum_info<QType>() noexcept;

}  // namespace strata::qapi
