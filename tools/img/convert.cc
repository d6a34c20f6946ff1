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

constexpr option kOptions[]{{"help", no_argument, nullptr, 'h'},
                            {"object", required_argument, nullptr, kObject},
                            {"image-opts", no_argument, nullptr, kImageOpts},
                            {"force-share", no_argument, nullptr, 'U'},
                            {"target-image-opts", no_argument, nullptr, kTargetImageOpts},
                            {"salvage", no_argument, nullptr, kSalvage},
                            {"target-is-zero", no_argument, nullptr, kTargetIsZero},
                            {"bitmaps", no_argument, nullptr, kBitmaps},
                            {"skip-broken-bitmaps", no_argument, nullptr, kSkipBroken},
                            {"compression-level", required_argument, nullptr, kCompressionLevel},
                            {nullptr, 0, nullptr, 0}};

constexpr int64_t kMaxSparse = 16 << 20;
constexpr int kMaxWorkers = 16;

struct Request {
  std::optional<std::string> format;
  std::string output_format = "raw";
  std::optional<std::string> backing;
  std::optional<std::string> backing_format;
  std::string options;
  std::optional<SnapshotChoice> snapshot;
  std::optional<int> compression_level;
  std::string target_cache = "unsafe";
  OpenFlags source_flags{.no_share = true};
  CopyOptions copy;
  bool explicit_sparse = false;
  bool image_options = false;
  bool target_image_options = false;
  bool has_output_format = false;
  bool bitmaps = false;
  bool skip_broken = false;
  bool reuse_target = false;
  bool progress = false;
  bool help = false;
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

void take_format_option(int option, const Words& words, Request& request) {
  switch (option) {
    case 'f':
      request.format = words.value();
      break;
    case 'O':
      request.output_format = words.value();
      request.has_output_format = true;
      break;
    case 'b':
    case 'B':
      request.backing = words.value();
      break;
    case 'F':
      request.backing_format = words.value();
      break;
    case 'o':
      append_option_list(request.options, words.value());
      break;
    case 'l':
      request.snapshot = parse_snapshot_choice(words.value());
      break;
    case 't':
      request.target_cache = words.value();
      break;
    case 'T':
      if (!set_cache_mode(request.source_flags, words.value()))
        throw Error("Invalid source cache option: {}", words.value());
      break;
    default:
      break;
  }
}

void take_copy_option(int option, const Words& words, Request& request) {
  switch (option) {
    case 'S':
      request.copy.sparse_bytes = static_cast<uint64_t>(parse_sparse(words.value()));
      request.explicit_sparse = true;
      break;
    case 'm':
      request.copy.workers = parse_workers(words.value());
      break;
    case 'W':
      request.copy.in_order = false;
      break;
    case 'r':
      request.copy.bytes_per_second =
          static_cast<uint64_t>(parse_number(words.value(), "rate limit"));
      break;
    case 'c':
      request.copy.compressed = true;
      break;
    case 'C':
      request.copy.in_host = true;
      request.copy.scan_data = false;
      break;
    case 'n':
      request.reuse_target = true;
      break;
    case 'p':
      request.progress = true;
      break;
    case 'q':
      request.copy.quiet = true;
      break;
    case 'U':
      request.source_flags.force_share = true;
      break;
    default:
      break;
  }
}

void take_long_option(int option, const Words& words, Request& request) {
  switch (option) {
    case 'h':
      request.help = true;
      break;
    case kImageOpts:
      request.image_options = true;
      break;
    case kTargetImageOpts:
      request.target_image_options = true;
      break;
    case kSalvage:
      request.copy.salvage = true;
      break;
    case kTargetIsZero:
      request.copy.target_is_zero = true;
      break;
    case kBitmaps:
      request.bitmaps = true;
      break;
    case kCompressionLevel:
      request.compression_level =
          static_cast<int>(parse_number(words.value(), "compression level", 1, 22));
      break;
    case kSkipBroken:
      request.skip_broken = true;
      break;
    default:
      break;
  }
}

Request parse(Words& words) {
  Request request;
  for (int option; (option = words.next("hf:O:b:B:CcF:o:l:S:pt:T:qnm:WUr:", kOptions)) != -1;) {
    take_format_option(option, words, request);
    take_copy_option(option, words, request);
    take_long_option(option, words, request);
  }
  return request;
}

void check(const Request& request) {
  if (request.target_image_options && request.has_output_format)
    throw Error("--target-image-opts cannot be used together with -O");
  if (!request.reuse_target && request.target_image_options)
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
    throw Error("Backing file not supported for file format '{}'", request.output_format);
  if (request.backing_format && !has_option(known, "backing_fmt"))
    throw Error("Backing file format not supported for file format '{}'", request.output_format);
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
  if (request.output_format != "qcow2")
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
    co_await create_image(tool, name, request.output_format, std::move(values));
  } catch (Error& error) {
    failed = std::move(error).prepend(
        fmt::format("{}: error while converting {}: ", name, request.output_format));
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
          request_, create_options(tool_.layer(), request_.output_format, &target_name_), size_);
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
      sources_.push_back(co_await images_.open(name, request_.format, request_.image_options,
                                               request_.source_flags));
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
    if (qcow2::image_of(sources_[0]->node()) == nullptr) throw Error("Source lacks bitmap support");
    check_bitmaps(sources_[0]->node(), request_.skip_broken);
  }

  Task<void> open_target(boost::json::object keys) {
    OpenFlags flags{.writable = true, .discard_unmap = true};
    if (!set_cache_mode(flags, request_.target_cache))
      throw Error("Invalid cache option: {}", request_.target_cache);
    std::optional<std::string> format;
    if (!request_.target_image_options) format = request_.output_format;
    target_ = co_await images_.open(target_name_, format, request_.target_image_options, flags,
                                    std::move(keys));
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
  Request request = parse(words);
  std::vector<std::string> rest = words.rest();
  if (request.help) {
    print_help(images.tool().layer());
    co_return 0;
  }
  if (is_help_option(request.options)) {
    print_create_help(images.tool().layer(), request.output_format,
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
