// SPDX-License-Identifier: GPL-2.0-or-later
//
// Header extensions, and the header as it is written.
#include <fmt/format.h>

#include <algorithm>
#include <cerrno>

#include "block/qcow2/format/header.h"
#include "block/qcow2/format/text.h"

namespace strata::qcow2 {
namespace {

constexpr uint32_t kEnd = 0;
constexpr uint32_t kBackingFormat = 0xe2792aca;
constexpr uint32_t kFeatureTable = 0x6803f857;
constexpr uint32_t kBitmaps = 0x23852875;
constexpr uint32_t kCrypto = 0x0537be77;
constexpr uint32_t kDataFile = 0x44415441;
// Our own. It stands for the dirty bit, which a version 2 header does not have. Whoever does not
// know it loses nothing: the flags that are in doubt then are safe as they are.
constexpr uint32_t kDirtyVersion2 = 0x53645632;

constexpr size_t kFeatureEntryBytes = 48;
constexpr size_t kLongestFormatName = 15;

template <class... Args>
FormatError refuse(int error, fmt::format_string<Args...> format, Args&&... args) {
  return {error, fmt::format(format, std::forward<Args>(args)...)};
}

using MaybeError = std::optional<FormatError>;

std::optional<std::string> to_name_or_none(ConstBytes data) {
  std::string name = to_name(data);
  return name.empty() ? std::nullopt : std::optional(std::move(name));
}

MaybeError parse_feature_table(ConstBytes data, Extensions& out) {
  // The last entry may be cut where its name ends.
  for (size_t at = 0; at + 2 < data.size(); at += kFeatureEntryBytes) {
    ConstBytes entry = data.subspan(at, std::min(kFeatureEntryBytes, data.size() - at));
    out.feature_names.push_back({FeatureType(load_be<uint8_t>(entry, 0)),
                                 load_be<uint8_t>(entry, 1), to_name(entry.subspan(2))});
  }
  return std::nullopt;
}

MaybeError parse_bitmaps(ConstBytes data, const Header& header, Extensions& out) {
  if (data.size() != 24) return refuse(EINVAL, "bitmaps_ext: Invalid extension length");
  // Written by someone who knew nothing of bitmaps: they say nothing about the disk any more.
  if ((header.autoclear & kAutoclearBitmaps) == 0) {
    out.stale_bitmaps = true;
    return std::nullopt;
  }
  BitmapsExtension bitmaps;
  bitmaps.count = load_be<uint32_t>(data, 0);
  bitmaps.directory_size = load_be<uint64_t>(data, 8);
  bitmaps.directory_offset = HostOffset(load_be<uint64_t>(data, 16));
  if (load_be<uint32_t>(data, 4) != 0)
    return refuse(EINVAL, "bitmaps_ext: Reserved field is not zero");
  if (bitmaps.count > kMaxBitmaps)
    return refuse(EINVAL,
                  "bitmaps_ext: Image has {} bitmaps, exceeding the QEMU supported maximum of {}",
                  bitmaps.count, kMaxBitmaps);
  if (bitmaps.count == 0) return refuse(EINVAL, "found bitmaps extension with zero bitmaps");
  if (!header.geometry().is_cluster_aligned(bitmaps.directory_offset.value))
    return refuse(EINVAL, "bitmaps_ext: invalid bitmap directory offset");
  if (bitmaps.directory_size > kMaxBitmapDirectoryBytes)
    return refuse(EINVAL,
                  "bitmaps_ext: bitmap directory size ({}) exceeds the maximum supported size ({})",
                  bitmaps.directory_size, kMaxBitmapDirectoryBytes);
  out.bitmaps = bitmaps;
  return std::nullopt;
}

MaybeError parse_crypto(ConstBytes data, const Header& header, Extensions& out) {
  if (header.crypt_method != static_cast<uint32_t>(CryptMethod::luks))
    return refuse(EINVAL, "CRYPTO header extension only expected with LUKS encryption method");
  if (data.size() != 16)
    return refuse(EINVAL, "CRYPTO header extension size {}, but expected size 16", data.size());
  CryptoExtension crypto{HostOffset(load_be<uint64_t>(data, 0)), load_be<uint64_t>(data, 8)};
  Geometry geometry = header.geometry();
  if (!geometry.is_cluster_aligned(crypto.offset.value))
    return refuse(EINVAL, "Encryption header offset '{}' is not a multiple of cluster size '{}'",
                  crypto.offset.value, geometry.cluster_size());
  out.crypto = crypto;
  return std::nullopt;
}

MaybeError parse_extension(uint32_t type, ConstBytes data, Header& header, Extensions& out) {
  switch (type) {
    case kBackingFormat:
      if (data.size() > kLongestFormatName)
        return refuse(2, "ERROR: ext_backing_format: len={} too large (>={})", data.size(),
                      kLongestFormatName + 1);
      out.backing_format = to_name_or_none(data);
      return std::nullopt;
    case kFeatureTable:
      return parse_feature_table(data, out);
    case kBitmaps:
      return parse_bitmaps(data, header, out);
    case kCrypto:
      return parse_crypto(data, header, out);
    case kDataFile:
      out.data_file = to_name_or_none(data);
      return std::nullopt;
    case kDirtyVersion2:
      if (header.version < 3) header.incompatible |= kIncompatibleDirty;
      return std::nullopt;
    default:
      out.unknown.push_back({type, {data.begin(), data.end()}});
      return std::nullopt;
  }
}

class Writer {
 public:
  template <class T>
  void put(T value) {
    size_t at = bytes_.size();
    bytes_.resize(at + sizeof value);
    store_be<T>(bytes_, at, value);
  }
  void put_bytes(ConstBytes bytes) { bytes_.insert(bytes_.end(), bytes.begin(), bytes.end()); }
  void put_text(std::string_view text) { put_bytes(std::as_bytes(std::span(text))); }
  void pad_to(size_t size) { bytes_.resize(std::max(size, bytes_.size())); }
  void extension(uint32_t type, ConstBytes data) {
    put(type);
    put(static_cast<uint32_t>(data.size()));
    put_bytes(data);
    // As whoever reads it counts: where the header is of an odd length, nothing is aligned.
    bytes_.resize(bytes_.size() + (8 - data.size() % 8) % 8);
  }
  void extension(uint32_t type, std::string_view text) {
    extension(type, std::as_bytes(std::span(text)));
  }
  size_t size() const noexcept { return bytes_.size(); }
  std::vector<std::byte>& bytes() noexcept { return bytes_; }

 private:
  std::vector<std::byte> bytes_;
};

void put_extensions(Writer& out, const Header& header, const Extensions& extensions) {
  if (extensions.backing_format) out.extension(kBackingFormat, *extensions.backing_format);
  if (extensions.data_file && header.has(kIncompatibleDataFile))
    out.extension(kDataFile, *extensions.data_file);
  if (extensions.crypto) {
    Writer data;
    data.put(extensions.crypto->offset.value);
    data.put(extensions.crypto->length);
    out.extension(kCrypto, data.bytes());
  }
  // Small clusters need the room for other things.
  if (header.version >= 3 && header.cluster_bits >= 12) {
    Writer table;
    for (const FeatureName& feature : known_features()) {
      size_t start = table.size();
      table.put(static_cast<uint8_t>(feature.type));
      table.put(feature.bit);
      table.put_text(feature.name);
      table.pad_to(start + kFeatureEntryBytes);
    }
    out.extension(kFeatureTable, table.bytes());
  }
  if (extensions.bitmaps) {
    Writer data;
    data.put(extensions.bitmaps->count);
    data.put(uint32_t{0});
    data.put(extensions.bitmaps->directory_size);
    data.put(extensions.bitmaps->directory_offset.value);
    out.extension(kBitmaps, data.bytes());
  }
  for (const UnknownExtension& extension : extensions.unknown)
    out.extension(extension.type, extension.data);
}

void put_fields(Bytes out, const Header& header) {
  store_be<uint32_t>(out, 0, kMagic);
  store_be<uint32_t>(out, 4, header.version);
  store_be<uint64_t>(out, 8, header.backing_file_offset);
  store_be<uint32_t>(out, 16, header.backing_file_size);
  store_be<uint32_t>(out, 20, header.cluster_bits);
  store_be<uint64_t>(out, 24, header.size);
  store_be<uint32_t>(out, 32, header.crypt_method);
  store_be<uint32_t>(out, 36, header.l1_size);
  store_be<uint64_t>(out, 40, header.l1_table_offset);
  store_be<uint64_t>(out, 48, header.refcount_table_offset);
  store_be<uint32_t>(out, 56, header.refcount_table_clusters);
  store_be<uint32_t>(out, 60, header.nb_snapshots);
  store_be<uint64_t>(out, 64, header.snapshots_offset);
  if (header.version < 3) return;
  store_be<uint64_t>(out, 72, header.incompatible);
  store_be<uint64_t>(out, 80, header.compatible);
  store_be<uint64_t>(out, 88, header.autoclear);
  store_be<uint32_t>(out, 96, header.refcount_order);
  store_be<uint32_t>(out, 100, header.header_length);
  store_be<uint8_t>(out, 104, header.compression_type);
}

}  // namespace

Decoded<Extensions> parse_extensions(ConstBytes cluster, Header& header) {
  Extensions extensions;
  uint64_t end = std::min<uint64_t>(header.extensions_end(), cluster.size());
  header.unknown_fields.clear();
  if (header.header_length > kHeaderV3Bytes && header.header_length <= cluster.size()) {
    ConstBytes unknown = cluster.subspan(kHeaderV3Bytes, header.header_length - kHeaderV3Bytes);
    header.unknown_fields.assign(unknown.begin(), unknown.end());
  }
  for (uint64_t at = header.header_length; at < end;) {
    if (end - at < 8) return refuse(EINVAL, "Header extension too large");
    auto type = load_be<uint32_t>(cluster, at);
    auto length = load_be<uint32_t>(cluster, at + 4);
    at += 8;
    if (length > end - at) return refuse(EINVAL, "Header extension too large");
    if (type == kEnd) break;
    if (auto error = parse_extension(type, cluster.subspan(at, length), header, extensions))
      return *error;
    at += (uint64_t{length} + 7) / 8 * 8;
  }
  return extensions;
}

Decoded<std::vector<std::byte>> encode_header(Header& header, const Extensions& extensions,
                                              const std::string& backing_name) {
  auto no_room = [] { return FormatError{ENOSPC, "No space left in the file header"}; };
  uint64_t cluster_size = header.geometry().cluster_size();
  header.header_length = static_cast<uint32_t>(
      header.version < 3 ? kHeaderV2Bytes : kHeaderV3Bytes + header.unknown_fields.size());
  Writer out;
  out.pad_to(header.version < 3 ? kHeaderV2Bytes : kHeaderV3Bytes);
  if (header.version >= 3) out.put_bytes(header.unknown_fields);
  put_extensions(out, header, extensions);
  constexpr size_t kEmpty = 8;  // bytes of an extension without data
  bool marked = header.version < 3 && header.has(kIncompatibleDirty);
  if (marked && out.size() + 2 * kEmpty + backing_name.size() <= cluster_size)
    out.extension(kDirtyVersion2, ConstBytes());
  out.extension(kEnd, ConstBytes());
  header.backing_file_offset = 0;
  header.backing_file_size = 0;
  if (!backing_name.empty()) {
    if (backing_name.size() > kMaxBackingName) return no_room();
    header.backing_file_offset = out.size();
    header.backing_file_size = static_cast<uint32_t>(backing_name.size());
    out.put_text(backing_name);
  }
  if (out.size() > cluster_size) return no_room();
  out.pad_to(cluster_size);
  put_fields(out.bytes(), header);
  return std::move(out.bytes());
}

}  // namespace strata::qcow2
