// SPDX-License-Identifier: GPL-2.0-or-later
#include <chrono>
#include <cstring>

#include "block/base/aligned_buffer.h"
#include "block/coro/scope.h"
#include "tools/img/command.h"

namespace strata::tools {
namespace {

struct Request {
  ImageChoice image;
  int count = 75000;
  int depth = 64;
  int64_t offset = 0;
  int64_t size = 4096;
  int64_t step = 0;
  int pattern = 0;
  int flush_interval = 0;
  bool drain_for_flush = true;
  bool quiet = false;
};

Take aio_into(OpenFlags& flags) {
  return [&flags](const std::string& mode) {
    if (!set_aio_mode(flags, mode)) throw Error("Invalid aio option: {}", mode);
  };
}

std::string parse(Words& words, Request& request) {
  OpenFlags& flags = request.image.flags;
  std::string name = words.parse_for_image({
      {"-c, --count N", "how many requests (default: 75000)",
       count_into(request.count, "request count", 0)},
      {"-d, --depth N", "how many of them at a time (default: 64)",
       count_into(request.depth, "queue depth", 1)},
      {"-o, --offset BYTES", "where the first begins", size_into(request.offset, "offset")},
      {"-s, --buffer-size BYTES", "size of a request (default: 4k)",
       size_into(request.size, "buffer size", 1, INT_MAX)},
      {"-S, --step-size BYTES", "from one to the next (default: the size of one)",
       size_into(request.step, "step_size", 1, INT_MAX)},
      {"-w, --write", "write rather than read", set(flags.writable)},
      {"--pattern BYTE", "what to write (default: 0)",
       count_into(request.pattern, "pattern byte", 0, 0xff)},
      {"--flush-interval N", "flush after so many writes",
       count_into(request.flush_interval, "flush interval", 0)},
      {"--no-drain", "flush without waiting for writes under way",
       set(request.drain_for_flush, false)},
      {"-i, --aio MODE", "how requests reach the kernel: threads, native or io_uring",
       aio_into(flags)},
      {"-n, --native", "the same as -i native",
       [&flags](const std::string&) { set_aio_mode(flags, "native"); }},
      format_option(request.image),
      image_options_option(request.image),
      {"-t, --cache MODE", "cache mode", cache_into(flags, "Invalid cache mode")},
      force_share_option(flags),
      quiet_option(request.quiet),
  });
  if (request.step == 0) request.step = request.size;
  return name;
}

// `depth` workers take requests from one counter.
class Bench {
 public:
  Bench(const Request& request, Backend& image)
      : request_(request),
        image_(image),
        left_(request.count),
        next_(static_cast<uint64_t>(request.offset)),
        buffer_(static_cast<size_t>(request.size)) {
    if (!buffer_) throw Error::from_errno(ENOMEM, "Could not allocate a buffer");
    std::memset(buffer_.data(), request.pattern, buffer_.size());
  }

  Task<void> run() {
    int interval = request_.flush_interval;
    while (left_ != 0 && failed_ == 0) {
      // With a drain before each flush, the requests come in batches.
      batch_ = interval != 0 && request_.drain_for_flush ? std::min(left_, interval) : left_;
      TaskScope scope;
      for (int i = 0; i < std::min(request_.depth, batch_); ++i) scope.spawn(work());
      co_await scope.join();
      if (interval != 0 && failed_ == 0) fail(co_await image_.flush());
    }
    if (failed_ != 0) throw Error("Failed request: {}", Error::describe_errno(failed_));
  }

 private:
  void fail(Status status) noexcept {
    if (!status.ok()) failed_ = status.error_number();
  }

  uint64_t take_offset() noexcept {
    uint64_t offset = next_;
    next_ += static_cast<uint64_t>(request_.step);
    if (image_.length() <= static_cast<uint64_t>(request_.size))
      next_ = 0;
    else
      next_ %= image_.length() - static_cast<uint64_t>(request_.size);
    return offset;
  }

  Task<void> work() {
    while (batch_ > 0 && failed_ == 0) {
      --batch_;
      --left_;
      uint64_t offset = take_offset();
      IoVector memory = IoVector::buffer(buffer_.data(), buffer_.size());
      if (request_.image.flags.writable)
        fail(co_await image_.pwritev(offset, memory));
      else
        fail(co_await image_.preadv(offset, memory));
      bool flush_now = request_.flush_interval != 0 && !request_.drain_for_flush &&
                       left_ % request_.flush_interval == 0;
      if (flush_now) fail(co_await image_.flush());
    }
  }

  const Request& request_;
  Backend& image_;
  int left_;
  int batch_ = 0;
  uint64_t next_;
  int failed_ = 0;
  AlignedBuffer buffer_;
};

}  // namespace

Task<int> run_bench(Images& images, Words& words) {
  Request request;
  std::string name = parse(words, request);
  bool writes = request.image.flags.writable;
  if (!writes && request.flush_interval != 0)
    throw Error("--flush-interval is only available in write tests");
  if (request.flush_interval != 0 && request.flush_interval < request.depth)
    throw Error("Flush interval can't be smaller than depth");
  Backend* image = co_await images.open(name, request.image);
  fmt::print(
      "Sending {} {} requests, {} bytes each, {} in parallel (starting at offset {}, step size "
      "{})\n",
      request.count, writes ? "write" : "read", request.size, request.depth, request.offset,
      request.step);
  if (request.flush_interval != 0)
    fmt::print("Sending flush every {} {}requests\n", request.flush_interval,
               request.drain_for_flush ? "" : "in-flight ");
  Bench bench(request, *image);
  auto start = std::chrono::steady_clock::now();
  co_await bench.run();
  std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
  fmt::print("Run completed in {:.3f} seconds.\n", elapsed.count());
  co_return 0;
}

}  // namespace strata::tools
