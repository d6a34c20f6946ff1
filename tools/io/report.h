// SPDX-License-Identifier: GPL-2.0-or-later
//
// What the commands print about a request.
#pragma once

#include <chrono>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace strata::tools {

// "1.500 KiB", "512 bytes".
std::string size_text(double bytes);

enum class ReportStyle { quiet, human, machine };

// Measures from its making on.
class Stopwatch {
 public:
  std::chrono::duration<double> elapsed() const {
    return std::chrono::steady_clock::now() - start_;
  }

 private:
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

// `verb` as in "wrote N/M bytes at offset O". The time is the stopwatch's.
void report_request(std::string_view verb, ReportStyle style, const Stopwatch& stopwatch,
                    int64_t offset, int64_t bytes);

// Sixteen bytes a line, in hexadecimal and as characters; `offset` is that of the first.
void dump(std::span<const std::byte> data, int64_t offset);

}  // namespace strata::tools
