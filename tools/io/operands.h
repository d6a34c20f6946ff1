// SPDX-License-Identifier: GPL-2.0-or-later
//
// What commands read from their words, and the memory of a request.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "block/base/aligned_buffer.h"
#include "block/base/io_vector.h"
#include "tools/io/shell.h"

namespace strata::tools {

// Each says what is wrong, and returns nothing then.
std::optional<int64_t> parse_number(const std::string& text);
std::optional<std::byte> parse_pattern(const std::string& text);
// An offset or a count that has to be a multiple of a sector: `name` is its name in the text.
bool check_sector_aligned(int64_t value, std::string_view name);

// Memory for a request, misaligned where the session asks for it.
class RequestBuffer {
 public:
  // Filled with `fill`; empty, with a complaint, where memory is short.
  RequestBuffer(const Shell& shell, size_t size, std::byte fill);
  bool ok() const noexcept { return static_cast<bool>(memory_); }
  std::byte* data() const noexcept { return memory_.data() + shift_; }
  size_t size() const noexcept { return memory_.size() - shift_; }
  std::span<const std::byte> bytes() const noexcept { return {data(), size()}; }
  // In the pieces `lengths`, which together are the whole.
  IoVector vector(const std::vector<size_t>& lengths);

 private:
  size_t shift_;
  AlignedBuffer memory_;
  std::vector<iovec> pieces_;
};

// The lengths of a vectored request, from the word `first` on.
std::optional<std::vector<size_t>> parse_lengths(const Arguments& arguments, size_t first);

// Whether all of `data` is `pattern`.
bool matches(std::span<const std::byte> data, std::byte pattern) noexcept;

// "WHAT failed: TEXT"; false.
bool report_failure(std::string_view what, Status status);

}  // namespace strata::tools
