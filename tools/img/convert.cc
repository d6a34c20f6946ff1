// SPDX-License-Identifier: GPL-2.0-or-later
#include "tools/img/convert.h"

#include "block/names/options.h"
#include "block/qcow2/image.h"
#include "block/qcow2/qcow2.h"
#include "tools/common/numbers.h"
#include "tools/img/bitmaps.h"
#include "tools/img/command.h"
#include "tools/img/create_options.h"
#include "tools/img/snapshot_choice.h"

namespace strata::tools {
namespace {

constexpr int64_t kMaxSparse = 16 << 20;
constexpr int kMaxWorkers = 16;

struct Request {
  ImageChoice source{.flags = {.no_share = true}};
  std::optional<std::string> output_format;  // raw
  std::optional<std::string> backing;
  std::optional<std::string> backing_format;
  std::string options;
  std::optional<SnapshotChoice> snapshot;
  std::optional<int> compression_level;
  std::string target_cache = "unsafe";
  CopyOptions copy;
  bool explicit_sparse = false;
  bool target_by_options = false;
  bool bitmaps = false;
  bool skip_broken = false;
  bool reuse_target = false;
  bool progress = false;

  std::string target_format() const { return output_format.value_or("raw"); }
};

int64_t parse_sparse(const std::string& text) {
  Result<int64_t> size = parse_size(text);
  if (!size) throw Error("Invalid buffer size for sparse output specified: '{}'", text);
  if (*size % static_cast<int64_t>(kSectorSize) != 0 || *size > kMaxSparse)
    throw Error(
        "Invalid buffer size for sparse output specified. Valid sizes are multiples of {} up to "
        "{}. Select 0 to disable sparse detection (fully allocates output).",
        kSectorSize, kMaxSparse);
  return *size;
}

int parse_workers(const std::string& text) {
  Result<int64_t> count = parse_size(text);
  if (!count || *count < 1 || *count > kMaxWorkers)
    throw Error("Invalid number of coroutines. Allowed number of coroutines is between 1 and {}",
                kMaxWorkers);
  return static_cast<int>(*count);
}

std::vector<std::string> parse(Words& words, Request& request) {
  CopyOptions& copy = request.copy;
  auto sparse = [&request](const std::string& text) {
    request.copy.sparse_bytes = static_cast<uint64_t>(parse_sparse(text));
    request.explicit_sparse = true;
  };
  auto in_host = [&copy](const std::string&) {
    copy.in_host = true;
    copy.scan_data = false;
  };
  auto workers = [&copy](const std::string& text) { copy.workers = parse_workers(text); };
  auto snapshot = [&request](const std::string& text) {
    request.snapshot = parse_snapshot_choice(text);
  };
  return words.parse({
      {"-f, --source-format FMT", "format of what is copied (default: guessed)",
       into(request.source.format)},
      {"--image-opts", "names of what is copied are lists of options",
       set(request.source.by_options)},
      source_cache_option(request.source.flags, "-T, --source-cache MODE"),
      force_share_option(request.source.flags),
      {"-l, --snapshot SNAPSHOT", "copy this one: ID, NAME or snapshot.id=ID,snapshot.name=NAME",
       snapshot},
      {"--bitmaps", "copy persistent bitmaps, too", set(request.bitmaps)},
      {"--skip-broken-bitmaps", "but not inconsistent ones", set(request.skip_broken)},
      {"--salvage", "what cannot be read becomes zeroes", set(copy.salvage)},
      {"-O, --target-format FMT", "format of the output (default: raw)",
       into(request.output_format)},
      {"--target-image-opts", "the output's name is a list of options",
       set(request.target_by_options)},
      option_list_option("-o, --target-format-options LIST", request.options),
      {"-t, --target-cache MODE", "cache mode of the output (default: unsafe)",
       into(request.target_cache)},
      {"-b, -B, --backing FILE", "backing file of the output, of which only what differs is stored",
       into(request.backing)},
      {"-F, --backing-format FMT", "its format", into(request.backing_format)},
      {"-S, --sparse-size BYTES", "so many zeroes in a row are left out (default: 4k); 0: none",
       sparse},
      {"-n, --no-create", "the output exists already", set(request.reuse_target)},
      {"--target-is-zero", "and it is known to read as zeroes", set(copy.target_is_zero)},
      {"-c, --compress", "compress the output", set(copy.compressed)},
      {"--compression-level N", "as densely as zlib (1 to 9) or zstd (1 to 22) does at this level",
       size_into(request.compression_level, "compression level", 1, 22)},
      {"-C, --copy-range-offloading", "let the host copy where it can", in_host},
      {"-r, --rate-limit BYTES", "so much a second at most",
       size_into(copy.bytes_per_second, "rate limit")},
      {"-m, --parallel N", "how many requests at a time (default: 8)", workers},
      {"-W, --oob-writes", "write out of order", set(copy.in_order, false)},
      progress_option(request.progress),
      quiet_option(copy.quiet),
  });
}

void check(const Request& request) {
  if (request.target_by_options && request.output_format)
    throw Error("--target-image-opts cannot be used together with -O");
  if (!request.reuse_target && request.target_by_options)
    throw Error("--target-image-opts requires use of -n flag");
  if (request.skip_broken && !request.bitmaps)
    throw Error("Use of --skip-broken-bitmaps requires --bitmaps");
  if (request.copy.in_host && request.explicit_sparse)
    throw Error("Cannot enable copy offloading when -S is used");
  if (request.copy.in_host && request.copy.compressed)
    throw Error("Cannot enable copy offloading when -c is used");
  if (request.copy.in_host && request.copy.salvage)
    throw Error("Cannot use copy offloading in salvaging mode");
  if (request.copy.target_is_zero && !request.reuse_target)
    throw Error("--target-is-zero requires use of -n flag");
  if (request.reuse_target && !request.options.empty())
    throw Error("-o has no effect when skipping image creation");
}

// What the options of the new image amount to. Throws Error.
CreateValues target_values(const Request& request, const std::vector<CreateOption>& known,
                           uint64_t size) {
  CreateValues values;
  parse_create_options(known, request.options, values);
  values["size"] = std::to_string(size);
  if (request.backing && !has_option(known, "backing_file"))
    throw Error("Backing file not supported for file format '{}'", request.target_format());
  if (request.backing_format && !has_option(known, "backing_fmt"))
    throw Error("Backing file format not supported for file format '{}'", request.target_format());
  if (request.backing) values["backing_file"] = *request.backing;
  if (request.backing_format) values["backing_fmt"] = *request.backing_format;
  return values;
}

void check_target(const Request& request, const CreateValues& values, size_t sources) {
  if (values.contains("backing_file")) {
    if (sources > 1)
      throw Error(
          "Having a backing file for the target makes no sense when concatenating multiple input "
          "images");
    if (!values.contains("backing_fmt"))
      throw Error("Use of backing file requires explicit backing format");
  }
  if (!request.copy.compressed) return;
  if (request.target_format() != "qcow2")
    throw Error("Compression not supported for this file format");
  auto encryption = values.find("encryption");
  if ((encryption != values.end() && encryption->second == "on") ||
      values.contains("encrypt.format"))
    throw Error("Compression and encryption not supported at the same time");
  auto preallocation = values.find("preallocation");
  if (preallocation != values.end() && preallocation->second != "off")
    throw Error("Compression and preallocation not supported at the same time");
}

Task<void> create_target(Tool& tool, const Request& request, const std::string& name,
                         CreateValues values) {
  std::optional<Error> failed;
  try {
    co_await create_image(tool, name, request.target_format(), std::move(values));
  } catch (Error& error) {
    failed = std::move(error).prepend(
        fmt::format("{}: error while converting {}: ", name, request.target_format()));
  }
  if (failed) throw *failed;
}

// The target is opened with the keys that it was made with.
boost::json::object key_secrets(const CreateValues& values) {
  boost::json::object options;
  for (const char* name : {"key-secret", "encrypt.key-secret"})
    if (auto secret = values.find(name); secret != values.end())
      set_option(options, name, secret->second);
  return options;
}

class Conversion {
 public:
  Conversion(Images& images, Request request, std::vector<std::string> names)
      : images_(images),
        tool_(images.tool()),
        request_(std::move(request)),
        progress_(request_.progress, request_.copy.quiet, 1.0) {
    target_name_ = std::move(names.back());
    names.pop_back();
    source_names_ = std::move(names);
  }

  Task<void> run() {
    co_await open_sources();
    CreateValues values;
    if (!request_.reuse_target)
      values = target_values(
          request_, create_options(tool_.layer(), request_.target_format(), &target_name_), size_);
    else if (request_.backing)
      values["backing_file"] = *request_.backing;
    if (request_.reuse_target && request_.backing && request_.backing_format)
      values["backing_fmt"] = *request_.backing_format;
    if (request_.copy.target_is_zero && values.contains("backing_file"))
      throw Error("Cannot use --target-is-zero when the destination image has a backing file");
    if (!request_.reuse_target || values.contains("backing_file"))
      check_target(request_, values, sources_.size());
    if (request_.bitmaps) check_bitmap_sources();
    request_.copy.target_has_backing = values.contains("backing_file");
    boost::json::object keys = key_secrets(values);
    if (!request_.reuse_target)
      co_await create_target(tool_, request_, target_name_, std::move(values));
    co_await open_target(std::move(keys));
    co_await copy();
    if (request_.bitmaps) co_await copy_bitmaps(tool_.loop(), sources_[0]->node(), target_->node());
  }

 private:
  Task<void> open_sources() {
    for (const std::string& name : source_names_)
      sources_.push_back(co_await images_.open(name, request_.source));
    if (request_.snapshot) co_await view_snapshot(*request_.snapshot);
    for (const Backend* source : sources_) size_ += source->length();
  }

  Task<void> view_snapshot(const SnapshotChoice& wanted) {
    if (sources_.size() > 1 && wanted.any)
      throw Error("No support for concatenating multiple snapshot");
    co_await show_snapshot(sources_[0]->node(), wanted);
  }

  void check_bitmap_sources() const {
    if (sources_.size() > 1) throw Error("Copying bitmaps only possible with single source");
    const qcow2::Image* image = qcow2::image_of(sources_[0]->node());
    if (image == nullptr || image->header().version < 3) throw Error("Source lacks bitmap support");
    check_bitmaps(sources_[0]->node(), request_.skip_broken);
  }

  Task<void> open_target(boost::json::object keys) {
    ImageChoice how{.by_options = request_.target_by_options,
                    .flags = {.writable = true, .discard_unmap = true}};
    cache_into(how.flags)(request_.target_cache);
    if (!how.by_options) how.format = request_.target_format();
    target_ = co_await images_.open(target_name_, std::move(how), std::move(keys));
    qcow2::Image* image = qcow2::image_of(target_->node());
    if (request_.copy.compressed && image == nullptr)
      throw Error("Compression not supported for this file format");
    if (request_.compression_level && image != nullptr)
      image->set_compression_level(request_.compression_level);
    if (request_.bitmaps && image == nullptr)
      throw Error("Format driver '{}' does not support bitmaps", target_->node().format_name());
    if (target_->length() < size_) throw Error("output file is smaller than input file");
  }

  Task<void> copy() {
    bool sparse = request_.copy.sparse_bytes != 0;
    bool fresh = !request_.reuse_target && !request_.copy.target_has_backing;
    if (fresh && sparse && target_->node().driver().has_zero_init())
      request_.copy.target_is_zero = true;
    ImageCopy copy(sources_, *target_, request_.copy, progress_);
    co_await copy.run();
    progress_.finish();
  }

  Images& images_;
  Tool& tool_;
  Request request_;
  Progress progress_;
  std::string target_name_;
  std::vector<std::string> source_names_;
  std::vector<Backend*> sources_;
  Backend* target_ = nullptr;
  uint64_t size_ = 0;
};

}  // namespace

Task<int> run_convert(Images& images, Words& words) {
  Request request;
  std::vector<std::string> rest = parse(words, request);
  if (is_help_option(request.options)) {
    print_create_help(images.tool().layer(), request.target_format(),
                      rest.empty() ? nullptr : &rest.back());
    co_return 0;
  }
  check(request);
  if (rest.size() < 2) throw Error("Must specify image file name");
  Conversion conversion(images, std::move(request), std::move(rest));
  co_await conversion.run();
  co_return 0;
}

}  // namespace strata::tools
