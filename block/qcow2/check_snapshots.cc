// SPDX-License-Identifier: GPL-2.0-or-later
//
// The snapshot table in a check.
#include <cerrno>

#include "block/base/error.h"
#include "block/qcow2/checker.h"

namespace strata::qcow2 {

Task<Status> Check::read_snapshots() {
  const Header& header = image_.header_;
  uint64_t count = header.nb_snapshots;
  if (count > kMaxSnapshots) {
    uint64_t overhanging = count - kMaxSnapshots;
    if (!fix_.errors) {
      failure(
          fmt::format("ERROR snapshot table too large\nYou can force-remove all {} overhanging "
                      "snapshots with qemu-img check -r all",
                      overhanging));
      ++of_snapshots_.check_errors;
      co_return Status::error(EFBIG);
    }
    say("Discarding {} overhanging snapshots", overhanging);
    count = kMaxSnapshots;
  }
  if (auto error = check_table(geometry_, header.snapshots_offset, count, 40, 40 * kMaxSnapshots,
                               "snapshot table")) {
    failure("ERROR " + error->text);
    ++of_snapshots_.check_errors;
    co_return Status::error(error->error);
  }
  SnapshotTable table;
  std::optional<Error> failed;
  try {
    table = co_await image_.read_snapshots(count, fix_.errors);
  } catch (Error& error) {
    failed = std::move(error);
  }
  if (failed) {
    std::string hint = failed->hint_text();
    if (hint.ends_with('\n')) hint.pop_back();
    failure("ERROR failed to read the snapshot table: " + failed->text() +
            (hint.empty() ? "" : "\n" + hint));
    ++of_snapshots_.check_errors;
    co_return Status::error(failed->error_number() != 0 ? failed->error_number() : EINVAL);
  }
  for (const std::string& line : table.mended) say("{}", line);
  of_snapshots_.corruptions += table.corruptions;
  snapshots_ = std::move(table.snapshots);
  snapshot_table_bytes_ = table.bytes;
  check_entries_of_snapshots();
  if (snapshots_.size() == header.nb_snapshots) co_return Status();
  co_return co_await drop_overhanging(header.nb_snapshots - snapshots_.size());
}

// What is kept of the table stays where it is. The header says so before anything that belonged to
// the rest is given back.
Task<Status> Check::drop_overhanging(uint64_t count) {
  Mutex::Lock lock = co_await image_.writing_back_.lock();
  uint32_t before = std::exchange(image_.header_.nb_snapshots, snapshots_.size());
  Status status = co_await image_.write_header();
  if (status.ok()) {
    of_snapshots_.corruptions_fixed += count;
    co_return status;
  }
  image_.header_.nb_snapshots = before;
  of_snapshots_.corruptions += count;
  ++of_snapshots_.check_errors;
  failure("ERROR failed to update the snapshot count in the image header: " +
          Error::describe_errno(status.error_number()));
  co_return status;
}

// Since version 3 each entry tells the size of its disk.
void Check::check_entries_of_snapshots() {
  for (size_t i = 0; i < snapshots_.size() && image_.header_.version >= 3; ++i) {
    if (snapshots_[i].extra_data_size >= 16) continue;
    ++of_snapshots_.corruptions;
    say("{} snapshot table entry {} is incomplete", verb(fix_.errors), i);
  }
}

Task<Status> Check::write_snapshots() {
  if (of_snapshots_.corruptions == 0 || !fix_.errors) co_return Status();
  image_.snapshots_ = snapshots_;
  image_.snapshot_table_bytes_ = snapshot_table_bytes_;
  Status status = co_await image_.store_snapshots(std::move(snapshots_));
  if (status.ok()) status = co_await image_.settle();
  if (!status.ok()) {
    ++of_snapshots_.check_errors;
    say("ERROR failed to update snapshot table: {}", Error::describe_errno(status.error_number()));
    co_return status;
  }
  of_snapshots_.corruptions_fixed += of_snapshots_.corruptions;
  of_snapshots_.corruptions = 0;
  co_return Status();
}

}  // namespace strata::qcow2
