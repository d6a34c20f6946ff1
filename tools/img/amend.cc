// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/qcow2/amend.h"

#include <cstdio>
#include <utility>

#include "block/crypto/amend.h"
#include "block/qcow2/image.h"
#include "block/qcow2/qcow2.h"
#include "tools/img/command.h"
#include "tools/img/create_options.h"
#include "tools/img/encryption.h"
#include "tools/img/progress.h"

namespace strata::tools {
namespace {

constexpr char kEncrypt[] = "encrypt.";

struct Request {
  ImageChoice image{.flags = {.writable = true, .discard_unmap = true}};
  std::string options;
  bool progress = false;
  bool quiet = false;
  bool force = false;
};

std::vector<std::string> parse(Words& words, Request& request) {
  std::vector<std::string> rest = words.parse({
      option_list_option("-o, --options LIST", request.options),
      format_option(request.image),
      image_options_option(request.image),
      cache_option(request.image),
      {"--force", "do what cannot be undone, such as erasing the last key", set(request.force)},
      progress_option(request.progress),
      quiet_option(request.quiet),
  });
  if (request.options.empty()) throw UsageError{"Must specify options (-o)"};
  if (request.quiet) request.progress = false;
  return rest;
}

std::span<const CreateOption> amend_options(const std::string& format) {
  std::span<const CreateOption> table = amend_table(format);
  if (table.empty()) throw Error("Format driver '{}' does not support option amendment", format);
  return table;
}

int print_amend_help(const BlockLayer& layer, const std::string& format) {
  // A format that is known but not built has nothing to offer either.
  if (find_driver(layer, format) == nullptr && !qapi::from_string<qapi::BlockdevDriver>(format))
    throw Error("Unknown file format '{}'", format);
  std::span<const CreateOption> table = amend_options(format);
  fmt::print("Amend options for '{}':\n", format);
  print_create_options({table.begin(), table.end()});
  return 0;
}

CreateValues parse_values(const std::string& format, const std::string& text) {
  std::span<const CreateOption> table = amend_options(format);
  CreateValues values;
  try {
    parse_create_options({table.begin(), table.end()}, text, values);
  } catch (Error& error) {
    std::vector<CreateOption> create;
    for (const CreateOption& option : create_table(format)) create.push_back(option);
    for (const CreateOption& option : create)
      if (error.text() == fmt::format("Invalid parameter '{}'", option.name))
        throw std::move(error).hint("This option is only supported for image creation\n");
    throw;
  }
  return values;
}

std::optional<std::string> take(CreateValues& values, const char* name) {
  auto found = values.find(name);
  if (found == values.end()) return std::nullopt;
  return found->second;
}

std::optional<bool> take_flag(CreateValues& values, const char* name) {
  std::optional<std::string> text = take(values, name);
  if (!text) return std::nullopt;
  return *text == "on";
}

qcow2::Amendment amendment_of(CreateValues& values) {
  qcow2::Amendment amendment;
  if (auto compat = take(values, "compat"); compat && !compat->empty()) {
    if (*compat == "0.10" || *compat == "v2")
      amendment.version = 2;
    else if (*compat == "1.1" || *compat == "v3")
      amendment.version = 3;
    else
      throw Error("Unknown compatibility level {}", *compat);
  }
  if (auto bits = take(values, "refcount_bits"))
    amendment.refcount_bits = std::strtoll(bits->c_str(), nullptr, 10);
  amendment.lazy_refcounts = take_flag(values, "lazy_refcounts");
  amendment.data_file = take(values, "data_file");
  amendment.data_file_raw = take_flag(values, "data_file_raw");
  amendment.backing_file = take(values, "backing_file");
  amendment.backing_format = take(values, "backing_fmt");
  return amendment;
}

bool has_encryption(const CreateValues& values) {
  for (const auto& [name, value] : values)
    if (name.starts_with(kEncrypt)) return true;
  return false;
}

Task<void> amend_keys(MainLoop& loop, Backend& image, CreateValues& values, const char* prefix,
                      bool force) {
  auto options = take_amend_options(values, prefix);
  // Nobody reads a header that is half written.
  image.set_permissions(loop,
                        {{Permission::consistent_read, Permission::write, Permission::resize}, {}});
  co_await crypto::amend_encryption(loop, image.node(), options, force);
}

// The line of the progress ends even where there was none.
struct EndOfProgress {
  const bool& wanted;
  ~EndOfProgress() {
    if (wanted) std::fputs("\n", stdout);
  }
};

Task<void> amend_qcow2(MainLoop& loop, Backend& image, CreateValues values, Request& request) {
  qcow2::Amendment amendment = amendment_of(values);
  qcow2::Image& format = *qcow2::image_of(image.node());
  if (has_encryption(values)) {
    format.check_encryption_amendable();
    co_await amend_keys(loop, image, values, kEncrypt, request.force);
  }
  Progress progress(std::exchange(request.progress, false), request.quiet, 1.0);
  auto report = [&](uint64_t done, uint64_t total) { progress.set(done, total); };
  co_await qcow2::amend(format, amendment, report);
  if (auto size = values.find("size"); size != values.end())
    co_await image.truncate(std::stoull(size->second), {.exact = false});
  co_await qcow2::finish_amend(format, amendment, report);
  progress.finish();
}

}  // namespace

Task<int> run_amend(Images& images, Words& words) {
  Request request;
  std::vector<std::string> rest = parse(words, request);
  EndOfProgress end{request.progress};
  if (request.image.format && is_help_option(request.options))
    co_return print_amend_help(images.tool().layer(), *request.image.format);
  if (rest.size() != 1) throw UsageError{"Expecting one image file name"};
  Backend* image = co_await images.open(rest[0], request.image);
  std::string format(image->node().format_name());
  if (is_help_option(request.options)) co_return print_amend_help(images.tool().layer(), format);
  CreateValues values = parse_values(format, request.options);
  MainLoop& loop = images.tool().loop();
  if (qcow2::image_of(image->node()) != nullptr)
    co_await amend_qcow2(loop, *image, std::move(values), request);
  else
    co_await amend_keys(loop, *image, values, "", request.force);
  co_return 0;
}

}  // namespace strata::tools
