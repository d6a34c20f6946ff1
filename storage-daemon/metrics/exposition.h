// SPDX-License-Identifier: GPL-2.0-or-later
//
// Prometheus' text exposition format, version 0.0.4.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "block/graph/io_stats.h"

namespace strata {

using MetricLabels = std::vector<std::pair<std::string_view, std::string_view>>;

// Collects samples metric by metric: all samples of one metric follow its header.
class Exposition {
 public:
  enum class Kind { counter, gauge, histogram };

  void begin(std::string_view name, Kind kind, std::string_view help);
  // `suffix` is appended to the name that begin() gave.
  void add(const MetricLabels& labels, double value, std::string_view suffix = "");
  // Cumulative buckets in seconds, sum and count.
  void add_latency(const MetricLabels& labels, const IoTotals& totals);

  std::string take() { return std::move(text_); }

 private:
  std::string text_;
  std::string name_;
};

}  // namespace strata
