// SPDX-License-Identifier: GPL-2.0-or-later
#include "storage-daemon/metrics/exposition.h"

#include <fmt/format.h>

#include <iterator>

namespace strata {
namespace {

constexpr double kNsPerSecond = 1e9;

std::string_view name_of(Exposition::Kind kind) noexcept {
  switch (kind) {
    case Exposition::Kind::counter:
      return "counter";
    case Exposition::Kind::gauge:
      return "gauge";
    case Exposition::Kind::histogram:
      return "histogram";
  }
  return "untyped";
}

void append_escaped(std::string& out, std::string_view value) {
  for (char c : value) {
    if (c == '\n') {
      out += "\\n";
      continue;
    }
    if (c == '\\' || c == '"') out += '\\';
    out += c;
  }
}

}  // namespace

void Exposition::begin(std::string_view name, Kind kind, std::string_view help) {
  name_ = name;
  fmt::format_to(std::back_inserter(text_), "# HELP {} {}\n# TYPE {} {}\n", name, help, name,
                 name_of(kind));
}

void Exposition::add(const MetricLabels& labels, double value, std::string_view suffix) {
  text_ += name_;
  text_ += suffix;
  char separator = '{';
  for (auto [key, label] : labels) {
    text_ += separator;
    text_ += key;
    text_ += "=\"";
    append_escaped(text_, label);
    text_ += '"';
    separator = ',';
  }
  if (!labels.empty()) text_ += '}';
  fmt::format_to(std::back_inserter(text_), " {}\n", value);
}

void Exposition::add_latency(const MetricLabels& labels, const IoTotals& totals) {
  MetricLabels bucket_labels = labels;
  bucket_labels.emplace_back("le", "");
  uint64_t sum = 0;
  for (size_t i = 0; i < kLatencyBuckets; ++i) {
    sum += totals.latency[i];
    bool last = i + 1 == kLatencyBuckets;
    std::string bound =
        last ? "+Inf"
             : fmt::format("{}", static_cast<double>(uint64_t{1} << (i + 10)) / kNsPerSecond);
    bucket_labels.back().second = bound;
    add(bucket_labels, static_cast<double>(sum), "_bucket");
  }
  add(labels, static_cast<double>(totals.time_ns) / kNsPerSecond, "_sum");
  add(labels, static_cast<double>(sum), "_count");
}

}  // namespace strata
