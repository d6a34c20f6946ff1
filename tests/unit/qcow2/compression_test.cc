// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/qcow2/compression.h"

#include <zlib.h>
#include <catch2/catch.hpp>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "block/base/error.h"
#include "block/qcow2/measure.h"

using namespace strata;
using namespace strata::qcow2;

namespace {

using Buffer = std::vector<std::byte>;

// Words of a small vocabulary, in a different order each time.
Buffer text_like(size_t size) {
  std::mt19937 random(7);
  Buffer data(size);
  for (size_t at = 0; at < size; ++at) data[at] = std::byte('a' + (random() % 64) % 17);
  for (size_t at = 8192; at + 64 < size; at += 128)
    std::copy_n(data.begin() + static_cast<long>(at) - 7000, 64,
                data.begin() + static_cast<long>(at));
  return data;
}

Buffer packed(CompressionType type, std::optional<int> level, const Buffer& in,
              uint64_t number = 1) {
  Buffer out(in.size());
  out.resize(compress_cluster(type, level, number, in, out));
  return out;
}

// As QEMU decodes: raw deflate with a window of 4 KiB.
bool zlib_decodes(const Buffer& in, const Buffer& expected) {
  Buffer out(expected.size());
  z_stream stream{};
  REQUIRE(inflateInit2(&stream, -12) == Z_OK);
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<std::byte*>(in.data()));
  stream.avail_in = static_cast<uInt>(in.size());
  stream.next_out = reinterpret_cast<Bytef*>(out.data());
  stream.avail_out = static_cast<uInt>(out.size());
  int status = inflate(&stream, Z_FINISH);
  inflateEnd(&stream);
  return status == Z_STREAM_END && out == expected;
}

}  // namespace

TEST_CASE("a cluster comes back as it was, at every level") {
  Buffer data = text_like(65536);
  for (auto type : {CompressionType::deflate, CompressionType::zstd}) {
    for (std::optional<int> level : {std::optional<int>(), std::optional(1), std::optional(9)}) {
      Buffer in = packed(type, level, data);
      REQUIRE(!in.empty());
      Buffer out(data.size());
      REQUIRE(decompress_cluster(type, in, out).ok());
      CHECK(out == data);
    }
  }
}

TEST_CASE("deflate keeps to the window of other decoders") {
  Buffer data = text_like(1 << 20);
  CHECK(zlib_decodes(packed(CompressionType::deflate, std::nullopt, data), data));
  CHECK(zlib_decodes(packed(CompressionType::deflate, 9, data), data));
}

TEST_CASE("every fourth cluster is packed more densely") {
  std::mt19937 random(3);
  std::vector<std::string> words(300);
  for (std::string& word : words)
    for (size_t i = 0; i < 3 + random() % 9; ++i) word += static_cast<char>('a' + random() % 26);
  std::string text;
  while (text.size() < 65536) text += words[random() % words.size()] + ' ';
  Buffer data(65536);
  std::memcpy(data.data(), text.data(), data.size());
  size_t fast = packed(CompressionType::deflate, std::nullopt, data, 1).size();
  for (uint64_t number = 0; number < 9; ++number) {
    Buffer in = packed(CompressionType::deflate, std::nullopt, data, number);
    CHECK((in.size() < fast) == (number % 4 == 0));
    CHECK(zlib_decodes(in, data));
  }
}

TEST_CASE("what does not become smaller is not packed") {
  std::mt19937 random(1);
  Buffer noise(65536);
  for (std::byte& byte : noise) byte = std::byte(random());
  CHECK(packed(CompressionType::deflate, std::nullopt, noise).empty());
  CHECK(packed(CompressionType::deflate, std::nullopt, noise, 4).empty());
  CHECK(packed(CompressionType::deflate, 9, noise).empty());
  CHECK(packed(CompressionType::zstd, std::nullopt, noise).empty());
}

TEST_CASE("the size of a full image has room for all tables") {
  Geometry geometry(16, 4, false);
  CHECK(full_file_size(geometry, uint64_t{1} << 30) == 1074135040);
  CHECK_THROWS_AS(full_file_size(Geometry(9, 4, false), uint64_t{1} << 50), Error);
  CHECK(bitmaps_file_size(geometry, uint64_t{1} << 30, {{65536, 2}}) == 3 * 65536);
  CHECK(bitmaps_file_size(geometry, uint64_t{1} << 30, {}) == 0);
}
