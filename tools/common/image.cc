// SPDX-License-Identifier: GPL-2.0-or-later
#include "tools/common/image.h"

#include <array>
#include <cstring>
#include <vector>

#include "block/base/bytes.h"
#include "block/drivers/filename.h"
#include "block/drivers/probe.h"
#include "block/drivers/raw/raw.h"
#include "block/graph/open.h"
#include "qapi/runtime/json_parser.h"
#include "qapi/visit_blockdev.h"
#include "tools/common/legacy_options.h"
#include "tools/common/option_tree.h"
#include "tools/common/temporary_overlay.h"

namespace strata::tools {
namespace {

using boost::json::object;

constexpr std::string_view kJsonPrefix = "json:";

const object* member_object(const object& options, std::string_view key) {
  const boost::json::value* value = options.if_contains(key);
  return value != nullptr ? value->if_object() : nullptr;
}

std::string member_string(const object& options, std::string_view key) {
  const boost::json::value* value = options.if_contains(key);
  if (value == nullptr || !value->is_string()) return {};
  return std::string(value->get_string());
}

void set_default(object& options, std::string_view key, std::string_view value) {
  if (!options.contains(key)) options[key] = std::string(value);
}

const DriverDescriptor* find_driver(const BlockLayer& layer, std::string_view name) {
  for (const DriverDescriptor* driver : layer.drivers())
    if (driver->format_name() == name) return driver;
  return nullptr;
}

// {"filename": "json:..."} and {"filename": name} of a child whose driver is not named.
void name_drivers_of_children(object& options) {
  for (auto& [key, value] : options) {
    object* child = value.if_object();
    if (child == nullptr) continue;
    name_drivers_of_children(*child);
    if (child->contains("driver") || !child->contains("filename")) continue;
    std::string name = member_string(*child, "filename");
    child->erase("filename");
    merge_options(*child, options_of_filename(name));
  }
}

void leave_out_backing(qapi::BlockdevOptions& options) {
  auto* qcow2 = options.get_if<qapi::BlockdevOptionsQcow2>();
  if (qcow2 != nullptr && !qcow2->backing) qcow2->backing = qapi::BlockdevRefOrNull{qapi::Null()};
}

class Opener {
 public:
  Opener(Tool& tool, ImageSource source, OpenFlags flags)
      : tool_(tool), source_(std::move(source)), flags_(flags), options_(source_.options) {}

  Task<NodePtr> open() {
    resolve_json();
    if (source_.format && !options_.contains("driver")) options_["driver"] = *source_.format;
    check_driver();
    resolve_filename();
    name_drivers_of_children(options_);
    modernise_options(options_);
    if (!options_.contains("driver")) {
      if (!options_.contains("file")) throw Error("Must specify either driver or file");
      co_await guess_format();
    }
    co_await name_encryption();
    apply_flags(options_, true);
    qapi::BlockdevOptions typed = read_options(tool_.layer(), std::move(options_));
    if (flags_.no_backing) leave_out_backing(typed);
    OpenFor purpose = flags_.to_check ? OpenFor::check
                      : flags_.no_io  ? OpenFor::description
                                      : OpenFor::use;
    NodePtr node = co_await open_node(tool_.loop(), tool_.layer(), std::move(typed), purpose);
    if (guessed_ && node->format_name() == "raw") guard_guessed_format(*node);
    co_return node;
  }

 private:
  void resolve_json() {
    if (!source_.filename || !source_.filename->starts_with(kJsonPrefix)) return;
    boost::json::value value;
    try {
      value = qapi::parse_json(std::string_view(*source_.filename).substr(kJsonPrefix.size()));
    } catch (Error& error) {
      throw std::move(error).prepend("Could not parse the JSON options: ");
    }
    if (!value.is_object()) throw Error("Invalid JSON object given");
    source_.filename.reset();
    merge_options(options_, option_tree_of_json(value.get_object()));
  }

  void check_driver() const {
    if (!options_.contains("driver")) return;
    std::string name = member_string(options_, "driver");
    if (find_driver(tool_.layer(), name) == nullptr) throw Error("Unknown driver '{}'", name);
  }

  // A plain name is the protocol node's own, or that of the file below a format.
  void resolve_filename() {
    std::string name;
    if (source_.filename) {
      name = *source_.filename;
    } else if (!options_.contains("driver") && options_.contains("filename")) {
      name = member_string(options_, "filename");
      options_.erase("filename");
    } else {
      return;
    }
    const DriverDescriptor* driver = find_driver(tool_.layer(), member_string(options_, "driver"));
    object protocol = options_of_filename(name);
    if (driver != nullptr && driver->is_protocol) {
      protocol.erase("driver");
      merge_options(options_, protocol);
      return;
    }
    object& file = child_of(options_, "file");
    merge_options(file, protocol);
  }

  // Opens the protocol node, looks at its first bytes, and refers to it from then on: what is
  // judged is what is used.
  Task<void> guess_format() {
    std::array<std::byte, kProbeBytes> header{};
    size_t size = co_await look_at_file(header);
    std::string_view format = probe_format({header.data(), size});
    if (find_driver(tool_.layer(), format) == nullptr)
      throw Error("Image is in {} format, which is not built", format);
    guessed_ = true;
    if (format == "raw" && flags_.writable && flags_.warn_of_guess) warn_of_guess();
    options_["driver"] = std::string(format);
  }

  // "encrypt.key-secret" alone leaves it to the image which encryption it has; of an image without
  // encryption it says nothing.
  Task<void> name_encryption() {
    if (member_string(options_, "driver") != "qcow2") co_return;
    const object* encrypt = member_object(options_, "encrypt");
    if (encrypt == nullptr || encrypt->contains("format")) co_return;
    std::array<std::byte, kProbeBytes> header{};
    if (file_)
      co_await read_header(header);
    else
      co_await look_at_file(header);
    auto method = load_be<uint32_t>(header, 32);
    if (method == 1 || method == 2)
      child_of(options_, "encrypt")["format"] = method == 1 ? "aes" : "luks";
    else
      options_.erase("encrypt");
  }

  Task<size_t> look_at_file(std::span<std::byte> header) {
    const object* file_options = member_object(options_, "file");
    if (file_options == nullptr) {
      if (!options_["file"].is_string()) throw Error("Must specify either driver or file");
      file_ = tool_.layer().lookup_node(member_string(options_, "file"));
    } else {
      object below = *file_options;
      for (const char* inherited : {"read-only", "cache", "force-share"})
        if (options_.contains(inherited) && !below.contains(inherited))
          below[inherited] = options_[inherited];
      apply_flags(below, false);
      file_ = co_await open_options(std::move(below));
    }
    options_["file"] = file_->name();
    co_return co_await read_header(header);
  }

  Task<size_t> read_header(std::span<std::byte> header) {
    size_t size = static_cast<size_t>(std::min<uint64_t>(file_->length(), header.size()));
    Backend reader(tool_.layer());
    reader.attach(tool_.loop(), file_, {{}, kAllPermissions});
    Status status = co_await reader.preadv(0, IoVector::buffer(header.data(), size));
    co_await reader.close(tool_.loop());
    if (!status.ok())
      throw Error::from_errno(status.error_number(),
                              "Could not read image for determining its format");
    co_return size;
  }

  void warn_of_guess() const {
    std::fflush(stdout);
    fmt::print(stderr,
               "WARNING: Image format was not specified for '{}' and probing guessed raw.\n"
               "         Automatically detecting the format is dangerous for raw images, write "
               "operations on block 0 will be restricted.\n"
               "         Specify the 'raw' format explicitly to remove the restrictions.\n",
               file_->display_name());
  }

  // What the options do not say the flags decide; children inherit it.
  void apply_flags(object& options, bool is_root) const {
    set_default(options, "read-only", flags_.writable ? "off" : "on");
    object& cache = child_of(options, "cache");
    set_default(cache, "direct", flags_.cache_direct ? "on" : "off");
    set_default(cache, "no-flush", flags_.cache_no_flush ? "on" : "off");
    if (flags_.force_share) set_default(options, "force-share", "on");
    if (!is_root)
      set_default(options, "discard", "unmap");
    else if (flags_.discard_unmap.value_or(false))
      set_default(options, "discard", "unmap");
    if (flags_.aio) apply_aio(options);
  }

  void apply_aio(object& options) const {
    std::string driver = member_string(options, "driver");
    if (driver == "file" || driver == "host_device")
      set_default(options, "aio", qapi::to_string(*flags_.aio));
    if (boost::json::value* file = options.if_contains("file"))
      if (object* child = file->if_object()) apply_aio(*child);
  }

  Task<NodePtr> open_options(object options) {
    qapi::BlockdevOptions typed = read_options(tool_.layer(), std::move(options));
    co_return co_await open_node(tool_.loop(), tool_.layer(), std::move(typed));
  }

  Tool& tool_;
  ImageSource source_;
  OpenFlags flags_;
  object options_;
  NodePtr file_;  // opened to guess the format
  bool guessed_ = false;
};

}  // namespace

bool set_cache_mode(OpenFlags& flags, std::string_view mode) {
  flags.cache_direct = flags.cache_no_flush = flags.write_through = false;
  if (mode == "none" || mode == "off") {
    flags.cache_direct = true;
  } else if (mode == "directsync") {
    flags.cache_direct = true;
    flags.write_through = true;
  } else if (mode == "unsafe") {
    flags.cache_no_flush = true;
  } else if (mode == "writethrough") {
    flags.write_through = true;
  } else if (mode != "writeback") {
    return false;
  }
  return true;
}

bool set_discard_mode(OpenFlags& flags, std::string_view mode) {
  if (mode == "ignore" || mode == "off")
    flags.discard_unmap = false;
  else if (mode == "unmap" || mode == "on")
    flags.discard_unmap = true;
  else
    return false;
  return true;
}

bool set_aio_mode(OpenFlags& flags, std::string_view mode) {
  if (mode == "threads")
    flags.aio = qapi::BlockdevAioOptions::threads;
  else if (mode == "native")
    flags.aio = qapi::BlockdevAioOptions::native;
  else if (mode == "io_uring")
    flags.aio = qapi::BlockdevAioOptions::io_uring;
  else
    return false;
  return true;
}

Task<NodePtr> open_image(Tool& tool, ImageSource source, OpenFlags flags) {
  Opener opener(tool, std::move(source), flags);
  co_return co_await opener.open();
}

Task<std::unique_ptr<Backend>> open_backend(Tool& tool, ImageSource source, OpenFlags flags) {
  if (flags.copy_on_read && !flags.writable)
    throw Error("Can't use copy-on-read on read-only device");
  OpenFlags below = flags;
  if (flags.snapshot) below.writable = false;
  NodePtr node = co_await open_image(tool, std::move(source), below);
  if (flags.snapshot) node = co_await temporary_overlay(tool, std::move(node));
  auto backend = std::make_unique<Backend>(tool.layer());
  PermissionSet needed = Permission::consistent_read;
  if (flags.writable) needed |= PermissionSet{Permission::write, Permission::resize};
  backend->attach(tool.loop(), std::move(node), {needed, kAllPermissions});
  backend->set_write_cache(!flags.write_through);
  backend->set_copy_on_read(flags.copy_on_read);
  co_return backend;
}

}  // namespace strata::tools
