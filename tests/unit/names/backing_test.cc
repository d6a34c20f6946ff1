// SPDX-License-Identifier: GPL-2.0-or-later
//
// How far a name that an image contains leads.
#include "block/names/backing.h"

#include <boost/json.hpp>
#include <catch2/catch.hpp>
#include <cstdlib>

#include "block/base/error.h"
#include "tests/unit/support/memory_driver.h"

using namespace strata;
using boost::json::object;

namespace {

std::string refusal(const std::string& name, std::string_view options) {
  object tree = boost::json::parse(options).as_object();
  try {
    confine_recorded_name(name, tree);
  } catch (const Error& error) {
    return error.text();
  }
  return "none";
}

std::string refusal(std::string_view options) {
  return refusal("json:" + std::string(options), options);
}

struct Allowed {
  explicit Allowed(const char* drivers) { ::setenv("STRATA_BACKING_DRIVERS", drivers, 1); }
  ~Allowed() { ::unsetenv("STRATA_BACKING_DRIVERS"); }
};

}  // namespace

TEST_CASE("a recorded name leads to files and what reads them") {
  CHECK(refusal(R"({"driver": "qcow2", "file": {"driver": "file", "filename": "a"}})") == "none");
  CHECK(refusal(R"({"driver": "luks", "key-secret": "s", "file": {"driver": "raw", "file":
                   {"driver": "file", "filename": "a"}}})") == "none");
  CHECK(refusal(R"({"file": {"filename": "a"}})") == "none");
}

TEST_CASE("a recorded name leads to no server and no device") {
  constexpr const char* kText = "Driver '{}' is not used for a name that an image contains";
  for (const char* driver : {"nbd", "host_device", "http", "ssh", "iscsi", "nosuch", ""}) {
    CAPTURE(driver);
    std::string text = fmt::format(fmt::runtime(kText), driver);
    std::string node = fmt::format(R"({{"driver": "{}"}})", driver);
    CHECK(refusal(node) == text);
    CHECK(refusal(R"({"driver": "qcow2", "file": )" + node + "}") == text);
    CHECK(refusal(R"({"driver": "qcow2", "backing": {"driver": "raw", "file": )" + node + "}}") ==
          text);
    CHECK(refusal(R"({"driver": "quorum", "children": [)" + node + "]}") == text);
  }
  CHECK(refusal("nbd:h:1", R"({"file": {"driver": "nbd"}})") ==
        fmt::format(fmt::runtime(kText), "nbd"));
  CHECK(refusal(R"({"driver": 7})") == fmt::format(fmt::runtime(kText), ""));
}

TEST_CASE("drivers that the environment lists are followed, and no others") {
  constexpr const char* kNbd = R"({"driver": "raw", "file": {"driver": "nbd"}})";
  {
    Allowed allowed("ssh,nbd");
    CHECK(refusal(kNbd) == "none");
  }
  {
    Allowed allowed("host_device nbd");
    CHECK(refusal(kNbd) == "none");
  }
  for (const char* list : {"", ",", "nbdx", "xnbd", "nb", "NBD"}) {
    Allowed allowed(list);
    CHECK(refusal(kNbd) != "none");
  }
  CHECK(refusal(kNbd) != "none");
}

TEST_CASE("a recorded name refers to no node that exists") {
  for (const char* child : {"file", "backing", "data-file", "image", "header"}) {
    CAPTURE(child);
    CHECK(refusal(fmt::format(R"({{"driver": "qcow2", "{}": "secret"}})", child)) ==
          "A name that an image contains cannot refer to node 'secret'");
  }
  CHECK(refusal(R"({"driver": "quorum", "children": ["secret"]})") ==
        "A name that an image contains cannot refer to node 'secret'");
}

TEST_CASE("a recorded name does not decide how its node is opened") {
  object options = boost::json::parse(R"({"driver": "qcow2", "read-only": "off", "node-name": "n",
      "discard": "unmap", "force-share": "on", "file": {"driver": "file", "filename": "a",
      "read-only": "off", "auto-read-only": "on", "detect-zeroes": "on"}})")
                       .as_object();
  confine_recorded_name("json:", options);
  CHECK(boost::json::value(options) == boost::json::parse(R"({"driver": "qcow2", "file":
      {"driver": "file", "filename": "a"}})"));
}

TEST_CASE("a plain name is what it is, also where a protocol would be refused") {
  CHECK(refusal("a.img", R"({"file": {"driver": "host_device", "filename": "a.img"}})") == "none");
  CHECK(refusal("file:a", R"({"file": {"driver": "file", "filename": "a"}})") == "none");
}

TEST_CASE("relative names start from the file in which an image begins") {
  test::Fixture fixture;
  NodePtr file = fixture.open_memory("disk");
  NodePtr raw = fixture.open_raw("raw", "disk");
  CHECK(start_of_names(*raw) == "memory://");
  CHECK(start_of_names(*file) == "memory://");
}
