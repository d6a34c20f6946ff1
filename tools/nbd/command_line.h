// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "tools/common/image.h"

namespace strata::tools {

struct NbdCommandLine {
  // Answered already: exit with this status.
  std::optional<int> exit;

  bool list = false;
  std::optional<std::string> disconnect;  // the device to disconnect
  std::optional<std::string> connect;     // the device to connect the image to

  std::optional<std::string> bind;
  std::optional<std::string> port;
  std::optional<std::string> socket;
  std::optional<std::string> selinux_label;
  int64_t shared = 1;  // 0: no limit
  uint32_t handshake_seconds = 10;
  bool persistent = false;
  bool verbose = false;
  bool fork = false;
  std::optional<std::string> pid_file;

  std::string export_name;
  bool has_export_settings = false;  // what list mode cannot have
  std::string description;
  std::vector<std::string> bitmaps;
  bool allocation_depth = false;
  uint64_t offset = 0;
  std::optional<std::string> any_snapshot;  // an id or a name; or:
  std::optional<std::string> snapshot_name;
  std::optional<std::string> snapshot_id;

  bool wants_snapshot() const noexcept { return any_snapshot || snapshot_name || snapshot_id; }

  std::optional<qapi::BlockdevDetectZeroesOptions> detect_zeroes;

  std::optional<std::string> tls_creds;
  std::optional<std::string> tls_authz;
  std::optional<std::string> tls_hostname;

  bool image_options = false;
  std::optional<std::string> format;
  std::string image;
  OpenFlags flags;
};

// Defines the objects of --object. Throws Error.
NbdCommandLine parse_nbd_command_line(int argc, char** argv);

void print_nbd_help();

}  // namespace strata::tools
