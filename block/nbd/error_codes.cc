// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/nbd/error_codes.h"

#include <cerrno>

namespace strata::nbd {

WireError to_wire_error(int error) noexcept {
  switch (error) {
    case 0:
      return WireError::none;
    case EPERM:
    case EROFS:
      return WireError::eperm;
    case EIO:
      return WireError::eio;
    case ENOMEM:
      return WireError::enomem;
    case EDQUOT:
    case EFBIG:
    case ENOSPC:
      return WireError::enospc;
    case EOVERFLOW:
      return WireError::eoverflow;
    case ENOTSUP:
      return WireError::enotsup;  // EOPNOTSUPP is the same number on Linux
    case ESHUTDOWN:
      return WireError::eshutdown;
    default:
      return WireError::einval;
  }
}

int from_wire_error(WireError error) noexcept {
  switch (error) {
    case WireError::none:
      return 0;
    case WireError::eperm:
      return EPERM;
    case WireError::eio:
      return EIO;
    case WireError::enomem:
      return ENOMEM;
    case WireError::enospc:
      return ENOSPC;
    case WireError::eoverflow:
      return EOVERFLOW;
    case WireError::enotsup:
      return ENOTSUP;
    case WireError::eshutdown:
      return ESHUTDOWN;
    case WireError::einval:
      break;
  }
  return EINVAL;
}

}  // namespace strata::nbd
