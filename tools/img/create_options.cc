// SPDX-License-Identifier: GPL-2.0-or-later
#include "tools/img/create_options.h"

#include <algorithm>

#include "block/names/filename.h"
#include "block/names/image.h"
#include "qapi/runtime/scalars.h"

namespace strata::tools {
namespace {

using Kind = CreateOption::Kind;

bool is_decimal(std::string_view text) noexcept {
  return !text.empty() && text.find_first_not_of("0123456789") == text.npos;
}

std::string size_text(const CreateOption& option, const std::string& text) {
  std::optional<uint64_t> size = qapi::parse_size(text);
  if (!size) throw qapi::not_a_size(option.name, text);
  return std::to_string(*size);
}

std::string value_text(const CreateOption& option, const std::string& text) {
  if (option.kind == Kind::size) return size_text(option, text);
  if (option.kind == Kind::flag && text != "on" && text != "off")
    throw Error("Parameter '{}' expects 'on' or 'off'", option.name);
  if (option.kind == Kind::number &&
      !is_decimal(std::string_view(text).substr(text.starts_with('-') ? 1 : 0)))
    throw Error("Parameter '{}' expects a number", option.name);
  return text;
}

// Takes an item off the list; a comma in it is doubled.
std::string next_item(std::string_view& list) {
  std::string item;
  size_t at = 0;
  for (; at < list.size(); ++at) {
    if (list[at] == ',') {
      if (at + 1 == list.size() || list[at + 1] != ',') break;
      ++at;
    }
    item += list[at];
  }
  list.remove_prefix(std::min(at + 1, list.size()));
  return item;
}

const CreateOption* find_option(const std::vector<CreateOption>& known,
                                std::string_view name) noexcept {
  auto found = std::find_if(known.begin(), known.end(),
                            [&](const CreateOption& one) { return one.name == name; });
  return found != known.end() ? &*found : nullptr;
}

}  // namespace

bool has_option(const std::vector<CreateOption>& options, std::string_view name) noexcept {
  return find_option(options, name) != nullptr;
}

std::vector<CreateOption> create_options(const BlockLayer& layer, const std::string& format,
                                         const std::string* filename) {
  const DriverDescriptor* driver = find_driver(layer, format);
  if (driver == nullptr) throw Error("Unknown file format '{}'", format);
  std::span<const CreateOption> table = create_table(format);
  if (table.empty() || (format != "raw" && driver->create_image == nullptr))
    throw Error("Format driver '{}' does not support image creation", format);
  std::vector<CreateOption> options(table.begin(), table.end());
  if (filename == nullptr) return options;
  std::string protocol(options_of_filename(*filename).at("driver").get_string());
  std::span<const CreateOption> below = create_table(protocol);
  if (find_driver(layer, protocol) == nullptr || below.empty())
    throw Error("Protocol driver '{}' does not support image creation", protocol);
  for (const CreateOption& option : below)
    if (!has_option(options, option.name)) options.push_back(option);
  return options;
}

void print_create_options(std::vector<CreateOption> options) {
  std::sort(options.begin(), options.end(), [](const CreateOption& a, const CreateOption& b) {
    return std::string_view(a.name) < b.name;
  });
  for (const CreateOption& option : options) {
    const char* type = option.kind == Kind::size     ? "size"
                       : option.kind == Kind::number ? "num"
                       : option.kind == Kind::flag   ? "bool (on/off)"
                                                     : "str";
    fmt::print("  {:<22} - {}\n", fmt::format("{}=<{}>", option.name, type), option.help);
  }
}

void print_create_help(const BlockLayer& layer, const std::string& format,
                       const std::string* filename) {
  std::vector<CreateOption> options = create_options(layer, format, filename);
  fmt::print("Supported {}options:\n", filename == nullptr ? format + " " : "");
  print_create_options(std::move(options));
  if (filename == nullptr)
    fmt::print(
        "\nThe protocol level may support further options.\n"
        "Specify the target filename to include those options.\n");
}

void append_option_list(std::string& all, const std::string& more) {
  size_t commas = more.size() - std::min(more.size(), more.find_last_not_of(',') + 1);
  if (more.empty() || more.front() == ',' || commas % 2 != 0)
    throw Error("Invalid option list: {}", more);
  if (!all.empty()) all += ',';
  all += more;
}

Option option_list_option(std::string_view spelling, std::string& list) {
  return {spelling, "options of the format as NAME=VALUE,...; \"help\" lists them",
          [&list](const std::string& more) { append_option_list(list, more); }};
}

void parse_create_options(const std::vector<CreateOption>& known, const std::string& text,
                          CreateValues& values) {
  for (std::string_view rest = text; !rest.empty();) {
    std::string item = next_item(rest);
    size_t equals = item.find('=');
    std::string name = item.substr(0, equals);
    std::string value = equals == item.npos ? "on" : item.substr(equals + 1);
    const CreateOption* option = find_option(known, name);
    if (option == nullptr && equals == item.npos && name.starts_with("no")) {
      option = find_option(known, name.substr(2));
      value = "off";
    }
    if (option == nullptr) throw Error("Invalid parameter '{}'", name);
    if (equals == item.npos && option->kind == Kind::text) value = "on";
    values[option->name] = value_text(*option, value);
  }
}

std::string describe_create(const std::string& format, const std::vector<CreateOption>& known,
                            const CreateValues& values) {
  std::string text = "fmt=" + format;
  for (const CreateOption& option : known) {
    auto value = values.find(option.name);
    if (value == values.end() && option.default_text == nullptr) continue;
    text += fmt::format(" {}=", option.name);
    for (char c : value != values.end() ? value->second : std::string(option.default_text)) {
      if (c == ',') text += c;
      text += c;
    }
  }
  return text;
}

}  // namespace strata::tools
