// SPDX-License-Identifier: GPL-2.0-or-later
#include "tools/nbd/command_line.h"

#include <getopt.h>

#include <array>
#include <charconv>
#include <cstdio>
#include <vector>

#include "block/base/log.h"
#include "block/nbd/protocol.h"
#include "tools/common/objects.h"
#include "tools/common/trace.h"

namespace strata::tools {
namespace {

enum LongOption {
  kCache = 256,
  kAio,
  kDiscard,
  kDetectZeroes,
  kObject,
  kTlsCreds,
  kTlsAuthz,
  kTlsHostname,
  kImageOpts,
  kFork,
  kPidFile,
  kSelinuxLabel,
  kHandshakeLimit,
};

constexpr char kShortOptions[] = "hVb:o:p:rsnc:dvk:e:f:tl:x:T:D:AB:L";
constexpr std::array<option, 40> kLongOptions{{
    {"help", no_argument, nullptr, 'h'},
    {"version", no_argument, nullptr, 'V'},
    {"bind", required_argument, nullptr, 'b'},
    {"port", required_argument, nullptr, 'p'},
    {"socket", required_argument, nullptr, 'k'},
    {"offset", required_argument, nullptr, 'o'},
    {"read-only", no_argument, nullptr, 'r'},
    {"allocation-depth", no_argument, nullptr, 'A'},
    {"bitmap", required_argument, nullptr, 'B'},
    {"connect", required_argument, nullptr, 'c'},
    {"disconnect", no_argument, nullptr, 'd'},
    {"list", no_argument, nullptr, 'L'},
    {"snapshot", no_argument, nullptr, 's'},
    {"load-snapshot", required_argument, nullptr, 'l'},
    {"nocache", no_argument, nullptr, 'n'},
    {"cache", required_argument, nullptr, kCache},
    {"aio", required_argument, nullptr, kAio},
    {"discard", required_argument, nullptr, kDiscard},
    {"detect-zeroes", required_argument, nullptr, kDetectZeroes},
    {"shared", required_argument, nullptr, 'e'},
    {"format", required_argument, nullptr, 'f'},
    {"persistent", no_argument, nullptr, 't'},
    {"verbose", no_argument, nullptr, 'v'},
    {"object", required_argument, nullptr, kObject},
    {"export-name", required_argument, nullptr, 'x'},
    {"description", required_argument, nullptr, 'D'},
    {"tls-creds", required_argument, nullptr, kTlsCreds},
    {"tls-authz", required_argument, nullptr, kTlsAuthz},
    {"tls-hostname", required_argument, nullptr, kTlsHostname},
    {"image-opts", no_argument, nullptr, kImageOpts},
    {"trace", required_argument, nullptr, 'T'},
    {"fork", no_argument, nullptr, kFork},
    {"pid-file", required_argument, nullptr, kPidFile},
    {"selinux-label", required_argument, nullptr, kSelinuxLabel},
    {"handshake-limit", required_argument, nullptr, kHandshakeLimit},
    {nullptr, 0, nullptr, 0},
}};

template <class T>
std::optional<T> parse_number(std::string_view text, int base = 10) {
  T value{};
  if (base == 0) {
    base = 10;
    if (text.starts_with("0x") || text.starts_with("0X")) {
      base = 16;
      text.remove_prefix(2);
    }
  }
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, base);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

// "snapshot.id=ID,snapshot.name=NAME", or either.
void take_snapshot(const std::string& value, NbdCommandLine& line) {
  line.flags.writable = false;
  if (!value.starts_with("snapshot.")) {
    line.any_snapshot = value;
    return;
  }
  auto refuse = [&value](std::string_view name) {
    log_error("Invalid parameter '{}'", name);
    throw Error("Failed in parsing snapshot param `{}'", value);
  };
  for (const auto& [root, parts] : parse_image_options(value)) {
    if (root != "snapshot" || !parts.is_object()) refuse(root);
    for (const auto& [name, text] : parts.as_object()) {
      if (!text.is_string() || (name != "id" && name != "name"))
        refuse(fmt::format("{}.{}", std::string_view(root), std::string_view(name)));
      (name == "id" ? line.snapshot_id : line.snapshot_name) = std::string(text.as_string());
    }
  }
}

class Parser {
 public:
  NbdCommandLine parse(int argc, char** argv);

 private:
  void take(int found, const std::string& value);
  void take_image_option(int found, const std::string& value);
  void take_server_option(int found, const std::string& value);
  void check(int argc, char** argv);
  void check_list(bool has_image) const;
  static NbdCommandLine ended(int status) {
    NbdCommandLine line;
    line.exit = status;
    return line;
  }
  static void once(bool& seen, std::string_view text) {
    if (seen) throw Error("{}", text);
    seen = true;
  }

  NbdCommandLine line_;
  bool disconnect_ = false;
  bool has_cache_ = false;
  bool has_aio_ = false;
  bool has_discard_ = false;
};

NbdCommandLine Parser::parse(int argc, char** argv) {
  line_.flags.writable = true;
  // getopt() complains in the name of the first word.
  std::string name(program_name());
  std::vector<char*> words(argv, argv + argc);
  words[0] = name.data();
  words.push_back(nullptr);
  int found = 0;
  while ((found = ::getopt_long(argc, words.data(), kShortOptions, kLongOptions.data(), nullptr)) !=
         -1) {
    if (found == 'h') {
      print_nbd_help();
      return ended(0);
    }
    if (found == 'V') {
      print_version("");  // no "version", unlike the other tools
      return ended(0);
    }
    if (found == '?') {
      log_error("Try `{} --help' for more information.", program_name());
      return ended(1);
    }
    if (found == 'T') {
      if (!take_trace(optarg)) return ended(0);
      continue;
    }
    if (auto help = found == kObject ? object_help(optarg) : std::nullopt) {
      fmt::print("{}", *help);
      return ended(0);
    }
    take(found, optarg != nullptr ? optarg : "");
  }
  check(argc, words.data());
  return std::move(line_);
}

void Parser::take(int found, const std::string& value) {
  take_image_option(found, value);
  take_server_option(found, value);
}

void Parser::take_image_option(int found, const std::string& value) {
  switch (found) {
    case 's':
      line_.flags.snapshot = true;
      break;
    case 'l':
      take_snapshot(value, line_);
      line_.has_export_settings = true;
      break;
    case 'n':
      once(has_cache_, "-n and --cache can only be specified once");
      set_cache_mode(line_.flags, "none");
      break;
    case kCache:
      once(has_cache_, "-n and --cache can only be specified once");
      if (!set_cache_mode(line_.flags, value)) throw Error("Invalid cache mode `{}'", value);
      break;
    case kAio:
      once(has_aio_, "--aio can only be specified once");
      if (!set_aio_mode(line_.flags, value)) throw Error("Invalid aio mode '{}'", value);
      break;
    case kDiscard:
      once(has_discard_, "--discard can only be specified once");
      if (!set_discard_mode(line_.flags, value)) throw Error("Invalid discard mode `{}'", value);
      break;
    case kDetectZeroes:
      if (value == "off")
        line_.detect_zeroes = qapi::BlockdevDetectZeroesOptions::off;
      else if (value == "on")
        line_.detect_zeroes = qapi::BlockdevDetectZeroesOptions::on;
      else if (value == "unmap")
        line_.detect_zeroes = qapi::BlockdevDetectZeroesOptions::unmap;
      else
        throw Error("Failed to parse detect_zeroes mode: invalid parameter value: {}", value);
      if (value == "unmap" && !line_.flags.discard_unmap.value_or(false))
        throw Error(
            "setting detect-zeroes to unmap is not allowed without setting discard operation to "
            "unmap");
      break;
    case 'o': {
      bool is_negative = value.starts_with('-');
      auto offset = parse_number<uint64_t>(std::string_view(value).substr(is_negative ? 1 : 0), 0);
      if (!offset) throw Error("Invalid offset '{}'", value);
      line_.offset = is_negative ? -*offset : *offset;
      line_.has_export_settings |= line_.offset != 0;
      break;
    }
    case 'r':
      line_.flags.writable = false;
      break;
    case 'f':
      line_.format = value;
      break;
    case kImageOpts:
      line_.image_options = true;
      break;
    case kObject:
      define_object(value);
      break;
    default:
      break;
  }
}

void Parser::take_server_option(int found, const std::string& value) {
  switch (found) {
    case 'b':
      line_.bind = value;
      break;
    case 'p':
      line_.port = value;
      break;
    case 'k':
      if (!value.starts_with('/')) throw Error("socket path must be absolute");
      line_.socket = value;
      break;
    case 'e': {
      auto shared = parse_number<int>(value, 0);
      if (!shared || *shared < 0) throw Error("Invalid shared device number '{}'", value);
      line_.shared = *shared;
      break;
    }
    case kHandshakeLimit: {
      auto seconds = parse_number<uint32_t>(value);
      if (!seconds) throw Error("Invalid handshake limit '{}'", value);
      line_.handshake_seconds = *seconds;
      break;
    }
    case 't':
      line_.persistent = true;
      break;
    case 'v':
      line_.verbose = true;
      break;
    case 'x':
      if (value.size() > nbd::kMaxString) throw Error("export name '{}' too long", value);
      line_.export_name = value;
      line_.has_export_settings = true;
      break;
    case 'D':
      if (value.size() > nbd::kMaxString) throw Error("export description '{}' too long", value);
      line_.description = value;
      line_.has_export_settings = true;
      break;
    case 'A':
      line_.allocation_depth = true;
      line_.has_export_settings = true;
      break;
    case 'B':
      line_.bitmaps.insert(line_.bitmaps.begin(), value);  // the last one is the first in lists
      line_.has_export_settings = true;
      break;
    case 'c':
      line_.connect = value;
      break;
    case 'd':
      disconnect_ = true;
      break;
    case 'L':
      line_.list = true;
      break;
    case kTlsCreds:
      line_.tls_creds = value;
      break;
    case kTlsAuthz:
      line_.tls_authz = value;
      break;
    case kTlsHostname:
      line_.tls_hostname = value;
      break;
    case kFork:
      line_.fork = true;
      break;
    case kPidFile:
      line_.pid_file = value;
      break;
    case kSelinuxLabel:
      line_.selinux_label = value;
      break;
    default:
      break;
  }
}

void Parser::check_list(bool has_image) const {
  if (has_image) throw Error("List mode is incompatible with a file name");
  if (line_.has_export_settings || line_.connect || disconnect_ || line_.format || has_cache_ ||
      has_aio_ || has_discard_)
    throw Error("List mode is incompatible with per-device settings");
  if (line_.fork) throw Error("List mode is incompatible with forking");
}

void Parser::check(int argc, char** argv) {
  if (line_.list) {
    check_list(argc != optind);
  } else if (argc - optind != 1) {
    throw Error("Invalid number of arguments")
        .hint(fmt::format("Try `{} --help' for more information.\n", program_name()));
  }
  if (line_.tls_creds) {
    if (line_.connect) throw Error("TLS is not supported with a host device");
    if (line_.tls_authz && line_.list)
      throw Error("TLS authorization is incompatible with export list");
    if (line_.tls_hostname && !line_.list)
      throw Error("TLS hostname is only supported with export list");
  } else {
    if (line_.tls_authz) throw Error("--tls-authz is not permitted without --tls-creds");
    if (line_.tls_hostname) throw Error("--tls-hostname is not permitted without --tls-creds");
  }
  if (line_.selinux_label && !line_.socket)
    throw Error("--selinux-label is not permitted without --socket");
  if (line_.image_options && line_.format)
    throw Error("--image-opts and -f are mutually exclusive");
  if (line_.list) return;
  line_.image = argv[optind];
  if (disconnect_) line_.disconnect = line_.image;
}

}  // namespace

NbdCommandLine parse_nbd_command_line(int argc, char** argv) {
  return Parser().parse(argc, argv);
}

}  // namespace strata::tools
