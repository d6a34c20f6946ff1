// SPDX-License-Identifier: GPL-2.0-or-later
//
// A smaller disk. What lay behind its new end goes before the header says how large it is; then
// tables and refcount blocks that only the end had use for, and the end of the file.
#include <fmt/format.h>

#include <cerrno>
#include <cstdio>

#include "block/base/error.h"
#include "block/qcow2/image.h"

namespace strata::qcow2 {
namespace {

void check(Status status, const char* what) {
  if (!status.ok()) throw Error::from_errno(status.error_number(), "{}", what);
}

}  // namespace

// Whoever makes the disk larger again must not find what was there: nor what is below, which the
// larger disk hides then.
Task<Status> Image::shrink(uint64_t size) {
  unfreed_ = 0;
  uint64_t old_size = this->size();
  uint64_t cut = geometry_.round_up(size);
  ByteRange tail{size, std::min(cut, old_size) - size};
  // What is nothing, or zero, stays so.
  while (!tail.empty()) {
    Result<Run> run = co_await lookup(GuestOffset(tail.offset), tail.bytes);
    if (!run) co_return run.status();
    bool is_data = run->get_if<Unallocated>() == nullptr && run->get_if<Zero>() == nullptr;
    Status status;
    if (is_data) status = co_await write_zero_bytes({tail.offset, run->bytes});
    if (!status.ok()) co_return status;
    tail = {tail.offset + run->bytes, tail.bytes - run->bytes};
  }
  uint64_t end = geometry_.round_up(old_size);
  if (cut >= end) co_return Status();
  co_return co_await forget_clusters({cut, end - cut});
}

// What was cropped is given back, and it can be told where the file has to end. Throws Error: the
// refcounts are in no state for that.
Task<void> Image::settle_shrunk() {
  constexpr const char* kText = "Failed to discard unused refblocks";
  check(co_await settle(), kText);
  if (int why = unfreed_; why != 0)
    fmt::print(stderr, "qcow2_free_clusters failed: {}\n", Error::describe_errno(why));
  Mutex::Lock lock = co_await metadata_.lock();
  Result<std::optional<HostCluster>> last = co_await refcounts_.last_used(false);
  signal_refcounts();
  if (!last) check(last.status(), kText);
  // They may be wrong, but not as wrong as that.
  if (!*last || **last < geometry_.cluster_of(HostOffset(header_.l1_table_offset)))
    check(Status::error(EIO), "Failed to find the last cluster");
}

// Nobody uses what lies behind the end of the disk, nor comes there. Where refcounts were wrong
// they are not relied on.
Task<Status> Image::reclaim() {
  Status status = co_await drop_tables_behind_end();
  if (status.ok()) status = co_await settle();
  if (!status.ok() || unfreed_ != 0) co_return status;
  Mutex::Lock lock = co_await writing_back_.lock();
  Mutex::Lock metadata = co_await metadata_.lock();
  Result<std::optional<HostCluster>> last = co_await refcounts_.last_used(true);
  if (!last || !*last) co_return last.status();
  HostCluster end = **last + 1;
  bool cut = co_await tail_.cut_to(file_, geometry_.offset_of(end));
  if (cut && file_.edge().node().driver().has_zero_init()) refcounts_.ends_at(end);
  co_return Status();
}

// First they are emptied. A slice of one that is in memory still is as empty as no table at all.
Task<Status> Image::drop_tables_behind_end() {
  uint64_t table = geometry_.bytes_per_l2_table();
  uint64_t first = geometry_.l1_entries_for(size());
  auto is_there = [&](uint64_t i) { return l1_.load(L1Index(i)).offset().value != 0; };
  while (first < l1_.size() && !is_there(first)) ++first;
  if (first >= l1_.size()) co_return Status();
  Status status =
      co_await wipe_clusters({first * table, (l1_.size() - first) * table}, Wipe::forget);
  if (status.ok()) status = co_await settle();
  if (!status.ok()) co_return status;
  Mutex::Lock lock = co_await metadata_.lock();
  for (uint64_t i = first; i < l1_.size(); ++i) {
    if (!is_there(i)) continue;
    free_later(geometry_.cluster_of(l1_.load(L1Index(i)).offset()), 1, FreedBy::other);
    l1_.store(L1Index(i), L1Entry());
  }
  co_return Status();
}

}  // namespace strata::qcow2
