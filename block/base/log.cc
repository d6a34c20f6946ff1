// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/base/log.h"

#include <unistd.h>

#include <tuple>

namespace strata {
namespace {

std::string& stored_program_name() noexcept {
  static std::string name = "strata";
  return name;
}

}  // namespace

void set_program_name(std::string_view argv0) {
  size_t slash = argv0.rfind('/');
  stored_program_name() = argv0.substr(slash == std::string_view::npos ? 0 : slash + 1);
}

std::string_view program_name() noexcept {
  return stored_program_name();
}

void write_log_line(std::string_view text, std::string_view place) noexcept {
  std::string line =
      fmt::format("{}{}{}: {}\n", program_name(), place.empty() ? "" : ":", place, text);
  std::ignore = ::write(STDERR_FILENO, line.data(), line.size());
}

}  // namespace strata
