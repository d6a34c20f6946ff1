// SPDX-License-Identifier: GPL-2.0-or-later
#include <catch2/catch.hpp>
#include <cerrno>
#include <functional>

#include "block/qcow2/format/bitmaps.h"
#include "block/qcow2/format/entries.h"
#include "block/qcow2/format/header.h"
#include "block/qcow2/format/refcount_block.h"
#include "block/qcow2/format/snapshots.h"

using namespace strata;
using namespace strata::qcow2;

namespace {

// An image of 64 MiB as it is created by default.
Header plain_header() {
  Header header;
  header.size = 64 << 20;
  header.l1_size = 1;
  header.l1_table_offset = 0x30000;
  header.refcount_table_offset = 0x10000;
  header.refcount_table_clusters = 1;
  return header;
}

std::vector<std::byte> plain_cluster() {
  Header header = plain_header();
  return *encode_header(header, {}, "");
}

// What opening says when the bytes of a good header were changed.
std::string refusal(const std::function<void(Bytes)>& poke, HeaderCheck check = {true, false}) {
  std::vector<std::byte> cluster = plain_cluster();
  poke(cluster);
  auto header = parse_header(ConstBytes(cluster).first(kHeaderV3Bytes));
  if (!header) return header.error().text;
  auto extensions = parse_extensions(cluster, *header);
  if (auto error = check_header(*header, extensions ? *extensions : Extensions{}, check))
    return error->text;
  if (!extensions) return extensions.error().text;
  auto name = parse_backing_name(cluster, *header);
  return name ? "" : name.error().text;
}

template <class T>
std::string refusal_of(size_t offset, T value) {
  return refusal([&](Bytes bytes) { store_be<T>(bytes, offset, value); });
}

void put_extension(Bytes bytes, uint32_t type, uint32_t length) {
  store_be<uint32_t>(bytes, 112, type);
  store_be<uint32_t>(bytes, 116, length);
  store_be<uint64_t>(bytes, 120 + (length + 7) / 8 * 8, 0);
}

}  // namespace

TEST_CASE("a header that was written is read back") {
  Header header = plain_header();
  header.autoclear = kAutoclearBitmaps;
  header.compatible = kCompatibleLazyRefcounts;
  header.unknown_fields.assign(8, std::byte{0x5a});
  Extensions extensions;
  extensions.backing_format = "raw";
  extensions.bitmaps = BitmapsExtension{2, 64, HostOffset(0x50000)};
  extensions.unknown.push_back({0x12345678, {std::byte{1}, std::byte{2}, std::byte{3}}});
  auto cluster = encode_header(header, extensions, "base.img");
  REQUIRE(cluster);
  CHECK(cluster->size() == 65536);
  auto parsed = parse_header(*cluster);
  REQUIRE(parsed);
  auto found = parse_extensions(*cluster, *parsed);
  REQUIRE(found);
  CHECK(*parsed == header);
  CHECK(found->feature_names == known_features());
  found->feature_names.clear();
  CHECK(*found == extensions);
  CHECK(*parse_backing_name(*cluster, *parsed) == "base.img");
  CHECK_FALSE(check_header(*parsed, *found, {true, false}));
}

TEST_CASE("a version 2 header ends after 72 bytes") {
  Header header = plain_header();
  header.version = 2;
  auto cluster = encode_header(header, {}, "");
  REQUIRE(cluster);
  CHECK(header.header_length == 72);
  CHECK(load_be<uint64_t>(*cluster, 72) == 0);
  auto parsed = parse_header(*cluster);
  REQUIRE(parsed);
  CHECK(parsed->refcount_order == 4);
}

TEST_CASE("a dirty version 2 header says so in an extension, where it has room for it") {
  Header header = plain_header();
  header.version = 2;
  header.cluster_bits = 9;
  auto is_dirty = [&](size_t name_bytes) {
    auto cluster = encode_header(header, {}, std::string(name_bytes, 'x'));
    REQUIRE(cluster);
    auto parsed = parse_header(*cluster);
    REQUIRE(parsed);
    auto found = parse_extensions(*cluster, *parsed);
    REQUIRE(found);
    CHECK(found->unknown.empty());
    CHECK(parse_backing_name(*cluster, *parsed)->size() == name_bytes);
    return parsed->has(kIncompatibleDirty);
  };
  CHECK_FALSE(is_dirty(10));
  header.incompatible = kIncompatibleDirty;
  CHECK(is_dirty(10));
  CHECK(is_dirty(512 - 72 - 16));
  CHECK_FALSE(is_dirty(512 - 72 - 15));
}

TEST_CASE("a backing file name that does not fit is refused with ENOSPC") {
  Header header = plain_header();
  header.cluster_bits = 9;
  auto cluster = encode_header(header, {}, std::string(500, 'x'));
  REQUIRE_FALSE(cluster);
  CHECK(cluster.error().error == ENOSPC);
}

TEST_CASE("every field of the header is checked, with QEMU's texts") {
  CHECK(refusal([](Bytes) {}) == "");
  CHECK(refusal_of<uint8_t>(0, 'X') == "Image is not in qcow2 format");
  CHECK(refusal_of<uint32_t>(4, 4) == "Unsupported qcow2 version 4");
  CHECK(refusal_of<uint32_t>(20, 8) == "Unsupported cluster size: 2^8");
  CHECK(refusal_of<uint32_t>(20, 22) == "Unsupported cluster size: 2^22");
  CHECK(refusal_of<uint32_t>(20, 13) == "L1 table is too small");
  CHECK(refusal_of<uint32_t>(100, 103) == "qcow2 header too short");
  CHECK(refusal_of<uint32_t>(100, 0x10008) == "qcow2 header exceeds cluster size");
  CHECK(refusal_of<uint32_t>(100, 0xffffffff) == "qcow2 header exceeds cluster size");
  CHECK(refusal_of<uint64_t>(8, 0x10001) == "Invalid backing file offset");
  CHECK(refusal_of<uint64_t>(8, UINT64_MAX) == "Invalid backing file offset");
  CHECK(refusal_of<uint64_t>(72, 0x20) ==
        "Unsupported qcow2 feature(s): Unknown incompatible feature: 20");
  CHECK(refusal_of<uint64_t>(72, 2) == "qcow2: Image is corrupt; cannot be opened read/write");
  CHECK(refusal_of<uint64_t>(72, 8) ==
        "qcow2: Compression type incompatible feature bit must not be set");
  CHECK(refusal_of<uint8_t>(104, 1) ==
        "qcow2: Compression type incompatible feature bit must be set");
  CHECK(refusal_of<uint8_t>(104, 2) == "qcow2: unknown compression type: 2");
  CHECK(refusal_of<uint32_t>(96, 7) ==
        "Reference count entry width too large; may not exceed 64 bits");
  CHECK(refusal_of<uint32_t>(32, 3) == "Unsupported encryption method 3");
  CHECK(refusal_of<uint64_t>(48, 0x10200) == "Reference count table offset invalid");
  CHECK(refusal_of<uint64_t>(48, 0xffffffffffff0000) == "Reference count table offset invalid");
  CHECK(refusal_of<uint32_t>(56, 0) == "Image does not contain a reference count table");
  CHECK(refusal_of<uint32_t>(56, 129) == "Reference count table too large");
  CHECK(refusal_of<uint32_t>(56, 0xffffffff) == "Reference count table too large");
  CHECK(refusal_of<uint32_t>(60, 65537) == "Snapshot table too large");
  CHECK(refusal_of<uint64_t>(64, 0x1234567890abcdef) == "Snapshot table offset invalid");
  CHECK(refusal_of<uint32_t>(36, 0x7fffffff) == "Active L1 table too large");
  CHECK(refusal_of<uint64_t>(40, 0x7fffffffffff0000) == "");
  CHECK(refusal_of<uint64_t>(40, 0x30200) == "Active L1 table offset invalid");
  CHECK(refusal_of<uint32_t>(36, 0) == "L1 table is too small");
  CHECK(refusal_of<uint64_t>(24, uint64_t{1} << 62) == "Image is too big");
  CHECK(refusal_of<uint64_t>(24, UINT64_MAX) == "Image is too big");
}

TEST_CASE("a corrupt image may be opened for reading and for repair") {
  auto poke = [](Bytes bytes) { store_be<uint64_t>(bytes, 72, kIncompatibleCorrupt); };
  CHECK(refusal(poke, {false, false}) == "");
  CHECK(refusal(poke, {true, true}) == "");
}

TEST_CASE("subclusters of less than 512 bytes are refused") {
  auto poke = [](Bytes bytes) {
    store_be<uint32_t>(bytes, 20, 12);
    store_be<uint64_t>(bytes, 72, kIncompatibleExtendedL2);
  };
  CHECK(refusal(poke) == "Unsupported subcluster size: 128");
}

TEST_CASE("an unknown feature is called by the name the image gives it") {
  auto text = refusal([](Bytes bytes) {
    store_be<uint64_t>(bytes, 72, 1 << 5);
    put_extension(bytes, 0x6803f857, 48);
    store_be<uint8_t>(bytes, 120, 0);
    store_be<uint8_t>(bytes, 121, 5);
    std::memcpy(bytes.data() + 122, "time travel\0\0\0", 14);
  });
  CHECK(text.rfind("Unsupported qcow2 feature(s): time travel", 0) == 0);
}

TEST_CASE("extensions and names that reach too far are refused") {
  CHECK(refusal([](Bytes bytes) { put_extension(bytes, 0x12345678, 0x8000); }) == "");
  CHECK(refusal([](Bytes bytes) {
          store_be<uint32_t>(bytes, 112, 0x12345678);
          store_be<uint32_t>(bytes, 116, 0x7fffffff);
        }) == "Header extension too large");
  CHECK(refusal([](Bytes bytes) { store_be<uint32_t>(bytes, 100, 108); }) ==
        "Header extension too large");
  CHECK(refusal([](Bytes bytes) { put_extension(bytes, 0xe2792aca, 70); }) ==
        "ERROR: ext_backing_format: len=70 too large (>=16)");
  CHECK(refusal([](Bytes bytes) {
          store_be<uint64_t>(bytes, 8, 0xfff0);
          store_be<uint32_t>(bytes, 16, 17);
        }) == "Backing file name too long");
  CHECK(refusal([](Bytes bytes) {
          store_be<uint64_t>(bytes, 8, 0xff0);
          store_be<uint32_t>(bytes, 16, 1024);
        }) == "Backing file name too long");
}

TEST_CASE("the bitmaps extension counts only with its autoclear bit") {
  auto poke = [](uint64_t autoclear, uint32_t count, uint64_t size, uint64_t offset) {
    return refusal([=](Bytes bytes) {
      store_be<uint64_t>(bytes, 88, autoclear);
      put_extension(bytes, 0x23852875, 24);
      store_be<uint32_t>(bytes, 120, count);
      store_be<uint32_t>(bytes, 124, 0);
      store_be<uint64_t>(bytes, 128, size);
      store_be<uint64_t>(bytes, 136, offset);
    });
  };
  CHECK(poke(0, 0, 0, 1) == "");
  CHECK(poke(1, 0, 32, 0x50000) == "found bitmaps extension with zero bitmaps");
  CHECK(poke(1, 1, 32, 0x50200) == "bitmaps_ext: invalid bitmap directory offset");
  CHECK(poke(1, 70000, 32, 0x50000) ==
        "bitmaps_ext: Image has 70000 bitmaps, exceeding the QEMU supported maximum of 65535");
  CHECK(poke(1, 1, uint64_t{1} << 40, 0x50000) ==
        "bitmaps_ext: bitmap directory size (1099511627776) exceeds the maximum supported size "
        "(67107840)");
}

TEST_CASE("compressed descriptors hold an offset and the sectors it reaches into") {
  for (unsigned bits : {9u, 16u, 21u}) {
    Geometry geometry(bits, 4, false);
    CompressedExtent extent{HostOffset(0x12345), 400};
    CompressedExtent read = L2Entry::compressed(extent, geometry).extent(geometry);
    CHECK(read.offset == extent.offset);
    CHECK((read.offset.value + read.bytes) % 512 == 0);
    CHECK(read.bytes >= extent.bytes);
    CHECK(read.bytes < extent.bytes + 512);
  }
}

TEST_CASE("an extended entry says for each subcluster what a read finds") {
  Geometry geometry(16, 4, true);
  L2Entry entry{0x50000 | kCopiedFlag, 0x1 | (uint64_t{2} << 32)};
  CHECK(entry.subcluster(0, geometry, false) == SubclusterKind::normal);
  CHECK(entry.subcluster(1, geometry, false) == SubclusterKind::zero_allocated);
  CHECK(entry.subcluster(2, geometry, false) == SubclusterKind::unallocated_allocated);
  entry.raw = 0;
  CHECK(entry.subcluster(0, geometry, false) == SubclusterKind::invalid);
  CHECK(entry.subcluster(1, geometry, false) == SubclusterKind::zero_plain);
  entry.bitmap = 1 | (uint64_t{1} << 32);
  CHECK(entry.subcluster(0, geometry, false) == SubclusterKind::invalid);
  // Bits that mean nothing do not keep anybody from the data, as little as with QEMU.
  entry = {0x50000 | kZeroFlag, 0x1};
  CHECK(entry.subcluster(0, geometry, false) == SubclusterKind::normal);
  entry = {0x50000 | kCompressedFlag, 0x1};
  CHECK(entry.subcluster(0, geometry, false) == SubclusterKind::compressed);
  Geometry standard(16, 4, false);
  CHECK(L2Entry{kZeroFlag, 0}.kind(standard, false) == ClusterKind::zero_plain);
  CHECK(L2Entry{kCopiedFlag, 0}.kind(standard, true) == ClusterKind::normal);
  CHECK(L2Entry{kCopiedFlag, 0}.kind(standard, false) == ClusterKind::unallocated);
}

TEST_CASE("refcounts of every width are stored where the specification puts them") {
  for (unsigned order = 0; order <= 6; ++order) {
    std::vector<std::byte> block(512);
    Geometry geometry(9, order, false);
    uint64_t entries = geometry.refcount_block_entries();
    for (uint64_t i = 0; i < entries; ++i)
      store_refcount(block, order, i, (i * 7) & geometry.max_refcount());
    for (uint64_t i = 0; i < entries; ++i)
      REQUIRE(load_refcount(block, order, i) == ((i * 7) & geometry.max_refcount()));
  }
  std::vector<std::byte> block(512);
  store_refcount(block, 0, 1, 1);
  CHECK(block[0] == std::byte{2});
  store_refcount(block, 4, 1, 0x1234);
  CHECK(block[2] == std::byte{0x12});
}

TEST_CASE("a snapshot is read back with what is not known of it") {
  Snapshot snapshot;
  snapshot.l1_offset = HostOffset(0x60000);
  snapshot.l1_size = 3;
  snapshot.id = "1";
  snapshot.name = "before the upgrade";
  snapshot.vm_state_size = 77;
  snapshot.disk_size = 1 << 20;
  std::vector<std::byte> bytes;
  append_snapshot(bytes, snapshot);
  auto read = parse_snapshot(bytes, 0);
  REQUIRE(read);
  CHECK(read->snapshot == snapshot);
  CHECK(read->bytes == bytes.size());
  snapshot.unknown_extra_data.assign(16, std::byte{9});
  snapshot.extra_data_size += 16;
  bytes.clear();
  append_snapshot(bytes, snapshot);
  read = parse_snapshot(bytes, 0);
  REQUIRE(read);
  CHECK(read->snapshot == snapshot);
  for (size_t size = 0; size + 8 <= bytes.size(); ++size)
    CHECK_FALSE(parse_snapshot(ConstBytes(bytes).first(size), 0));
}

TEST_CASE("a bitmap directory is read back, and refused where it breaks the rules") {
  Geometry geometry(16, 4, false);
  uint64_t disk = 64 << 20;
  BitmapEntry entry;
  entry.table_offset = HostOffset(0x70000);
  entry.table_size = 1;
  entry.name = "daily";
  std::vector<std::byte> bytes = encode_bitmap_directory({entry});
  auto read = parse_bitmap_directory(bytes, 1, disk, geometry);
  REQUIRE(read);
  CHECK(read->front() == entry);
  CHECK(parse_bitmap_directory(bytes, 2, disk, geometry).error().text ==
        "Less bitmaps found than specified in header extension");
  CHECK(parse_bitmap_directory(bytes, 0, disk, geometry).error().text ==
        "More bitmaps found than specified in header extension");
  store_be<uint32_t>(bytes, 20, 0xffffffff);
  CHECK(parse_bitmap_directory(bytes, 1, disk, geometry).error().text == "Broken bitmap directory");
  entry.granularity_bits = 8;
  CHECK(parse_bitmap_directory(encode_bitmap_directory({entry}), 1, disk, geometry).error().text ==
        "Bitmap 'daily' doesn't satisfy the constraints");
}
