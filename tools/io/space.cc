// SPDX-License-Identifier: GPL-2.0-or-later
//
// discard, flush, truncate, length, map, alloc.
#include <cerrno>

#include "block/base/error.h"
#include "qapi/runtime/enum.h"
#include "tools/common/claims.h"
#include "tools/io/operands.h"
#include "tools/io/report.h"
#include "tools/io/shell.h"

namespace strata::tools {

Task<bool> command_discard(Shell& shell, Arguments& arguments) {
  ReportStyle style = ReportStyle::human;
  for (int option; (option = arguments.next_option("Cq")) != -1;) {
    switch (option) {
      case 'C':
        style = ReportStyle::machine;
        break;
      case 'q':
        style = ReportStyle::quiet;
        break;
      default:
        co_return print_usage(arguments);
    }
  }
  if (arguments.left() != 2) co_return print_usage(arguments);
  std::optional<int64_t> offset = parse_number(arguments[0]);
  if (!offset) co_return false;
  std::optional<int64_t> bytes = parse_number(arguments[1]);
  if (!bytes) co_return false;
  if (static_cast<uint64_t>(*bytes) > kMaxRequestBytes) {
    fmt::print("length cannot exceed {}, given {}\n", kMaxRequestBytes, arguments[1]);
    co_return false;
  }
  co_await shell.hear_background();
  Stopwatch stopwatch;
  Status status = co_await shell.image().pdiscard(static_cast<uint64_t>(*offset),
                                                  static_cast<uint64_t>(*bytes));
  if (!status.ok()) co_return report_failure("discard", status);
  report_request("discard", style, stopwatch, *offset, *bytes);
  co_return true;
}

Task<bool> command_flush(Shell& shell, Arguments&) {
  co_await shell.hear_background();
  Status status = co_await shell.image().flush();
  co_return status.ok();
}

Task<bool> command_truncate(Shell& shell, Arguments& arguments) {
  TruncateOptions options;
  for (int option; (option = arguments.next_option("m:")) != -1;) {
    if (option != 'm') co_return print_usage(arguments);
    std::string mode = arguments.option_value();
    std::optional<qapi::PreallocMode> known = qapi::from_string<qapi::PreallocMode>(mode);
    if (!known) {
      log_error("Invalid preallocation mode '{}'", mode);
      co_return false;
    }
    options.preallocation = *known;
  }
  if (arguments.left() < 1) co_return print_usage(arguments);
  std::optional<int64_t> size = parse_number(arguments[0]);
  if (!size) co_return false;
  // As a guest's disk is: at least as long, and how much longer does not matter.
  options.exact = false;
  co_await shell.hear_background();
  std::optional<Error> failed;
  try {
    co_await shell.image().truncate(static_cast<uint64_t>(*size), options);
  } catch (const Error& error) {
    failed = error;
  }
  if (failed) report(*failed);
  co_return !failed;
}

Task<bool> command_length(Shell& shell, Arguments&) {
  fmt::print("{}\n", size_text(static_cast<double>(shell.image().length())));
  co_return true;
}

namespace {

struct Run {
  bool allocated = false;
  uint64_t bytes = 0;
};

// The run of equal allocation in the top layer alone from `offset` on, as far as one answer goes.
// EFBIG, and told of: the image says more than can be.
Task<Result<Run>> one_run(Node& node, Claims& claims, uint64_t offset, uint64_t bytes) {
  Result<BlockStatus> status = co_await io::block_status(node, offset, bytes);
  if (!status) co_return status.status();
  if (!claims.allow(*status, status->bytes)) {
    report(claims.refusal());
    co_return Status::error(EFBIG);
  }
  co_return Run{status->flags.has(StatusFlag::allocated), status->bytes};
}

}  // namespace

Task<bool> command_alloc(Shell& shell, Arguments& arguments) {
  std::optional<int64_t> start = parse_number(arguments[0]);
  if (!start) co_return false;
  int64_t wanted = static_cast<int64_t>(kSectorSize);
  if (arguments.left() > 1) {
    std::optional<int64_t> count = parse_number(arguments[1]);
    if (!count) co_return false;
    wanted = *count;
  }
  auto offset = static_cast<uint64_t>(*start);
  uint64_t length = shell.image().length();
  uint64_t count =
      std::min<uint64_t>(static_cast<uint64_t>(wanted), offset < length ? length - offset : 0);
  uint64_t allocated = 0;
  Claims claims(shell.image().node(), shell.image().node().backing());
  for (uint64_t done = 0; done < count;) {
    Result<Run> run = co_await one_run(shell.image().node(), claims, offset + done, count - done);
    if (!run) {
      fmt::print("is_allocated failed: {}\n", Error::describe_errno(run.error_number()));
      co_return false;
    }
    if (run->allocated) allocated += run->bytes;
    done += run->bytes;
  }
  fmt::print("{}/{} bytes allocated at offset {}\n", allocated, count,
             size_text(static_cast<double>(offset)));
  co_return true;
}

namespace {

void print_run(const Run& run, uint64_t start) {
  fmt::print("{} (0x{:x}) bytes {} at offset {} (0x{:x})\n",
             size_text(static_cast<double>(run.bytes)), run.bytes,
             run.allocated ? "    allocated" : "not allocated",
             size_text(static_cast<double>(start)), start);
}

}  // namespace

Task<bool> command_map(Shell& shell, Arguments&) {
  uint64_t length = shell.image().length();
  Run whole;
  Claims claims(shell.image().node(), shell.image().node().backing());
  for (uint64_t offset = 0; offset < length;) {
    Result<Run> run = co_await one_run(shell.image().node(), claims, offset, length - offset);
    if (!run) {
      log_error("Failed to get allocation status: {}", Error::describe_errno(run.error_number()));
      co_return false;
    }
    if (run->allocated != whole.allocated) {
      if (whole.bytes != 0) print_run(whole, offset - whole.bytes);
      whole = {run->allocated, 0};
    }
    whole.bytes += run->bytes;
    offset += run->bytes;
  }
  if (whole.bytes != 0) print_run(whole, length - whole.bytes);
  co_return true;
}

}  // namespace strata::tools
