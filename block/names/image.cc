// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/names/image.h"

#include <array>
#include <span>

#include "block/base/bytes.h"
#include "block/base/error.h"
#include "block/io/backend.h"
#include "block/names/filename.h"
#include "block/names/legacy_options.h"
#include "block/names/options.h"
#include "block/names/probe.h"
#include "qapi/runtime/json_parser.h"

namespace strata {
namespace {

using boost::json::object;

constexpr std::string_view kJsonPrefix = "json:";

std::string member_string(const object& options, std::string_view key) {
  const boost::json::value* value = options.if_contains(key);
  if (value == nullptr || !value->is_string()) return {};
  return std::string(value->get_string());
}

object parse_json_name(std::string_view name) {
  boost::json::value value;
  try {
    value = qapi::parse_json(name.substr(kJsonPrefix.size()));
  } catch (Error& error) {
    throw std::move(error).prepend("Could not parse the JSON options: ");
  }
  if (!value.is_object()) throw Error("Invalid JSON object given");
  return option_tree_of_json(value.get_object());
}

// What a file name says goes to the node that it is about, below the formats and filters that the
// options have.
void add_protocol(const BlockLayer& layer, object& options, object protocol) {
  std::string name = member_string(options, "driver");
  const DriverDescriptor* driver = find_driver(layer, name);
  bool is_blkdebug = name == "blkdebug";
  bool takes_name = name.empty() || (driver != nullptr && driver->is_protocol && !is_blkdebug);
  if (!takes_name && name != member_string(protocol, "driver")) {
    add_protocol(layer, child_of(options, is_blkdebug ? "image" : "file"), std::move(protocol));
    return;
  }
  if (!name.empty()) protocol.erase("driver");
  boost::json::value* image = protocol.if_contains("image");  // below a filter that the name has
  if (image != nullptr && image->is_object() && options.contains("image")) {
    add_protocol(layer, child_of(options, "image"), image->get_object());
    protocol.erase("image");
  }
  merge_options(options, protocol);
}

// A name alone leaves open which format the file has.
void add_filename(const BlockLayer& layer, object& options, const std::string& name) {
  object& where = options.contains("driver") ? options : child_of(options, "file");
  add_protocol(layer, where, options_of_filename(name));
}

using Header = std::array<std::byte, kProbeBytes>;

Task<void> read_bytes(MainLoop& loop, BlockLayer& layer, NodePtr file, uint64_t offset,
                      std::span<std::byte> into) {
  Backend reader(layer);
  reader.attach(loop, std::move(file), {{}, kAllPermissions});
  Status status = co_await reader.preadv(offset, IoVector::buffer(into.data(), into.size()));
  co_await reader.close(loop);
  if (!status.ok())
    throw Error::from_errno(status.error_number(),
                            "Could not read image for determining its format");
}

// The first bytes of the file, as many as it has. Throws Error.
Task<size_t> read_header(MainLoop& loop, BlockLayer& layer, NodePtr file, Header& header) {
  size_t size = static_cast<size_t>(std::min<uint64_t>(file->length(), header.size()));
  co_await read_bytes(loop, layer, std::move(file), 0, {header.data(), size});
  co_return size;
}

// An Apple disk image is known by its name and by a trailer.
Task<bool> is_dmg(MainLoop& loop, BlockLayer& layer, NodePtr file) {
  constexpr std::string_view kTrailer = "koly";
  if (!file->file_name().exact.ends_with(".dmg")) co_return false;
  std::array<std::byte, 2 * kSectorSize> end{};
  size_t size = static_cast<size_t>(std::min<uint64_t>(file->length(), end.size()));
  co_await read_bytes(loop, layer, file, file->length() - size, {end.data(), size});
  std::string_view text(reinterpret_cast<const char*>(end.data()), size);
  co_return text.find(kTrailer) != text.npos;
}

}  // namespace

const DriverDescriptor* find_driver(const BlockLayer& layer, std::string_view name) noexcept {
  for (const DriverDescriptor* driver : layer.drivers())
    if (driver->format_name() == name) return driver;
  return nullptr;
}

object resolve_image_name(const BlockLayer& layer, const ImageName& name) {
  object options = name.options;
  std::optional<std::string> filename = name.filename;
  if (name.format && !options.contains("driver")) options["driver"] = *name.format;
  if (filename && filename->starts_with(kJsonPrefix)) {
    merge_options(options, parse_json_name(*filename));
    filename.reset();
  }
  if (options.contains("driver")) {
    std::string driver = member_string(options, "driver");
    if (find_driver(layer, driver) == nullptr) throw Error("Unknown driver '{}'", driver);
  }
  if (filename) add_filename(layer, options, *filename);
  name_drivers_of_children(options);
  modernise_options(options);
  if (!options.contains("driver") && !options.contains("file"))
    throw Error("Must specify either driver or file");
  return options;
}

Task<std::string_view> guess_format(MainLoop& loop, BlockLayer& layer, NodePtr file) {
  Header header{};
  size_t size = co_await read_header(loop, layer, file, header);
  std::string_view format = probe_format({header.data(), size});
  bool named_dmg = format == "raw" && co_await is_dmg(loop, layer, std::move(file));
  if (named_dmg) format = "dmg";
  if (find_driver(layer, format) == nullptr)
    throw Error("Image is in {} format, which is not built", format);
  co_return format;
}

bool lacks_encryption_format(const object& options) {
  if (member_string(options, "driver") != "qcow2" || !options.contains("file")) return false;
  const boost::json::value* encrypt = options.if_contains("encrypt");
  if (encrypt == nullptr || !encrypt->is_object()) return false;
  std::string format = member_string(encrypt->get_object(), "format");
  return format != "aes" && format != "luks";
}

Task<void> name_encryption(MainLoop& loop, BlockLayer& layer, NodePtr file, object& options) {
  constexpr size_t kMethodOffset = 32;  // crypt_method of the qcow2 header
  Header header{};
  co_await read_header(loop, layer, std::move(file), header);
  auto method = load_be<uint32_t>(header, kMethodOffset);
  std::string_view has = method == 1 ? "aes" : method == 2 ? "luks" : "";
  object& encrypt = child_of(options, "encrypt");
  if (encrypt.contains("format")) {
    std::string asked = member_string(encrypt, "format");
    if (has.empty())
      throw Error("No encryption in image header, but options specified format '{}'", asked);
    throw Error("Header reported '{}' encryption format but options specify '{}'", has, asked);
  }
  if (has.empty())
    options.erase("encrypt");
  else
    encrypt["format"] = has;
}

}  // namespace strata
