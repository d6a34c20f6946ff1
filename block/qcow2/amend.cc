// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/qcow2/amend.h"

#include <bit>
#include <cerrno>

#include "block/base/error.h"
#include "block/qcow2/image.h"

namespace strata::qcow2 {
namespace {

void check(Status status, const char* what) {
  if (!status.ok()) throw Error::from_errno(status.error_number(), "{}", what);
}

void check_backing(const Image& image, const Amendment& amendment) {
  if (!amendment.backing_file && !amendment.backing_format) return;
  std::string format = image.extensions().backing_format.value_or("");
  if (amendment.backing_file.value_or("") == image.backing_name() &&
      amendment.backing_format.value_or("") == format && !image.backing_name().empty())
    return;
  throw Error("Cannot amend the backing file").hint("You can use 'qemu-img rebase' instead.\n");
}

void check_refcount_bits(const Amendment& amendment, unsigned version, unsigned current) {
  if (amendment.refcount_bits) {
    int64_t bits = *amendment.refcount_bits;
    if (bits <= 0 || bits > 64 || !is_power_of_two(static_cast<uint64_t>(bits)))
      throw Error("Refcount width must be a power of two and may not exceed 64 bits");
    if (version < 3 && bits != 16)
      throw Error(
          "Refcount widths other than 16 bits require compatibility level 1.1 or above (use "
          "compat=1.1 or greater)");
  } else if (version < 3 && current != 16) {
    throw Error("compat=0.10 requires refcount_bits=16");
  }
}

void check_amendment(const Image& image, const Amendment& amendment) {
  unsigned version = amendment.version.value_or(image.header().version);
  check_backing(image, amendment);
  if (amendment.data_file && !image.has_data_file())
    throw Error("data-file can only be set for images that use an external data file");
  if (amendment.data_file_raw.value_or(false) && !image.data_file_raw())
    throw Error("data-file-raw cannot be set on existing images");
  check_refcount_bits(amendment, version, image.geometry().refcount_bits());
  // Set before, and taken away by, a lower version.
  if (amendment.lazy_refcounts.value_or(false) && std::max(version, image.header().version) < 3)
    throw Error(
        "Lazy refcounts only supported with compatibility level 1.1 and above (use compat=1.1 or "
        "greater)");
}

}  // namespace

// What can be said by a changed header alone.
Task<Status> Image::amend_header(Amendment amendment) {
  Mutex::Lock lock = co_await writing_back_.lock();
  Header header = header_;
  Extensions extensions = extensions_;
  if (amendment.version && *amendment.version > header_.version)
    header_.version = *amendment.version;
  if (amendment.data_file_raw && !*amendment.data_file_raw)
    header_.autoclear &= ~kAutoclearDataFileRaw;
  if (amendment.data_file) {
    extensions_.data_file = amendment.data_file;
    if (amendment.data_file->empty()) extensions_.data_file.reset();
  }
  if (amendment.lazy_refcounts) {
    header_.compatible &= ~kCompatibleLazyRefcounts;
    if (*amendment.lazy_refcounts) header_.compatible |= kCompatibleLazyRefcounts;
  }
  if (header == header_ && extensions == extensions_) co_return Status();
  Status status = co_await write_header();
  if (status.ok()) co_return co_await file_.flush();
  header_ = header;
  extensions_ = extensions;
  co_return status;
}

Task<void> amend(Image& image, Amendment amendment, AmendProgress progress) {
  check_amendment(image, amendment);
  check(co_await image.settle(), "Failed to flush the image");
  if (amendment.version.value_or(0) > image.header().version)
    check(co_await image.complete_snapshots(), "Failed to update the snapshot table");
  check(co_await image.amend_header(amendment), "Failed to update the image header");
  if (!amendment.refcount_bits) co_return;
  auto order =
      static_cast<unsigned>(std::countr_zero(static_cast<uint64_t>(*amendment.refcount_bits)));
  if (order != image.header().refcount_order)
    co_await image.change_refcount_width(order, std::move(progress));
}

Task<void> finish_amend(Image& image, Amendment amendment, AmendProgress progress) {
  if (amendment.version && *amendment.version < image.header().version)
    co_await image.downgrade(std::move(progress));
}

}  // namespace strata::qcow2
