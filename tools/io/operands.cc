// SPDX-License-Identifier: GPL-2.0-or-later
#include "tools/io/operands.h"

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "tools/common/numbers.h"

namespace strata::tools {
namespace {

constexpr size_t kMisalignment = 16;

}  // namespace

std::optional<int64_t> parse_number(const std::string& text) {
  Result<int64_t> number = parse_size(text);
  if (number) return *number;
  fmt::print("Parsing error: {} -- {}\n",
             number.error_number() == ERANGE
                 ? "argument too large"
                 : "non-numeric argument, or extraneous/unrecognized suffix",
             text);
  return std::nullopt;
}

std::optional<std::byte> parse_pattern(const std::string& text) {
  char* end = nullptr;
  long value = std::strtol(text.c_str(), &end, 0);
  if (end == text.c_str() || *end != '\0' || value < 0 || value > 0xff) {
    fmt::print("{} is not a valid pattern byte\n", text);
    return std::nullopt;
  }
  return static_cast<std::byte>(value);
}

bool check_sector_aligned(int64_t value, std::string_view name) {
  if (value % static_cast<int64_t>(kSectorSize) == 0) return true;
  fmt::print("{} is not a sector-aligned value for '{}'\n", value, name);
  return false;
}

RequestBuffer::RequestBuffer(const Shell& shell, size_t size, std::byte fill)
    : shift_(shell.misalign() ? kMisalignment : 0), memory_(size + shift_) {
  if (memory_)
    std::memset(data(), std::to_integer<int>(fill), size);
  else
    fmt::print("Could not allocate {} bytes\n", size);
}

IoVector RequestBuffer::vector(const std::vector<size_t>& lengths) {
  std::byte* at = data();
  for (size_t length : lengths) {
    pieces_.push_back({at, length});
    at += length;
  }
  return IoVector(pieces_);
}

std::optional<std::vector<size_t>> parse_lengths(const Arguments& arguments, size_t first) {
  std::vector<size_t> lengths;
  uint64_t total = 0;
  for (size_t i = first; i < arguments.left(); ++i) {
    std::optional<int64_t> length = parse_number(arguments[i]);
    if (!length) return std::nullopt;
    auto bytes = static_cast<uint64_t>(*length);
    if (bytes > kMaxRequestBytes) {
      fmt::print("Argument '{}' exceeds maximum size {}\n", arguments[i], kMaxRequestBytes);
      return std::nullopt;
    }
    total += bytes;
    if (total > kMaxRequestBytes) {
      fmt::print("The total number of bytes exceed the maximum size {}\n", kMaxRequestBytes);
      return std::nullopt;
    }
    lengths.push_back(bytes);
  }
  return lengths;
}

bool matches(std::span<const std::byte> data, std::byte pattern) noexcept {
  return std::all_of(data.begin(), data.end(), [&](std::byte byte) { return byte == pattern; });
}

bool report_failure(std::string_view what, Status status) {
  fmt::print("{} failed: {}\n", what, Error::describe_errno(status.error_number()));
  return false;
}

}  // namespace strata::tools
