// SPDX-License-Identifier: GPL-2.0-or-later
//
// Back to version 2, which has neither clusters that are zero by their entry nor features.
#include <cerrno>
#include <cstring>

#include "block/base/aligned_buffer.h"
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

// Zeroes of the guest's, which are something else on the disk where it is encrypted.
Task<Status> Image::fill_with_zeroes(HostOffset at, GuestOffset guest) {
  if (!encryption_) co_return co_await file_.write_zeroes(at, geometry_.cluster_size());
  AlignedBuffer zeroes(geometry_.cluster_size());
  if (!zeroes) co_return Status::error(ENOMEM);
  std::memset(zeroes.data(), 0, zeroes.size());
  co_return co_await write_data(at, guest, IoVector::buffer(zeroes.data(), zeroes.size()));
}

// A cluster of zero bytes, counted as often as the table that will refer to it.
Task<Result<HostOffset>> Image::make_zero_cluster(GuestOffset guest, uint64_t references) {
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
  Status status = co_await fill_with_zeroes(at, guest);
  if (!status.ok()) co_return status;
  co_return at;
}

// What an entry that says zero becomes. Where a cluster that was kept for it is not taken, it is to
// be freed, as often as the table is referred to.
Task<Result<L2Entry>> Image::expanded_entry(L2Entry old, GuestOffset guest, uint64_t references) {
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
      Status status = co_await fill_with_zeroes(kept, guest);
      if (!status.ok()) co_return status;
      co_return L2Entry{old.raw & ~kZeroFlag, 0};
    }
  } else if (backing() == nullptr && backing_name_.empty()) {
    co_return L2Entry{};
  }
  Result<HostOffset> place = co_await make_zero_cluster(guest, references);
  if (!place) co_return place.status();
  co_return L2Entry{place->value | (references == 1 ? kCopiedFlag : 0), 0};
}

// In one L2 table, which begins at `guest`. What the new entries refer to is stable before they
// are.
Task<Status> Image::expand_table(HostOffset table, GuestOffset guest, uint64_t references) {
  std::vector<std::byte> entries(geometry_.cluster_size());
  Status status = co_await file_.read(table, entries);
  if (!status.ok()) co_return status;
  std::vector<HostCluster> gone;
  bool changed = false;
  for (size_t at = 0; at < entries.size(); at += 8) {
    L2Entry old{load_be<uint64_t>(entries, at), 0};
    ClusterKind kind = old.kind(geometry_, false);
    if (kind != ClusterKind::zero_plain && kind != ClusterKind::zero_allocated) continue;
    GuestOffset here = guest + ((at / 8) << geometry_.cluster_bits());
    Result<L2Entry> entry = co_await expanded_entry(old, here, references);
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

// All L2 tables, each with how many L1 entries refer to it, and with where on the disk it begins:
// for all of them that is the same place, or where it matters they are refused.
Task<Status> Image::find_all_l2_tables(TableUses& tables, TableUses& places) {
  tables = uses_of_active_tables();
  auto lies_at = [&](L1Entry entry, uint64_t index) {
    uint64_t table = entry.offset().value;
    return table == 0 || places.emplace(table, index).first->second == index || !encryption_;
  };
  for (size_t i = 0; i < l1_.size(); ++i)
    if (!lies_at(l1_.load(L1Index(i)), i)) co_return Status::error(EIO);
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
    for (size_t at = 0; at < l1->size(); at += 8)
      if (!lies_at(L1Entry{load_be<uint64_t>(*l1, at)}, at / 8)) co_return Status::error(EIO);
  }
  for (const auto& [table, references] : tables)
    if (!geometry_.is_cluster_aligned(table)) co_return Status::error(EIO);
  co_return Status();
}

Task<void> Image::downgrade(AmendProgress progress) {
  check_downgrade();
  check(co_await before_first_write(), kFailed);
  check(co_await settle(), kFailed);
  TableUses tables;
  TableUses places;
  check(co_await find_all_l2_tables(tables, places), kFailed);
  uint64_t done = 0;
  for (const auto& [table, references] : tables) {
    GuestOffset guest(places.at(table) * geometry_.bytes_per_l2_table());
    check(co_await expand_table(HostOffset(table), guest, references), kFailed);
    progress(++done, tables.size());
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
