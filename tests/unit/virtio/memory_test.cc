// SPDX-License-Identifier: GPL-2.0-or-later
#include <fcntl.h>
#include <sys/mman.h>

#include <catch2/catch.hpp>
#include <cstring>

#include "block/base/error.h"
#include "block/base/unique_fd.h"
#include "block/virtio/dirty_log.h"
#include "block/virtio/guest_memory.h"
#include "tests/support/vring.h"

namespace strata::virtio {
namespace {

constexpr uint64_t kPage = 4096;

size_t pieces(const GuestMemory& memory, uint64_t address, uint64_t bytes) {
  size_t count = 0;
  bool inside = memory.for_each_piece(address, bytes, Use::read, [&](std::byte*, size_t) {
    ++count;
    return true;
  });
  return inside ? count : 0;
}

TEST_CASE("an address inside a region is found with what follows it") {
  test::FakeGuest guest(4 * kPage);
  GuestMemory memory;
  memory.add({0x1000, 4 * kPage, 0x70000000, 0}, guest.fd());
  const uint32_t written = 0x01020304;
  std::memcpy(guest.at<std::byte>(5), &written, sizeof written);
  GuestMemory::Piece piece = memory.find(0x1005);
  REQUIRE(piece.bytes == 4 * kPage - 5);
  uint32_t value = 0;
  std::memcpy(&value, piece.data, sizeof value);
  CHECK(value == written);
  CHECK(memory.guest_address(piece.data) == 0x1005);
}

TEST_CASE("addresses outside every region, or at its end, are not found") {
  test::FakeGuest guest(kPage);
  GuestMemory memory;
  memory.add({0x1000, kPage, 0x70000000, 0}, guest.fd());
  CHECK(memory.find(0xfff).bytes == 0);
  CHECK(memory.find(0x2000).bytes == 0);
  CHECK(memory.find(UINT64_MAX).bytes == 0);
}

TEST_CASE("a range may cross into the region that follows, and not into a gap") {
  test::FakeGuest guest(4 * kPage);
  GuestMemory memory;
  memory.add({0x2000, kPage, 0x70000000, kPage}, guest.fd());
  memory.add({0x1000, kPage, 0x60000000, 3 * kPage}, guest.fd());
  memory.add({0x4000, kPage, 0x50000000, 0}, guest.fd());
  CHECK(pieces(memory, 0x1800, 0x1000) == 2);
  CHECK(pieces(memory, 0x1000, 0x2000) == 2);
  CHECK(pieces(memory, 0x1000, 0x2001) == 0);
  CHECK(pieces(memory, 0x4000, 0x1000) == 1);
  CHECK(pieces(memory, 0x4fff, 2) == 0);
  CHECK(pieces(memory, UINT64_MAX - 1, 16) == 0);
}

TEST_CASE("regions that wrap, are empty, overlap or exceed their file are refused") {
  test::FakeGuest guest(4 * kPage);
  GuestMemory memory;
  memory.add({0x1000, kPage, 0x70000000, 0}, guest.fd());
  CHECK_THROWS_AS(memory.add({0x1fff, kPage, 0x60000000, 0}, guest.fd()), Error);
  CHECK_THROWS_AS(memory.add({0x8000, 0, 0x60000000, 0}, guest.fd()), Error);
  CHECK_THROWS_AS(memory.add({UINT64_MAX - 10, kPage, 0x60000000, 0}, guest.fd()), Error);
  CHECK_THROWS_AS(memory.add({0x8000, kPage, UINT64_MAX - 10, 0}, guest.fd()), Error);
  CHECK_THROWS_AS(memory.add({0x8000, kPage, 0x60000000, UINT64_MAX - 10}, guest.fd()), Error);
  CHECK_THROWS_AS(memory.add({0x8000, kPage, 0x60000000, 4 * kPage}, guest.fd()), Error);
  CHECK_THROWS_AS(memory.add({0x8000, 5 * kPage, 0x60000000, 0}, guest.fd()), Error);
  CHECK(memory.regions().size() == 1);
}

TEST_CASE("what is no memory cannot be mapped") {
  GuestMemory memory;
  UniqueFd directory(::open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  CHECK_THROWS_AS(memory.add({0, kPage, 0, 0}, directory.get()), Error);
  UniqueFd path(::open("/proc/self/exe", O_PATH | O_CLOEXEC));
  CHECK_THROWS_AS(memory.add({0, kPage, 0, 0}, path.get()), Error);
  CHECK_THROWS_AS(memory.add({0, kPage, 0, 0}, -1), Error);
  UniqueFd sealed(::memfd_create("sealed", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  REQUIRE(::ftruncate(sealed.get(), kPage) == 0);
  REQUIRE(::fcntl(sealed.get(), F_ADD_SEALS, F_SEAL_WRITE) == 0);
  CHECK_THROWS_AS(memory.add({0, kPage, 0, 0}, sealed.get()), Error);
}

TEST_CASE("there is an end to the number of regions") {
  test::FakeGuest guest(kPage);
  GuestMemory memory;
  for (uint64_t i = 0; i < GuestMemory::kMostRegions; ++i)
    memory.add({i << 20, kPage, i << 20, 0}, guest.fd());
  CHECK_THROWS_AS(memory.add({uint64_t{1} << 40, kPage, 0, 0}, guest.fd()), Error);
  CHECK(memory.remove({5 << 20, kPage, 5 << 20, 123}));
  CHECK_FALSE(memory.remove({5 << 20, kPage, 5 << 20, 0}));
  CHECK(memory.find(5 << 20).bytes == 0);
  CHECK(memory.find(6 << 20).bytes == kPage);
}

TEST_CASE("an address of the front end lies in one region, aligned") {
  test::FakeGuest guest(2 * kPage);
  GuestMemory memory;
  memory.add({0x1000, 2 * kPage, 0x70000000, 0}, guest.fd());
  CHECK(memory.at_user_address(0x70000010, 16, 16, Use::write) != nullptr);
  CHECK(memory.at_user_address(0x70000008, 16, 16, Use::write) == nullptr);
  CHECK(memory.at_user_address(0x70001ff0, 17, 16, Use::write) == nullptr);
  CHECK(memory.at_user_address(0x6ffffff0, 16, 16, Use::write) == nullptr);
  CHECK(memory.at_user_address(UINT64_MAX - 15, 16, 16, Use::write) == nullptr);
}

namespace {

// Pages of one file, every second of which may be written; the page at 0x10000 overlaps another.
struct Pages final : RegionSource {
  std::optional<Region> find_region(uint64_t address) noexcept override {
    asked.push_back(address);
    if (address >= 8 * kPage && address != 0x10000) return std::nullopt;
    Region region;
    uint64_t page = address / kPage % 8;
    region.description = {address == 0x10000 ? 0 : page * kPage, kPage, page * kPage, page * kPage};
    region.writable = page % 2 == 0;
    region.mapping = std::make_shared<const MappedFile>(
        guest.fd(), page * kPage, kPage, MappedFile::Kind{.writable = region.writable});
    return region;
  }
  test::FakeGuest guest{8 * kPage};
  std::vector<uint64_t> asked;
};

}  // namespace

TEST_CASE("memory that is only known by asking is asked for once") {
  Pages source;
  GuestMemory memory(source);
  std::memset(source.guest.data() + kPage, 0x5a, kPage);
  CHECK(pieces(memory, kPage - 1, kPage + 2) == 3);
  CHECK(*memory.find(kPage).data == std::byte{0x5a});
  CHECK(pieces(memory, 0, 3 * kPage) == 3);
  CHECK(source.asked == std::vector<uint64_t>{kPage - 1, kPage, 2 * kPage});
  CHECK(memory.regions().size() == 3);
  CHECK(memory.find(9 * kPage).bytes == 0);
  CHECK(pieces(memory, 7 * kPage, kPage + 1) == 0);
  CHECK(memory.at_user_address(6 * kPage, 16, 16, Use::write) != nullptr);
}

TEST_CASE("a region that is not where it was asked for, or overlaps another, is not taken") {
  Pages source;
  GuestMemory memory(source);
  CHECK(memory.find(0x10000).bytes == 0);
  GuestMemory other(source);
  CHECK(other.find(0).bytes == kPage);
  CHECK(other.find(0x10000).bytes == 0);
  CHECK(other.regions().size() == 1);
}

TEST_CASE("memory that may only be read is not there for writing") {
  Pages source;
  GuestMemory memory(source);
  CHECK(memory.find(kPage, Use::read).bytes == kPage);
  CHECK(memory.find(kPage, Use::write).bytes == 0);
  CHECK(memory.find(0, Use::write).bytes == kPage);
  auto always = [](std::byte*, size_t) { return true; };
  CHECK(memory.for_each_piece(0, 2 * kPage, Use::read, always));
  CHECK_FALSE(memory.for_each_piece(0, 2 * kPage, Use::write, always));
  CHECK(memory.at_user_address(kPage, 16, 16, Use::read) != nullptr);
  CHECK(memory.at_user_address(kPage, 16, 16, Use::write) == nullptr);
}

TEST_CASE("a file that is shortened under its mapping reads as zeroes and is noticed") {
  test::FakeGuest guest(16 * kPage);
  GuestMemory memory;
  memory.add({0, 8 * kPage, 0x70000000, 0}, guest.fd());
  memory.add({0x100000, 8 * kPage, 0x80000000, 8 * kPage}, guest.fd());
  std::memset(guest.data(), 0x5a, 16 * kPage);
  REQUIRE(::ftruncate(guest.fd(), 8 * kPage) == 0);
  auto* gone = reinterpret_cast<volatile uint8_t*>(memory.find(0x100000).data);
  CHECK_FALSE(memory.is_damaged());
  CHECK(gone[kPage] == 0);
  gone[2 * kPage] = 1;
  CHECK(memory.is_damaged());
  CHECK_FALSE(memory.regions()[0].mapping->is_damaged());
  CHECK(static_cast<uint8_t>(*memory.find(0).data) == 0x5a);
}

TEST_CASE("the dirty log has a bit for each page, and nothing outside it is touched") {
  test::FakeGuest log(kPage);
  DirtyLog dirty(log.fd(), 8, 8);
  dirty.mark(kPage, 1);
  dirty.mark(3 * kPage - 1, 2);
  dirty.mark(63 * kPage, 2 * kPage);
  dirty.mark(uint64_t{1} << 60, kPage);
  dirty.mark(UINT64_MAX, 16);
  CHECK(*log.at<uint64_t>(8) == (0b1110 | uint64_t{1} << 63));
  CHECK(*log.at<uint64_t>(0) == 0);
  CHECK(*log.at<uint64_t>(16) == 0);
  CHECK(dirty.covers(0, 64 * kPage));
  CHECK_FALSE(dirty.covers(0, 64 * kPage + 1));
  CHECK_FALSE(dirty.covers(UINT64_MAX, 16));
}

}  // namespace
}  // namespace strata::virtio
