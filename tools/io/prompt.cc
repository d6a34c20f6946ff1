// SPDX-License-Identifier: GPL-2.0-or-later
#include "tools/io/prompt.h"

#include <readline/history.h>
#include <readline/readline.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>

#include "block/aio/fd_watch.h"

namespace strata::tools {

// The library calls back with a finished line and knows no argument to give, so there is one at a
// time.
struct Prompt::Editor {
  static inline thread_local Editor* active = nullptr;
  std::optional<std::string> line;
  bool finished = false;
  bool ended = false;

  static void accept(char* text) {
    active->finished = true;
    active->ended = text == nullptr;
    if (text != nullptr) active->line = text;
    std::free(text);
    rl_callback_handler_remove();
  }
};

Prompt::Prompt(AioContext& context, std::string text) : context_(context), text_(std::move(text)) {
  if (::isatty(STDIN_FILENO) && ::isatty(STDOUT_FILENO)) editor_ = std::make_unique<Editor>();
}

Prompt::~Prompt() {
  if (Editor::active == editor_.get()) Editor::active = nullptr;
}

Task<std::optional<std::string>> Prompt::next_plain_line() {
  std::fputs(text_.c_str(), stdout);
  std::fflush(stdout);
  FdWatch input(context_, STDIN_FILENO);
  for (;;) {
    size_t end = input_.find('\n');
    if (end != std::string::npos) {
      std::string line = input_.substr(0, end);
      input_.erase(0, end + 1);
      co_return line;
    }
    if (at_end_) {
      if (input_.empty()) co_return std::nullopt;
      co_return std::exchange(input_, {});
    }
    co_await input.readable();
    char buffer[4096];
    ssize_t got = ::read(STDIN_FILENO, buffer, sizeof buffer);
    if (got > 0)
      input_.append(buffer, static_cast<size_t>(got));
    else if (got == 0 || (errno != EINTR && errno != EAGAIN))
      at_end_ = true;
  }
}

Task<std::optional<std::string>> Prompt::next_line() {
  if (!editor_) co_return co_await next_plain_line();
  *editor_ = {};
  Editor::active = editor_.get();
  std::fflush(stdout);
  rl_callback_handler_install(text_.c_str(), Editor::accept);
  FdWatch input(context_, STDIN_FILENO);
  while (!editor_->finished) {
    co_await input.readable();
    rl_callback_read_char();
  }
  if (editor_->ended) co_return std::nullopt;
  if (!editor_->line->empty()) add_history(editor_->line->c_str());
  co_return editor_->line;
}

}  // namespace strata::tools
