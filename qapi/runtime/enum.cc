// SPDX-License-Identifier: GPL-2.0-or-later
#include "qapi/runtime/enum.h"

#include "qapi/runtime/types.h"

namespace strata::qapi {

int EnumInfo::find(std::string_view text) const noexcept {
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (values[i].name == text) return static_cast<int>(i);
  }
  return -1;
}

template <>
const EnumInfo& enum_info<QType>() noexcept {
  static constexpr EnumValueInfo names[] = {{"none", {}},    {"qnull", {}}, {"qnum", {}},
                                            {"qstring", {}}, {"qdict", {}}, {"qlist", {}},
                                            {"qbool", {}}};
  static constexpr EnumInfo info{"QType", names};
  return info;
}

}  // namespace strata::qapi
