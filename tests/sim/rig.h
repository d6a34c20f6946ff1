// SPDX-License-Identifier: GPL-2.0-or-later
//
// What the simulations stand on: a host with disks, the graph above it, and one user of an image.
#pragma once

#include <fmt/format.h>

#include <cstdint>
#include <cstdio>
#include <string>
#include <utility>

#include "block/base/error.h"
#include "block/drivers/raw/raw.h"
#include "block/graph/open.h"
#include "block/io/backend.h"
#include "block/qcow2/check.h"
#include "block/qcow2/qcow2.h"
#include "qapi/runtime/json_writer.h"
#include "tests/sim/sim_disk.h"

namespace strata::sim {

// Something is not as it must be.
struct Failure {
  std::string text;
};

template <class... Args>
[[noreturn]] void fail(fmt::format_string<Args...> format, Args&&... args) {
  throw Failure{fmt::format(format, std::forward<Args>(args)...)};
}

inline qapi::BlockdevRef file_named(const std::string& name) {
  qapi::BlockdevOptions options;
  options.select(qapi::BlockdevDriver::file);
  options.get_if<qapi::BlockdevOptionsFile>()->filename = name;
  return qapi::Box<qapi::BlockdevOptions>(std::move(options));
}

// Of all seeds of a run.
struct Totals {
  uint64_t seeds = 0;
  uint64_t cuts = 0;     // of the power
  uint64_t faults = 0;   // requests that failed
  uint64_t changes = 0;  // of the image file

  void print() const {
    std::printf("%lu seeds passed: %lu power cuts, %lu failed requests of %lu changes\n", seeds,
                cuts, faults, changes);
  }
};

class Rig {
 public:
  explicit Rig(uint64_t seed) : random_(seed), host_(random_) {}
  // What the run that has ended went through.
  void count(Totals& totals) {
    ++totals.seeds;
    totals.cuts += disk().was_cut ? 1 : 0;
    totals.faults += disk().failed;
    totals.changes += disk().changes;
  }

 protected:
  template <class T>
  T wait(Task<T> task) {
    return context_.run_to_completion(std::move(task));
  }
  SimDisk& disk() { return host_.disk("disk"); }

  // Nothing is written to the first cluster but headers, whole (attack S6).
  void guard_header(uint64_t cluster_size) {
    disk().on_change = [this, cluster_size](uint64_t offset, ConstBytes bytes) {
      if (offset >= cluster_size || bytes.empty()) return;
      if (offset != 0 || to_text(bytes.first(std::min<size_t>(4, bytes.size()))) != "QFI\xfb")
        overwritten_ = fmt::format("{} bytes at {} overwrite the header", bytes.size(), offset);
    };
  }

  // Settles the image and checks it; what it found comes into `report`.
  qcow2::CheckResult check_settled(const char* when, std::string& report) {
    if (!overwritten_.empty()) fail("{}: {}", when, overwritten_);
    qcow2::Image* image = qcow2::image_of(user_.node());
    Status status = wait(image->settle());
    if (status.ok()) status = wait(image->mend_flags());
    if (!status.ok()) fail("{}: settling: {}", when, Error::describe_errno(status.error_number()));
    auto result = wait(qcow2::check_image(
        *image, {}, [&](qcow2::CheckSays, const std::string& line) { report += "\n    " + line; }));
    if (!result) fail("{}: check: {}", when, Error::describe_errno(result.error_number()));
    if (result->corruptions != 0 || result->check_errors != 0)
      fail("{}: {} corruptions{}", when, result->corruptions, report);
    return *result;
  }

  Random random_;
  SimHost host_;
  std::string event_;        // the last that was sent
  std::string overwritten_;  // what should not have been
  AioContext context_{"main"};
  MainLoop loop_{context_};
  const DriverDescriptor* drivers_[3]{&host_, &kRawDriver, &kQcow2Driver};
  BlockLayer layer_{loop_, drivers_, [this](std::string_view name, boost::json::object data) {
                      event_ = std::string(name) + " " + qapi::write_json(data);
                    }};
  Backend user_{layer_};
};

}  // namespace strata::sim
