// SPDX-License-Identifier: GPL-2.0-or-later
#include "tools/img/convert.h"

#include "tools/common/numbers.h"
#include "tools/img/command.h"
#include "tools/img/create_options.h"

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
                            {nullptr, 0, nullptr, 0}};

constexpr int64_t kMaxSparse = 16 << 20;
constexpr int kMaxWorkers = 16;

struct Request {
  std::optional<std::string> format;
  std::string output_format = "raw";
  std::optional<std::string> backing;
  std::optional<std::string> backing_format;
  std::string options;
  std::optional<std::string> snapshot;
  OpenFlags source_flags;
  OpenFlags target_flags{.writable = true, .cache_no_flush = true, .discard_unmap = true};
  CopyOptions copy;
  bool explicit_sparse = false;
  bool image_options = false;
  bool target_image_options = false;
  bool has_output_format = false;
  bool compressed = false;
  bool copy_offloading = false;
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
    case 'B':
      request.backing = words.value();
      break;
    case 'F':
      request.backing_format = words.value();
      break;
    case 'o':
      if (words.value().empty() || words.value().front() == ',' || words.value().back() == ',')
        throw Error("Invalid option list: {}", words.value());
      request.options += (request.options.empty() ? "" : ",") + words.value();
      break;
    case 'l':
      request.snapshot = words.value();
      break;
    case 't':
      if (!set_cache_mode(request.target_flags, words.value()))
        throw Error("Invalid cache option: {}", words.value());
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
      parse_number(words.value(), "rate limit");
      break;
    case 'c':
      request.compressed = true;
      break;
    case 'C':
      request.copy_offloading = true;
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

void take_long_option(int option, Request& request) {
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
    case kSkipBroken:
      request.skip_broken = true;
      break;
    default:
      break;
  }
}

Request parse(Words& words) {
  Request request;
  for (int option; (option = words.next("hf:O:B:CcF:o:l:S:pt:T:qnm:WUr:", kOptions)) != -1;) {
    take_format_option(option, words, request);
    take_copy_option(option, words, request);
    take_long_option(option, request);
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
  if (request.copy_offloading && request.explicit_sparse)
    throw Error("Cannot enable copy offloading when -S is used");
  if (request.copy_offloading && request.compressed)
    throw Error("Cannot enable copy offloading when -c is used");
  if (request.copy_offloading && request.copy.salvage)
    throw Error("Cannot use copy offloading in salvaging mode");
  if (request.copy.target_is_zero && !request.reuse_target)
    throw Error("--target-is-zero requires use of -n flag");
  if (request.reuse_target && !request.options.empty())
    throw Error("-o has no effect when skipping image creation");
}

// The sources' sizes together, as the size of the new image where the options name none.
Task<void> create_target(Tool& tool, const Request& request, const std::string& name,
                         uint64_t size) {
  auto known = create_options(tool.layer(), request.output_format, &name);
  CreateValues values;
  parse_create_options(known, request.options, values);
  values.emplace("size", std::to_string(size));
  if (request.backing)
    throw Error("Backing file not supported for file format '{}'", request.output_format);
  if (request.backing_format)
    throw Error("Backing file format not supported for file format '{}'", request.output_format);
  if (request.compressed) throw Error("Compression not supported for this file format");
  if (request.bitmaps) throw Error("Source lacks bitmap support");
  std::optional<Error> failed;
  try {
    co_await create_image(tool, name, request.output_format, values);
  } catch (Error& error) {
    failed = std::move(error).prepend(
        fmt::format("{}: error while converting {}: ", name, request.output_format));
  }
  if (failed) throw *failed;
}

}  // namespace

Task<int> run_convert(Images& images, Words& words) {
  Tool& tool = images.tool();
  Request request = parse(words);
  std::vector<std::string> rest = words.rest();
  if (request.help) {
    print_help(tool.layer());
    co_return 0;
  }
  if (is_help_option(request.options)) {
    auto options =
        create_options(tool.layer(), request.output_format, rest.empty() ? nullptr : &rest.back());
    fmt::print("Supported {}options:\n", rest.empty() ? request.output_format + " " : "");
    print_create_options(options);
    if (rest.empty())
      fmt::print(
          "\nThe protocol level may support further options.\n"
          "Specify the target filename to include those options.\n");
    co_return 0;
  }
  check(request);
  if (rest.size() < 2) throw Error("Must specify image file name");
  std::string target_name = std::move(rest.back());
  rest.pop_back();

  std::vector<Backend*> sources;
  uint64_t size = 0;
  for (const std::string& name : rest) {
    sources.push_back(
        co_await images.open(name, request.format, request.image_options, request.source_flags));
    size += sources.back()->length();
  }
  if (request.snapshot)
    throw Error(
        "Failed to load snapshot: Block format '{}' used by device '' does not support temporarily "
        "loading internal snapshots",
        sources[0]->node().format_name());
  if (!request.reuse_target) co_await create_target(tool, request, target_name, size);

  std::optional<std::string> format;
  if (!request.target_image_options) format = request.output_format;
  Backend* target =
      co_await images.open(target_name, format, request.target_image_options, request.target_flags);
  if (request.compressed) throw Error("Compression not supported for this file format");
  if (target->length() < size) throw Error("output file is smaller than input file");
  if (!request.reuse_target && target->node().driver().has_zero_init())
    request.copy.target_is_zero = request.copy.sparse_bytes != 0;
  {
    Progress progress(request.progress, request.copy.quiet, size);
    ImageCopy copy(std::move(sources), *target, request.copy, progress);
    co_await copy.run();
    progress.finish();
  }
  co_return 0;
}

}  // namespace strata::tools
