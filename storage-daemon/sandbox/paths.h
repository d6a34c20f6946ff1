// SPDX-License-Identifier: GPL-2.0-or-later
//
// What the options of a command line speak of: parts of the file system, and other things that
// the sandbox leaves open for them.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "storage-daemon/program/command_line.h"

namespace strata {

struct AllowedPath {
  std::string path;  // a directory and all below it, or one file
  bool writable = false;
};

// The directories of all files that the options name, the files themselves where they are devices,
// and what --allow-path adds. A name that leads elsewhere by a symbolic link counts for both
// places. Options that cannot be read name nothing: they fail when they are carried out.
std::vector<AllowedPath> paths_of_options(const CommandLine& line);

// Whether this word stands in an option, or in a configuration.
bool is_mentioned(const CommandLine& line, std::string_view word);

bool has_monitor(const CommandLine& line);

// Whether an option exports by this kind of export.
bool asks_for_export(const CommandLine& line, qapi::BlockExportType type);

}  // namespace strata
