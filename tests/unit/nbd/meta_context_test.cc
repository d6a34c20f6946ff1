// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/nbd/meta_context.h"

#include <catch2/catch.hpp>

using namespace strata::nbd;

namespace {

const std::vector<std::string> kBitmaps = {"b0", "b1"};
const MetaOffer kOffer{.allocation_depth = true, .bitmaps = kBitmaps};

MetaSelection select(std::string_view query, bool list, const MetaOffer& offer = kOffer) {
  MetaSelection selection;
  selection.apply(query, offer, list);
  return selection;
}

}  // namespace

TEST_CASE("a full context name selects that context") {
  CHECK(select("base:allocation", false).contains(kBaseAllocationId));
  CHECK(select("qemu:allocation-depth", false).contains(kAllocationDepthId));
  MetaSelection bitmap = select("qemu:dirty-bitmap:b1", false);
  CHECK(bitmap.contains(3));
  CHECK(bitmap.bitmap(1));
  CHECK(!bitmap.contains(2));
  CHECK(bitmap.count() == 1);
}

TEST_CASE("wildcards select when listing and not when setting") {
  CHECK(select("base:", true).count() == 1);
  CHECK(select("qemu:", true).count() == 3);
  CHECK(!select("qemu:", true).base_allocation());
  CHECK(select("qemu:dirty-bitmap:", true).count() == 2);
  CHECK(!select("qemu:dirty-bitmap:", true).allocation_depth());
  CHECK(select("base:", false).count() == 0);
  CHECK(select("qemu:", false).count() == 0);
  CHECK(select("qemu:dirty-bitmap:", false).count() == 0);
}

TEST_CASE("queries that match nothing select nothing") {
  for (auto query : {"", "base", "qemu", "foo:bar", "base:foo", "qemu:foo", "base:allocation:",
                     "qemu:allocation-depth:", "qemu:dirty-bitmap:nope", "qemu:dirty-bitmap"}) {
    CAPTURE(query);
    CHECK(select(query, true).count() == 0);
    CHECK(select(query, false).count() == 0);
  }
}

TEST_CASE("what the export does not offer is not selected") {
  MetaOffer bare;
  CHECK(select("qemu:allocation-depth", false, bare).count() == 0);
  CHECK(select("qemu:", true, bare).count() == 0);
  CHECK(select("base:allocation", false, bare).count() == 1);
}

TEST_CASE("selecting twice counts once, and clearing forgets") {
  MetaSelection selection;
  selection.apply("base:allocation", kOffer, false);
  selection.apply("base:allocation", kOffer, false);
  CHECK(selection.count() == 1);
  selection.select_all(kOffer);
  CHECK(selection.count() == 4);
  selection.clear();
  CHECK(selection.count() == 0);
  CHECK(!selection.contains(0xffffffff));
}
