// SPDX-License-Identifier: GPL-2.0-or-later
#include "tools/common/image.h"

#include "block/graph/open.h"
#include "block/names/backing.h"
#include "block/names/filename.h"
#include "block/names/image.h"
#include "block/names/options.h"
#include "qapi/visit_blockdev.h"
#include "tools/common/temporary_overlay.h"

namespace strata::tools {
namespace {

using boost::json::object;

std::string member_string(const object& options, std::string_view key) {
  const boost::json::value* value = options.if_contains(key);
  if (value == nullptr || !value->is_string()) return {};
  return std::string(value->get_string());
}

void set_default(object& options, std::string_view key, std::string_view value) {
  if (!options.contains(key)) options[key] = std::string(value);
}

void leave_out_backing(qapi::BlockdevOptions& options) {
  auto* qcow2 = options.get_if<qapi::BlockdevOptionsQcow2>();
  if (qcow2 != nullptr && !qcow2->backing) qcow2->backing = qapi::BlockdevRefOrNull{qapi::Null()};
}

class Opener {
 public:
  Opener(Tool& tool, const ImageSource& source, OpenFlags flags)
      : tool_(tool), flags_(flags), options_(resolve_image_name(tool.layer(), source)) {
    if (flags.recorded_name) confine_recorded_name(source.filename.value_or(""), options_);
  }

  Task<NodePtr> open() {
    bool guessed = !options_.contains("driver");
    if (guessed) {
      if (!file_) co_await open_file();
      std::string_view format = co_await guess_format(tool_.loop(), tool_.layer(), file_);
      bool writes = flags_.writable || flags_.will_write;
      if (format == "raw" && writes && flags_.warn_of_guess) warn_of_guess();
      options_["driver"] = std::string(format);
    }
    if (lacks_encryption_format(options_)) {
      if (!file_) co_await open_file();
      co_await name_encryption(tool_.loop(), tool_.layer(), file_, options_);
    }
    apply_flags(options_, true);
    if (has_partial_backing()) co_await complete_backing();
    qapi::BlockdevOptions typed = read_options(tool_.layer(), std::move(options_));
    if (flags_.no_backing) leave_out_backing(typed);
    co_return co_await open_node(tool_.loop(), tool_.layer(), std::move(typed),
                                 {.guessed_format = guessed,
                                  .metadata_only = flags_.metadata_only,
                                  .to_check = flags_.to_check});
  }

 private:
  // Opens the protocol node, looks at its first bytes, and refers to it from then on: what is
  // judged is what is used.
  Task<void> open_file() {
    const object* file_options = options_["file"].if_object();
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
  }

  // "backing.driver=qcow2" changes how the backing file is opened, "backing.file.filename=a" where
  // it is; the image knows the rest.
  bool has_partial_backing() const {
    const boost::json::value* backing = options_.if_contains("backing");
    const object* members = backing != nullptr ? backing->if_object() : nullptr;
    if (members == nullptr || flags_.no_backing) return false;
    const DriverDescriptor* driver = find_driver(tool_.layer(), member_string(*members, "driver"));
    if (driver == nullptr) return !members->contains("driver");
    return driver->is_format && !members->contains("file");
  }

  Task<void> complete_backing() {
    object alone = options_;
    alone.erase("backing");
    qapi::BlockdevOptions typed = read_options(tool_.layer(), std::move(alone));
    leave_out_backing(typed);
    NodePtr image =
        co_await open_node(tool_.loop(), tool_.layer(), std::move(typed), {.metadata_only = true});
    std::optional<Driver::BackingName> recorded = image->driver().backing_name();
    std::string file = image->file_name().exact;
    co_await tool_.layer().release(tool_.loop(), std::move(image));
    ImageName name;
    name.options = options_.at("backing").get_object();
    if (recorded && !recorded->format.empty()) name.format = recorded->format;
    if (recorded && !name.options.contains("file"))
      name.filename = absolute_name(recorded->name, file);
    object backing = resolve_image_name(tool_.layer(), name);
    if (name.filename) confine_recorded_name(recorded->name, backing);
    if (!backing.contains("driver")) {
      backing_file_ = co_await open_options(backing.at("file").get_object());
      backing["driver"] =
          std::string(co_await guess_format(tool_.loop(), tool_.layer(), backing_file_));
      backing["file"] = backing_file_->name();
    }
    options_["backing"] = std::move(backing);
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
  OpenFlags flags_;
  object options_;
  NodePtr file_;          // opened to guess the format
  NodePtr backing_file_;  // the same for the backing file
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
  Opener opener(tool, source, flags);
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
