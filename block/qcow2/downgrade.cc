// SPDX-License-Identifier: GPL-2.0-or-later
//
// Back to version 2, which has neither clusters that are zero by their entry nor features.
#include <cerrno>

#include "block/base/error.h"
#include "block/base/log.h"
#include "block/qcow2/amend.h"
#include "block/qcow2/image.h"

namespace strata::qcow2 {
namespace {

constexpr char kFailed[] = "Failed to turn zero into data clusters";

void check(Status status, const char* what) {
  if (!status.ok()) throw Error::from_errno(status.error_number(), "{}", what);
}

}  // namespace

void Image::check_downgrade() const {
  if (has_data_file()) throw Error("Cannot downgrade an image with a data file");
  for (const Snapshot& snapshot : snapshots_)
    if (snapshot.disk_size != header_.size || snapshot.vm_state_size > UINT32_MAX)
      throw Error("Internal snapshots prevent downgrade of image");
  uint64_t features = header_.incompatible & ~kIncompatibleDirty;
  if (features != 0)
    throw Error("Cannot downgrade an image with incompatible features {:#x} set", features);
}

// A cluster of zero bytes, counted as often as the table that will refer to it.
Task<Result<HostOffset>> Image::make_zero_cluster(uint64_t references) {
  Result<HostCluster> place = HostCluster();
  {
    Mutex::Lock lock = co_await metadata_.lock();
    place = co_await allocate_clusters(1);
    if (!place) co_return place.status();
    refcounts_.take_fresh(*place, 1);
    if (references > 1) {
      Status status = co_await refcounts_.increase(*place, 1, references - 1);
      if (!status.ok()) {
        (void)co_await refcounts_.decrease(*place, 1);
        co_return status;
      }
    }
  }
  HostOffset at = geometry_.offset_of(*place);
  Status status = co_await file_.write_zeroes(at, geometry_.cluster_size());
  if (!status.ok()) co_return status;
  co_return at;
}

// What an entry that says zero becomes. Where a cluster that was kept for it is not taken, it is to
// be freed, as often as the table is referred to.
Task<Result<L2Entry>> Image::expanded_entry(L2Entry old, uint64_t references) {
  HostOffset kept = old.offset();
  if (kept.value != 0) {
    if (!geometry_.is_cluster_aligned(kept.value)) co_return Status::error(EIO);
    Result<uint64_t> count = Result<uint64_t>(0);
    {
      Mutex::Lock lock = co_await metadata_.lock();
      count = co_await refcounts_.get(geometry_.cluster_of(kept));
    }
    if (!count) co_return count.status();
    if (*count == 1 && metadata_at(kept, geometry_.cluster_size()) == nullptr) {
      Status status = co_await file_.write_zeroes(kept, geometry_.cluster_size());
      if (!status.ok()) co_return status;
      co_return L2Entry{old.raw & ~kZeroFlag, 0};
    }
  } else if (backing() == nullptr && backing_name_.empty()) {
    co_return L2Entry{};
  }
  Result<HostOffset> place = co_await make_zero_cluster(references);
  if (!place) co_return place.status();
  co_return L2Entry{place->value | (references == 1 ? kCopiedFlag : 0), 0};
}

// In one L2 table. What the new entries refer to is stable before they are.
Task<Status> Image::expand_table(HostOffset table, uint64_t references) {
  std::vector<std::byte> entries(geometry_.cluster_size());
  Status status = co_await file_.read(table, entries);
  if (!status.ok()) co_return status;
  std::vector<HostCluster> gone;
  bool changed = false;
  for (size_t at = 0; at < entries.size(); at += 8) {
    L2Entry old{load_be<uint64_t>(entries, at), 0};
    ClusterKind kind = old.kind(geometry_, false);
    if (kind != ClusterKind::zero_plain && kind != ClusterKind::zero_allocated) continue;
    Result<L2Entry> entry = co_await expanded_entry(old, references);
    if (!entry) co_return entry.status();
    if (old.offset().value != 0 && entry->offset() != old.offset())
      gone.push_back(geometry_.cluster_of(old.offset()));
    store_be<uint64_t>(entries, at, entry->raw);
    changed = true;
  }
  if (!changed) co_return Status();
  status = co_await settle();
  if (status.ok()) status = co_await file_.write(table, entries);
  if (status.ok()) status = co_await file_.flush();
  if (!status.ok()) co_return status;
  for (HostCluster cluster : gone)
    for (uint64_t i = 0; i < references; ++i) free_later(cluster, 1, FreedBy::other);
  co_return Status();
}

// All L2 tables, each with how many L1 entries refer to it.
Task<Result<Image::TableUses>> Image::all_l2_tables() {
  TableUses tables = uses_of_active_tables();
  for (size_t i = 0; i < snapshots_.size(); ++i) {
    Result<std::vector<std::byte>> l1 = Status::error(EIO);
    try {
      l1 = co_await read_l1(i);
    } catch (const Error& error) {
      log_error("{}", error.text());
      l1 = Status::error(error.error_number());
    }
    if (!l1) co_return l1.status();
    add_uses(tables, *l1);
  }
  for (const auto& [table, references] : tables)
    if (!geometry_.is_cluster_aligned(table)) co_return Status::error(EIO);
  co_return tables;
}

Task<void> Image::downgrade(AmendProgress progress) {
  check_downgrade();
  check(co_await before_first_write(), kFailed);
  check(co_await settle(), kFailed);
  Result<TableUses> tables = co_await all_l2_tables();
  if (!tables) check(tables.status(), kFailed);
  uint64_t done = 0;
  for (const auto& [table, references] : *tables) {
    check(co_await expand_table(HostOffset(table), references), kFailed);
    progress(++done, tables->size());
  }
  l2_.clear();
  check(co_await settle(), kFailed);
  check(co_await set_copied_flags(), kFailed);
  check(co_await settle(), kFailed);
  Mutex::Lock lock = co_await writing_back_.lock();
  Header before = header_;
  header_.version = 2;
  header_.incompatible = header_.compatible = header_.autoclear = 0;
  header_.unknown_fields.clear();
  Status status = co_await write_header();
  if (status.ok()) status = co_await file_.flush();
  if (!status.ok()) header_ = before;
  check(status, "Failed to update the image header");
}

}  // namespace strata::qcow2
