// SPDX-License-Identifier: GPL-2.0-or-later
//
// The control plane's one exception type.
//
// Throw it where a command, an option or a configuration is refused; catch it only where that
// command or option is answered:
//
//   throw Error("Node '{}' not found", name);                       // GenericError
//   throw Error(ErrorClass::DeviceNotFound, "Device '{}' not found", id);
//   throw Error::from_errno(errno, "Could not open '{}'", path);    // "...: No such file or
//   directory" throw std::move(error).prepend("Cannot add export: ").hint("Did you mean ...?\n");
//
// The data path never throws it; see result.h.
#pragma once

#include <fmt/format.h>

#include <exception>
#include <string>
#include <string_view>
#include <utility>

namespace strata {

// QMP error classes (QapiErrorClass). Clients may act on all but GenericError.
enum class ErrorClass {
  GenericError,
  CommandNotFound,
  DeviceNotActive,
  DeviceNotFound,
  KVMMissingCap,
};

std::string_view to_string(ErrorClass error_class) noexcept;

class Error : public std::exception {
 public:
  template <class... Args>
  explicit Error(fmt::format_string<Args...> format, Args&&... args)
      : Error(ErrorClass::GenericError, 0, fmt::format(format, std::forward<Args>(args)...)) {}

  template <class... Args>
  Error(ErrorClass error_class, fmt::format_string<Args...> format, Args&&... args)
      : Error(error_class, 0, fmt::format(format, std::forward<Args>(args)...)) {}

  // `error` is a positive errno; its description follows the text after ": ".
  template <class... Args>
  static Error from_errno(int error, fmt::format_string<Args...> format, Args&&... args) {
    return Error(ErrorClass::GenericError, error,
                 fmt::format(format, std::forward<Args>(args)...) + ": " + describe_errno(error));
  }

  // `text` is taken as it is. Used where the text is not made from a format here.
  static Error from_text(std::string text, int error = 0) {
    return Error(ErrorClass::GenericError, error, std::move(text));
  }

  Error&& prepend(std::string_view prefix) &&;
  // A further line for people (not sent over QMP); ends in a newline.
  Error&& hint(std::string text) &&;

  ErrorClass error_class() const noexcept { return class_; }
  const std::string& text() const noexcept { return text_; }
  const std::string& hint_text() const noexcept { return hint_; }
  // A positive errno, or 0 where there is none.
  int error_number() const noexcept { return errno_; }
  const char* what() const noexcept override { return text_.c_str(); }

  // What strerror() says, thread-safe.
  static std::string describe_errno(int error);

 private:
  Error(ErrorClass error_class, int error, std::string text)
      : class_(error_class), errno_(error), text_(std::move(text)) {}

  ErrorClass class_;
  int errno_;
  std::string text_;
  std::string hint_;
};

}  // namespace strata
