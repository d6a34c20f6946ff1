// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/qcow2/backing.h"

#include <array>

#include "block/base/error.h"
#include "block/io/backend.h"
#include "block/qcow2/format/header.h"

namespace strata::qcow2 {
namespace {

// "nbd:", "json:", "http:", ... : a colon before the first slash.
bool has_protocol(const std::string& name) {
  size_t colon = name.find(':');
  return colon != std::string::npos && colon < name.find('/');
}

qapi::BlockdevOptions options_for_file(const std::string& path) {
  qapi::BlockdevOptions options;
  options.select(qapi::BlockdevDriver::file);
  options.get_if<qapi::BlockdevOptionsFile>()->filename = path;
  options.read_only = true;
  return options;
}

Task<qapi::BlockdevDriver> probe(OpenContext& context, const std::string& path) {
  NodePtr node = co_await open_node(context.loop, context.layer, options_for_file(path));
  Backend user(context.layer);
  user.attach(context.loop, std::move(node), {Permission::consistent_read, kAllPermissions});
  std::array<std::byte, 8> start{};
  size_t size = std::min<uint64_t>(start.size(), user.length());
  Status status = co_await user.preadv(0, IoVector::buffer(start.data(), size));
  co_await user.close(context.loop);
  if (!status.ok())
    throw Error::from_errno(status.error_number(),
                            "Could not read image for determining its "
                            "format");
  bool qcow2 = load_be<uint32_t>(start.data()) == kMagic && load_be<uint32_t>(&start[4]) >= 2;
  co_return qcow2 ? qapi::BlockdevDriver::qcow2 : qapi::BlockdevDriver::raw;
}

}  // namespace

std::string resolve_backing_name(const std::string& name, const std::string& overlay) {
  if (name.rfind("file:", 0) == 0) return resolve_backing_name(name.substr(5), overlay);
  if (has_protocol(name))
    throw Error("Backing file '{}' is not a file name: name the node to use with 'backing'", name);
  if (name.starts_with('/')) return name;
  if (overlay.empty()) throw Error("Cannot use relative backing file names for '{}'", name);
  size_t slash = overlay.rfind('/');
  return slash == std::string::npos ? name : overlay.substr(0, slash + 1) + name;
}

qapi::BlockdevRef file_reference(const std::string& path) {
  return qapi::Box<qapi::BlockdevOptions>(options_for_file(path));
}

Task<qapi::BlockdevRef> backing_reference(OpenContext& context, std::string name,
                                          std::optional<std::string> format) {
  Edge* file = context.node.child("file");
  std::string path =
      resolve_backing_name(name, file != nullptr ? file->node().file_name().exact : "");
  qapi::BlockdevDriver driver{};
  if (format) {
    auto known = qapi::from_string<qapi::BlockdevDriver>(*format);
    if (!known) throw Error("Unknown driver '{}'", *format);
    driver = *known;
  } else {
    driver = co_await probe(context, path);
  }
  if (driver == qapi::BlockdevDriver::file) co_return file_reference(path);
  qapi::BlockdevOptions options;
  options.select(driver);
  options.read_only = true;
  qapi::BlockdevRef protocol = file_reference(path);
  if (auto* cow = options.get_if<qapi::BlockdevOptionsQcow2>())
    cow->file = std::move(protocol);
  else if (auto* raw = options.get_if<qapi::BlockdevOptionsRaw>())
    raw->file = std::move(protocol);
  else
    throw Error("Backing file format '{}' is not supported", qapi::to_string(driver));
  co_return qapi::Box<qapi::BlockdevOptions>(std::move(options));
}

}  // namespace strata::qcow2
