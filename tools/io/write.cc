// SPDX-License-Identifier: GPL-2.0-or-later
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>

#include "block/io/vm_state.h"
#include "tools/io/operands.h"
#include "tools/io/report.h"
#include "tools/io/shell.h"

namespace strata::tools {
namespace {

constexpr std::byte kDefaultPattern{0xcd};

struct WriteOptions {
  ReportStyle style = ReportStyle::human;
  bool vm_state = false;
  bool zeroes = false;
  std::optional<std::byte> pattern;
  std::optional<std::string> source;
  WriteFlags flags;
};

bool parse_options(Arguments& arguments, WriteOptions& options) {
  for (int option; (option = arguments.next_option("bcCfnpP:qrs:uz")) != -1;) {
    switch (option) {
      case 'b':
        options.vm_state = true;
        break;
      case 'c':
        options.flags |= WriteFlag::compressed;
        break;
      case 'C':
        options.style = ReportStyle::machine;
        break;
      case 'f':
        options.flags |= WriteFlag::fua;
        break;
      case 'n':
        options.flags |= WriteFlag::no_fallback;
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
        options.source = arguments.option_value();
        break;
      case 'u':
        options.flags |= WriteFlag::may_unmap;
        break;
      case 'z':
        options.zeroes = true;
        break;
      default:
        return print_usage(arguments);
    }
  }
  if (arguments.left() != 2) return print_usage(arguments);
  return true;
}

bool refuse(const char* text) {
  fmt::print("{}\n", text);
  return false;
}

bool check_options(const WriteOptions& options) {
  bool compressed = options.flags.has(WriteFlag::compressed);
  if (options.vm_state && options.zeroes)
    return refuse("-b and -z cannot be specified at the same time");
  if (options.flags.has(WriteFlag::fua) && (options.vm_state || compressed))
    return refuse("-f and -b or -c cannot be specified at the same time");
  if (options.flags.has(WriteFlag::no_fallback) && !options.zeroes)
    return refuse("-n requires -z to be specified");
  if (options.flags.has(WriteFlag::may_unmap) && !options.zeroes)
    return refuse("-u requires -z to be specified");
  int sources =
      int{options.zeroes} + int{options.pattern.has_value()} + int{options.source.has_value()};
  if (sources > 1) return refuse("Only one of -z, -P, and -s can be specified at the same time");
  return true;
}

// The file's bytes, over and over.
bool fill_from_file(const std::string& name, std::byte* data, size_t size) {
  std::unique_ptr<FILE, int (*)(FILE*)> file(std::fopen(name.c_str(), "rb"), &std::fclose);
  if (!file) {
    fmt::print(stderr, "{}: {}\n", name, Error::describe_errno(errno));
    return false;
  }
  size_t read = std::fread(data, 1, size, file.get());
  if (std::ferror(file.get())) {
    fmt::print(stderr, "{}: {}\n", name, Error::describe_errno(errno));
    return false;
  }
  if (read == 0) {
    fmt::print(stderr, "{}: file is empty\n", name);
    return false;
  }
  for (size_t at = read; at < size; at += read)
    std::memcpy(data + at, data, std::min(read, size - at));
  return true;
}

Task<Status> save_vm_state(Backend& image, uint64_t offset, IoVector from) {
  Status status = co_await io::save_vm_state(image.node(), offset, from);
  if (status.ok() && !image.write_cache()) status = co_await image.flush();
  co_return status;
}

Task<Status> write_buffer(Shell& shell, const WriteOptions& options, uint64_t offset,
                          const RequestBuffer& buffer) {
  // A driver that cannot compress would be given plain data.
  WriteFlags possible = shell.image().node().driver().write_flags();
  bool fits =
      buffer.size() <= shell.image().length() && offset <= shell.image().length() - buffer.size();
  if (fits && options.flags.has(WriteFlag::compressed) && !possible.has(WriteFlag::compressed))
    return Task<Status>::ready(Status::error(ENOTSUP));
  if (options.vm_state)
    return save_vm_state(shell.image(), offset, IoVector::buffer(buffer.data(), buffer.size()));
  return shell.image().pwritev(offset, IoVector::buffer(buffer.data(), buffer.size()),
                               options.flags);
}

Task<bool> write_zeroes(Shell& shell, const WriteOptions& options, int64_t offset, int64_t count) {
  co_await shell.hear_background();
  Stopwatch stopwatch;
  Status status = co_await shell.image().pwrite_zeroes(
      static_cast<uint64_t>(offset), static_cast<uint64_t>(count),
      options.flags.without(WriteFlag::compressed));
  if (!status.ok()) co_return report_failure("write", status);
  report_request("wrote", options.style, stopwatch, offset, count);
  co_return true;
}

}  // namespace

Task<bool> command_write(Shell& shell, Arguments& arguments) {
  WriteOptions options;
  if (!parse_options(arguments, options) || !check_options(options)) co_return false;
  std::optional<int64_t> offset = parse_number(arguments[0]);
  if (!offset) co_return false;
  std::optional<int64_t> count = parse_number(arguments[1]);
  if (!count) co_return false;
  bool one_request = !options.flags.has(WriteFlag::no_fallback);
  if (one_request && static_cast<uint64_t>(*count) > kMaxRequestBytes) {
    fmt::print("length cannot exceed {} without -n, given {}\n", kMaxRequestBytes, arguments[1]);
    co_return false;
  }
  bool whole_sectors = options.vm_state || options.flags.has(WriteFlag::compressed);
  if (whole_sectors &&
      (!check_sector_aligned(*offset, "offset") || !check_sector_aligned(*count, "count")))
    co_return false;
  if (options.zeroes) co_return co_await write_zeroes(shell, options, *offset, *count);

  RequestBuffer buffer(shell, static_cast<size_t>(*count),
                       options.pattern.value_or(kDefaultPattern));
  if (!buffer.ok()) co_return false;
  if (options.source && !fill_from_file(*options.source, buffer.data(), buffer.size()))
    co_return false;
  co_await shell.hear_background();
  Stopwatch stopwatch;
  Status status = co_await write_buffer(shell, options, static_cast<uint64_t>(*offset), buffer);
  if (!status.ok()) co_return report_failure("write", status);
  report_request("wrote", options.style, stopwatch, *offset, *count);
  co_return true;
}

Task<bool> command_writev(Shell& shell, Arguments& arguments) {
  WriteOptions options;
  for (int option; (option = arguments.next_option("CfP:qr")) != -1;) {
    switch (option) {
      case 'C':
        options.style = ReportStyle::machine;
        break;
      case 'f':
        options.flags |= WriteFlag::fua;
        break;
      case 'P':
        if (!(options.pattern = parse_pattern(arguments.option_value()))) co_return false;
        break;
      case 'q':
        options.style = ReportStyle::quiet;
        break;
      case 'r':
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

  RequestBuffer buffer(shell, total, options.pattern.value_or(kDefaultPattern));
  if (!buffer.ok()) co_return false;
  co_await shell.hear_background();
  Stopwatch stopwatch;
  Status status = co_await shell.image().pwritev(static_cast<uint64_t>(*offset),
                                                 buffer.vector(*lengths), options.flags);
  if (!status.ok()) co_return report_failure("writev", status);
  report_request("wrote", options.style, stopwatch, *offset, static_cast<int64_t>(total));
  co_return true;
}

}  // namespace strata::tools
