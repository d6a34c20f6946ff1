// SPDX-License-Identifier: GPL-2.0-or-later
#include <catch2/catch.hpp>
#include <cstring>

#include "block/virtio/blk.h"

namespace strata::virtio {
namespace {

constexpr BlkLimits kLimits{.bytes = 1 << 20, .block_size = 512, .writable = true};

// A request whose parts may be cut at will.
struct Bytes {
  std::vector<std::byte> readable;
  std::vector<std::byte> writable;
  Element element;

  Bytes(uint32_t type, uint64_t sector, size_t out, size_t in) : readable(16 + out), writable(in) {
    virtio_blk_outhdr header{};
    header.type = type;
    header.sector = sector;
    std::memcpy(readable.data(), &header, sizeof header);
  }
  void put(virtio_blk_discard_write_zeroes segment) {
    std::memcpy(readable.data() + 16, &segment, sizeof segment);
  }
  const Element& cut(size_t piece) {
    element.clear();
    auto add = [&](std::vector<std::byte>& from) {
      for (size_t at = 0; at < from.size(); at += piece)
        element.parts.push_back({from.data() + at, std::min(piece, from.size() - at)});
    };
    add(readable);
    element.readable_parts = element.parts.size();
    element.readable = readable.size();
    add(writable);
    element.writable = writable.size();
    return element;
  }
};

uint8_t verdict(uint32_t type, uint64_t sector, size_t out, size_t in, BlkLimits limits = kLimits) {
  Bytes bytes(type, sector, out, in);
  return parse_blk_request(bytes.cut(4096), limits).verdict;
}

uint8_t range_verdict(uint32_t type, uint64_t sector, uint32_t sectors, uint32_t flags) {
  Bytes bytes(type, 0, 16, 1);
  bytes.put({sector, sectors, flags});
  return parse_blk_request(bytes.cut(4096), kLimits).verdict;
}

TEST_CASE("a read's pieces may be cut anywhere") {
  for (size_t piece : {size_t{1}, size_t{3}, size_t{16}, size_t{513}, size_t{8192}}) {
    Bytes bytes(VIRTIO_BLK_T_IN, 7, 0, 1025);
    BlkRequest request = parse_blk_request(bytes.cut(piece), kLimits);
    CHECK(request.command == BlkCommand::read);
    CHECK(request.verdict == VIRTIO_BLK_S_OK);
    CHECK(request.offset == 7 * 512);
    CHECK(request.data.size() == 1024);
    CHECK(request.status == &bytes.writable[1024]);
    CHECK(request.written(true) == 1025);
    CHECK(request.written(false) == 1);
  }
}

TEST_CASE("a write's data follows the header, in whatever pieces") {
  for (size_t piece : {size_t{1}, size_t{5}, size_t{4096}}) {
    Bytes bytes(VIRTIO_BLK_T_OUT, 0, 512, 1);
    bytes.readable[16] = std::byte{0xab};
    BlkRequest request = parse_blk_request(bytes.cut(piece), kLimits);
    CHECK(request.command == BlkCommand::write);
    CHECK(request.verdict == VIRTIO_BLK_S_OK);
    std::byte copy[512];
    REQUIRE(request.data.size() == sizeof copy);
    request.data.copy_to(copy);
    CHECK(copy[0] == std::byte{0xab});
  }
}

TEST_CASE("ranges outside the disk, or no multiple of a block, are errors") {
  CHECK(verdict(VIRTIO_BLK_T_IN, 2047, 0, 513) == VIRTIO_BLK_S_OK);
  CHECK(verdict(VIRTIO_BLK_T_IN, 2048, 0, 513) == VIRTIO_BLK_S_IOERR);
  CHECK(verdict(VIRTIO_BLK_T_IN, 2047, 0, 1025) == VIRTIO_BLK_S_IOERR);
  CHECK(verdict(VIRTIO_BLK_T_IN, uint64_t{1} << 63, 0, 513) == VIRTIO_BLK_S_IOERR);
  CHECK(verdict(VIRTIO_BLK_T_IN, UINT64_MAX / 512, 0, 513) == VIRTIO_BLK_S_IOERR);
  CHECK(verdict(VIRTIO_BLK_T_IN, 0, 0, 101) == VIRTIO_BLK_S_IOERR);
  BlkLimits large = kLimits;
  large.block_size = 4096;
  CHECK(verdict(VIRTIO_BLK_T_IN, 8, 0, 4097, large) == VIRTIO_BLK_S_OK);
  CHECK(verdict(VIRTIO_BLK_T_IN, 1, 0, 4097, large) == VIRTIO_BLK_S_IOERR);
  CHECK(verdict(VIRTIO_BLK_T_IN, 8, 0, 513, large) == VIRTIO_BLK_S_IOERR);
}

TEST_CASE("a read-only disk is not written") {
  BlkLimits read_only = kLimits;
  read_only.writable = false;
  CHECK(verdict(VIRTIO_BLK_T_OUT, 0, 512, 1, read_only) == VIRTIO_BLK_S_IOERR);
  CHECK(verdict(VIRTIO_BLK_T_DISCARD, 0, 16, 1, read_only) == VIRTIO_BLK_S_IOERR);
  CHECK(verdict(VIRTIO_BLK_T_WRITE_ZEROES, 0, 16, 1, read_only) == VIRTIO_BLK_S_IOERR);
  CHECK(verdict(VIRTIO_BLK_T_IN, 0, 0, 513, read_only) == VIRTIO_BLK_S_OK);
}

TEST_CASE("discard and write zeroes are checked as ranges with flags") {
  CHECK(range_verdict(VIRTIO_BLK_T_DISCARD, 8, 8, 0) == VIRTIO_BLK_S_OK);
  CHECK(range_verdict(VIRTIO_BLK_T_DISCARD, 8, 8, 1) == VIRTIO_BLK_S_UNSUPP);
  CHECK(range_verdict(VIRTIO_BLK_T_WRITE_ZEROES, 8, 8, 1) == VIRTIO_BLK_S_OK);
  CHECK(range_verdict(VIRTIO_BLK_T_WRITE_ZEROES, 8, 8, 2) == VIRTIO_BLK_S_UNSUPP);
  CHECK(range_verdict(VIRTIO_BLK_T_WRITE_ZEROES, 8, 8, 0x80000000) == VIRTIO_BLK_S_UNSUPP);
  CHECK(range_verdict(VIRTIO_BLK_T_DISCARD, 2047, 2, 0) == VIRTIO_BLK_S_IOERR);
  CHECK(range_verdict(VIRTIO_BLK_T_DISCARD, uint64_t{1} << 63, 1, 0) == VIRTIO_BLK_S_IOERR);
  CHECK(range_verdict(VIRTIO_BLK_T_DISCARD, 0, UINT32_MAX, 0) == VIRTIO_BLK_S_IOERR);
  CHECK(verdict(VIRTIO_BLK_T_DISCARD, 0, 0, 1) == VIRTIO_BLK_S_IOERR);
  CHECK(verdict(VIRTIO_BLK_T_DISCARD, 0, 32, 1) == VIRTIO_BLK_S_IOERR);
  CHECK(verdict(VIRTIO_BLK_T_DISCARD, 0, 7, 1) == VIRTIO_BLK_S_IOERR);
  CHECK(verdict(VIRTIO_BLK_T_WRITE_ZEROES, 0, 16 << 16, 1) == VIRTIO_BLK_S_IOERR);
}

TEST_CASE("a request without a header or without room for its status cannot be answered") {
  Bytes bytes(VIRTIO_BLK_T_IN, 0, 0, 513);
  bytes.readable.resize(15);
  CHECK(parse_blk_request(bytes.cut(4096), kLimits).status == nullptr);
  bytes.readable.clear();
  CHECK(parse_blk_request(bytes.cut(4096), kLimits).status == nullptr);
  Bytes no_status(VIRTIO_BLK_T_OUT, 0, 512, 0);
  CHECK(parse_blk_request(no_status.cut(4096), kLimits).status == nullptr);
  CHECK(parse_blk_request(no_status.cut(4096), kLimits).written(true) == 0);
}

TEST_CASE("commands that are not known are not supported") {
  CHECK(verdict(3, 0, 0, 1) == VIRTIO_BLK_S_UNSUPP);
  CHECK(verdict(UINT32_MAX, 0, 0, 1) == VIRTIO_BLK_S_UNSUPP);
  CHECK(verdict(VIRTIO_BLK_T_GET_ID, 0, 0, 21) == VIRTIO_BLK_S_OK);
  CHECK(verdict(VIRTIO_BLK_T_FLUSH, 0, 0, 1) == VIRTIO_BLK_S_OK);
}

}  // namespace
}  // namespace strata::virtio
