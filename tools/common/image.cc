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
      std::string_view format = co_await add_guessed_format(options_, file_);
      bool writes = flags_.writable || flags_.will_write;
      if (format == "raw" && writes && flags_.warn_of_guess) warn_of_guess();
    }
    co_await add_encryption_format(options_, file_);
    apply_flags(options_);
    co_await complete_backing();
    qapi::BlockdevOptions typed = read_options(tool_.layer(), std::move(options_));
    if (flags_.no_backing) leave_out_backing(typed);
    NodePtr node = co_await open_node(tool_.loop(), tool_.layer(), std::move(typed),
                                      {.guessed_format = guessed,
                                       .metadata_only = flags_.metadata_only,
                                       .to_check = flags_.to_check});
    file_.belong_to(*node);
    if (Node* backing = node->backing()) backing_file_.belong_to(*backing);
    co_return node;
  }

 private:
  // A protocol node, opened to see what is in it.
  struct FirstLook {
    NodePtr node;
    bool is_ours = false;  // not one that is there under a name

    void belong_to(Node& image) const {
      if (is_ours) node->set_definer(image.weak_from_this());
    }
  };

  Task<std::string_view> add_guessed_format(object& options, FirstLook& file) {
    co_await open_file(options, file);
    std::string_view format = co_await guess_format(tool_.loop(), tool_.layer(), file.node);
    options["driver"] = std::string(format);
    co_return format;
  }

  Task<void> add_encryption_format(object& options, FirstLook& file) {
    if (!lacks_encryption_format(options)) co_return;
    if (!file.node) co_await open_file(options, file);
    co_await name_encryption(tool_.loop(), tool_.layer(), file.node, options);
  }

  // Opens the protocol node, so that it can be looked at, and refers to it from then on: what is
  // judged is what is used.
  Task<void> open_file(object& options, FirstLook& file) {
    file.is_ours = options["file"].is_object();
    if (file.is_ours) {
      object below = options["file"].get_object();
      if (flags_.aio) apply_aio(below);
      NodeOptions image = inherited_from(options);
      qapi::BlockdevOptions typed = read_options(tool_.layer(), std::move(below));
      file.node =
          co_await open_node(tool_.loop(), tool_.layer(), std::move(typed), {.parent = &image});
    } else {
      if (!options["file"].is_string()) throw Error("Must specify either driver or file");
      file.node = tool_.layer().lookup_node(member_string(options, "file"));
    }
    options["file"] = file.node->name();
  }

  // What the image, of which the driver is not known yet, will leave to its file.
  NodeOptions inherited_from(const object& options) const {
    object inherited{{"driver", "null-co"}};
    for (const char* key : {"auto-read-only", "cache", "force-share", "read-only"})
      if (options.contains(key)) inherited[key] = options.at(key);
    apply_flags(inherited);
    return effective_options(read_options(tool_.layer(), std::move(inherited)));
  }

  // "backing.driver=qcow2" and "backing.file.locking=off" change how the backing file is opened,
  // "backing.file.filename=a" where it is; the image knows the rest.
  bool is_partial(const object& backing) const {
    const DriverDescriptor* driver = find_driver(tool_.layer(), member_string(backing, "driver"));
    if (driver == nullptr) return !backing.contains("driver");
    return driver->is_format && !names_file(backing);
  }

  static bool names_file(const object& backing) {
    const boost::json::value* file = backing.if_contains("file");
    if (file == nullptr) return false;
    const object* below = file->if_object();
    return below == nullptr || below->contains("filename") ||
           (below->contains("driver") && member_string(*below, "driver") != "file");
  }

  Task<void> complete_backing() {
    const boost::json::value* given = options_.if_contains("backing");
    if (given == nullptr || !given->is_object() || flags_.no_backing) co_return;
    object backing = given->get_object();
    if (backing.contains("")) co_return;  // is named, too: that is refused with the rest
    if (is_partial(backing)) co_await complete_from_image(backing);
    set_default(backing, "read-only", "on");
    std::optional<Error> failed;
    try {
      if (!backing.contains("driver")) co_await add_guessed_format(backing, backing_file_);
      co_await add_encryption_format(backing, backing_file_);
      read_options(tool_.layer(), backing);
    } catch (Error& error) {
      failed = std::move(error).prepend("Could not open backing file: ");
    }
    if (failed) throw *failed;
    options_["backing"] = std::move(backing);
  }

  Task<void> complete_from_image(object& backing) {
    object alone = options_;
    alone.erase("backing");
    qapi::BlockdevOptions typed = read_options(tool_.layer(), std::move(alone));
    leave_out_backing(typed);
    NodePtr image =
        co_await open_node(tool_.loop(), tool_.layer(), std::move(typed), {.metadata_only = true});
    std::optional<Driver::BackingName> recorded = image->driver().backing_name();
    std::string file = start_of_names(*image);
    co_await tool_.layer().release(tool_.loop(), std::move(image));
    ImageName name;
    name.options = std::move(backing);
    if (recorded && !recorded->format.empty()) name.format = recorded->format;
    if (recorded && !names_file(name.options)) name.filename = absolute_name(recorded->name, file);
    backing = resolve_image_name(tool_.layer(), name);
    if (name.filename) confine_recorded_name(recorded->name, backing);
  }

  void warn_of_guess() const {
    std::fflush(stdout);
    fmt::print(stderr,
               "WARNING: Image format was not specified for '{}' and probing guessed raw.\n"
               "         Automatically detecting the format is dangerous for raw images, write "
               "operations on block 0 will be restricted.\n"
               "         Specify the 'raw' format explicitly to remove the restrictions.\n",
               file_.node->display_name());
  }

  // What the options do not say the flags decide; children inherit it.
  void apply_flags(object& options) const {
    set_default(options, "read-only", flags_.writable ? "off" : "on");
    if (!options.contains("cache")) options["cache"] = object();
    if (object* cache = options["cache"].if_object()) {
      set_default(*cache, "direct", flags_.cache_direct ? "on" : "off");
      set_default(*cache, "no-flush", flags_.cache_no_flush ? "on" : "off");
    }
    if (flags_.force_share) set_default(options, "force-share", "on");
    if (flags_.discard_unmap.value_or(false)) set_default(options, "discard", "unmap");
    if (flags_.aio) apply_aio(options);
  }

  void apply_aio(object& options) const {
    std::string driver = member_string(options, "driver");
    if (driver == "file" || driver == "host_device")
      set_default(options, "aio", qapi::to_string(*flags_.aio));
    if (boost::json::value* file = options.if_contains("file"))
      if (object* child = file->if_object()) apply_aio(*child);
  }

  Tool& tool_;
  OpenFlags flags_;
  object options_;
  FirstLook file_;
  FirstLook backing_file_;
};

Permissions permissions_for(const OpenFlags& flags) {
  Permissions permissions{{}, kAllPermissions};
  if (!flags.metadata_only) permissions.needed |= Permission::consistent_read;
  if (flags.writable) permissions.needed |= PermissionSet{Permission::write, Permission::resize};
  if (flags.no_share && !flags.force_share)
    permissions.shared = permissions.shared.without({Permission::write, Permission::resize});
  return permissions;
}

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
  backend->attach(tool.loop(), std::move(node), permissions_for(flags));
  backend->set_write_cache(!flags.write_through);
  backend->set_copy_on_read(flags.copy_on_read);
  co_return backend;
}

}  // namespace strata::tools
