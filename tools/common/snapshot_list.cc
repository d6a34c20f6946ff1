// SPDX-License-Identifier: GPL-2.0-or-later
#include "tools/common/snapshot_list.h"

#include <fmt/format.h>

#include <array>
#include <ctime>

#include "tools/common/numbers.h"

namespace strata::tools {
namespace {

std::string row(std::string_view id, std::string_view tag, std::string_view size,
                std::string_view date, std::string_view clock, std::string_view icount) {
  return fmt::format("{:<7} {:<16} {:>8} {:>19} {:>15} {:>10}\n", id, tag, size, date, clock,
                     icount);
}

std::string date_text(int64_t seconds) {
  std::time_t time = seconds;
  std::tm parts{};
  ::localtime_r(&time, &parts);
  std::array<char, 64> text;
  size_t size = std::strftime(text.data(), text.size(), "%Y-%m-%d %H:%M:%S", &parts);
  return std::string(text.data(), size);
}

std::string clock_text(int64_t seconds, int64_t nanoseconds) {
  return fmt::format("{:04}:{:02}:{:02}.{:03}", seconds / 3600, seconds / 60 % 60, seconds % 60,
                     nanoseconds / 1'000'000);
}

}  // namespace

std::string snapshot_list_text(const std::vector<qapi::SnapshotInfo>& snapshots) {
  if (snapshots.empty()) return {};
  std::string text = "Snapshot list:\n" + row("ID", "TAG", "VM_SIZE", "DATE", "VM_CLOCK", "ICOUNT");
  for (const qapi::SnapshotInfo& snapshot : snapshots) {
    text +=
        row(snapshot.id, snapshot.name, human_size(static_cast<uint64_t>(snapshot.vm_state_size)),
            date_text(snapshot.date_sec), clock_text(snapshot.vm_clock_sec, snapshot.vm_clock_nsec),
            snapshot.icount ? std::to_string(*snapshot.icount) : "--");
  }
  return text;
}

}  // namespace strata::tools
