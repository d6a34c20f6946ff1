// SPDX-License-Identifier: GPL-2.0-or-later
#include "storage-daemon/sandbox/paths.h"

#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <string_view>

#include <boost/json/serialize.hpp>

#include "block/base/error.h"
#include "block/base/trace_option.h"
#include "block/names/filename.h"
#include "qapi/runtime/json_parser.h"
#include "qapi/runtime/keyval.h"
#include "qapi/visit_char.h"
#include "qapi/visit_strata.h"
#include "storage-daemon/chardev/options.h"
#include "storage-daemon/metrics/server.h"

namespace strata {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kJsonPrefix = "json:";

// Members whose strings are names of files. "file" is one in objects only: elsewhere it is a node.
constexpr std::array<std::string_view, 9> kNames{"filename", "path",    "config",     "in", "out",
                                                 "device",   "logfile", "mountpoint", "dir"};

bool is_device(const fs::path& path) {
  struct stat status{};
  return ::stat(path.c_str(), &status) == 0 && (S_ISBLK(status.st_mode) || S_ISCHR(status.st_mode));
}

class Collector {
 public:
  // A file, which need not exist yet.
  void add_file(const std::string& name, bool writable) {
    if (name.empty()) return;
    fs::path path(name);
    add_place(path, writable);
    std::error_code unknown;
    fs::path real = fs::canonical(path, unknown);
    if (!unknown) add_place(real, writable);
  }

  void add_directory(const std::string& name, bool writable) { add({name, writable}); }

  // Everything in an option's tree.
  void add_tree(const boost::json::value& value, bool is_object) {
    if (const auto* list = value.if_array())
      for (const boost::json::value& element : *list) add_tree(element, is_object);
    const boost::json::object* tree = value.if_object();
    if (tree == nullptr) return;
    for (const auto& [key, member] : *tree) {
      const boost::json::string* text = member.if_string();
      if (text == nullptr)
        add_tree(member, is_object);
      else if (is_name(key, is_object))
        add_name(key, std::string(*text), is_object);
    }
  }

  std::vector<AllowedPath> take() { return std::move(paths_); }

 private:
  static bool is_name(std::string_view key, bool is_object) {
    // Keys of nested options come dotted where nobody has taken them apart.
    key.remove_prefix(key.rfind('.') + 1);
    return std::ranges::find(kNames, key) != kNames.end() || (is_object && key == "file");
  }

  void add_name(std::string_view key, const std::string& text, bool is_object) {
    if (key == "dir") return add_directory(text, false);
    if (text.starts_with(kJsonPrefix)) {
      try {
        add_tree(qapi::parse_json(std::string_view(text).substr(kJsonPrefix.size())), is_object);
      } catch (const Error&) {
      }
      return;
    }
    if (text.starts_with("file:")) return add_file(text.substr(5), !is_object);
    // "fd:5" and names of servers are no files.
    if (key != "filename" || !has_protocol_prefix(text)) add_file(text, !is_object);
  }

  void add_place(const fs::path& path, bool writable) {
    if (is_device(path)) return add({path.string(), writable});
    fs::path parent = path.parent_path();
    // The root's directory would be everything.
    if (parent == parent.root_path() && !parent.empty()) return add({path.string(), writable});
    add({parent.empty() ? "." : parent.string(), writable});
  }

  void add(AllowedPath path) {
    for (AllowedPath& one : paths_) {
      if (one.path != path.path) continue;
      one.writable |= path.writable;
      return;
    }
    paths_.push_back(std::move(path));
  }

  std::vector<AllowedPath> paths_;
};

void add_address(Collector& paths, const SocketAddress& address) {
  const auto* local = std::get_if<UnixAddress>(&address);
  if (local != nullptr && !local->abstract) paths.add_file(local->path, true);
}

void add_option(Collector& paths, const CommandLineOption& option) {
  switch (option.kind) {
    case OptionKind::chardev:
      if (chardev_help(option.argument) == ChardevHelp::none)
        paths.add_tree(qapi::to_json(parse_chardev_option(option.argument).backend), false);
      break;
    case OptionKind::config:
      paths.add_tree(qapi::to_json(*option.config), false);
      if (option.config->object)
        for (const auto& object : *option.config->object)
          paths.add_tree(qapi::to_json(object), true);
      if (option.config->metrics)
        add_address(paths, parse_metrics_address(*option.config->metrics));
      break;
    case OptionKind::metrics:
      add_address(paths, parse_metrics_address(option.argument));
      break;
    case OptionKind::trace:
      if (auto file = parse_trace_option(option.argument).file) paths.add_file(*file, true);
      break;
    case OptionKind::object:
      paths.add_tree(qapi::parse_option(option.argument, "qom-type").value, true);
      break;
    case OptionKind::blockdev:
    case OptionKind::export_:
    case OptionKind::nbd_server:
      paths.add_tree(qapi::parse_option(option.argument, "driver").value, false);
      break;
    default:
      break;
  }
}

}  // namespace

std::vector<AllowedPath> paths_of_options(const CommandLine& line) {
  Collector paths;
  for (const CommandLineOption& option : line.options) {
    try {
      add_option(paths, option);
    } catch (const Error&) {
    }
  }
  if (line.pidfile) paths.add_file(*line.pidfile, true);
  for (const std::string& path : line.sandbox.allowed) paths.add_directory(path, true);
  return paths.take();
}

bool is_mentioned(const CommandLine& line, std::string_view word) {
  return std::ranges::any_of(line.options, [word](const CommandLineOption& option) {
    std::string text = option.argument;
    if (option.config) text = boost::json::serialize(qapi::to_json(*option.config));
    return text.find(word) != std::string::npos;
  });
}

bool has_monitor(const CommandLine& line) {
  return std::ranges::any_of(line.options, [](const CommandLineOption& option) {
    return option.kind == OptionKind::monitor || (option.config && option.config->monitor);
  });
}

bool asks_for_export(const CommandLine& line, qapi::BlockExportType type) {
  return std::ranges::any_of(line.options, [type](const CommandLineOption& option) {
    if (option.kind == OptionKind::config && option.config->export_)
      return std::ranges::find(*option.config->export_, type, &qapi::BlockExportOptions::type) !=
             option.config->export_->end();
    if (option.kind != OptionKind::export_) return false;
    try {
      boost::json::value tree = qapi::parse_option(option.argument, "type").value;
      const boost::json::value* found = tree.as_object().if_contains("type");
      return found != nullptr && found->is_string() && found->as_string() == qapi::to_string(type);
    } catch (const Error&) {
      return false;
    }
  });
}

}  // namespace strata
