// SPDX-License-Identifier: GPL-2.0-or-later
//
// What the sub-commands share: the images they open, and the table of them all.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "block/io/backend.h"
#include "tools/common/tool.h"
#include "tools/img/options.h"

namespace strata::tools {

// Where and how a command's images are opened.
class Images {
 public:
  explicit Images(Tool& tool) : tool_(tool) {}

  Tool& tool() noexcept { return tool_; }
  // `more`: options besides the name. Throws Error that names the image.
  Task<Backend*> open(std::string name, ImageChoice how, boost::json::object more = {});
  // To be closed with the others.
  Backend& adopt(std::unique_ptr<Backend> image);
  Backend& adopt(NodePtr node, Permissions permissions);
  // Flushes and lets go of all that was opened. False: not all that was written is on the medium.
  Task<bool> close_all();

 private:
  Tool& tool_;
  std::vector<std::unique_ptr<Backend>> open_;
};

// Each returns the exit status.
using Run = Task<int> (*)(Images& images, Words& words);
struct Subcommand {
  std::string_view name;
  Run run;
  const char* summary;
  const char* synopsis;
};
bool is_help_option(std::string_view options);
std::span<const Subcommand> subcommands() noexcept;
void print_help(const BlockLayer& layer);
void print_command_help(const Subcommand& command, std::span<const Option> options);

Task<int> run_amend(Images&, Words&);
Task<int> run_bench(Images&, Words&);
Task<int> run_bitmap(Images&, Words&);
Task<int> run_check(Images&, Words&);
Task<int> run_commit(Images&, Words&);
Task<int> run_compare(Images&, Words&);
Task<int> run_convert(Images&, Words&);
Task<int> run_create(Images&, Words&);
Task<int> run_dd(Images&, Words&);
Task<int> run_info(Images&, Words&);
Task<int> run_map(Images&, Words&);
Task<int> run_measure(Images&, Words&);
Task<int> run_rebase(Images&, Words&);
Task<int> run_resize(Images&, Words&);
Task<int> run_snapshot(Images&, Words&);

}  // namespace strata::tools
