// SPDX-License-Identifier: GPL-2.0-or-later
//
// From the values behind -o to a new image: the protocol's file, the data file if there is one, and
// what the format writes into them.
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>

#include "block/io/backend.h"
#include "block/names/filename.h"
#include "block/names/image.h"
#include "block/names/options.h"
#include "qapi/visit_block_create.h"
#include "tools/common/image.h"
#include "tools/img/create_options.h"

namespace strata::tools {
namespace {

using boost::json::object;

bool is_in(std::span<const CreateOption> table, std::string_view name) noexcept {
  return std::any_of(table.begin(), table.end(),
                     [&](const CreateOption& option) { return option.name == name; });
}

// The schema's name of an option.
std::string schema_name(std::string name) {
  std::replace(name.begin(), name.end(), '_', '-');
  return name;
}

void rename(object& tree, std::string_view from, std::string_view to) {
  if (!tree.contains(from)) return;
  tree[to] = tree.at(from);
  tree.erase(from);
}

void replace_value(object& tree, std::string_view key, std::string_view from, std::string_view to) {
  boost::json::value* value = tree.if_contains(key);
  if (value != nullptr && value->is_string() && value->get_string() == from)
    *value = std::string(to);
}

std::string rounded_size(const CreateValues& values) {
  auto size = values.find("size");
  if (size == values.end()) return "0";
  uint64_t bytes = std::stoull(size->second);
  return std::to_string(bytes > UINT64_MAX - kSectorSize ? bytes : align_up(bytes, kSectorSize));
}

void translate_qcow2(object& tree) {
  if (tree.contains("encryption")) {
    if (tree.contains("encrypt") && tree.at("encrypt").get_object().contains("format"))
      throw Error("'encrypt.format' and its alias 'encryption' can't be used at the same time");
    bool on = tree.at("encryption").get_string() == "on";
    tree.erase("encryption");
    if (on) child_of(tree, "encrypt")["format"] = "aes";
  }
  if (tree.contains("encrypt"))
    replace_value(tree.at("encrypt").get_object(), "format", "aes", "qcow");
  rename(tree, "compat", "version");
  replace_value(tree, "version", "0.10", "v2");
  replace_value(tree, "version", "1.1", "v3");
}

// A header on its own, for data that lies elsewhere.
void translate_luks(object& tree) {
  if (!tree.contains("detached-header")) return;
  bool detached = tree.at("detached-header").get_string() == "on";
  tree.erase("detached-header");
  if (detached) rename(tree, "file", "header");
}

class ImageMaker {
 public:
  ImageMaker(Tool& tool, std::string filename, std::string format, CreateValues values)
      : tool_(tool),
        filename_(std::move(filename)),
        format_(std::move(format)),
        values_(std::move(values)),
        protocol_(options_of_filename(filename_)) {}

  Task<void> make() {
    const DriverDescriptor* format = find_driver(tool_.layer(), format_);
    bool is_format = format != nullptr && format->create_image != nullptr && !format->is_protocol;
    CreateValues below = take_protocol_values(is_format);
    co_await make_file(filename_, below);
    if (!is_format) co_return;
    std::exception_ptr failed;
    try {
      co_await make_format(*format, below);
    } catch (...) {
      failed = std::current_exception();
    }
    if (!failed) co_return;
    remove(filename_);
    if (made_data_file_) remove(values_.at("data_file"));
    std::rethrow_exception(failed);
  }

 private:
  // What the format does not take is the protocol's.
  CreateValues take_protocol_values(bool is_format) {
    if (!is_format) return values_;
    CreateValues below;
    std::span<const CreateOption> own = create_table(format_);
    for (auto value = values_.begin(); value != values_.end();) {
      if (is_in(own, value->first) || is_taken_silently(value->first)) {
        ++value;
        continue;
      }
      below.insert(*value);
      value = values_.erase(value);
    }
    return below;
  }

  // Room for the whole of a LUKS volume is made once its header's size is known.
  bool is_taken_silently(std::string_view name) const noexcept {
    return format_ == "luks" && name == "preallocation";
  }

  Task<void> make_file(std::string name, CreateValues values) {
    object tree = options_of_filename(name);
    std::string protocol(tree.at("driver").get_string());
    const DriverDescriptor* driver = find_driver(tool_.layer(), protocol);
    if (driver == nullptr || create_table(protocol).empty())
      throw Error("Protocol driver '{}' does not support image creation", protocol);
    tree["size"] = rounded_size(values);
    values.erase("size");
    if (driver->create_image == nullptr) co_return co_await use_existing(name, tree, values);
    for (const auto& [key, value] : values) tree[schema_name(key)] = value;
    if (auto mode = values.find("preallocation");
        mode != values.end() && !qapi::from_string<qapi::PreallocMode>(mode->second))
      throw Error("invalid parameter value: {}", mode->second);
    auto options = qapi::from_keyval<qapi::BlockdevCreateOptions>(tree);
    co_await driver->create_image(tool_.loop(), tool_.layer(), options);
  }

  // A device or an export: it has to be large enough, and must not look like what it held before.
  Task<void> use_existing(std::string name, object tree, CreateValues values) {
    if (auto mode = values.find("preallocation"); mode != values.end() && mode->second != "off")
      throw Error("Unsupported preallocation mode '{}'", mode->second);
    uint64_t size = std::stoull(std::string(tree.at("size").get_string()));
    std::string protocol(tree.at("driver").get_string());
    std::optional<Error> failed;
    std::unique_ptr<Backend> target;
    try {
      ImageSource source{.filename = name, .format = protocol, .options = {}};
      target = co_await open_backend(tool_, std::move(source), {.writable = true});
    } catch (Error& error) {
      failed = std::move(error).prepend(
          fmt::format("Protocol driver '{}' does not support creating new images, so an existing "
                      "image must be selected as the target; however, opening the given target as "
                      "an existing image failed: ",
                      protocol));
    }
    if (failed) throw *failed;
    Status status;
    try {
      if (target->length() < size) co_await target->truncate(size, {.exact = false});
    } catch (const Error& error) {
      failed = error;
    }
    uint64_t start = std::min<uint64_t>(target->length(), kSectorSize);
    if (!failed && start != 0) status = co_await target->pwrite_zeroes(0, start);
    co_await target->close(tool_.loop());
    if (failed) throw *failed;
    if (!status.ok())
      throw Error::from_errno(status.error_number(),
                              "Failed to clear the new image's first sector");
  }

  Task<void> make_format(const DriverDescriptor& format, CreateValues below) {
    object tree;
    tree["driver"] = format_;
    tree["file"] = protocol_;
    for (const auto& [name, value] : values_) set_option(tree, schema_name(name), value);
    tree["size"] = rounded_size(values_);
    if (format_ == "qcow2") translate_qcow2(tree);
    if (format_ == "luks") translate_luks(tree);
    if (values_.contains("data_file")) {
      co_await make_data_file(below);
      tree["data-file"] = file_tree(values_.at("data_file"));
    }
    auto options = qapi::from_keyval<qapi::BlockdevCreateOptions>(tree);
    co_await format.create_image(tool_.loop(), tool_.layer(), options);
  }

  // The image will record a name, and a name of a file is all that it may be.
  Task<void> make_data_file(CreateValues below) {
    const std::string& name = values_.at("data_file");
    std::string driver(options_of_filename(name).at("driver").get_string());
    if (driver != "file" && driver != "host_device")
      throw Error("'{}' does not name a file, which a data file has to be", name);
    co_await make_file(name, below);
    made_data_file_ = true;
  }

  static object file_tree(const std::string& name) { return options_of_filename(name); }

  static void remove(const std::string& name) {
    object tree = options_of_filename(name);
    if (tree.at("driver").get_string() != "file") return;
    std::string path(tree.at("filename").get_string());
    struct stat status;
    if (::lstat(path.c_str(), &status) == 0 && S_ISREG(status.st_mode)) ::unlink(path.c_str());
  }

  Tool& tool_;
  std::string filename_;
  std::string format_;
  CreateValues values_;
  object protocol_;
  bool made_data_file_ = false;
};

}  // namespace

Task<void> create_image(Tool& tool, std::string filename, std::string format, CreateValues values) {
  ImageMaker maker(tool, std::move(filename), std::move(format), std::move(values));
  co_await maker.make();
}

}  // namespace strata::tools
