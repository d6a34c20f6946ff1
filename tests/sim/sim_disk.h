// SPDX-License-Identifier: GPL-2.0-or-later
//
// A disk in memory that forgets, tears and reorders what was not flushed, and fails when told to;
// and the protocol driver that puts it under the real graph, in the place of files.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "block/base/bytes.h"
#include "block/graph/driver.h"

namespace strata::sim {

using Random = std::mt19937_64;

inline constexpr uint64_t kSector = 512;

class SimDisk {
 public:
  // Chances of a failure, in 1000, for each operation that changes something.
  struct Faults {
    unsigned eio = 0;
    unsigned enospc = 0;
    unsigned flush_eio = 0;
  };

  // What the power left: some of what was not flushed, each sector of it whole or not at all.
  std::vector<std::byte> after_power_cut(Random& chance) const;
  void restore(std::vector<std::byte> contents);
  const std::vector<std::byte>& contents() const noexcept { return current_; }

  Faults faults;
  // EFBIG behind this.
  uint64_t most_bytes = UINT64_MAX;
  uint64_t changes = 0;  // how many operations have changed something
  uint64_t failed = 0;   // and how many were told to fail
  std::function<void(uint64_t offset, ConstBytes bytes)> on_change;
  // After so many of them the power fails: what is left then is kept in `cut`.
  uint64_t cut_after = 0;
  Random* random = nullptr;
  std::vector<std::byte> cut;
  std::function<void()> on_cut;
  bool was_cut = false;

 private:
  friend class SimDriver;
  struct Change {
    uint64_t offset = 0;
    std::vector<std::byte> data;
    bool truncate = false;
  };

  int fault_of_change();
  void apply(std::vector<std::byte>& to, const Change& change) const;
  void change(Change change);
  void flush();

  std::vector<std::byte> current_;
  std::vector<std::byte> durable_;
  std::vector<Change> volatile_;
};

// The disks of a simulated host, by file name. Stands for the driver `file`.
class SimHost : public DriverDescriptor {
 public:
  explicit SimHost(Random& random);
  SimDisk& disk(const std::string& name);
  Random& random() noexcept { return random_; }
  // How often a request gives others a turn before it is done, in 1000.
  unsigned yields = 300;
  // Of disks that are made from now on.
  uint64_t most_bytes = UINT64_MAX;

 private:
  Random& random_;
  std::map<std::string, std::unique_ptr<SimDisk>> disks_;
};

}  // namespace strata::sim
