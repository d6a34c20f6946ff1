// SPDX-License-Identifier: GPL-2.0-or-later
//
// What an image can be made with: the options behind -o, and making it.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "tools/common/tool.h"

namespace strata::tools {

struct CreateOption {
  const char* name;
  enum class Kind { size, number, text, flag } kind;
  const char* help;
};

// Name and value of each that was given. A value is written as QEMU prints it: sizes in bytes,
// flags as on or off.
using CreateValues = std::map<std::string, std::string>;

// The options of the format alone, or with those of the protocol that `filename` has; sorted.
// Throws Error where the format, or the protocol, cannot be made.
std::vector<CreateOption> create_options(const BlockLayer& layer, const std::string& format,
                                         const std::string* filename);
void print_create_options(const std::vector<CreateOption>& options);

// "a=1,b=2" read by the rules of `known`. Throws Error.
void parse_create_options(const std::vector<CreateOption>& known, const std::string& text,
                          CreateValues& values);

// "fmt=raw size=1048576 ...", as "Formatting" shows it.
std::string describe_create(const std::string& format, const std::vector<CreateOption>& known,
                            const CreateValues& values);

// Makes the file and the image in it. Throws Error.
Task<void> create_image(Tool& tool, std::string filename, std::string format, CreateValues values);

}  // namespace strata::tools
