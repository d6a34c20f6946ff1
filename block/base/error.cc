// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/base/error.h"

#include <cstring>

namespace strata {

std::string_view to_string(ErrorClass error_class) noexcept {
  switch (error_class) {
    case ErrorClass::GenericError:
      return "GenericError";
    case ErrorClass::CommandNotFound:
      return "CommandNotFound";
    case ErrorClass::DeviceNotActive:
      return "DeviceNotActive";
    case ErrorClass::DeviceNotFound:
      return "DeviceNotFound";
    case ErrorClass::KVMMissingCap:
      return "KVMMissingCap";
  }
  return "GenericError";
}

Error&& Error::prepend(std::string_view prefix) && {
  text_.insert(0, prefix);
  return std::move(*this);
}

Error&& Error::hint(std::string text) && {
  hint_ += text;
  return std::move(*this);
}

std::string Error::describe_errno(int error) {
  char buffer[128];
  return strerror_r(error, buffer, sizeof buffer);
}

}  // namespace strata
