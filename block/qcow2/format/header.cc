// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/qcow2/format/header.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cerrno>

#include "block/qcow2/format/text.h"

namespace strata::qcow2 {
namespace {

template <class... Args>
FormatError refuse(int error, fmt::format_string<Args...> format, Args&&... args) {
  return {error, fmt::format(format, std::forward<Args>(args)...)};
}

// The fields of version 3; a version 2 image has their defaults.
std::optional<FormatError> parse_version_3(ConstBytes bytes, Header& header) {
  if (header.version == 2) {
    header.header_length = kHeaderV2Bytes;
    return std::nullopt;
  }
  header.incompatible = load_be<uint64_t>(bytes, 72);
  header.compatible = load_be<uint64_t>(bytes, 80);
  header.autoclear = load_be<uint64_t>(bytes, 88);
  header.refcount_order = load_be<uint32_t>(bytes, 96);
  header.header_length = load_be<uint32_t>(bytes, 100);
  if (header.header_length < kHeaderV3MinBytes) return refuse(EINVAL, "qcow2 header too short");
  if (header.header_length > uint64_t{1} << header.cluster_bits)
    return refuse(EINVAL, "qcow2 header exceeds cluster size");
  if (header.header_length > 104) header.compression_type = load_be<uint8_t>(bytes, 104);
  return std::nullopt;
}

std::optional<FormatError> check_compression(const Header& header) {
  bool flagged = header.has(kIncompatibleCompression);
  if (header.compression_type > static_cast<uint8_t>(CompressionType::zstd))
    return refuse(ENOTSUP, "qcow2: unknown compression type: {}", header.compression_type);
  if (header.compression_type == 0 && flagged)
    return refuse(EINVAL, "qcow2: Compression type incompatible feature bit must not be set");
  if (header.compression_type != 0 && !flagged)
    return refuse(EINVAL, "qcow2: Compression type incompatible feature bit must be set");
  return std::nullopt;
}

// "name, name, Unknown incompatible feature: 20"
std::string describe_unknown(uint64_t features, const std::vector<FeatureName>& names) {
  std::string text;
  for (const FeatureName& feature : names) {
    uint64_t bit = uint64_t{1} << (feature.bit & 63);
    if (feature.type != FeatureType::incompatible || (features & bit) == 0) continue;
    text += fmt::format("{}{}", text.empty() ? "" : ", ", feature.name);
    features &= ~bit;
  }
  if (features != 0)
    text += fmt::format("{}Unknown incompatible feature: {:x}", text.empty() ? "" : ", ", features);
  return text;
}

std::optional<FormatError> check_features(const Header& header, const Extensions& extensions,
                                          HeaderCheck check) {
  if (auto error = check_compression(header)) return error;
  uint64_t unknown = header.incompatible & ~kIncompatibleKnown;
  if (unknown != 0) {
    return refuse(ENOTSUP, "Unsupported qcow2 feature(s): {}",
                  describe_unknown(unknown, extensions.feature_names));
  }
  if (header.has(kIncompatibleCorrupt) && check.read_write && !check.repairing)
    return refuse(EACCES, "qcow2: Image is corrupt; cannot be opened read/write");
  if (header.has(kIncompatibleExtendedL2) && header.cluster_bits < kMinExtendedClusterBits)
    return refuse(EINVAL, "Unsupported subcluster size: {}",
                  (uint64_t{1} << header.cluster_bits) / kSubclusters);
  if (header.refcount_order > kMaxRefcountOrder)
    return refuse(EINVAL, "Reference count entry width too large; may not exceed 64 bits");
  if (header.crypt_method > static_cast<uint32_t>(CryptMethod::luks))
    return refuse(EINVAL, "Unsupported encryption method {}", header.crypt_method);
  return std::nullopt;
}

std::optional<FormatError> check_tables(const Header& header, HeaderCheck check) {
  Geometry geometry = header.geometry();
  uint64_t table_entries = header.refcount_table_clusters * (geometry.cluster_size() / 8);
  if (auto error = check_table(geometry, header.refcount_table_offset, table_entries, 8,
                               kMaxRefcountTableBytes, "Reference count table"))
    return error;
  if (header.refcount_table_clusters == 0 && !check.repairing)
    return refuse(EINVAL, "Image does not contain a reference count table");
  auto snapshots = check_table(geometry, header.snapshots_offset, header.nb_snapshots, 40,
                               40 * kMaxSnapshots, "Snapshot table");
  if (snapshots && !check.repairing) return snapshots;
  if (auto error = check_table(geometry, header.l1_table_offset, header.l1_size, 8, kMaxL1Bytes,
                               "Active L1 table"))
    return error;
  if (header.size > INT64_MAX || geometry.l1_entries_for(header.size) > INT32_MAX)
    return refuse(EFBIG, "Image is too big");
  if (header.l1_size < geometry.l1_entries_for(header.size))
    return refuse(EINVAL, "L1 table is too small");
  return std::nullopt;
}

}  // namespace

std::optional<FormatError> check_table(const Geometry& geometry, uint64_t offset, uint64_t entries,
                                       uint64_t entry_size, uint64_t max_bytes,
                                       std::string_view name) {
  if (entries > max_bytes / entry_size) return refuse(EFBIG, "{} too large", name);
  if (offset > INT64_MAX - entries * entry_size || !geometry.is_cluster_aligned(offset))
    return refuse(EINVAL, "{} offset invalid", name);
  return std::nullopt;
}

Decoded<Header> parse_header(ConstBytes given) {
  std::array<std::byte, kHeaderV3Bytes> bytes{};
  std::copy_n(given.begin(), std::min(given.size(), bytes.size()), bytes.begin());
  ConstBytes in(bytes);
  if (load_be<uint32_t>(in, 0) != kMagic) return refuse(EINVAL, "Image is not in qcow2 format");
  Header header;
  header.version = load_be<uint32_t>(in, 4);
  if (header.version < 2 || header.version > 3)
    return refuse(ENOTSUP, "Unsupported qcow2 version {}", header.version);
  header.backing_file_offset = load_be<uint64_t>(in, 8);
  header.backing_file_size = load_be<uint32_t>(in, 16);
  header.cluster_bits = load_be<uint32_t>(in, 20);
  if (header.cluster_bits < kMinClusterBits || header.cluster_bits > kMaxClusterBits)
    return refuse(EINVAL, "Unsupported cluster size: 2^{}", header.cluster_bits);
  header.size = load_be<uint64_t>(in, 24);
  header.crypt_method = load_be<uint32_t>(in, 32);
  header.l1_size = load_be<uint32_t>(in, 36);
  header.l1_table_offset = load_be<uint64_t>(in, 40);
  header.refcount_table_offset = load_be<uint64_t>(in, 48);
  header.refcount_table_clusters = load_be<uint32_t>(in, 56);
  header.nb_snapshots = load_be<uint32_t>(in, 60);
  header.snapshots_offset = load_be<uint64_t>(in, 64);
  if (auto error = parse_version_3(in, header)) return *error;
  if (header.backing_file_offset > uint64_t{1} << header.cluster_bits)
    return refuse(EINVAL, "Invalid backing file offset");
  return header;
}

std::optional<FormatError> check_header(const Header& header, const Extensions& extensions,
                                        HeaderCheck check) {
  if (auto error = check_features(header, extensions, check)) return error;
  return check_tables(header, check);
}

Decoded<std::string> parse_backing_name(ConstBytes cluster, const Header& header) {
  if (header.backing_file_offset == 0) return std::string();
  uint64_t room = cluster.size() - std::min<uint64_t>(cluster.size(), header.backing_file_offset);
  if (header.backing_file_size > std::min(kMaxBackingName, room))
    return refuse(EINVAL, "Backing file name too long");
  return to_name(cluster.subspan(header.backing_file_offset, header.backing_file_size));
}

const std::vector<FeatureName>& known_features() {
  static const std::vector<FeatureName> kNames = {
      {FeatureType::incompatible, 0, "dirty bit"},
      {FeatureType::incompatible, 1, "corrupt bit"},
      {FeatureType::incompatible, 2, "external data file"},
      {FeatureType::incompatible, 3, "compression type"},
      {FeatureType::incompatible, 4, "extended L2 entries"},
      {FeatureType::compatible, 0, "lazy refcounts"},
      {FeatureType::autoclear, 0, "bitmaps"},
      {FeatureType::autoclear, 1, "raw external data"},
  };
  return kNames;
}

}  // namespace strata::qcow2
