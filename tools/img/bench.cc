// SPDX-License-Identifier: GPL-2.0-or-later
#include <charconv>
#include <chrono>
#include <cstring>

#include "block/base/aligned_buffer.h"
#include "block/coro/scope.h"
#include "tools/img/command.h"

namespace strata::tools {
namespace {

constexpr option kOptions[]{{"help", no_argument, nullptr, 'h'},
                            {"flush-interval", required_argument, nullptr, kFlushInterval},
                            {"pattern", required_argument, nullptr, kPattern},
                            {"no-drain", no_argument, nullptr, kNoDrain},
                            {"image-opts", no_argument, nullptr, kImageOpts},
                            {"force-share", no_argument, nullptr, 'U'},
                            {nullptr, 0, nullptr, 0}};

struct Request {
  std::optional<std::string> format;
  OpenFlags flags;
  int count = 75000;
  int depth = 64;
  int64_t offset = 0;
  int64_t size = 4096;
  int64_t step = 0;
  int pattern = 0;
  int flush_interval = 0;
  bool drain_for_flush = true;
  bool quiet = false;
  bool image_options = false;
  bool help = false;
};

int parse_int(const std::string& text, const char* what, int min, int max) {
  int value = 0;
  const char* end = text.data() + text.size();
  auto [rest, error] = std::from_chars(text.data(), end, value);
  if (error != std::errc() || rest != end || value < min || value > max)
    throw Error("Invalid {} specified", what);
  return value;
}

Request parse(Words& words) {
  Request request;
  for (int option; (option = words.next("hc:d:f:ni:o:qs:S:t:wU", kOptions)) != -1;) {
    switch (option) {
      case 'h':
        request.help = true;
        break;
      case 'c':
        request.count = parse_int(words.value(), "request count", 0, INT32_MAX);
        break;
      case 'd':
        request.depth = parse_int(words.value(), "queue depth", 1, INT32_MAX);
        break;
      case 'f':
        request.format = words.value();
        break;
      case 'n':
        set_aio_mode(request.flags, "native");
        break;
      case 'i':
        if (!set_aio_mode(request.flags, words.value()))
          throw Error("Invalid aio option: {}", words.value());
        break;
      case 'o':
        request.offset = parse_number(words.value(), "offset");
        break;
      case 'q':
        request.quiet = true;
        break;
      case 's':
        request.size = parse_number(words.value(), "buffer size", 1, INT32_MAX);
        break;
      case 'S':
        request.step = parse_number(words.value(), "step_size", 1, INT32_MAX);
        break;
      case 't':
        if (!set_cache_mode(request.flags, words.value())) throw Error("Invalid cache mode");
        break;
      case 'w':
        request.flags.writable = true;
        break;
      case 'U':
        request.flags.force_share = true;
        break;
      case kPattern:
        request.pattern = parse_int(words.value(), "pattern byte", 0, 0xff);
        break;
      case kFlushInterval:
        request.flush_interval = parse_int(words.value(), "flush interval", 0, INT32_MAX);
        break;
      case kNoDrain:
        request.drain_for_flush = false;
        break;
      case kImageOpts:
        request.image_options = true;
        break;
      default:
        break;
    }
  }
  if (request.step == 0) request.step = request.size;
  return request;
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
      if (request_.flags.writable)
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
  Request request = parse(words);
  if (request.help) {
    print_help(images.tool().layer());
    co_return 0;
  }
  std::vector<std::string> rest = words.rest();
  if (rest.size() != 1) throw UsageError{"Expecting one image file name"};
  bool writes = request.flags.writable;
  if (!writes && request.flush_interval != 0)
    throw Error("--flush-interval is only available in write tests");
  if (request.flush_interval != 0 && request.flush_interval < request.depth)
    throw Error("Flush interval can't be smaller than depth");
  Backend* image =
      co_await images.open(rest[0], request.format, request.image_options, request.flags);
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
