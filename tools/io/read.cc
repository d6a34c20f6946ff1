// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/io/vm_state.h"
#include "tools/io/operands.h"
#include "tools/io/report.h"
#include "tools/io/shell.h"

namespace strata::tools {
namespace {

// Memory that was never read into is told from zeroes by this.
constexpr std::byte kUnread{0xab};

struct ReadOptions {
  ReportStyle style = ReportStyle::human;
  bool dump = false;
  bool vm_state = false;
  std::optional<std::byte> pattern;
  std::optional<int64_t> pattern_offset;
  std::optional<int64_t> pattern_length;
};

// False if the words make no sense; said already.
bool parse_options(Arguments& arguments, ReadOptions& options) {
  for (int option; (option = arguments.next_option("bCl:pP:qrs:v")) != -1;) {
    switch (option) {
      case 'b':
        options.vm_state = true;
        break;
      case 'C':
        options.style = ReportStyle::machine;
        break;
      case 'l':
        if (!(options.pattern_length = parse_number(arguments.option_value()))) return false;
        break;
      case 'p':
      case 'r':
        break;
      case 'P':
        if (!(options.pattern = parse_pattern(arguments.option_value()))) return false;
        break;
      case 'q':
        options.style = ReportStyle::quiet;
        break;
      case 's':
        if (!(options.pattern_offset = parse_number(arguments.option_value()))) return false;
        break;
      case 'v':
        options.dump = true;
        break;
      default:
        return print_usage(arguments);
    }
  }
  if (arguments.left() != 2) return print_usage(arguments);
  return true;
}

bool check_pattern_range(const Arguments& arguments, ReadOptions& options, int64_t count) {
  if (!options.pattern && (options.pattern_offset || options.pattern_length))
    return print_usage(arguments);
  int64_t offset = options.pattern_offset.value_or(0);
  if (!options.pattern_length) options.pattern_length = count - std::min(offset, count);
  if (offset > count || *options.pattern_length > count - offset) {
    fmt::print("pattern verification range exceeds end of read data\n");
    return false;
  }
  options.pattern_offset = offset;
  return true;
}

bool verify(const ReadOptions& options, std::span<const std::byte> data, int64_t offset) {
  if (!options.pattern) return true;
  auto part = data.subspan(static_cast<size_t>(*options.pattern_offset),
                           static_cast<size_t>(*options.pattern_length));
  if (matches(part, *options.pattern)) return true;
  fmt::print("Pattern verification failed at offset {}, {} bytes\n",
             offset + *options.pattern_offset, part.size());
  return false;
}

}  // namespace

Task<bool> command_read(Shell& shell, Arguments& arguments) {
  ReadOptions options;
  if (!parse_options(arguments, options)) co_return false;
  std::optional<int64_t> offset = parse_number(arguments[0]);
  if (!offset) co_return false;
  std::optional<int64_t> count = parse_number(arguments[1]);
  if (!count) co_return false;
  if (static_cast<uint64_t>(*count) > kMaxRequestBytes) {
    fmt::print("length cannot exceed {}, given {}\n", kMaxRequestBytes, arguments[1]);
    co_return false;
  }
  if (!check_pattern_range(arguments, options, *count)) co_return false;
  if (options.vm_state &&
      (!check_sector_aligned(*offset, "offset") || !check_sector_aligned(*count, "count")))
    co_return false;

  RequestBuffer buffer(shell, static_cast<size_t>(*count), kUnread);
  if (!buffer.ok()) co_return false;
  co_await shell.hear_background();
  Stopwatch stopwatch;
  IoVector into = IoVector::buffer(buffer.data(), buffer.size());
  auto start = static_cast<uint64_t>(*offset);
  Status status = options.vm_state ? co_await io::load_vm_state(shell.image().node(), start, into)
                                   : co_await shell.image().preadv(start, into);
  if (!status.ok()) co_return report_failure("read", status);
  bool ok = verify(options, buffer.bytes(), *offset);
  if (options.style == ReportStyle::quiet) co_return ok;
  if (options.dump) dump(buffer.bytes(), *offset);
  report_request("read", options.style, stopwatch, *offset, *count);
  co_return ok;
}

Task<bool> command_readv(Shell& shell, Arguments& arguments) {
  ReadOptions options;
  for (int option; (option = arguments.next_option("CP:qrv")) != -1;) {
    switch (option) {
      case 'C':
        options.style = ReportStyle::machine;
        break;
      case 'P':
        if (!(options.pattern = parse_pattern(arguments.option_value()))) co_return false;
        break;
      case 'q':
        options.style = ReportStyle::quiet;
        break;
      case 'r':
        break;
      case 'v':
        options.dump = true;
        break;
      default:
        co_return print_usage(arguments);
    }
  }
  if (arguments.left() < 2) co_return print_usage(arguments);
  std::optional<int64_t> offset = parse_number(arguments[0]);
  if (!offset) co_return false;
  auto lengths = parse_lengths(arguments, 1);
  if (!lengths) co_return false;
  size_t total = 0;
  for (size_t length : *lengths) total += length;

  RequestBuffer buffer(shell, total, kUnread);
  if (!buffer.ok()) co_return false;
  co_await shell.hear_background();
  Stopwatch stopwatch;
  Status status =
      co_await shell.image().preadv(static_cast<uint64_t>(*offset), buffer.vector(*lengths));
  if (!status.ok()) co_return report_failure("readv", status);
  options.pattern_offset = 0;
  options.pattern_length = static_cast<int64_t>(total);
  bool ok = verify(options, buffer.bytes(), *offset);
  if (options.style == ReportStyle::quiet) co_return ok;
  if (options.dump) dump(buffer.bytes(), *offset);
  report_request("read", options.style, stopwatch, *offset, static_cast<int64_t>(total));
  co_return ok;
}

}  // namespace strata::tools
