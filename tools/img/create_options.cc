// SPDX-License-Identifier: GPL-2.0-or-later
#include "tools/img/create_options.h"

#include <algorithm>

#include "block/drivers/filename.h"
#include "qapi/runtime/scalars.h"
#include "qapi/visit_block_create.h"

namespace strata::tools {
namespace {

using Kind = CreateOption::Kind;

constexpr CreateOption kSizeOption{"size", Kind::size, "Virtual disk size"};
constexpr CreateOption kFileOptions[]{
    {"extent_size_hint", Kind::size, "Extent size hint for the image file, 0 to disable"},
    {"nocow", Kind::flag, "Turn off copy-on-write (valid only on btrfs)"},
    {"preallocation", Kind::text, "Preallocation mode (allowed values: off, falloc, full)"},
    kSizeOption,
};

const DriverDescriptor* find_driver(const BlockLayer& layer, std::string_view name) {
  for (const DriverDescriptor* driver : layer.drivers())
    if (driver->format_name() == name) return driver;
  return nullptr;
}

std::string protocol_of(const std::string& filename) {
  return std::string(options_of_filename(filename).at("driver").get_string());
}

std::string value_text(const CreateOption& option, const std::string& text) {
  if (option.kind == Kind::size) {
    std::optional<uint64_t> size = qapi::parse_size(text);
    bool negative = text.size() > 1 && text[0] == '-' &&
                    text.find_first_not_of("0123456789", 1) == std::string::npos;
    if (negative) throw Error("Value '{}' is out of range for parameter '{}'", text, option.name);
    if (!size)
      throw Error("Parameter '{}' expects a non-negative number below 2^64", option.name)
          .hint(
              "Optional suffix k, M, G, T, P or E means kilo-, mega-, giga-, tera-, peta-\n"
              "and exabytes, respectively.\n");
    return std::to_string(*size);
  }
  if (option.kind == Kind::flag) {
    if (text != "on" && text != "off")
      throw Error("Parameter '{}' expects 'on' or 'off'", option.name);
  }
  return text;
}

qapi::BlockdevCreateOptions file_create_options(const CreateValues& values,
                                                const std::string& filename) {
  boost::json::object tree;
  tree["driver"] = "file";
  tree["filename"] = std::string(options_of_filename(filename).at("filename").get_string());
  tree["size"] = "0";
  for (const auto& [name, value] : values) {
    std::string key = name;
    std::replace(key.begin(), key.end(), '_', '-');
    tree[key] = value;
  }
  auto preallocation = values.find("preallocation");
  if (preallocation != values.end() &&
      !qapi::from_string<qapi::PreallocMode>(preallocation->second))
    throw Error("invalid parameter value: {}", preallocation->second);
  return qapi::from_keyval<qapi::BlockdevCreateOptions>(tree);
}

}  // namespace

std::vector<CreateOption> create_options(const BlockLayer& layer, const std::string& format,
                                         const std::string* filename) {
  const DriverDescriptor* driver = find_driver(layer, format);
  if (driver == nullptr) throw Error("Unknown file format '{}'", format);
  if (format != "raw" && driver->create_image == nullptr)
    throw Error("Format driver '{}' does not support image creation", format);
  std::vector<CreateOption> options{kSizeOption};
  if (filename == nullptr) return options;
  std::string protocol = protocol_of(*filename);
  const DriverDescriptor* below = find_driver(layer, protocol);
  if (below == nullptr || below->create_image == nullptr)
    throw Error("Protocol driver '{}' does not support image creation", protocol);
  options.assign(std::begin(kFileOptions), std::end(kFileOptions));
  return options;
}

void print_create_options(const std::vector<CreateOption>& options) {
  for (const CreateOption& option : options) {
    const char* type = option.kind == Kind::size     ? "size"
                       : option.kind == Kind::number ? "num"
                       : option.kind == Kind::flag   ? "bool (on/off)"
                                                     : "str";
    fmt::print("  {:<22} - {}\n", fmt::format("{}=<{}>", option.name, type), option.help);
  }
}

void parse_create_options(const std::vector<CreateOption>& known, const std::string& text,
                          CreateValues& values) {
  size_t at = 0;
  while (at < text.size()) {
    std::string item;
    for (; at < text.size(); ++at) {
      if (text[at] == ',') {
        if (at + 1 == text.size() || text[at + 1] != ',') break;
        ++at;
      }
      item += text[at];
    }
    ++at;
    size_t equals = item.find('=');
    std::string name = item.substr(0, equals);
    auto option = std::find_if(known.begin(), known.end(),
                               [&](const CreateOption& one) { return one.name == name; });
    if (option == known.end()) throw Error("Invalid parameter '{}'", name);
    values[name] = value_text(*option, equals == item.npos ? "on" : item.substr(equals + 1));
  }
}

std::string describe_create(const std::string& format, const std::vector<CreateOption>& known,
                            const CreateValues& values) {
  std::string text = "fmt=" + format;
  if (auto size = values.find("size"); size != values.end()) text += " size=" + size->second;
  // In the order in which the driver lists them, which is not that of the help.
  static constexpr const char* kOrder[]{"preallocation", "nocow", "extent_size_hint"};
  for (const char* name : kOrder)
    if (auto value = values.find(name); value != values.end())
      text += fmt::format(" {}={}", name, value->second);
  return text;
}

Task<void> create_image(Tool& tool, std::string filename, std::string format, CreateValues values) {
  const DriverDescriptor* below = find_driver(tool.layer(), protocol_of(filename));
  if (below == nullptr || below->create_image == nullptr)
    throw Error("Protocol driver '{}' does not support image creation", protocol_of(filename));
  qapi::BlockdevCreateOptions options = file_create_options(values, filename);
  co_await below->create_image(tool.loop(), tool.layer(), options);
}

}  // namespace strata::tools
