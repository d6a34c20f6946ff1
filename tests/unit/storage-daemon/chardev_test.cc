// SPDX-License-Identifier: GPL-2.0-or-later
#include <catch2/catch.hpp>

#include "block/base/base64.h"
#include "block/base/error.h"
#include "block/base/option_words.h"
#include "storage-daemon/chardev/options.h"
#include "storage-daemon/chardev/registry.h"
#include "storage-daemon/chardev/ringbuf.h"

namespace strata {
namespace {

std::string parse_error(std::string_view text) {
  try {
    parse_chardev_option(text);
  } catch (const Error& error) {
    return error.text();
  }
  return "no error";
}

TEST_CASE("words are split at single commas", "[storage-daemon]") {
  auto words = split_option("socket,path=a,,b,wait,nowait,x=", "backend");
  REQUIRE(words.size() == 5);
  CHECK(words[0].key == "backend");
  CHECK(words[0].value == "socket");
  CHECK(words[1].value == "a,b");
  CHECK((words[2].key == "wait" && words[2].value == "on" && words[2].short_form));
  CHECK((words[3].key == "wait" && words[3].value == "off" && words[3].short_form));
  CHECK(words[4].value.empty());
}

TEST_CASE("a listening socket waits unless told not to", "[storage-daemon]") {
  auto option = parse_chardev_option("socket,id=c,path=/x,server=on");
  CHECK(option.id == "c");
  const auto* socket = option.backend.get_if<qapi::ChardevSocketWrapper>();
  REQUIRE(socket != nullptr);
  CHECK(socket->data.server == true);
  CHECK(socket->data.wait == true);
  option = parse_chardev_option("socket,id=c,path=/x,server=on,wait=off");
  CHECK(option.backend.get_if<qapi::ChardevSocketWrapper>()->data.wait == false);
}

TEST_CASE("a short boolean is taken and warned of", "[storage-daemon]") {
  auto option = parse_chardev_option("socket,id=c,path=/x,server,nowait");
  CHECK(option.backend.get_if<qapi::ChardevSocketWrapper>()->data.wait == false);
  REQUIRE(option.warnings.size() == 2);
  CHECK(option.warnings[1].starts_with("short-form boolean option 'wait' deprecated"));
}

TEST_CASE("reconnect counts seconds, reconnect-ms milliseconds", "[storage-daemon]") {
  auto ms = [](std::string_view text) {
    auto option = parse_chardev_option(text);
    return option.backend.get_if<qapi::ChardevSocketWrapper>()->data.reconnect_ms;
  };
  CHECK(ms("socket,id=c,path=/x,reconnect=3") == 3000);
  CHECK(ms("socket,id=c,path=/x,reconnect-ms=3") == 3);
  CHECK(parse_error("socket,id=c,path=/x,reconnect=1,reconnect-ms=3") ==
        "'reconnect' and 'reconnect-ms' are mutually exclusive");
}

TEST_CASE("a wrong --chardev is refused in QEMU's words", "[storage-daemon]") {
  CHECK(parse_error("") == "chardev: no id specified");
  CHECK(parse_error("null") == "chardev: no id specified");
  CHECK(parse_error("id=c") == "chardev: \"c\" missing backend");
  CHECK(parse_error("nosuch,id=c") == "'nosuch' is not a valid char driver name");
  CHECK(parse_error("null,id=1") == "Parameter 'id' expects an identifier");
  CHECK(parse_error("null,id=c,x=1") == "Invalid parameter 'x'");
  CHECK(parse_error("file,id=c") == "chardev: file: no filename given");
  CHECK(parse_error("socket,id=c,host=h") == "chardev: socket: no port given");
  CHECK(parse_error("socket,id=c,path=p,wait=on") ==
        "'wait' option is incompatible with socket in client connect mode");
  CHECK(parse_error("socket,id=c,path=p,server=maybe") ==
        "Parameter 'server' expects 'on' or 'off'");
  CHECK(parse_error("socket,id=c,path=p,fd=3") ==
        "None or one of 'path', 'fd' or 'host' option required.");
}

TEST_CASE("a ring buffer keeps the latest bytes", "[storage-daemon]") {
  RingBuffer ring(8);
  ring.write("abcdef");
  CHECK(ring.read(2) == "ab");
  ring.write("ghijkl");
  CHECK(ring.size() == 8);
  CHECK(ring.read(100) == "efghijkl");
  CHECK(ring.read(1).empty());
}

TEST_CASE("a ring buffer's size is a power of two within reason", "[storage-daemon]") {
  CHECK_THROWS_AS(RingBuffer(0), Error);
  CHECK_THROWS_AS(RingBuffer(3), Error);
  CHECK_THROWS_AS(RingBuffer(-8), Error);
  CHECK_THROWS_AS(RingBuffer(int64_t(1) << 62), Error);
}

TEST_CASE("base64 comes back as it went", "[storage-daemon]") {
  std::string bytes;
  for (int i = 0; i < 300; ++i) {
    CHECK(decode_base64(encode_base64(bytes)) == bytes);
    bytes += static_cast<char>(i * 7);
  }
  CHECK(encode_base64("hello") == "aGVsbG8=");
  CHECK(decode_base64("aGVs\nbG8=") == "hello");
}

TEST_CASE("what is no base64 is refused", "[storage-daemon]") {
  for (const char* text : {"a", "ab", "abc", "ab=c", "!!!!", "====", "abcd="})
    CHECK_THROWS_AS(decode_base64(text), Error);
}

struct Devices {
  AioContext context{"test"};
  MainLoop loop{context};
  PassedFds passed;
  ChardevRegistry registry{passed};

  ~Devices() { context.run_to_completion(registry.close_all(loop)); }
  Chardev* add(std::string_view text) {
    ChardevOption option = parse_chardev_option(text);
    return context.run_to_completion(registry.add(loop, option.id, option.backend));
  }
};

TEST_CASE_METHOD(Devices, "a device in use is not removed", "[storage-daemon]") {
  Chardev* device = add("null,id=c");
  CHECK_THROWS_AS(add("null,id=c"), Error);
  device->attach();
  CHECK_THROWS_AS(device->attach(), Error);
  CHECK_THROWS_AS(context.run_to_completion(registry.remove(loop, "c")), Error);
}

TEST_CASE_METHOD(Devices, "a device without user is changed and removed", "[storage-daemon]") {
  add("null,id=c");
  qapi::ChardevBackend ring;
  ring.select(qapi::ChardevBackendKind::ringbuf);
  CHECK(context.run_to_completion(registry.change(loop, "c", ring))->filename() == "ringbuf");
  context.run_to_completion(registry.remove(loop, "c"));
  CHECK(registry.find("c") == nullptr);
}

TEST_CASE_METHOD(Devices, "a socket shows where it listens and who is there", "[storage-daemon]") {
  Chardev* device = add("socket,id=c,host=127.0.0.1,port=0,server=on,wait=off");
  std::string name = device->filename();
  CHECK(name.starts_with("disconnected:tcp:127.0.0.1:"));
  CHECK(name.ends_with(",server=on"));
  std::string port = name.substr(27, name.find(',') - 27);
  Chardev* client = add("socket,id=d,host=127.0.0.1,port=" + port);
  context.run_to_completion(device->wait_connected());
  CHECK(device->filename().starts_with("tcp:127.0.0.1:" + port + ",server=on <-> 127.0.0.1:"));
  CHECK(client->filename().ends_with(" <-> 127.0.0.1:" + port));
}

}  // namespace
}  // namespace strata
