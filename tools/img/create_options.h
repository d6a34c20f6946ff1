// SPDX-License-Identifier: GPL-2.0-or-later
//
// What an image can be made with: the options behind -o, and making it.
#pragma once

#include <map>
#include <span>
#include <string>
#include <vector>

#include "tools/common/tool.h"
#include "tools/img/options.h"

namespace strata::tools {

struct CreateOption {
  const char* name;
  enum class Kind { size, number, text, flag } kind;
  const char* help;
  const char* default_text = nullptr;  // shown where no value is given
};

// Name and value of each that was given. A value is written as QEMU prints it: sizes in bytes,
// flags as on or off.
using CreateValues = std::map<std::string, std::string>;

// What one driver offers, in its order; empty where it makes no images.
std::span<const CreateOption> create_table(std::string_view driver) noexcept;

// The same for changing an image that there is.
std::span<const CreateOption> amend_table(std::string_view driver) noexcept;

// The options of the format alone, or followed by those of the protocol that `filename` has. Throws
// Error where the format, or the protocol, cannot be made.
std::vector<CreateOption> create_options(const BlockLayer& layer, const std::string& format,
                                         const std::string* filename);
bool has_option(const std::vector<CreateOption>& options, std::string_view name) noexcept;
// Sorted by name.
void print_create_options(std::vector<CreateOption> options);
// All of `-o help`: headed, and with a word on the protocol's where `filename` is null. Throws
// Error.
void print_create_help(const BlockLayer& layer, const std::string& format,
                       const std::string* filename);

// Adds `more` to a list of options. Throws Error for one that begins or ends within an option.
void append_option_list(std::string& all, const std::string& more);
Option option_list_option(std::string_view spelling, std::string& list);
// "a=1,b=2" read by the rules of `known`. Throws Error.
void parse_create_options(const std::vector<CreateOption>& known, const std::string& text,
                          CreateValues& values);

// "fmt=raw size=1048576 ...", as "Formatting" shows it.
std::string describe_create(const std::string& format, const std::vector<CreateOption>& known,
                            const CreateValues& values);

// Makes the file and the image in it. Throws Error; what was begun of an image is removed then.
Task<void> create_image(Tool& tool, std::string filename, std::string format, CreateValues values);

}  // namespace strata::tools
