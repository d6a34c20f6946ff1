// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/nbd/error_codes.h"

#include <catch2/catch.hpp>

#include <cerrno>

#include "block/nbd/names.h"

using namespace strata::nbd;

TEST_CASE("errors of this system become those of the protocol") {
  CHECK(to_wire_error(0) == WireError::none);
  CHECK(to_wire_error(EROFS) == WireError::eperm);
  CHECK(to_wire_error(EDQUOT) == WireError::enospc);
  CHECK(to_wire_error(EFBIG) == WireError::enospc);
  CHECK(to_wire_error(EOPNOTSUPP) == WireError::enotsup);
  CHECK(to_wire_error(EBADF) == WireError::einval);
}

TEST_CASE("every error of the protocol survives the way there and back") {
  for (WireError error :
       {WireError::none, WireError::eperm, WireError::eio, WireError::enomem, WireError::einval,
        WireError::enospc, WireError::eoverflow, WireError::enotsup, WireError::eshutdown}) {
    CHECK(to_wire_error(from_wire_error(error)) == error);
  }
  CHECK(from_wire_error(static_cast<WireError>(0xffffffff)) == EINVAL);
}

TEST_CASE("numbers without a name are <unknown>") {
  CHECK(to_string(static_cast<Option>(99)) == "<unknown>");
  CHECK(to_string(static_cast<Command>(99)) == "<unknown>");
  CHECK(to_string(Option::set_meta_context) == "set meta context");
}
