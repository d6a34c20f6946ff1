// SPDX-License-Identifier: GPL-2.0-or-later
#include <cstring>

#include "block/base/aligned_buffer.h"
#include "tools/img/command.h"
#include "tools/img/progress.h"

namespace strata::tools {
namespace {

constexpr option kOptions[]{{"help", no_argument, nullptr, 'h'},
                            {"object", required_argument, nullptr, kObject},
                            {"image-opts", no_argument, nullptr, kImageOpts},
                            {"force-share", no_argument, nullptr, 'U'},
                            {nullptr, 0, nullptr, 0}};

constexpr size_t kBufferSize = 2 << 20;
constexpr size_t kUnit = 512;
constexpr int kDifferent = 1;
constexpr int kFailed = 2;

struct Request {
  std::optional<std::string> formats[2];
  OpenFlags flags;
  bool image_options = false;
  bool strict = false;
  bool quiet = false;
  bool progress = false;
  bool help = false;
};

Request parse(Words& words) {
  Request request;
  for (int option; (option = words.next("hf:F:T:pqsU", kOptions)) != -1;) {
    switch (option) {
      case 'h':
        request.help = true;
        break;
      case 'f':
        request.formats[0] = words.value();
        break;
      case 'F':
        request.formats[1] = words.value();
        break;
      case 'T':
        if (!set_cache_mode(request.flags, words.value())) {
          log_error("Invalid source cache option: {}", words.value());
          throw Exit{kFailed};
        }
        break;
      case 'p':
        request.progress = true;
        break;
      case 'q':
        request.quiet = true;
        break;
      case 's':
        request.strict = true;
        break;
      case 'U':
        request.flags.force_share = true;
        break;
      case kImageOpts:
        request.image_options = true;
        break;
      default:
        break;
    }
  }
  return request;
}

struct Side {
  Backend* image = nullptr;
  std::string name;
  AlignedBuffer buffer{kBufferSize};
};

class Comparison {
 public:
  Comparison(const Request& request, Side& a, Side& b) : request_(request), a_(a), b_(b) {}

  Task<int> run() {
    uint64_t common = std::min(a_.image->length(), b_.image->length());
    uint64_t total = std::max(a_.image->length(), b_.image->length());
    if (request_.strict && a_.image->length() != b_.image->length()) {
      say("Strict mode: Image size mismatch!\n");
      co_return kDifferent;
    }
    int result = 0;
    {
      Progress progress(request_.progress, request_.quiet, total);
      progress_ = &progress;
      result = co_await compare_common(common);
      if (result == 0 && a_.image->length() != b_.image->length()) {
        say("Warning: Image size mismatch!\n");
        Side& longer = a_.image->length() > common ? a_ : b_;
        result = co_await check_zero_tail(longer, common, total);
      }
      if (result == 0) {
        progress.finish();
        say("Images are identical.\n");
      }
    }
    co_return result;
  }

 private:
  void say(std::string_view text) const {
    if (!request_.quiet) fmt::print("{}", text);
  }
  int mismatch(uint64_t offset) const {
    say(fmt::format("Content mismatch at offset {}!\n", offset));
    return kDifferent;
  }
  int failure(const Side& side, uint64_t offset, int error) const {
    log_error("Error while reading offset {} of {}: {}", offset, side.name,
              Error::describe_errno(error));
    return 4;
  }

  static bool is_zero(const io::ChainStatus& chain) noexcept {
    return chain.status.flags.has(StatusFlag::zero);
  }
  static bool is_allocated(const io::ChainStatus& chain) noexcept {
    return chain.status.flags.has(StatusFlag::allocated);
  }

  Task<int> read(Side& side, uint64_t offset, uint64_t bytes) {
    Status status =
        co_await side.image->preadv(offset, IoVector::buffer(side.buffer.data(), bytes));
    co_return status.ok() ? 0 : failure(side, offset, status.error_number());
  }

  // Offset of the first unit that differs, within the first `bytes` of both buffers.
  std::optional<uint64_t> first_difference(uint64_t bytes) const noexcept {
    for (uint64_t at = 0; at < bytes; at += kUnit) {
      size_t size = std::min<uint64_t>(kUnit, bytes - at);
      if (std::memcmp(a_.buffer.data() + at, b_.buffer.data() + at, size) != 0) return at;
    }
    return std::nullopt;
  }

  Task<int> compare_common(uint64_t common) {
    for (uint64_t offset = 0; offset < common;) {
      auto in_a = co_await a_.image->block_status(offset, common - offset);
      if (!in_a) co_return status_failure(a_, in_a.error_number());
      auto in_b = co_await b_.image->block_status(offset, common - offset);
      if (!in_b) co_return status_failure(b_, in_b.error_number());
      uint64_t bytes = std::min({in_a->status.bytes, in_b->status.bytes, common - offset});
      bool zero_a = is_zero(*in_a);
      bool zero_b = is_zero(*in_b);
      if (request_.strict && (zero_a != zero_b || is_allocated(*in_a) != is_allocated(*in_b))) {
        say(fmt::format("Strict mode: Offset {} block status mismatch!\n", offset));
        co_return kDifferent;
      }
      if (!zero_a || !zero_b) {
        bytes = std::min<uint64_t>(bytes, kBufferSize);
        int result = co_await compare_data(offset, bytes, zero_a, zero_b);
        if (result != 0) co_return result;
      }
      offset += bytes;
      progress_->advance(bytes);
    }
    co_return 0;
  }

  Task<int> compare_data(uint64_t offset, uint64_t bytes, bool zero_a, bool zero_b) {
    if (zero_a) co_return co_await check_zero(b_, offset, bytes);
    if (zero_b) co_return co_await check_zero(a_, offset, bytes);
    if (int result = co_await read(a_, offset, bytes); result != 0) co_return result;
    if (int result = co_await read(b_, offset, bytes); result != 0) co_return result;
    std::optional<uint64_t> at = first_difference(bytes);
    co_return at ? mismatch(offset + *at) : 0;
  }

  Task<int> check_zero(Side& side, uint64_t offset, uint64_t bytes) {
    if (int result = co_await read(side, offset, bytes); result != 0) co_return result;
    for (uint64_t at = 0; at < bytes; at += kUnit) {
      size_t size = std::min<uint64_t>(kUnit, bytes - at);
      if (!is_zero_memory(side.buffer.data() + at, size)) co_return mismatch(offset + at);
    }
    co_return 0;
  }

  Task<int> check_zero_tail(Side& side, uint64_t offset, uint64_t end) {
    while (offset < end) {
      auto status = co_await side.image->block_status(offset, end - offset);
      if (!status) co_return status_failure(side, status.error_number());
      uint64_t bytes = status->status.bytes;
      if (!is_zero(*status) && is_allocated(*status)) {
        bytes = std::min<uint64_t>(bytes, kBufferSize);
        int result = co_await check_zero(side, offset, bytes);
        if (result != 0) co_return result;
      }
      offset += bytes;
      progress_->advance(bytes);
    }
    co_return 0;
  }

  int status_failure(const Side& side, int error) const {
    log_error("Sector allocation test failed for {}: {}", side.name, Error::describe_errno(error));
    return 3;
  }

  const Request& request_;
  Side& a_;
  Side& b_;
  Progress* progress_ = nullptr;
};

}  // namespace

Task<int> run_compare(Images& images, Words& words) {
  Request request = parse(words);
  if (request.help) {
    print_help(images.tool().layer());
    co_return 0;
  }
  std::vector<std::string> rest = words.rest();
  if (rest.size() != 2) throw UsageError{"Expecting two image file names"};
  Side sides[2];
  std::optional<Error> failed;
  try {
    for (int i = 0; i < 2; ++i) {
      sides[i].name = rest[i];
      sides[i].image =
          co_await images.open(rest[i], request.formats[i], request.image_options, request.flags);
    }
  } catch (const Error& error) {
    failed = error;
  }
  if (failed) {
    report(*failed);
    co_return kFailed;
  }
  Comparison comparison(request, sides[0], sides[1]);
  co_return co_await comparison.run();
}

}  // namespace strata::tools
