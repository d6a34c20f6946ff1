// SPDX-License-Identifier: GPL-2.0-or-later
//
// What the sub-commands share: their words, the images they open, how they complain.
#pragma once

#include <getopt.h>

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "block/io/backend.h"
#include "tools/common/image.h"
#include "tools/common/tool.h"

namespace strata::tools {

// The command was called in a wrong way: the text is followed by a pointer to the help.
struct UsageError {
  std::string text;
};

// A command that is to end at once, having said all there is to say.
struct Exit {
  int status;
};

// Values that long options without a letter yield.
enum LongOption {
  kOutput = 256,
  kBackingChain,
  kObject,
  kImageOpts,
  kTargetImageOpts,
  kSize,
  kPreallocation,
  kShrink,
  kSalvage,
  kTargetIsZero,
  kBitmaps,
  kSkipBroken,
  kPattern,
  kFlushInterval,
  kNoDrain,
  kCompressionLevel,
  kForce,
  kLimits,
};

// The words of a command, the first of which is its name.
class Words {
 public:
  Words(int argc, char** argv) : argc_(argc), argv_(argv) {}

  // The next option, -1 after the last. Throws UsageError for an unknown one, or one without its
  // value. --object and --help are dealt with here.
  int next(const char* letters, const option* options);
  std::string value() const { return optarg; }
  std::vector<std::string> rest() const { return {argv_ + optind, argv_ + argc_}; }
  // Before the first option has been read: the words as they stand, without the name; and the last
  // one, which is taken away.
  std::vector<std::string> all() const { return {argv_ + 1, argv_ + argc_}; }
  std::string take_last() { return argv_[--argc_]; }
  std::string_view command() const { return argv_[0]; }

 private:
  int argc_;
  char** argv_;
};

enum class OutputFormat { human, json };
// Throws UsageError.
OutputFormat parse_output_format(const std::string& name);
// "Invalid WHAT specified: ..." is thrown for what is none.
int64_t parse_number(const std::string& text, std::string_view what, int64_t min = 0,
                     int64_t max = INT64_MAX);
bool is_help_option(std::string_view options);

// Where and how a command's images are opened.
class Images {
 public:
  explicit Images(Tool& tool) : tool_(tool) {}

  Tool& tool() noexcept { return tool_; }
  // The format is ignored where `image_options` says that `name` is a list of options. Throws Error
  // that names the image.
  // `more`: options besides the name.
  Task<Backend*> open(std::string name, std::optional<std::string> format, bool image_options,
                      OpenFlags flags, boost::json::object more = {});
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
  const char* synopsis;
};
std::span<const Subcommand> subcommands() noexcept;
void print_help(const BlockLayer& layer);
void print_command_help(std::string_view command);

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
