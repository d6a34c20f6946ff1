// SPDX-License-Identifier: GPL-2.0-or-later
#include <memory>

#include "tools/io/operands.h"
#include "tools/io/report.h"
#include "tools/io/shell.h"

namespace strata::tools {
namespace {

constexpr std::byte kUnread{0xab};
constexpr std::byte kDefaultPattern{0xcd};

// A request that outlives its command.
struct Request {
  int64_t offset = 0;
  int64_t bytes = 0;
  ReportStyle style = ReportStyle::human;
  bool dump = false;
  bool zeroes = false;
  std::optional<std::byte> pattern;
  WriteFlags flags;
  std::vector<size_t> lengths;
  std::unique_ptr<RequestBuffer> buffer;
  Stopwatch stopwatch;
};

// What has ended says so on a later turn, as does what had to wait: the commands' own output is not
// cut in two.
Task<void> run_read(Shell& shell, std::unique_ptr<Request> request) {
  Status status = co_await shell.image().preadv(static_cast<uint64_t>(request->offset),
                                                request->buffer->vector(request->lengths));
  co_await shell.tool().context().yield();
  if (!status.ok()) {
    report_failure("readv", status);
    co_return;
  }
  std::span<const std::byte> data = request->buffer->bytes();
  if (request->pattern && !matches(data, *request->pattern))
    fmt::print("Pattern verification failed at offset {}, {} bytes\n", request->offset,
               data.size());
  if (request->style == ReportStyle::quiet) co_return;
  if (request->dump) dump(data, request->offset);
  report_request("read", request->style, request->stopwatch, request->offset, request->bytes);
}

Task<Status> start_write(Shell& shell, Request& request) {
  auto offset = static_cast<uint64_t>(request.offset);
  if (request.zeroes)
    return shell.image().pwrite_zeroes(offset, static_cast<uint64_t>(request.bytes), request.flags);
  return shell.image().pwritev(offset, request.buffer->vector(request.lengths), request.flags);
}

Task<void> run_write(Shell& shell, std::unique_ptr<Request> request) {
  Status status = co_await start_write(shell, *request);
  co_await shell.tool().context().yield();
  if (!status.ok()) {
    report_failure("aio_write", status);
    co_return;
  }
  report_request("wrote", request->style, request->stopwatch, request->offset, request->bytes);
}

bool parse_operands(const Arguments& arguments, Request& request) {
  std::optional<int64_t> offset = parse_number(arguments[0]);
  if (!offset) return false;
  request.offset = *offset;
  auto lengths = parse_lengths(arguments, 1);
  if (!lengths) return false;
  request.lengths = std::move(*lengths);
  for (size_t length : request.lengths) request.bytes += static_cast<int64_t>(length);
  return true;
}

bool make_buffer(const Shell& shell, Request& request, std::byte fill) {
  request.buffer = std::make_unique<RequestBuffer>(shell, static_cast<size_t>(request.bytes), fill);
  return request.buffer->ok();
}

}  // namespace

Task<bool> command_aio_read(Shell& shell, Arguments& arguments) {
  auto request = std::make_unique<Request>();
  for (int option; (option = arguments.next_option("CP:iqrv")) != -1;) {
    switch (option) {
      case 'C':
        request->style = ReportStyle::machine;
        break;
      case 'P':
        if (!(request->pattern = parse_pattern(arguments.option_value()))) co_return false;
        break;
      case 'i':
        fmt::print("injecting invalid read request\n");
        co_return true;
      case 'q':
        request->style = ReportStyle::quiet;
        break;
      case 'r':
        break;
      case 'v':
        request->dump = true;
        break;
      default:
        co_return print_usage(arguments);
    }
  }
  if (arguments.left() < 2) co_return print_usage(arguments);
  if (!parse_operands(arguments, *request) || !make_buffer(shell, *request, kUnread))
    co_return false;
  request->stopwatch = Stopwatch();
  shell.background().spawn(run_read(shell, std::move(request)));
  co_return true;
}

Task<bool> command_aio_write(Shell& shell, Arguments& arguments) {
  auto request = std::make_unique<Request>();
  for (int option; (option = arguments.next_option("CfiP:qruz")) != -1;) {
    switch (option) {
      case 'C':
        request->style = ReportStyle::machine;
        break;
      case 'f':
        request->flags |= WriteFlag::fua;
        break;
      case 'i':
        fmt::print("injecting invalid write request\n");
        co_return true;
      case 'P':
        if (!(request->pattern = parse_pattern(arguments.option_value()))) co_return false;
        break;
      case 'q':
        request->style = ReportStyle::quiet;
        break;
      case 'r':
        break;
      case 'u':
        request->flags |= WriteFlag::may_unmap;
        break;
      case 'z':
        request->zeroes = true;
        break;
      default:
        co_return print_usage(arguments);
    }
  }
  if (arguments.left() < 2) co_return print_usage(arguments);
  if (request->zeroes && arguments.left() != 2) {
    fmt::print("-z supports only a single length parameter\n");
    co_return false;
  }
  if (request->flags.has(WriteFlag::may_unmap) && !request->zeroes) {
    fmt::print("-u requires -z to be specified\n");
    co_return false;
  }
  if (request->zeroes && request->pattern) {
    fmt::print("-z and -P cannot be specified at the same time\n");
    co_return false;
  }
  if (!parse_operands(arguments, *request)) co_return false;
  if (!request->zeroes && !make_buffer(shell, *request, request->pattern.value_or(kDefaultPattern)))
    co_return false;
  request->stopwatch = Stopwatch();
  shell.background().spawn(run_write(shell, std::move(request)));
  co_return true;
}

Task<bool> command_aio_flush(Shell& shell, Arguments&) {
  co_await shell.background().join();
  co_return true;
}

}  // namespace strata::tools
