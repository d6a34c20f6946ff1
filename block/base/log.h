// SPDX-License-Identifier: GPL-2.0-or-later
//
// Messages for whoever runs the program: lines on standard error, as "PROGRAM: text".
#pragma once

#include <fmt/format.h>

#include <string>
#include <string_view>
#include <utility>

namespace strata {

// The name the program was started with; set once, by main(), before there are threads.
void set_program_name(std::string_view argv0);
std::string_view program_name() noexcept;

// One write(2) a line, from any thread; about the line of a file that `place` names, as
// "FILE:LINE", if that is not empty.
void write_log_line(std::string_view text, std::string_view place = {}) noexcept;

template <class... Args>
void log_error(fmt::format_string<Args...> format, Args&&... args) {
  write_log_line(fmt::format(format, std::forward<Args>(args)...));
}
template <class... Args>
void log_warning(fmt::format_string<Args...> format, Args&&... args) {
  write_log_line("warning: " + fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace strata
