// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/names/backing.h"

#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <cstdlib>

#include "block/base/error.h"
#include "block/names/filename.h"
#include "block/names/image.h"
#include "block/names/options.h"
#include "qapi/visit_blockdev.h"

namespace strata {
namespace {

using boost::json::object;

// Files, and what is done with their contents.
constexpr std::array<std::string_view, 16> kLocalDrivers{
    "blkdebug", "blkverify",    "compress",  "copy-on-read",    "file",  "luks",
    "null-aio", "null-co",      "quorum",    "preallocate",     "qcow2", "raw",
    "throttle", "blklogwrites", "blkreplay", "snapshot-access",
};

// Members that name a node where they are no object.
constexpr std::array<std::string_view, 8> kChildren{"file",   "backing", "data-file", "image",
                                                    "header", "raw",     "test",      "log"};

// What a name in an image does not decide about the node that it leads to.
constexpr std::array<std::string_view, 6> kNotForImages{
    "read-only", "auto-read-only", "force-share", "discard", "detect-zeroes", "node-name"};

bool is_in(std::string_view list, std::string_view word) noexcept {
  while (!list.empty()) {
    size_t end = list.find_first_of(", ");
    if (list.substr(0, end) == word) return true;
    list.remove_prefix(end == list.npos ? list.size() : end + 1);
  }
  return false;
}

bool may_be_followed(std::string_view driver) noexcept {
  if (std::find(kLocalDrivers.begin(), kLocalDrivers.end(), driver) != kLocalDrivers.end())
    return true;
  const char* allowed = std::getenv("STRATA_BACKING_DRIVERS");
  return allowed != nullptr && is_in(allowed, driver);
}

void confine(object& options) {
  for (std::string_view key : kNotForImages) options.erase(key);
  if (const boost::json::value* driver = options.if_contains("driver")) {
    std::string name = driver->is_string() ? std::string(driver->get_string()) : std::string();
    if (!may_be_followed(name))
      throw Error("Driver '{}' is not used for a name that an image contains", name)
          .hint("STRATA_BACKING_DRIVERS in the environment lists the drivers that are.\n");
  }
  for (std::string_view key : kChildren) {
    const boost::json::value* child = options.if_contains(key);
    if (child != nullptr && child->is_string())
      throw Error("A name that an image contains cannot refer to node '{}'",
                  std::string_view(child->get_string()));
  }
  for (auto& [key, value] : options) {
    if (object* child = value.if_object()) confine(*child);
    if (boost::json::array* list = value.if_array())
      for (boost::json::value& element : *list) {
        if (object* child = element.if_object()) confine(*child);
        if (key == "children" && element.is_string())
          throw Error("A name that an image contains cannot refer to node '{}'",
                      std::string_view(element.get_string()));
      }
  }
}

// The file is opened, judged and used, in this order, as one node.
Task<std::string> guess_driver(OpenContext& context, object& options, NodePtr& file) {
  object below = options.at("file").get_object();
  const NodeOptions& overlay = context.node.options();
  below["read-only"] = "on";
  if (overlay.force_share) below["force-share"] = "on";
  object& cache = child_of(below, "cache");
  cache["direct"] = overlay.cache_direct ? "on" : "off";
  cache["no-flush"] = overlay.cache_no_flush ? "on" : "off";
  below["discard"] = "unmap";
  file =
      co_await open_node(context.loop, context.layer, read_options(context.layer, std::move(below)),
                         {.metadata_only = overlay.metadata_only});
  std::string_view format = co_await guess_format(context.loop, context.layer, file);
  options["file"] = file->name();
  co_return std::string(format);
}

// A file that lies above itself ends the search; so does a chain that cannot be meant.
void add_to_trail(Node& node, const RecordedName& backing) {
  std::shared_ptr<const OverlayTrail>& above = node.mutable_options().overlays;
  auto trail = std::make_shared<OverlayTrail>();
  struct stat status{};
  if (!backing.image.empty() && ::stat(backing.image.c_str(), &status) == 0) {
    trail->device = status.st_dev;
    trail->inode = status.st_ino;
    for (const OverlayTrail* one = above.get(); one != nullptr; one = one->above.get())
      if (one->device == trail->device && one->inode == trail->inode)
        throw Error("Backing file '{}' creates an infinite loop.", backing.image);
  }
  trail->depth = above ? above->depth + 1 : 1;
  if (trail->depth > kMaxBackingDepth)
    throw Error("There are more than {} backing files, one behind the other", kMaxBackingDepth);
  trail->above = std::move(above);
  above = std::move(trail);
}

}  // namespace

std::string start_of_names(const Node& image) {
  const Node* node = &image;
  while (const Edge* child = node->child_in_role(ChildRole::primary)) node = &child->node();
  return node->file_name().exact;
}

void confine_recorded_name(const std::string& name, object& options) {
  if (has_protocol_prefix(name) && !name.starts_with("file:")) confine(options);
}

Task<Edge*> open_recorded_backing(OpenContext& context, RecordedName backing) {
  add_to_trail(context.node, backing);
  ImageName name;
  name.filename = absolute_name(backing.name, backing.image);
  name.format = backing.format;
  if (backing.format) name.options["driver"] = *backing.format;
  object options = resolve_image_name(context.layer, name);
  confine_recorded_name(backing.name, options);
  NodePtr file;
  bool guessed = !options.contains("driver");
  if (guessed) options["driver"] = co_await guess_driver(context, options, file);
  qapi::BlockdevOptions typed = read_options(context.layer, std::move(options));
  qapi::BlockdevRef reference = qapi::Box<qapi::BlockdevOptions>(std::move(typed));
  Edge* edge = co_await context.open_child(reference, "backing", ChildRole::cow, guessed);
  context.node.mutable_options().overlays.reset();
  co_return edge;
}

}  // namespace strata
