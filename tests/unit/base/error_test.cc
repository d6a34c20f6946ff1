// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/base/error.h"

#include <catch2/catch.hpp>
#include <cerrno>

#include "block/base/result.h"

using namespace strata;

TEST_CASE("an error made from an errno ends in its description") {
  Error error = Error::from_errno(ENOENT, "Could not open '{}'", "a");
  CHECK(error.text() == "Could not open 'a': No such file or directory");
  CHECK(error.error_number() == ENOENT);
  CHECK(to_string(error.error_class()) == "GenericError");
}

TEST_CASE("a prefix goes before the text and a hint stays apart") {
  Error error = Error("gone").prepend("Cannot open: ").hint("Look again\n");
  CHECK(error.text() == "Cannot open: gone");
  CHECK(error.hint_text() == "Look again\n");
}

TEST_CASE("a kernel result becomes a status") {
  CHECK(Status::from_result(512).ok());
  CHECK(Status::from_result(-EIO).error_number() == EIO);
  Result<int> failed = Status::error(ENOSPC);
  CHECK(!failed);
  CHECK(failed.error_number() == ENOSPC);
}
