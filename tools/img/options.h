// SPDX-License-Identifier: GPL-2.0-or-later
//
// The options of a sub-command as a table: how each is spelt, what --help says of it, and where its
// value goes.
#pragma once

#include <climits>
#include <functional>
#include <initializer_list>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "tools/common/image.h"

namespace strata::tools {

// The command was called in a wrong way: the text is followed by a pointer to the help.
struct UsageError {
  std::string text;
};

// A command that is to end at once, having said all there is to say.
struct Exit {
  int status;
};

// Takes the value of an option, "" for one that has none. Throws UsageError or Error.
using Take = std::function<void(const std::string& value)>;

struct Option {
  std::string_view spelling;  // as --help shows it: "-f, --format FMT"
  std::string_view help;
  Take take;
};

struct Subcommand;

// The words of a command, the first of which is its name.
class Words {
 public:
  Words(const Subcommand& command, std::span<char*> words) : command_(command), words_(words) {}

  // Carries out the options as they come and returns what is none. --object and --help belong to
  // every command; the latter throws Exit. Throws UsageError for an option that is not in the
  // table or lacks its value, and what a target throws.
  std::vector<std::string> parse(std::initializer_list<Option> options);
  // Of a command that is about one image: its name.
  std::string parse_for_image(std::initializer_list<Option> options);

  // Before the options are read: takes the last word away, which may look like one, unless it asks
  // for help. Throws UsageError where fewer than `least` words follow the command's name.
  std::string take_last(size_t least);

 private:
  const Subcommand& command_;
  std::span<char*> words_;
};

enum class OutputFormat { human, json };

// How an image that the command line names is to be opened.
struct ImageChoice {
  std::optional<std::string> format;
  bool by_options = false;  // the name is a list of options
  OpenFlags flags;
};

// Where a value goes. The targets are set when their option is met.
Take set(bool& flag, bool value = true);
Take into(std::string& text);
Take into(std::optional<std::string>& text);
Take into(OutputFormat& output);
Take cache_into(OpenFlags& flags, const char* complaint = "Invalid cache option: {}");
// A plain decimal number.
Take count_into(int& number, const char* what, int min, int max = INT_MAX);
// A number of bytes, perhaps with a suffix.
int64_t parse_number(const std::string& text, std::string_view what, int64_t min = 0,
                     int64_t max = INT64_MAX);
template <typename Number>
Take size_into(Number& number, std::string_view what, int64_t min = 0, int64_t max = INT64_MAX) {
  return [&number, what, min, max](const std::string& text) {
    number = static_cast<Number>(parse_number(text, what, min, max));
  };
}

// Options that many commands have.
Option format_option(ImageChoice& image);
Option image_options_option(ImageChoice& image);
Option cache_option(ImageChoice& image);
Option source_cache_option(OpenFlags& flags, std::string_view spelling = "-T, --cache MODE");
Option force_share_option(OpenFlags& flags);
Option output_option(OutputFormat& output);
Option progress_option(bool& progress);
Option quiet_option(bool& quiet);

}  // namespace strata::tools
