// SPDX-License-Identifier: GPL-2.0-or-later
#include "tools/io/shell.h"

#include <getopt.h>

#include <cstdio>

#include "block/graph/reopen.h"
#include "block/names/options.h"
#include "block/qcow2/qcow2.h"

namespace strata::tools {
namespace {

std::vector<std::string> split_words(std::string_view line) {
  std::vector<std::string> words;
  while (!line.empty()) {
    size_t end = line.find(' ');
    if (end != 0) words.emplace_back(line.substr(0, end));
    line.remove_prefix(end == line.npos ? line.size() : end + 1);
  }
  return words;
}

bool check_count(const Command& command, size_t count) {
  int given = static_cast<int>(count);
  bool too_many = command.max_arguments != -1 && given > command.max_arguments;
  if (given >= command.min_arguments && !too_many) return true;
  std::string expected;
  if (command.max_arguments == -1)
    expected = fmt::format("at least {}", command.min_arguments);
  else if (command.min_arguments == command.max_arguments)
    expected = fmt::format("{}", command.min_arguments);
  else
    expected = fmt::format("between {} and {}", command.min_arguments, command.max_arguments);
  fmt::print(stderr, "bad argument count {} to {}, expected {} arguments\n", given, command.name,
             expected);
  return false;
}

constexpr PermissionSet kChanges{Permission::write, Permission::write_unchanged,
                                 Permission::resize};

// The members of `changed` take the place of those in `options`, at every level, and that of others
// to which they are an alternative.
void override_options(boost::json::object& options, boost::json::object changed) {
  if (const boost::json::value* checks = changed.if_contains("overlap-check")) {
    if (!checks->is_object() || checks->get_object().contains("template"))
      options.erase("overlap-check");
  }
  bool shares_out = changed.contains("cache-size");
  if (shares_out) {
    options.erase("l2-cache-size");
    options.erase("refcount-cache-size");
  }
  for (auto& [key, value] : changed) {
    boost::json::value& old = options[key];
    if (value.is_object() && old.is_object())
      override_options(old.get_object(), std::move(value.get_object()));
    else
      old = std::move(value);
  }
  bool is_all_said = options.contains("l2-cache-size") && options.contains("refcount-cache-size");
  if (is_all_said && !shares_out) options.erase("cache-size");
}

// Throws Error for a change that no value of the option would make possible: what the schema would
// say of it does not help.
void check_changes(const Node& node, const boost::json::object& changed) {
  for (const auto& [key, value] : changed) {
    std::string_view name(key.data(), key.size());
    const Edge* edge = node.child(name);
    const boost::json::object* tree = value.if_object();
    if (edge != nullptr && tree != nullptr && edge->node().definer().get() == &node) {
      check_changes(edge->node(), *tree);
      continue;
    }
    bool names_child = tree == nullptr && (edge != nullptr || name == "backing");
    if (names_child || is_changeable(node.descriptor(), name)) continue;
    boost::json::object before = option_tree_of_json(current_options(node));
    if (name == "node-name" && value == boost::json::value(node.name())) continue;
    if (const auto* old = before.if_contains(key); old != nullptr && *old == value) continue;
    std::string path(name);
    for (const boost::json::value* at = &value; at->is_object() && !at->get_object().empty();) {
      path += "." + std::string(at->get_object().begin()->key());
      at = &at->get_object().begin()->value();
    }
    throw Error("Cannot change the option '{}'", path);
  }
}

}  // namespace

Arguments::Arguments(std::vector<std::string> words) : words_(std::move(words)) {
  for (std::string& word : words_) argv_.push_back(word.data());
  argv_.push_back(nullptr);
}

int Arguments::next_option(const char* options) noexcept {
  if (!started_) optind = 0;
  started_ = true;
  return ::getopt(static_cast<int>(words_.size()), argv_.data(), options);
}

std::string Arguments::option_value() const {
  return optarg;
}

size_t Arguments::left() const noexcept {
  return words_.size() - (started_ ? static_cast<size_t>(optind) : 1);
}

std::string Arguments::operator[](size_t index) const {
  return argv_[(started_ ? static_cast<size_t>(optind) : 1) + index];
}

void print_usage(const Command& command) {
  if (command.synopsis == nullptr)
    fmt::print("{} -- {}\n", command.name, command.summary);
  else
    fmt::print("{} {} -- {}\n", command.name, command.synopsis, command.summary);
}

bool print_usage(const Arguments& arguments) {
  print_usage(*find_command(arguments.name()));
  return false;
}

Task<bool> Shell::open(ImageSource source, OpenFlags flags) {
  if (image_) {
    log_error("file open already, try 'help close'");
    co_return false;
  }
  std::string what = source.filename ? " device " + *source.filename : "";
  std::optional<Error> failed;
  try {
    image_ = co_await open_backend(tool_, std::move(source), flags);
  } catch (const Error& error) {
    failed = error;
  }
  if (failed) report(fmt::format("can't open{}: ", what), *failed);
  co_return !failed;
}

Task<bool> Shell::close() {
  co_await background_.join();
  Status status;
  if (image_) {
    if (image_->node().is_writable()) status = co_await image_->flush();
    bool says_so_itself = qcow2::image_of(image_->node()) != nullptr;
    if (!status.ok() && !says_so_itself)
      log_error("Could not flush: {}", Error::describe_errno(status.error_number()));
    co_await image_->close(tool_.loop());
  }
  image_.reset();
  co_return status.ok();
}

Task<void> Shell::reopen(boost::json::object changed, std::optional<bool> writable) {
  Node& node = image_->node();
  check_changes(node, changed);
  const boost::json::value* read_only = changed.if_contains("read-only");
  if (image_->copies_on_read() && read_only != nullptr && *read_only == "on")
    throw Error("Can't set node '{}' to r/o with copy-on-read enabled", node.name());
  boost::json::object options = option_tree_of_json(current_options(node));
  override_options(options, std::move(changed));
  options["node-name"] = node.name();
  if (!writable.value_or(true)) {
    Permissions permissions = image_->root().permissions();
    permissions.needed = permissions.needed.without(kChanges);
    image_->set_permissions(tool_.loop(), permissions);
  }
  std::vector<NewOptions> nodes;
  nodes.push_back({image_->root().node_ptr(), read_options(tool_.layer(), std::move(options))});
  co_await reopen_nodes(tool_.loop(), tool_.layer(), std::move(nodes));
}

// Whether the command can run at all, as far as that can be told without its options.
bool Shell::prepare(const Command& command, size_t arguments) {
  if (command.needs_image && !image_) {
    std::fputs("no file open, try 'help open'\n", stderr);
    return false;
  }
  if (!check_count(command, arguments)) return false;
  if (!command.needs_image || command.permissions.empty()) return true;
  Permissions permissions = image_->root().permissions();
  if (permissions.needed.has_all(command.permissions)) return true;
  permissions.needed |= command.permissions;
  try {
    image_->set_permissions(tool_.loop(), permissions);
  } catch (const Error& error) {
    report(error);
    return false;
  }
  return true;
}

Task<void> Shell::hear_background() {
  if (background_.running() != 0) co_await tool_.context().yield();
}

Task<bool> Shell::execute(std::string_view line) {
  std::vector<std::string> words = split_words(line);
  if (words.empty()) co_return true;
  const Command* command = find_command(words[0]);
  if (command == nullptr) {
    fmt::print(stderr, "command \"{}\" not found\n", words[0]);
    co_return false;
  }
  if (!prepare(*command, words.size() - 1)) co_return false;
  Arguments arguments(std::move(words));
  co_return co_await command->run(*this, arguments);
}

}  // namespace strata::tools
