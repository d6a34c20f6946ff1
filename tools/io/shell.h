// SPDX-License-Identifier: GPL-2.0-or-later
//
// The state of a session, and what a command is.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "block/base/aligned_buffer.h"
#include "block/coro/scope.h"
#include "block/io/backend.h"
#include "tools/common/image.h"
#include "tools/common/tool.h"

namespace strata::tools {

struct Command;

class Shell {
 public:
  Shell(Tool& tool, bool misalign) : tool_(tool), misalign_(misalign) {}

  Tool& tool() noexcept { return tool_; }

  // Opens the image; false, with the error reported, if that fails.
  Task<bool> open(ImageSource source, OpenFlags flags);
  // Gives the open image other values of the options, all of them or, with an Error, none. Where it
  // is to be writable no more, the user on top gives up writing.
  Task<void> reopen(boost::json::object changed, std::optional<bool> writable);
  // False: what was written is not all on the medium.
  Task<bool> close();
  bool has_image() const noexcept { return image_ != nullptr; }
  Backend& image() noexcept { return *image_; }

  // Runs one line; false if it failed.
  Task<bool> execute(std::string_view line);

  // Requests that run beside the commands.
  TaskScope& background() noexcept { return background_; }
  // Before a request that is waited for: what those have to say by now comes first.
  Task<void> hear_background();

  void quit() noexcept { done_ = true; }
  bool is_done() const noexcept { return done_; }
  bool misalign() const noexcept { return misalign_; }

 private:
  bool prepare(const Command& command, size_t arguments);

  Tool& tool_;
  bool misalign_;
  bool done_ = false;
  std::unique_ptr<Backend> image_;
  TaskScope background_;
};

// A command's words, first its name, in the form getopt() takes.
class Arguments {
 public:
  explicit Arguments(std::vector<std::string> words);
  Arguments(const Arguments&) = delete;
  Arguments& operator=(const Arguments&) = delete;

  // The next option; -1 after the last. Begins anew for each command: no command waits in
  // mid-parse.
  int next_option(const char* options) noexcept;
  std::string option_value() const;
  // After the last option: the other words.
  size_t left() const noexcept;
  std::string operator[](size_t index) const;

  const std::string& name() const noexcept { return words_[0]; }

 private:
  std::vector<std::string> words_;
  std::vector<char*> argv_;
  bool started_ = false;
};

struct Command {
  std::string_view name;
  std::string_view short_name;  // empty: none
  // False if it failed, with whatever there was to say said.
  Task<bool> (*run)(Shell& shell, Arguments& arguments);
  int min_arguments;
  int max_arguments;  // -1: any number
  bool needs_image = true;
  PermissionSet permissions = {};
  const char* synopsis = nullptr;  // null: takes no words
  std::string_view summary;
  const char* help = nullptr;
};

// All commands, in alphabetical order.
std::span<const Command> commands() noexcept;
const Command* find_command(std::string_view name) noexcept;
// "name synopsis -- summary"
void print_usage(const Command& command);
// The same, for a command called in a wrong way; always false.
bool print_usage(const Arguments& arguments);

// Each family of commands.
Task<bool> command_abort(Shell&, Arguments&);
Task<bool> command_aio_flush(Shell&, Arguments&);
Task<bool> command_aio_read(Shell&, Arguments&);
Task<bool> command_aio_write(Shell&, Arguments&);
Task<bool> command_alloc(Shell&, Arguments&);
Task<bool> command_break(Shell&, Arguments&);
Task<bool> command_close(Shell&, Arguments&);
Task<bool> command_discard(Shell&, Arguments&);
Task<bool> command_flush(Shell&, Arguments&);
Task<bool> command_help(Shell&, Arguments&);
Task<bool> command_info(Shell&, Arguments&);
Task<bool> command_length(Shell&, Arguments&);
Task<bool> command_map(Shell&, Arguments&);
Task<bool> command_open(Shell&, Arguments&);
Task<bool> command_quit(Shell&, Arguments&);
Task<bool> command_read(Shell&, Arguments&);
Task<bool> command_readv(Shell&, Arguments&);
Task<bool> command_remove_break(Shell&, Arguments&);
Task<bool> command_reopen(Shell&, Arguments&);
Task<bool> command_resume(Shell&, Arguments&);
Task<bool> command_sigraise(Shell&, Arguments&);
Task<bool> command_sleep(Shell&, Arguments&);
Task<bool> command_truncate(Shell&, Arguments&);
Task<bool> command_wait_break(Shell&, Arguments&);
Task<bool> command_write(Shell&, Arguments&);
Task<bool> command_writev(Shell&, Arguments&);
Task<bool> command_zone_append(Shell&, Arguments&);
Task<bool> command_zone_close(Shell&, Arguments&);
Task<bool> command_zone_finish(Shell&, Arguments&);
Task<bool> command_zone_open(Shell&, Arguments&);
Task<bool> command_zone_report(Shell&, Arguments&);
Task<bool> command_zone_reset(Shell&, Arguments&);

}  // namespace strata::tools
