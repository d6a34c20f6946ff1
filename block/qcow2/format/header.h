// SPDX-License-Identifier: GPL-2.0-or-later
//
// The header of an image and its extensions.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "block/base/bytes.h"
#include "block/qcow2/format/geometry.h"

namespace strata::qcow2 {

inline constexpr uint32_t kMagic = 0x514649fb;
inline constexpr size_t kHeaderV2Bytes = 72;
inline constexpr size_t kHeaderV3MinBytes = 104;
// What is known of a version 3 header: up to the compression type and its padding.
inline constexpr size_t kHeaderV3Bytes = 112;

inline constexpr uint64_t kIncompatibleDirty = 1 << 0;
inline constexpr uint64_t kIncompatibleCorrupt = 1 << 1;
inline constexpr uint64_t kIncompatibleDataFile = 1 << 2;
inline constexpr uint64_t kIncompatibleCompression = 1 << 3;
inline constexpr uint64_t kIncompatibleExtendedL2 = 1 << 4;
inline constexpr uint64_t kIncompatibleKnown = 0x1f;
inline constexpr uint64_t kCompatibleLazyRefcounts = 1 << 0;
inline constexpr uint64_t kAutoclearBitmaps = 1 << 0;
inline constexpr uint64_t kAutoclearDataFileRaw = 1 << 1;
inline constexpr uint64_t kAutoclearKnown = 0x3;

enum class CryptMethod : uint32_t { none = 0, aes = 1, luks = 2 };
enum class CompressionType : uint8_t { deflate = 0, zstd = 1 };

struct Header {
  uint32_t version = 3;
  uint64_t backing_file_offset = 0;
  uint32_t backing_file_size = 0;
  uint32_t cluster_bits = 16;
  uint64_t size = 0;
  uint32_t crypt_method = 0;
  uint32_t l1_size = 0;
  uint64_t l1_table_offset = 0;
  uint64_t refcount_table_offset = 0;
  uint32_t refcount_table_clusters = 0;
  uint32_t nb_snapshots = 0;
  uint64_t snapshots_offset = 0;
  uint64_t incompatible = 0;
  uint64_t compatible = 0;
  uint64_t autoclear = 0;
  uint32_t refcount_order = 4;
  uint32_t header_length = kHeaderV3Bytes;
  uint8_t compression_type = 0;
  std::vector<std::byte> unknown_fields;  // of the header, behind those above

  bool has(uint64_t incompatible_feature) const noexcept {
    return (incompatible & incompatible_feature) != 0;
  }
  Geometry geometry() const noexcept {
    return Geometry(cluster_bits, refcount_order, has(kIncompatibleExtendedL2));
  }
  // How many of the cluster's first bytes the extensions may take.
  uint64_t extensions_end() const noexcept {
    return backing_file_offset != 0 ? backing_file_offset : uint64_t{1} << cluster_bits;
  }
  friend bool operator==(const Header&, const Header&) = default;
};

enum class FeatureType : uint8_t { incompatible = 0, compatible = 1, autoclear = 2 };

struct FeatureName {
  FeatureType type;
  uint8_t bit;
  std::string name;
  friend bool operator==(const FeatureName&, const FeatureName&) = default;
};

struct BitmapsExtension {
  uint32_t count = 0;
  uint64_t directory_size = 0;
  HostOffset directory_offset;
  friend bool operator==(const BitmapsExtension&, const BitmapsExtension&) = default;
};

struct CryptoExtension {
  HostOffset offset;
  uint64_t length = 0;
  friend bool operator==(const CryptoExtension&, const CryptoExtension&) = default;
};

struct UnknownExtension {
  uint32_t type = 0;
  std::vector<std::byte> data;
  friend bool operator==(const UnknownExtension&, const UnknownExtension&) = default;
};

struct Extensions {
  std::optional<std::string> backing_format;
  std::optional<std::string> data_file;
  std::vector<FeatureName> feature_names;
  std::optional<BitmapsExtension> bitmaps;
  bool stale_bitmaps = false;  // there were some, but they are not to be believed any more
  std::optional<CryptoExtension> crypto;
  std::vector<UnknownExtension> unknown;
  friend bool operator==(const Extensions&, const Extensions&) = default;
};

// The first bytes of an image, at least kHeaderV3Bytes or the whole file; zeroes stand for what a
// shorter file does not have. Checks what can be checked before the rest is read; behind this,
// sizes are bounded and shifts are safe. The header's unknown fields are not there yet.
Decoded<Header> parse_header(ConstBytes bytes);

// The first cluster. Takes the header's unknown fields from it, and the dirty bit of version 2.
Decoded<Extensions> parse_extensions(ConstBytes cluster, Header& header);

struct HeaderCheck {
  bool read_write = false;
  bool repairing = false;  // what check may repair is not refused
};

// All limits of the header on its own. `extensions` may be what was found so far.
std::optional<FormatError> check_header(const Header& header, const Extensions& extensions,
                                        HeaderCheck check);

// The name as it is stored; empty where there is none.
Decoded<std::string> parse_backing_name(ConstBytes cluster, const Header& header);

// The whole first cluster's worth of header: fields, extensions, the table of feature names, the
// backing file name. ENOSPC where it does not fit. Sets header_length and the backing file's fields
// in `header` as written. Version 2 has no dirty bit: it is an extension there, if there is room.
Decoded<std::vector<std::byte>> encode_header(Header& header, const Extensions& extensions,
                                              const std::string& backing_name);

// The features this code knows, by the names QEMU gives them.
const std::vector<FeatureName>& known_features();

// A table of `entries` elements of `entry_size` bytes at `offset`.
std::optional<FormatError> check_table(const Geometry& geometry, uint64_t offset, uint64_t entries,
                                       uint64_t entry_size, uint64_t max_bytes,
                                       std::string_view name);

}  // namespace strata::qcow2
