// SPDX-License-Identifier: GPL-2.0-or-later
//
// From the bytes of a file to an Image.
#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <new>

#include "block/base/error.h"
#include "block/base/log.h"
#include "block/io/debug_event.h"
#include "block/qcow2/image.h"

namespace strata::qcow2 {
namespace {

constexpr uint64_t kReadStep = 1024 * 1024;

[[noreturn]] void refuse(const FormatError& error) {
  throw Error::from_text(error.text, error.error);
}

void warn_of_stale_bitmaps(uint32_t version) {
  if (version < 3)
    log_warning(
        "This qcow2 v2 image contains bitmaps, but they may have been modified by software without "
        "persistent bitmap support; so now these bitmaps must be considered inconsistent");
  else
    log_warning(
        "a program lacking bitmap support modified this file, so all bitmaps are now considered "
        "inconsistent");
  std::fputs("Some clusters may be leaked, run 'qemu-img check -r' on the image file to fix.",
             stderr);
}

void check_read(Status status, const char* what) {
  if (!status.ok()) throw Error::from_errno(status.error_number(), "{}", what);
}

// How many of the first cluster's bytes the header tells of.
uint64_t described_bytes(const Header& header) {
  uint64_t cluster = header.geometry().cluster_size();
  if (header.backing_file_offset == 0) return cluster;
  uint64_t end = std::min(header.backing_file_offset, cluster) + header.backing_file_size;
  return std::min(std::max<uint64_t>(header.header_length, end), cluster);
}

}  // namespace

Task<void> Image::load(Edge& file, OpenAs as) {
  file_ = ImageFile(file);
  data_ = &file;
  std::vector<std::byte> start(kHeaderV3Bytes);
  check_read(co_await file_.read(HostOffset(0), start), "Could not read qcow2 header");
  auto header = parse_header(start);
  if (!header) refuse(header.error());
  std::vector<std::byte> cluster(described_bytes(*header));
  check_read(co_await file_.read(HostOffset(0), cluster), "Could not read qcow2 header");
  auto extensions = parse_extensions(cluster, *header);
  Extensions found = extensions ? *extensions : Extensions{};
  if (auto error = check_header(*header, found, {as.read_write, as.repairing})) refuse(*error);
  if (!extensions) refuse(extensions.error());
  auto name = parse_backing_name(cluster, *header);
  if (!name) refuse(name.error());
  header_ = std::move(*header);
  extensions_ = std::move(*extensions);
  extensions_.feature_names.clear();  // ours are written, whatever was there
  backing_name_ = std::move(*name);
  geometry_ = header_.geometry();
  size_ = header_.size;
  if (header_.crypt_method == static_cast<uint32_t>(CryptMethod::luks) && !extensions_.crypto)
    throw Error("Missing CRYPTO header for crypt method {}", header_.crypt_method);
  if (data_file_raw() && !has_data_file()) throw Error("data-file-raw requires a data file");
  filter_.reset(header_.l1_size + refcount_table_bytes() / 8);
  guard_range(0, geometry_.cluster_size());
  guard_range(header_.l1_table_offset, uint64_t{header_.l1_size} * 8);
  co_await load_l1_table();
  if (as.read_write || as.repairing)
    check_read(co_await load_refcounts(), "Could not initialize refcount handling");
}

uint64_t Image::refcount_table_bytes() const noexcept {
  return header_.refcount_table_clusters * geometry_.cluster_size();
}

Task<void> Image::load_l1_table() {
  l1_.resize(header_.l1_size);
  uint64_t l1_bytes = uint64_t{header_.l1_size} * 8;
  for (uint64_t at = 0; at < l1_bytes;) {
    std::vector<std::byte> bytes(std::min(kReadStep, l1_bytes - at));
    check_read(co_await file_.read(HostOffset(header_.l1_table_offset) + at, bytes),
               "Could not read L1 table");
    l1_.fill(at / 8, bytes);
    at += bytes.size();
  }
  for (size_t i = 0; i < l1_.size(); ++i) {
    HostOffset at = l1_.load(L1Index(i)).offset();
    if (at.value != 0) filter_.add(geometry_.cluster_of(at));
  }
}

Task<Status> Image::load_refcounts() {
  HostOffset at(header_.refcount_table_offset);
  std::vector<uint64_t> table(refcount_table_bytes() / 8);
  co_await io::debug_event(file_.edge(), qapi::BlkdebugEvent::reftable_load);
  Status status = co_await file_.read(at, std::as_writable_bytes(std::span(table)));
  if (!status.ok()) co_return status;
  refcounts_.configure(geometry_, file_, std::move(table), at, this);
  guard_range(at.value, refcount_table_bytes());
  for (uint64_t entry : refcounts_.table()) {
    HostOffset block = RefcountTableEntry{entry}.offset();
    if (block.value != 0) filter_.add(geometry_.cluster_of(block));
  }
  co_return Status();
}

// Writes there will be looked at.
void Image::guard_range(uint64_t offset, uint64_t bytes) {
  HostCluster first = geometry_.cluster_of(HostOffset(offset));
  for (uint64_t i = 0; i < geometry_.clusters_for(bytes); ++i) filter_.add(first + i);
}

void Image::use_data_file(Edge& data) noexcept {
  data_ = &data;
}

L2Cache::StoragePtr Image::cache_for(const Settings& settings) const {
  bool same = l2_.capacity() != 0 && settings.l2_slice_bytes == settings_.l2_slice_bytes &&
              settings.l2_slices == settings_.l2_slices &&
              settings.compact_bytes == settings_.compact_bytes;
  if (same) return nullptr;
  try {
    return L2Cache::make_storage(geometry_, settings.l2_slice_bytes, settings.l2_slices,
                                 settings.compact_bytes);
  } catch (const std::bad_alloc&) {
    throw Error::from_text("Could not allocate metadata caches", ENOMEM);
  }
}

void Image::change_settings(const Settings& settings, L2Cache::StoragePtr cache) noexcept {
  settings_ = settings;
  forget_inactive_tables();
  if (cache) l2_.use(std::move(cache));
  refcounts_.keep_at_most(settings.refcount_blocks);
}

// A broken directory does not keep the image from being read; it is left alone then.
Task<void> Image::load_bitmap_directory() {
  bitmaps_.clear();
  if (extensions_.stale_bitmaps) warn_of_stale_bitmaps(header_.version);
  if (!extensions_.bitmaps) co_return;
  const BitmapsExtension& extension = *extensions_.bitmaps;
  if (extension.directory_size == 0) throw Error("Requested bitmap directory size is zero");
  std::vector<std::byte> bytes;
  // In steps, so that a size that the file does not have costs no memory.
  uint64_t inside = file_.length() - std::min(file_.length(), extension.directory_offset.value);
  if (extension.directory_size > inside + geometry_.cluster_size())
    throw Error("Failed to read bitmap directory");
  bytes.resize(extension.directory_size);
  check_read(co_await file_.read(extension.directory_offset, bytes),
             "Failed to read bitmap directory");
  auto found = parse_bitmap_directory(bytes, extension.count, header_.size, geometry_);
  if (!found) refuse(found.error());
  bitmaps_ = std::move(*found);
  guard_range(extension.directory_offset.value, extension.directory_size);
}

}  // namespace strata::qcow2
