// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/names/options.h"

#include <fmt/format.h>
#include <boost/json/array.hpp>

#include <boost/json/serialize.hpp>
#include <optional>
#include <string>

#include "block/names/filename.h"
#include "qapi/runtime/scalars.h"
#include "qapi/visit_blockdev.h"

namespace strata {
namespace {

using boost::json::object;

// What stands between the first pair of quotes behind `start`, if `text` starts and ends so.
std::optional<std::string_view> quoted(std::string_view text, std::string_view start,
                                       std::string_view end) {
  if (text.size() < start.size() + end.size() || !text.starts_with(start) || !text.ends_with(end))
    return std::nullopt;
  return text.substr(start.size(), text.size() - start.size() - end.size());
}

boost::json::value stringify(const boost::json::value& value) {
  if (const object* members = value.if_object()) return option_tree_of_json(*members);
  if (const boost::json::array* elements = value.if_array()) {
    boost::json::array out;
    for (const boost::json::value& element : *elements) out.push_back(stringify(element));
    return out;
  }
  if (const bool* flag = value.if_bool()) return *flag ? "on" : "off";
  if (value.is_string() || value.is_null()) return value;
  if (const double* number = value.if_double())
    return boost::json::string(fmt::format("{:.17g}", *number));
  return boost::json::string(boost::json::serialize(value));
}

const object* find_parent(const object& options, std::string_view path) {
  const object* at = &options;
  while (!path.empty()) {
    size_t dot = path.find('.');
    const boost::json::value* next = at->if_contains(path.substr(0, dot));
    if (next == nullptr || !next->is_object()) return nullptr;
    at = &next->get_object();
    path.remove_prefix(dot == path.npos ? path.size() : dot + 1);
  }
  return at;
}

// Integers that are no sizes.
bool is_plain_number(std::string_view name) noexcept {
  for (std::string_view one :
       {"aio-max-batch", "cache-clean-interval", "errno", "latency-ns", "new_state", "open-timeout",
        "reconnect-delay", "sector", "state", "x-check-cache-dropped"})
    if (name == one) return true;
  return false;
}

// Writes out the first size with a suffix that a member `name` has anywhere; false if there is
// none. Throws Error for one that is no size.
bool expand_size(object& options, std::string_view name) {
  for (auto& [key, value] : options) {
    if (object* child = value.if_object()) {
      if (expand_size(*child, name)) return true;
    } else if (key == name && value.is_string()) {
      std::string text(value.get_string());
      std::optional<uint64_t> size = qapi::parse_size(text);
      if (size && text == std::to_string(*size)) continue;
      if (!size) throw qapi::not_a_size(name, text);
      value = std::to_string(*size);
      return true;
    }
  }
  return false;
}

// The node that the option at `path` belongs to, and how far into the path its own options begin.
std::pair<const object*, size_t> find_owner(const object& options, std::string_view path) {
  std::pair<const object*, size_t> owner{&options, 0};
  for (size_t dot = path.find('.'); dot != path.npos; dot = path.find('.', dot + 1)) {
    const object* parent = find_parent(options, path.substr(0, dot));
    if (parent != nullptr && parent->contains("driver")) owner = {parent, dot + 1};
  }
  return owner;
}

std::string describe_unexpected(const BlockLayer& layer, const object& options,
                                std::string_view path) {
  auto [owner, start] = find_owner(options, path);
  std::string driver;
  if (owner->contains("driver") && owner->at("driver").is_string())
    driver = owner->at("driver").get_string();
  std::string name(path.substr(start));
  // Of a tree the first member is named.
  for (const object* tree = find_parent(options, path); tree != nullptr && !tree->empty();) {
    name += '.';
    name += tree->begin()->key();
    tree = tree->begin()->value().if_object();
  }
  bool is_protocol = false;
  for (const DriverDescriptor* known : layer.drivers())
    if (known->format_name() == driver) is_protocol = known->is_protocol;
  return fmt::format("Block {} '{}' {} support the option '{}'",
                     is_protocol ? "protocol" : "format", driver,
                     is_protocol ? "doesn't" : "does not", name);
}

// What is wrong with an address is told without its own name.
std::optional<Error> describe_server_error(std::string_view text) {
  size_t at = text.find("server.");
  bool whole = at != text.npos && (text[at - 1] == '\'' || text[at - 1] == '.');
  if (!text.starts_with("Parameter '") || !whole) return std::nullopt;
  return Error("Parameter '{}", text.substr(at + 7));
}

// Of words that each driver reads by itself the value is told, of switches the driver's own name.
std::optional<Error> describe_value_error(const object& options, std::string_view text) {
  for (std::string_view name : {"aio", "detect-zeroes", "event", "iotype", "locking"})
    if (auto value = quoted(text, fmt::format("Parameter '{}' does not accept value '", name), "'"))
      return Error("invalid parameter value: {}", *value);
  if (auto path = quoted(text, "Parameter '", "' expects 'on' or 'off'"))
    return Error("Parameter '{}' expects 'on' or 'off'",
                 path->substr(find_owner(options, *path).second));
  return std::nullopt;
}

// "Parameter 'a.file' is missing"
std::optional<std::string_view> missing_child(std::string_view text) {
  auto path = quoted(text, "Parameter '", "' is missing");
  if (!path) return std::nullopt;
  std::string_view name = path->substr(path->rfind('.') + 1);
  if (name != "file" && name != "image") return std::nullopt;
  return name;
}

// "Invalid parameter type for 'a.b', expected: object"
std::optional<std::string_view> type_complaint(std::string_view text) {
  constexpr std::string_view kStart = "Invalid parameter type for '";
  if (!text.starts_with(kStart)) return std::nullopt;
  text.remove_prefix(kStart.size());
  return text.substr(0, text.find('\''));
}

Error describe_option_error(const BlockLayer& layer, const object& options, const Error& error) {
  std::string_view text = error.text();
  if (auto about_server = describe_server_error(text)) return *std::move(about_server);
  if (auto about_value = describe_value_error(options, text)) return *std::move(about_value);
  if (auto path = quoted(text, "Parameter '", "' is unexpected"))
    return Error("{}", describe_unexpected(layer, options, *path));
  if (auto name = quoted(text, "Parameter 'driver' does not accept value '", "'"))
    return Error("Unknown driver '{}'", *name);
  if (quoted(text, "Parameter 'inject-error.", ".event' is missing") ||
      quoted(text, "Parameter 'set-state.", ".event' is missing"))
    return Error("Missing event name for rule");
  if (auto child = missing_child(text)) {
    Error missing("A block device must be specified for \"{}\"", *child);
    if (text.starts_with("Parameter 'backing."))
      return std::move(missing).prepend("Could not open backing file: ");
    return missing;
  }
  if (auto path = quoted(text, "Parameter '", "driver' is missing");
      path && (path->empty() || path->ends_with('.')))
    return Error("Must specify either driver or file");
  // A tree where there should be none, or the other way around.
  if (auto path = quoted(text, "Parameters '", ".*' are unexpected"))
    return Error("{}", describe_unexpected(layer, options, *path));
  if (auto path = type_complaint(text))
    return Error("{}", describe_unexpected(layer, options, *path));
  if (auto path = quoted(text, "Parameter '", "filename' is missing")) {
    const object* owner =
        find_parent(options, path->substr(0, path->empty() ? 0 : path->size() - 1));
    if (owner != nullptr && owner->contains("driver") && owner->at("driver").is_string())
      return Error("The '{}' block driver requires a file name",
                   std::string_view(owner->at("driver").get_string()));
  }
  return error;
}

// Members "0", "1", ... and no others are the elements of an array.
void make_arrays(boost::json::value& value) {
  object* tree = value.if_object();
  if (tree == nullptr) return;
  for (auto& [key, member] : *tree) make_arrays(member);
  boost::json::array elements;
  for (size_t i = 0; i < tree->size(); ++i) {
    boost::json::value* element = tree->if_contains(std::to_string(i));
    if (element == nullptr) return;
    elements.push_back(*element);
  }
  if (!elements.empty()) value = std::move(elements);
}

constexpr std::string_view kOverlapCheck = "overlap-check";
// Of a tree: what was said of the whole beside its members.
constexpr std::string_view kWhole;

// "overlap-check=constant,overlap-check.main-header=off": the first is the template.
void name_template(object& checks) {
  boost::json::value whole = checks.at(kWhole);
  checks.erase(kWhole);
  const boost::json::value* given = checks.if_contains("template");
  if (given != nullptr && *given != whole)
    throw Error(
        "Conflicting values for qcow2 options 'overlap-check' ('{}') and 'overlap-check.template' "
        "('{}')",
        std::string_view(whole.as_string()), std::string_view(given->as_string()));
  checks["template"] = std::move(whole);
}

bool means_a_node(std::string_view key) noexcept {
  for (std::string_view one :
       {"backing", "bottom", "data-file", "file", "header", "image", "raw", "target", "test"})
    if (key == one) return true;
  return false;
}

// Nodes that are named are not described as well.
void settle_wholes(object& options) {
  for (auto& [key, member] : options) {
    object* tree = member.if_object();
    if (tree == nullptr) continue;
    try {
      if (tree->contains(kWhole) && key == kOverlapCheck) name_template(*tree);
      if (tree->contains(kWhole) && means_a_node(key))
        throw Error(
            "Cannot reference an existing block device with additional options or a new filename");
      if (tree->contains(kWhole)) throw Error("Cannot mix scalar and non-scalar keys");
      settle_wholes(*tree);
    } catch (Error& error) {
      if (key == "backing") throw std::move(error).prepend("Could not open backing file: ");
      throw;
    }
  }
}

void check_overlap_checks(const object& options) {
  for (const auto& [key, member] : options) {
    const boost::json::value* mode = &member;
    if (const object* tree = member.if_object()) {
      check_overlap_checks(*tree);
      mode = key == kOverlapCheck ? tree->if_contains("template") : nullptr;
    }
    if (key != kOverlapCheck || mode == nullptr || !mode->is_string()) continue;
    std::string_view name(mode->get_string());
    if (name == "none" || name == "constant" || name == "cached" || name == "all") continue;
    throw Error(
        "Unsupported value '{}' for qcow2 option 'overlap-check'. Allowed are any of the "
        "following: none, constant, cached, all",
        name);
  }
}

}  // namespace

void set_option(object& options, std::string_view key, std::string_view value) {
  size_t dot = key.find('.');
  boost::json::value* before = options.if_contains(key.substr(0, dot));
  bool is_tree = before != nullptr && before->is_object();
  if (dot == key.npos) {
    (is_tree ? before->get_object()[kWhole] : options[key]) = std::string(value);
    return;
  }
  if (before != nullptr && !is_tree) *before = object{{kWhole, *before}};
  set_option(child_of(options, key.substr(0, dot)), key.substr(dot + 1), value);
}

object option_tree_of_json(const object& json) {
  object tree;
  for (const auto& [key, value] : json) {
    boost::json::value text = stringify(value);
    if (text.is_object())
      merge_options(child_of(tree, key), text.get_object());
    else if (text.is_string())
      set_option(tree, key, text.get_string());
    else
      tree[key] = std::move(text);
  }
  return tree;
}

void merge_options(object& options, const object& defaults) {
  for (const auto& [key, value] : defaults) {
    boost::json::value* mine = options.if_contains(key);
    if (mine == nullptr)
      options[key] = value;
    else if (mine->is_object() && value.is_object())
      merge_options(mine->get_object(), value.get_object());
  }
}

object& child_of(object& options, std::string_view key) {
  boost::json::value& value = options[key];
  if (!value.is_object()) value = object();
  return value.get_object();
}

void name_drivers_of_children(object& options) {
  for (auto& [key, value] : options) {
    object* child = value.if_object();
    if (child == nullptr) continue;
    name_drivers_of_children(*child);
    if (child->contains("driver") || !child->contains("filename")) continue;
    boost::json::value name = child->at("filename");
    if (!name.is_string()) continue;
    child->erase("filename");
    merge_options(*child, options_of_path(std::string(name.get_string())));
  }
}

qapi::BlockdevOptions read_options(const BlockLayer& layer, object options) {
  settle_wholes(options);
  for (auto& [key, value] : options) make_arrays(value);
  check_overlap_checks(options);
  for (;;) {
    try {
      return qapi::from_keyval<qapi::BlockdevOptions>(options);
    } catch (const Error& error) {
      auto path = quoted(error.text(), "Parameter '", "' expects integer");
      if (!path) throw describe_option_error(layer, options, error);
      std::string_view name = path->substr(path->rfind('.') + 1);
      if (is_plain_number(name)) throw Error("Parameter '{}' expects a number", name);
      if (!expand_size(options, name)) throw describe_option_error(layer, options, error);
    }
  }
}

}  // namespace strata
