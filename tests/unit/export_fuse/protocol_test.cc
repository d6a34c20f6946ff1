// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/export/fuse/protocol.h"

#include <catch2/catch.hpp>
#include <cstring>
#include <vector>

namespace strata::fuse_export {
namespace {

using Bytes = std::vector<std::byte>;

template <class T>
void append(Bytes& bytes, const T& value) {
  auto* from = reinterpret_cast<const std::byte*>(&value);
  bytes.insert(bytes.end(), from, from + sizeof value);
}

template <class... Parts>
Bytes message(uint32_t opcode, const Parts&... parts) {
  Bytes body;
  (append(body, parts), ...);
  fuse_in_header header{};
  header.len = static_cast<uint32_t>(sizeof header + body.size());
  header.opcode = opcode;
  header.unique = 42;
  header.nodeid = kFileNode;
  Bytes bytes;
  append(bytes, header);
  bytes.insert(bytes.end(), body.begin(), body.end());
  return bytes;
}

// As it is received: the head, and what follows elsewhere.
Status parse(const Bytes& bytes, Request& request) {
  size_t head = std::min(bytes.size(), kHeadSize);
  std::span all(bytes);
  return parse_request(all.first(head), all.subspan(head), request);
}

fuse_write_in transfer(uint64_t offset, uint32_t size) {
  fuse_write_in in{};
  in.offset = offset;
  in.size = size;
  return in;
}

fuse_init_in offer(uint32_t flags, uint32_t flags2 = 0) {
  fuse_init_in in{};
  in.major = FUSE_KERNEL_VERSION;
  in.minor = FUSE_KERNEL_MINOR_VERSION;
  in.max_readahead = 131072;
  in.flags = flags;
  in.flags2 = flags2;
  return in;
}

}  // namespace

TEST_CASE("what a request asks for is read from its arguments") {
  Request request;
  REQUIRE(parse(message(FUSE_READ, transfer(4096, 512)), request).ok());
  CHECK(request.opcode == FUSE_READ);
  CHECK(request.unique == 42);
  CHECK(request.offset == 4096);
  CHECK(request.bytes == 512);

  std::array<char, 100> data{};
  REQUIRE(parse(message(FUSE_WRITE, transfer(7, 100), data), request).ok());
  CHECK(request.offset == 7);
  CHECK(request.bytes == 100);

  fuse_fallocate_in allocate{};
  allocate.offset = 1;
  allocate.length = uint64_t{1} << 40;
  allocate.mode = 3;
  REQUIRE(parse(message(FUSE_FALLOCATE, allocate), request).ok());
  CHECK(request.offset == 1);
  CHECK(request.bytes == uint64_t{1} << 40);
  CHECK(request.mode == 3);

  fuse_lseek_in seek{};
  seek.offset = 9;
  seek.whence = 4;
  REQUIRE(parse(message(FUSE_LSEEK, seek), request).ok());
  CHECK(request.offset == 9);
  CHECK(request.mode == 4);

  fuse_open_in open{};
  open.flags = 0x4002;
  REQUIRE(parse(message(FUSE_OPEN, open), request).ok());
  CHECK(request.mode == 0x4002);

  fuse_setattr_in set{};
  set.valid = FATTR_SIZE;
  set.size = 77;
  REQUIRE(parse(message(FUSE_SETATTR, set), request).ok());
  CHECK(request.attributes.size == 77);
}

TEST_CASE("a request that is too short is refused by its number") {
  fuse_setattr_in set{};
  fuse_fallocate_in allocate{};
  fuse_lseek_in seek{};
  fuse_open_in open{};
  for (Bytes whole :
       {message(FUSE_READ, transfer(0, 1)), message(FUSE_SETATTR, set),
        message(FUSE_FALLOCATE, allocate), message(FUSE_LSEEK, seek), message(FUSE_OPEN, open)}) {
    whole.pop_back();
    auto length = static_cast<uint32_t>(whole.size());
    std::memcpy(whole.data(), &length, sizeof length);
    Request request;
    CHECK(parse(whole, request).error_number() == EINVAL);
    CHECK(request.unique == 42);
  }
}

TEST_CASE("less than a header, or another length than it says, is refused") {
  Request request;
  request.unique = 1;
  CHECK_FALSE(parse({}, request).ok());
  CHECK(request.unique == 0);
  Bytes whole = message(FUSE_GETATTR, fuse_getattr_in{});
  CHECK_FALSE(parse(Bytes(whole.begin(), whole.begin() + 39), request).ok());
  CHECK(request.unique == 0);
  whole.push_back(std::byte{0});
  CHECK_FALSE(parse(whole, request).ok());
  CHECK(request.unique == 42);
  whole.resize(whole.size() - 2);
  CHECK_FALSE(parse(whole, request).ok());
}

TEST_CASE("transfers are as large as agreed upon, and writes bring their data") {
  Request request;
  std::array<char, 10> data{};
  CHECK(parse(message(FUSE_READ, transfer(0, kMostData)), request).ok());
  CHECK_FALSE(parse(message(FUSE_READ, transfer(0, kMostData + 1)), request).ok());
  CHECK_FALSE(parse(message(FUSE_READ, transfer(0, UINT32_MAX)), request).ok());
  CHECK_FALSE(parse(message(FUSE_WRITE, transfer(0, 9), data), request).ok());
  CHECK_FALSE(parse(message(FUSE_WRITE, transfer(0, 11), data), request).ok());
  CHECK_FALSE(parse(message(FUSE_WRITE, transfer(0, UINT32_MAX), data), request).ok());
  CHECK(parse(message(FUSE_WRITE, transfer(0, 10), data), request).ok());
  CHECK(parse(message(FUSE_WRITE, transfer(0, 0)), request).ok());
}

TEST_CASE("an opcode that is not known is understood as such") {
  Request request;
  CHECK(parse(message(9999, std::array<char, 200>{}), request).ok());
  CHECK(request.opcode == 9999);
}

TEST_CASE("an older kernel's greeting is shorter") {
  fuse_init_in in = offer(FUSE_ASYNC_READ, 0xffffffff);
  std::array<std::byte, offsetof(fuse_init_in, flags2)> old;
  std::memcpy(old.data(), &in, sizeof old);
  Request request;
  request.init.flags2 = 5;
  REQUIRE(parse(message(FUSE_INIT, old), request).ok());
  CHECK(request.init.flags == FUSE_ASYNC_READ);
  CHECK(request.init.flags2 == 0);
  std::array<std::byte, 8> shorter{};
  CHECK_FALSE(parse(message(FUSE_INIT, shorter), request).ok());
}

TEST_CASE("what was not offered is not agreed upon") {
  auto nothing = answer_init(offer(0));
  REQUIRE(nothing);
  CHECK(nothing->flags == 0);
  CHECK(nothing->flags2 == 0);
  auto everything = answer_init(offer(UINT32_MAX, UINT32_MAX));
  REQUIRE(everything);
  CHECK((everything->flags & FUSE_ASYNC_READ) != 0);
  CHECK((everything->flags & FUSE_WRITEBACK_CACHE) == 0);
  CHECK((everything->flags & FUSE_POSIX_LOCKS) == 0);
  CHECK(everything->max_write == kMostData);
  CHECK(everything->max_pages == kMostData / 4096);
  // Without the bit that says so, the second word is none.
  auto first_word = answer_init(offer(UINT32_MAX & ~FUSE_INIT_EXT, UINT32_MAX));
  CHECK(first_word->flags2 == 0);
}

TEST_CASE("a kernel that is too old is refused, a newer one asked to speak our version") {
  fuse_init_in in = offer(0);
  in.minor = 26;
  CHECK_FALSE(answer_init(in));
  in.minor = 27;
  CHECK(answer_init(in));
  in.major = FUSE_KERNEL_VERSION - 1;
  CHECK_FALSE(answer_init(in));
  in.major = FUSE_KERNEL_VERSION + 1;
  in.minor = 0;
  auto answer = answer_init(in);
  REQUIRE(answer);
  CHECK(answer->major == FUSE_KERNEL_VERSION);
  CHECK(answer->max_write == 0);
}

TEST_CASE("nobody waits for an answer to what is forgotten") {
  CHECK_FALSE(wants_answer(FUSE_FORGET));
  CHECK_FALSE(wants_answer(FUSE_BATCH_FORGET));
  CHECK(wants_answer(FUSE_READ));
  CHECK(wants_answer(9999));
}

}  // namespace strata::fuse_export
