// SPDX-License-Identifier: GPL-2.0-or-later
#include "tools/io/report.h"

#include <fmt/format.h>

#include <array>
#include <cmath>
#include <cstdio>

namespace strata::tools {
namespace {

// `text` up to a fraction that is zero as far as it is shown.
std::string without_zero_fraction(std::string text) {
  size_t fraction = text.find(".000");
  if (fraction != std::string::npos) text.resize(fraction);
  return text;
}

// "00.05 sec" below a minute, "1:08:04.21" from there on or where `fixed`.
std::string time_text(double seconds, bool fixed) {
  auto hundredths = static_cast<uint64_t>(seconds * 100);
  uint64_t whole = hundredths / 100;
  hundredths %= 100;
  if (fixed || whole >= 60)
    return fmt::format("{}:{:02}:{:02}.{:02}", whole / 3600, whole / 60 % 60, whole % 60,
                       hundredths);
  return fmt::format("{:02}.{:02} sec", whole, hundredths);
}

}  // namespace

std::string size_text(double bytes) {
  static constexpr std::array<const char*, 6> kUnits{" KiB", " MiB", " GiB",
                                                     " TiB", " PiB", " EiB"};
  if (bytes < 1024) return without_zero_fraction(fmt::format("{:f}", bytes)) + " bytes";
  size_t unit = 0;
  double value = bytes / 1024;
  for (; value >= 1024 && unit + 1 < kUnits.size(); ++unit) value /= 1024;
  return without_zero_fraction(fmt::format("{:.3f}", value)) + kUnits[unit];
}

void report_request(std::string_view verb, ReportStyle style, const Stopwatch& stopwatch,
                    int64_t offset, int64_t bytes) {
  if (style == ReportStyle::quiet) return;
  double seconds = stopwatch.elapsed().count();
  double rate = static_cast<double>(bytes) / seconds;
  double requests = 1 / seconds;
  if (style == ReportStyle::machine) {
    fmt::print("{},1,{},{:.3f},{:.3f}\n", bytes, time_text(seconds, true), rate, requests);
    return;
  }
  fmt::print("{0} {1}/{1} bytes at offset {2}\n", verb, bytes, offset);
  fmt::print("{}, 1 ops; {} ({}/sec and {:.4f} ops/sec)\n", size_text(static_cast<double>(bytes)),
             time_text(seconds, false), size_text(rate), requests);
}

void dump(std::span<const std::byte> data, int64_t offset) {
  constexpr size_t kLine = 16;
  for (size_t at = 0; at < data.size(); at += kLine) {
    std::string line = fmt::format("{:08x}:  ", static_cast<uint64_t>(offset) + at);
    std::string text;
    for (std::byte byte : data.subspan(at, std::min(kLine, data.size() - at))) {
      int c = std::to_integer<int>(byte);
      fmt::format_to(std::back_inserter(line), "{:02x} ", c);
      bool is_alphanumeric =
          (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
      text += is_alphanumeric ? static_cast<char>(c) : '.';
    }
    fmt::print("{} {}\n", line, text);
  }
}

}  // namespace strata::tools
