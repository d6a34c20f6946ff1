// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/names/filename.h"

#include <boost/json.hpp>
#include <catch2/catch.hpp>

#include "block/base/error.h"

using namespace strata;

namespace {

boost::json::value json(std::string_view text) {
  return boost::json::parse(text);
}

boost::json::value options_of(const std::string& name) {
  return options_of_filename(name);
}

std::string refusal(const std::string& name) {
  try {
    (void)options_of_filename(name);
  } catch (const Error& error) {
    return error.text();
  }
  return "none";
}

}  // namespace

TEST_CASE("a path is a file's, whatever its letters") {
  for (const char* name : {"disk.img", "/a/b/c", "./nbd:x", "a/b:c", "/x:y", "", " ", "json",
                           "dir/json:{}", "file", "q\xff\x01w"}) {
    CAPTURE(name);
    CHECK(options_of(name) == boost::json::value{{"driver", "file"}, {"filename", name}});
  }
}

TEST_CASE("a device is one for host_device") {
  CHECK(options_of("/dev/null") == json(R"({"driver": "host_device", "filename": "/dev/null"})"));
  CHECK(options_of("file:/dev/null") ==
        json(R"({"driver": "host_device", "filename": "/dev/null"})"));
  CHECK(options_of("host_device:/no/such") ==
        json(R"({"driver": "host_device", "filename": "/no/such"})"));
}

TEST_CASE("'file:' takes off itself and nothing else") {
  CHECK(options_of("file:a.img") == json(R"({"driver": "file", "filename": "a.img"})"));
  CHECK(options_of("file:/a b") == json(R"({"driver": "file", "filename": "/a b"})"));
  CHECK(options_of("file:nbd:x") == json(R"({"driver": "file", "filename": "./nbd:x"})"));
  CHECK(options_of("file:file:x") == json(R"({"driver": "file", "filename": "./file:x"})"));
}

TEST_CASE("what comes before a colon and a slash is a protocol") {
  CHECK(has_protocol_prefix("nbd:x"));
  CHECK(has_protocol_prefix(":"));
  CHECK(has_protocol_prefix("a b:/c"));
  CHECK_FALSE(has_protocol_prefix("/nbd:x"));
  CHECK_FALSE(has_protocol_prefix("a/b:c"));
  CHECK_FALSE(has_protocol_prefix("plain"));
  CHECK_FALSE(has_protocol_prefix(""));
}

TEST_CASE("an NBD URI becomes a server and an export") {
  struct Case {
    const char* name;
    const char* options;
  };
  auto [name, options] = GENERATE(values<Case>({
      {"nbd://h", R"({"server": {"type": "inet", "host": "h", "port": "10809"}})"},
      {"nbd://h:1/", R"({"server": {"type": "inet", "host": "h", "port": "1"}})"},
      {"nbd:///e", R"({"server": {"type": "inet", "host": "localhost", "port": "10809"},
                       "export": "e"})"},
      {"nbd+tcp://[::1]:7/a/b", R"({"server": {"type": "inet", "host": "::1", "port": "7"},
                                    "export": "a/b"})"},
      {"nbd://[fe80::1%25lo]", R"({"server": {"type": "inet", "host": "fe80::1%lo",
                                              "port": "10809"}})"},
      {"nbd://h/a%20b%zz%2", R"({"server": {"type": "inet", "host": "h", "port": "10809"},
                                 "export": "a b%zz%2"})"},
      {"nbd+unix:///?socket=/s", R"({"server": {"type": "unix", "path": "/s"}})"},
      {"nbd+unix:///e?socket=%2fs%3f", R"({"server": {"type": "unix", "path": "/s?"},
                                           "export": "e"})"},
      {"nbd:unix:/s", R"({"server": {"type": "unix", "path": "/s"}})"},
      {"nbd:unix:/s:exportname=a:b", R"({"server": {"type": "unix", "path": "/s"},
                                         "export": "a:b"})"},
      {"nbd:h:1", R"({"server": {"type": "inet", "host": "h", "port": "1"}})"},
      {"nbd:[::1]:1:exportname=", R"({"server": {"type": "inet", "host": "::1", "port": "1"}})"},
  }));
  CAPTURE(name);
  boost::json::value expected = json(options);
  expected.as_object()["driver"] = "nbd";
  CHECK(options_of(name) == expected);
}

TEST_CASE("a URI over TLS asks for credentials that the name does not have") {
  CHECK(options_of("nbds://h/e").as_object().contains("tls-creds"));
  CHECK(options_of("nbds+unix:///e?socket=/s").as_object().contains("tls-creds"));
  CHECK_FALSE(options_of("nbd://h/e").as_object().contains("tls-creds"));
}

TEST_CASE("a name that means nothing is refused") {
  CHECK(refusal("foo:bar") == "Unknown protocol 'foo'");
  CHECK(refusal(":") == "Unknown protocol ''");
  CHECK(refusal("nbd+unix:///e") == "No valid URL specified");
  CHECK(refusal("nbd+unix://host/e?socket=/s") == "No valid URL specified");
  CHECK(refusal("nbd+unix:///e?socket=/s&x=y") == "No valid URL specified");
  CHECK(refusal("nbd://h/e?socket=/s") == "No valid URL specified");
  CHECK(refusal("nbd://[::1") == "No valid URL specified");
  CHECK(refusal("nbds:h:1") == "File name string for NBD must start with 'nbd:'");
  CHECK(refusal("nbd://h:65536/e") == "No valid URL specified");
  CHECK(refusal("nbd://h:/e") == "No valid URL specified");
  CHECK(refusal("nbd:h:") == "error parsing address 'h:'");
  CHECK(refusal("nbd:") == "NBD server address missing");
  CHECK(refusal("nbd:host") == "error parsing address 'host'");
  CHECK(refusal("null-co:x") == "The only allowed filename for this driver is 'null-co://'");
  CHECK(refusal("blkdebug:x") == "blkdebug requires both config file and image path");
}

TEST_CASE("blkdebug stands before another name") {
  CHECK(options_of("blkdebug:c:a") == json(R"({"driver": "blkdebug", "config": "c",
      "image": {"driver": "file", "filename": "a"}})"));
  CHECK(options_of("blkdebug::nbd:h:1") == json(R"({"driver": "blkdebug", "image":
      {"driver": "nbd", "server": {"type": "inet", "host": "h", "port": "1"}}})"));
}

TEST_CASE("blkdebug inside blkdebug many times over ends") {
  std::string name = "a";
  for (int i = 0; i < 500; ++i) name = "blkdebug::" + name;
  CHECK(options_of(name).as_object().contains("image"));
}

TEST_CASE("a relative name starts from the directory of the image that has it") {
  CHECK(absolute_name("b", "a") == "b");
  CHECK(absolute_name("b", "/x/a") == "/x/b");
  CHECK(absolute_name("../b", "x/y/a") == "x/y/../b");
  CHECK(absolute_name("b", "file:x/a") == "file:x/b");
  CHECK(absolute_name("b", "nbd://h/a") == "nbd://h/b");
  CHECK(absolute_name("/b", "x/a") == "/b");
  CHECK(absolute_name("nbd:h:1", "x/a") == "nbd:h:1");
  CHECK(absolute_name("json:{}", "x/a") == "json:{}");
  CHECK(absolute_name("", "x/a").empty());
  CHECK_THROWS_AS(absolute_name("b", ""), Error);
  CHECK_THROWS_AS(absolute_name("b", "json:{}"), Error);
  CHECK(absolute_name("/b", "json:{}") == "/b");
}
