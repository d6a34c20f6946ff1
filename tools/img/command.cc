// SPDX-License-Identifier: GPL-2.0-or-later
#include "tools/img/command.h"

namespace strata::tools {

// A comma in a value is doubled, and so divides nothing.
bool is_help_option(std::string_view options) {
  std::string word;
  for (size_t at = 0; at <= options.size(); ++at) {
    if (at == options.size() || options[at] == ',') {
      if (at + 1 < options.size() && options[at + 1] == ',') {
        word += options[at++];
        continue;
      }
      if (word == "help" || word == "?") return true;
      word.clear();
    } else {
      word += options[at];
    }
  }
  return false;
}

Task<Backend*> Images::open(std::string name, ImageChoice how, boost::json::object more) {
  if (how.by_options && how.format) throw Error("--image-opts and --format are mutually exclusive");
  ImageSource source;
  source.options = std::move(more);
  std::optional<Error> failed;
  try {
    if (how.by_options)
      source.options = parse_image_options(name, "file");
    else
      source.filename = name;
    source.format = std::move(how.format);
    open_.push_back(co_await open_backend(tool_, std::move(source), how.flags));
  } catch (Error& error) {
    failed = std::move(error).prepend(fmt::format("Could not open '{}': ", name));
  }
  if (failed) throw *failed;
  co_return open_.back().get();
}

Backend& Images::adopt(std::unique_ptr<Backend> image) {
  open_.push_back(std::move(image));
  return *open_.back();
}

Backend& Images::adopt(NodePtr node, Permissions permissions) {
  auto image = std::make_unique<Backend>(tool_.layer());
  image->attach(tool_.loop(), std::move(node), permissions);
  return adopt(std::move(image));
}

// The nodes say themselves what was wrong. The latest first: it may stand on those before it.
Task<bool> Images::close_all() {
  bool written = true;
  for (auto at = open_.rbegin(); at != open_.rend(); ++at) {
    Backend& image = **at;
    if (!image.is_attached()) continue;
    if (image.node().is_writable() && !(co_await image.flush()).ok()) written = false;
    co_await image.close(tool_.loop());
  }
  open_.clear();
  co_return written;
}

}  // namespace strata::tools
