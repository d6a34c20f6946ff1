// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/qcow2/create.h"

#include <bit>
#include <cerrno>

#include "block/base/error.h"
#include "block/graph/open.h"
#include "block/io/backend.h"
#include "block/qcow2/format/refcount_block.h"
#include "block/qcow2/image.h"

namespace strata::qcow2 {
namespace {

using Options = qapi::BlockdevCreateOptionsQcow2;

unsigned cluster_bits_of(const Options& options) {
  uint64_t size = options.cluster_size.value_or(65536);
  if (!is_power_of_two(size) || size < 512 || size > 2048 * 1024)
    throw Error("Cluster size must be a power of two between 512 and 2048k");
  unsigned bits = static_cast<unsigned>(std::countr_zero(size));
  if (options.extended_l2.value_or(false) && bits < kMinExtendedClusterBits)
    throw Error("Extended L2 entries are only supported with cluster sizes of at least {} bytes",
                1 << kMinExtendedClusterBits);
  return bits;
}

unsigned refcount_order_of(const Options& options, bool v3) {
  int64_t bits = options.refcount_bits.value_or(16);
  if (bits <= 0 || bits > 64 || !is_power_of_two(static_cast<uint64_t>(bits)))
    throw Error("Refcount width must be a power of two and may not exceed 64 bits");
  if (!v3 && bits != 16)
    throw Error(
        "Different refcount widths than 16 bits require compatibility level 1.1 or above (use "
        "version=v3 or greater)");
  return static_cast<unsigned>(std::countr_zero(static_cast<uint64_t>(bits)));
}

void needs_version_3(bool wanted, bool v3, const char* what) {
  if (wanted && !v3)
    throw Error(
        "{} only supported with compatibility level 1.1 and above (use version=v3 or "
        "greater)",
        what);
}

// What can be refused before anything is touched.
void check_encryption(const qapi::QCryptoBlockCreateOptions& encrypt) {
  if (const auto* luks = encrypt.get_if<qapi::QCryptoBlockCreateOptionsLUKS>())
    (void)crypto::plan_luks_header(crypto::parameters_of(*luks), false);
}

void check_backing(const Options& options) {
  auto preallocation = options.preallocation.value_or(qapi::PreallocMode::off);
  if (options.backing_file && preallocation != qapi::PreallocMode::off &&
      !options.extended_l2.value_or(false))
    throw Error(
        "Backing file and preallocation can only be used at the same time if extended_l2 "
        "is on");
  if (options.backing_fmt && !options.backing_file)
    throw Error("Backing format cannot be used without backing file");
}

void check_data_file(const Options& options, bool v3) {
  bool raw = options.data_file_raw.value_or(false);
  if (raw && !options.data_file) throw Error("data-file-raw requires data-file");
  if (raw && options.backing_file)
    throw Error("Backing file and data-file-raw cannot be used at the same time");
  needs_version_3(options.data_file.has_value(), v3, "External data files are");
}

Header header_of(const Options& options) {
  bool v3 =
      options.version.value_or(qapi::BlockdevQcow2Version::v3) == qapi::BlockdevQcow2Version::v3;
  bool zstd = options.compression_type == qapi::Qcow2CompressionType::zstd;
  Header header;
  // Of several mistakes QEMU names the first in this order.
  if (options.size % kSectorSize != 0)
    throw Error("Image size must be a multiple of {} bytes", kSectorSize);
  needs_version_3(options.extended_l2.value_or(false), v3, "Extended L2 entries are");
  header.cluster_bits = cluster_bits_of(options);
  check_backing(options);
  needs_version_3(options.lazy_refcounts.value_or(false), v3, "Lazy refcounts");
  header.refcount_order = refcount_order_of(options, v3);
  check_data_file(options, v3);
  needs_version_3(zstd, v3, "Non-zlib compression type is");
  if (options.encrypt) check_encryption(*options.encrypt);
  header.version = v3 ? 3 : 2;
  if (options.lazy_refcounts.value_or(false)) header.compatible |= kCompatibleLazyRefcounts;
  if (options.extended_l2.value_or(false)) header.incompatible |= kIncompatibleExtendedL2;
  if (options.data_file) header.incompatible |= kIncompatibleDataFile;
  if (options.data_file_raw.value_or(false)) header.autoclear |= kAutoclearDataFileRaw;
  if (zstd) {
    header.incompatible |= kIncompatibleCompression;
    header.compression_type = static_cast<uint8_t>(CompressionType::zstd);
  }
  Geometry geometry = header.geometry();
  if (options.size > kMaxLength || geometry.l1_entries_for(options.size) * 8 > kMaxL1Bytes)
    throw Error(
        "The image size is too large for file format 'qcow2' (try using a larger cluster "
        "size)");
  header.refcount_table_offset = geometry.cluster_size();
  header.refcount_table_clusters = 1;
  // An empty table needs no room, but its offset has to make sense.
  header.l1_table_offset = 3 * geometry.cluster_size();
  return header;
}

void check(Status status, const char* what) {
  if (!status.ok()) throw Error::from_errno(status.error_number(), "{}", what);
}

// An image of no size: header, refcount table and its first block.
Task<void> write_skeleton(ImageFile file, Header& header, const Extensions& extensions,
                          const std::string& backing) {
  uint64_t cluster = header.geometry().cluster_size();
  auto bytes = encode_header(header, extensions, backing);
  if (!bytes) throw Error::from_errno(ENOSPC, "Could not write qcow2 header");
  bytes->resize(3 * cluster);
  store_be<uint64_t>(*bytes, cluster, 2 * cluster);
  Bytes block = Bytes(*bytes).subspan(2 * cluster);
  for (uint64_t i = 0; i < 3; ++i) store_refcount(block, header.refcount_order, i, 1);
  check(co_await file.write(HostOffset(0), *bytes), "Could not write qcow2 header");
  check(co_await file.flush(), "Could not write qcow2 header");
}

Task<NodePtr> node_of(MainLoop& loop, BlockLayer& layer, const qapi::BlockdevRef& reference) {
  if (const auto* name = std::get_if<std::string>(&reference)) co_return layer.lookup_node(*name);
  co_return co_await open_node(loop, layer, *std::get<qapi::Box<qapi::BlockdevOptions>>(reference));
}

constexpr Permissions kExclusive{
    {Permission::consistent_read, Permission::write, Permission::resize}, {}};

Task<void> create_on(Backend& file, Backend* data, const Options& options) {
  Header header = header_of(options);
  Extensions extensions;
  if (options.backing_fmt)
    extensions.backing_format = std::string(qapi::to_string(*options.backing_fmt));
  if (data != nullptr) {
    std::string name = data->node().file_name().exact;
    if (!name.empty()) extensions.data_file = name;
  }
  // What stands on a server keeps its size.
  co_await file.truncate(0, {.exact = false});
  co_await write_skeleton(ImageFile(file.root()), header, extensions,
                          options.backing_file.value_or(""));
  Image image(file.node());
  co_await image.load(file.root(), {.read_write = true});
  if (data != nullptr) image.use_data_file(data->root());
  image.configure(settings_of({}, image.header()));
  if (options.encrypt) co_await image.create_encryption(*options.encrypt);
  std::optional<Error> failed;
  try {
    TruncateOptions truncate;
    truncate.preallocation = options.preallocation.value_or(qapi::PreallocMode::off);
    if (options.size != 0) co_await image.resize(options.size, truncate);
  } catch (Error& error) {
    failed = std::move(error).prepend("Could not resize image: ");
  }
  if (failed) throw *failed;
  check(co_await image.settle(), "Could not resize image");
}

}  // namespace

Task<void> create(MainLoop& loop, BlockLayer& layer, Options options) {
  (void)header_of(options);  // refuses before anything is touched
  Backend file(layer);
  Backend data(layer);
  file.attach(loop, co_await node_of(loop, layer, options.file), kExclusive);
  std::exception_ptr failed;
  try {
    if (options.data_file)
      data.attach(loop, co_await node_of(loop, layer, *options.data_file), kExclusive);
    co_await create_on(file, options.data_file ? &data : nullptr, options);
  } catch (...) {
    failed = std::current_exception();
  }
  if (data.is_attached()) co_await data.close(loop);
  co_await file.close(loop);
  if (failed) std::rethrow_exception(failed);
}

}  // namespace strata::qcow2
