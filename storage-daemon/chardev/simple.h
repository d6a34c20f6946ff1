// SPDX-License-Identifier: GPL-2.0-or-later
//
// Character devices of one stream that is there from the beginning.
#pragma once

#include <termios.h>

#include <optional>
#include <string>

#include "qapi/types_char.h"
#include "storage-daemon/chardev/chardev.h"

namespace strata {

class NullChardev final : public Chardev {
 public:
  explicit NullChardev(std::string id);
  std::string filename() const override { return "null"; }
  std::string_view qom_type() const noexcept override { return "chardev-null"; }
};

class FileChardev final : public Chardev {
 public:
  // Throws Error where a file cannot be opened.
  FileChardev(MainLoop& loop, std::string id, const qapi::ChardevFile& options);
  std::string filename() const override { return "file"; }
  std::string_view qom_type() const noexcept override { return "chardev-file"; }
};

// The process's standard input and output. A terminal is put into raw mode, and back at the end.
class StdioChardev final : public Chardev {
 public:
  StdioChardev(MainLoop& loop, std::string id, const qapi::ChardevStdio& options);
  ~StdioChardev() override;
  std::string filename() const override { return "stdio"; }
  std::string_view qom_type() const noexcept override { return "chardev-stdio"; }

 private:
  struct Restore {
    std::optional<termios> terminal;
    int input_flags = -1;
    int output_flags = -1;
  };
  Restore restore_;
};

}  // namespace strata
