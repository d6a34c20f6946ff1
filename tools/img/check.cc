// SPDX-License-Identifier: GPL-2.0-or-later
#include <cerrno>
#include <cstdio>

#include "block/qcow2/image_check.h"
#include "block/qcow2/qcow2.h"
#include "qapi/runtime/json_writer.h"
#include "qapi/visit_block_info.h"
#include "tools/img/command.h"

namespace strata::tools {
namespace {

// What the exit status says of the image.
constexpr int kFailed = 1;
constexpr int kCorrupt = 2;
constexpr int kLeaks = 3;
constexpr int kNotSupported = 63;  // a format that has nothing to check

struct Options {
  ImageChoice image{.flags = {.to_check = true}};
  bool quiet = false;
  OutputFormat output = OutputFormat::human;
  qcow2::CheckFix fix;
};

Take repair_into(Options& options) {
  return [&options](const std::string& what) {
    if (what != "leaks" && what != "all")
      throw UsageError{"-r expects 'leaks' or 'all', not '" + what + "'"};
    options.image.flags.writable = true;
    options.fix = {.leaks = true, .errors = what == "all"};
  };
}

std::string parse(Words& words, Options& options) {
  return words.parse_for_image({
      {"-r, --repair WHAT", "repair \"leaks\" alone, which does no harm, or \"all\"",
       repair_into(options)},
      output_option(options.output),
      format_option(options.image),
      image_options_option(options.image),
      source_cache_option(options.image.flags),
      force_share_option(options.image.flags),
      quiet_option(options.quiet),
  });
}

// Findings are the matter of a log, and shown even to who wants it quiet.
void show_finding(qcow2::CheckSays what, const std::string& line) {
  if (what == qcow2::CheckSays::finding)
    std::fprintf(stderr, "%s\n", line.c_str());
  else
    log_error("{}", line);
}

void print_for_humans(const qcow2::CheckResult& result) {
  if (result.corruptions == 0 && result.leaks == 0 && result.check_errors == 0)
    fmt::print("No errors were found on the image.\n");
  if (result.corruptions != 0)
    fmt::print(
        "\n{} errors were found on the image.\n"
        "Data may be corrupted, or further writes to the image may corrupt it.\n",
        result.corruptions);
  if (result.leaks != 0)
    fmt::print(
        "\n{} leaked clusters were found on the image.\n"
        "This means waste of disk space, but no harm to data.\n",
        result.leaks);
  if (result.check_errors != 0)
    fmt::print("\n{} internal errors have occurred during the check.\n", result.check_errors);
  if (result.total_clusters != 0 && result.allocated_clusters != 0) {
    auto percent = [](uint64_t part, uint64_t whole) {
      return static_cast<double>(part) * 100.0 / static_cast<double>(whole);
    };
    fmt::print("{}/{} = {:.2f}% allocated, {:.2f}% fragmented, {:.2f}% compressed clusters\n",
               result.allocated_clusters, result.total_clusters,
               percent(result.allocated_clusters, result.total_clusters),
               percent(result.fragmented_clusters, result.allocated_clusters),
               percent(result.compressed_clusters, result.allocated_clusters));
  }
  if (result.image_end_offset != 0) fmt::print("Image end offset: {}\n", result.image_end_offset);
}

// What was mended is told, and then the image is looked at as it is now.
Task<Result<qcow2::CheckResult>> check_twice(qcow2::Image& image, const Options& options) {
  Result<qcow2::Repair> repair = co_await qcow2::repair_image(image, options.fix, show_finding);
  if (!repair) co_return repair.status();
  const qcow2::CheckResult& first = repair->mended;
  if (!first.mended_something()) co_return first;
  if (options.output == OutputFormat::human && !options.quiet)
    fmt::print(
        "The following inconsistencies were found and repaired:\n\n"
        "    {} leaked clusters\n"
        "    {} corruptions\n\n"
        "Double checking the fixed image now...\n",
        first.leaks_fixed, first.corruptions_fixed);
  Result<qcow2::CheckResult> now = *repair->now;
  if (!now->found_nothing()) now = co_await qcow2::check_image(image, {}, show_finding);
  if (!now) co_return now;
  now->leaks_fixed = first.leaks_fixed;
  now->corruptions_fixed = first.corruptions_fixed;
  co_return now;
}

}  // namespace

Task<int> run_check(Images& images, Words& words) {
  Options options;
  std::string name = parse(words, options);
  Backend* disk = co_await images.open(name, options.image);
  qcow2::Image* image = qcow2::image_of(disk->node());
  if (image == nullptr) {
    log_error("This image format does not support checks");
    co_return kNotSupported;
  }
  Result<qcow2::CheckResult> result = co_await check_twice(*image, options);
  if (!result) {
    log_error("Check failed: {}", Error::describe_errno(result.error_number()));
    co_return kFailed;
  }
  if (!options.quiet && options.output == OutputFormat::json)
    fmt::print("{}\n", qapi::write_json(qapi::to_json(qcow2::image_check(
                                            *result, name, disk->node().format_name())),
                                        qapi::JsonStyle::pretty));
  else if (!options.quiet)
    print_for_humans(*result);
  if (result->check_errors != 0) {
    log_error("Check failed");
    co_return kFailed;
  }
  if (result->corruptions != 0) co_return kCorrupt;
  co_return result->leaks != 0 ? kLeaks : 0;
}

}  // namespace strata::tools
