// SPDX-License-Identifier: GPL-2.0-or-later
#include "tools/img/options.h"

#include <getopt.h>

#include <cerrno>
#include <charconv>
#include <list>

#include "block/base/error.h"
#include "tools/common/numbers.h"
#include "tools/common/objects.h"
#include "tools/img/command.h"

namespace strata::tools {
namespace {

// The table in getopt's terms. A long name yields its row, a letter itself.
class Spellings {
 public:
  explicit Spellings(std::span<const Option> table) {
    for (size_t row = 0; row < table.size(); ++row) add(table[row].spelling, row);
    names_.push_back({nullptr, 0, nullptr, 0});
  }

  const char* letters() const noexcept { return letters_.c_str(); }
  const option* names() const noexcept { return names_.data(); }
  size_t row_of(int found) const noexcept {
    return found >= kFirstRow ? static_cast<size_t>(found - kFirstRow) : row_of_letter_[found];
  }

 private:
  static constexpr int kFirstRow = 256;

  // "-B, -F, --backing-format FMT"
  void add(std::string_view spelling, size_t row) {
    size_t space = spelling.rfind(' ');
    bool has_value = space != spelling.npos && spelling[space + 1] != '-';
    std::string_view left = has_value ? spelling.substr(0, space) : spelling;
    while (!left.empty()) {
      std::string_view word = left.substr(0, left.find(", "));
      left.remove_prefix(std::min(left.size(), word.size() + 2));
      if (word.starts_with("--")) {
        text_.emplace_back(word.substr(2));
        names_.push_back({text_.back().c_str(), has_value ? required_argument : no_argument,
                          nullptr, kFirstRow + static_cast<int>(row)});
      } else {
        letters_ += word[1];
        if (has_value) letters_ += ':';
        row_of_letter_[static_cast<unsigned char>(word[1])] = row;
      }
    }
  }

  std::string letters_ = ":";  // a missing value is told apart from an unknown option
  std::vector<option> names_;
  std::list<std::string> text_;
  size_t row_of_letter_[kFirstRow] = {};
};

void take_object(const std::string& definition) {
  if (auto help = object_help(definition)) {
    std::fputs(help->c_str(), stdout);
    throw Exit{0};
  }
  define_object(definition);
}

}  // namespace

std::vector<std::string> Words::parse(std::initializer_list<Option> options) {
  std::vector<Option> table(options);
  table.push_back({"--object OBJDEF", "define an object, such as a secret", take_object});
  table.push_back({"-h, --help", "show this help and end", [&](const std::string&) {
                     print_command_help(command_, table);
                     throw Exit{0};
                   }});
  Spellings spellings(table);
  int count = static_cast<int>(words_.size());
  opterr = 0;
  for (;;) {
    int found =
        ::getopt_long(count, words_.data(), spellings.letters(), spellings.names(), nullptr);
    if (found == -1) break;
    if (found == ':')
      throw UsageError{fmt::format("missing argument for option '{}'", words_[optind - 1])};
    if (found == '?') throw UsageError{fmt::format("unrecognized option '{}'", words_[optind - 1])};
    table[spellings.row_of(found)].take(optarg != nullptr ? optarg : "");
  }
  return {words_.begin() + optind, words_.end()};
}

std::string Words::parse_for_image(std::initializer_list<Option> options) {
  std::vector<std::string> rest = parse(options);
  if (rest.size() != 1) throw UsageError{"Expecting one image file name"};
  return rest[0];
}

std::string Words::take_last(size_t least) {
  std::string last = words_.back();
  if (last == "-h" || last == "--help") return last;
  if (words_.size() <= least) throw UsageError{"Not enough arguments"};
  words_ = words_.first(words_.size() - 1);
  return last;
}

Take set(bool& flag, bool value) {
  return [&flag, value](const std::string&) { flag = value; };
}

Take into(std::string& text) {
  return [&text](const std::string& value) { text = value; };
}

Take into(std::optional<std::string>& text) {
  return [&text](const std::string& value) { text = value; };
}

Take into(OutputFormat& output) {
  return [&output](const std::string& name) {
    if (name != "human" && name != "json")
      throw UsageError{fmt::format("--output expects 'human' or 'json', not '{}'", name)};
    output = name == "json" ? OutputFormat::json : OutputFormat::human;
  };
}

Take cache_into(OpenFlags& flags, const char* complaint) {
  return [&flags, complaint](const std::string& mode) {
    if (!set_cache_mode(flags, mode)) throw Error("{}", fmt::format(fmt::runtime(complaint), mode));
  };
}

Take count_into(int& number, const char* what, int min, int max) {
  return [&number, what, min, max](const std::string& text) {
    const char* end = text.data() + text.size();
    auto [rest, error] = std::from_chars(text.data(), end, number);
    if (error != std::errc() || rest != end || number < min || number > max)
      throw Error("Invalid {} specified", what);
  };
}

int64_t parse_number(const std::string& text, std::string_view what, int64_t min, int64_t max) {
  Result<int64_t> number = parse_size(text);
  // A plain negative number is one that is out of range.
  bool negative = text.size() > 1 && text[0] == '-' &&
                  text.find_first_not_of("0123456789", 1) == std::string::npos;
  if (!number && number.error_number() == EINVAL && !negative)
    throw Error("Invalid {} specified: '{}'", what, text);
  if (!number || *number < min || *number > max)
    throw Error("Invalid {} specified. Must be between {} and {}.", what, min, max);
  return *number;
}

Option format_option(ImageChoice& image) {
  return {"-f, --format FMT", "format of the image (default: guessed)", into(image.format)};
}

Option image_options_option(ImageChoice& image) {
  return {"--image-opts", "the image's name is a list of options", set(image.by_options)};
}

Option cache_option(ImageChoice& image) {
  return {"-t, --cache MODE", "cache mode: none, writeback, writethrough, directsync or unsafe",
          cache_into(image.flags)};
}

Option source_cache_option(OpenFlags& flags, std::string_view spelling) {
  return {spelling, "cache mode of what is only read",
          cache_into(flags, "Invalid source cache option: {}")};
}

Option force_share_option(OpenFlags& flags) {
  return {"-U, --force-share", "open the image although another program writes to it",
          set(flags.force_share)};
}

Option output_option(OutputFormat& output) {
  return {"--output FMT", "\"human\" or \"json\"", into(output)};
}

Option progress_option(bool& progress) {
  return {"-p, --progress", "show progress", set(progress)};
}

Option quiet_option(bool& quiet) {
  return {"-q, --quiet", "print errors only", set(quiet)};
}

}  // namespace strata::tools
