// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "block/coro/task.h"

namespace strata {
class AioContext;
}

namespace strata::tools {

// Lines from standard input, after a prompt. While it waits, everything else in the context goes
// on. On a terminal lines can be edited, and earlier ones called back.
class Prompt {
 public:
  Prompt(AioContext& context, std::string text);
  ~Prompt();

  // Nothing at the end of the input.
  Task<std::optional<std::string>> next_line();

 private:
  struct Editor;
  Task<std::optional<std::string>> next_plain_line();

  AioContext& context_;
  std::string text_;
  std::string input_;  // read, and not handed out yet
  bool at_end_ = false;
  std::unique_ptr<Editor> editor_;  // on a terminal only
};

}  // namespace strata::tools
