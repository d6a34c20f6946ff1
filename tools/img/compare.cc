// SPDX-License-Identifier: GPL-2.0-or-later
#include <cstring>

#include "block/base/aligned_buffer.h"
#include "block/coro/scope.h"
#include "tools/img/command.h"
#include "tools/img/progress.h"

namespace strata::tools {
namespace {

constexpr size_t kBufferSize = 2 << 20;
constexpr size_t kUnit = 512;
constexpr int kDifferent = 1;
constexpr int kFailed = 2;

struct Request {
  ImageChoice images[2];
  bool strict = false;
  bool quiet = false;
  bool progress = false;
};

std::vector<std::string> parse(Words& words, Request& request) {
  auto& [first, second] = request.images;
  auto cache = [&](const std::string& mode) {
    if (set_cache_mode(first.flags, mode)) return;
    log_error("Invalid source cache option: {}", mode);
    throw Exit{kFailed};
  };
  std::vector<std::string> names = words.parse({
      {"-f, --a-format FMT", "format of the first image (default: guessed)", into(first.format)},
      {"-F, --b-format FMT", "format of the second image", into(second.format)},
      image_options_option(first),
      {"-T, --cache MODE", "cache mode of both", cache},
      force_share_option(first.flags),
      {"-s, --strict", "size and allocation have to be the same, too", set(request.strict)},
      progress_option(request.progress),
      quiet_option(request.quiet),
  });
  second.by_options = first.by_options;
  second.flags = first.flags;
  return names;
}

// One of the images, and its part of what is looked at; while one buffer is, the other is filled.
struct Side {
  struct Part {
    AlignedBuffer buffer{kBufferSize};
    Status status;
  };
  Backend* image = nullptr;
  std::string name;
  Part parts[2];
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
      Progress progress(request_.progress, request_.quiet, 2.0);
      progress.set_total(total);
      progress_ = &progress;
      result = co_await compare_common(common);
      if (result == 0 && a_.image->length() != b_.image->length()) {
        say("Warning: Image size mismatch!\n");
        Side& longer = a_.image->length() > common ? a_ : b_;
        result = co_await check_zero_tail(longer, common, total);
      }
      if (result == 0) {
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

  static Task<void> fetch(Side& side, Side::Part& part, uint64_t offset, uint64_t bytes) {
    part.status = co_await side.image->preadv(offset, IoVector::buffer(part.buffer.data(), bytes));
  }

  // Offset of the first unit that differs.
  static std::optional<uint64_t> first_difference(const std::byte* a, const std::byte* b,
                                                  uint64_t bytes) noexcept {
    if (std::memcmp(a, b, bytes) == 0) return std::nullopt;
    uint64_t at = 0;
    while (std::memcmp(a + at, b + at, std::min<uint64_t>(kUnit, bytes - at)) == 0) at += kUnit;
    return at;
  }

  // Offset of the first unit that is not all zero.
  static std::optional<uint64_t> first_nonzero(const std::byte* data, uint64_t bytes) noexcept {
    for (uint64_t at = 0; at < bytes; at += kUnit)
      if (!is_zero_memory(data + at, std::min<uint64_t>(kUnit, bytes - at))) return at;
    return std::nullopt;
  }

  Task<int> compare_common(uint64_t common) {
    for (uint64_t offset = 0; offset < common;) {
      auto in_a = co_await a_.image->block_status(offset, common - offset);
      if (!in_a) co_return status_failure(a_);
      auto in_b = co_await b_.image->block_status(offset, common - offset);
      if (!in_b) co_return status_failure(b_);
      uint64_t bytes = std::min({in_a->status.bytes, in_b->status.bytes, common - offset});
      bool zero_a = is_zero(*in_a);
      bool zero_b = is_zero(*in_b);
      if (request_.strict && in_a->status.flags != in_b->status.flags) {
        say(fmt::format("Strict mode: Offset {} block status mismatch!\n", offset));
        co_return kDifferent;
      }
      if (zero_a && zero_b) {
        progress_->advance(bytes);
      } else {
        int result =
            co_await compare_run(offset, bytes, zero_a ? nullptr : &a_, zero_b ? nullptr : &b_);
        if (result != 0) co_return result;
      }
      offset += bytes;
    }
    co_return 0;
  }

  // A side that is null is zeroes there.
  Task<int> compare_run(uint64_t offset, uint64_t bytes, Side* a, Side* b) {
    TaskScope reads;
    auto start = [&](int part, uint64_t done) {
      uint64_t size = std::min<uint64_t>(kBufferSize, bytes - done);
      for (Side* side : {a, b})
        if (side != nullptr) reads.spawn(fetch(*side, side->parts[part], offset + done, size));
    };
    int result = 0;
    start(0, 0);
    int part = 0;
    for (uint64_t done = 0; done < bytes && result == 0; part ^= 1) {
      co_await reads.join();
      uint64_t size = std::min<uint64_t>(kBufferSize, bytes - done);
      if (done + size < bytes) start(part ^ 1, done + size);
      result = judge(offset + done, size, a, b, part);
      done += size;
      if (result == 0) progress_->advance(size);
    }
    co_await reads.join();
    co_return result;
  }

  int judge(uint64_t offset, uint64_t bytes, Side* a, Side* b, int part) const {
    for (const Side* side : {a, b})
      if (side != nullptr && !side->parts[part].status.ok())
        return failure(*side, offset, side->parts[part].status.error_number());
    std::optional<uint64_t> at;
    if (a != nullptr && b != nullptr)
      at = first_difference(a->parts[part].buffer.data(), b->parts[part].buffer.data(), bytes);
    else
      at = first_nonzero((a != nullptr ? a : b)->parts[part].buffer.data(), bytes);
    return at ? mismatch(offset + *at) : 0;
  }

  Task<int> check_zero_tail(Side& side, uint64_t offset, uint64_t end) {
    while (offset < end) {
      auto status = co_await side.image->block_status(offset, end - offset);
      if (!status) co_return status_failure(side);
      uint64_t bytes = status->status.bytes;
      if (!is_zero(*status) && is_allocated(*status)) {
        int result = co_await compare_run(offset, bytes, &side, nullptr);
        if (result != 0) co_return result;
      } else {
        progress_->advance(bytes);
      }
      offset += bytes;
    }
    co_return 0;
  }

  static int status_failure(const Side& side) {
    log_error("Sector allocation test failed for {}", side.name);
    return 3;
  }

  const Request& request_;
  Side& a_;
  Side& b_;
  Progress* progress_ = nullptr;
};

}  // namespace

Task<int> run_compare(Images& images, Words& words) {
  Request request;
  std::vector<std::string> rest = parse(words, request);
  if (rest.size() != 2) throw UsageError{"Expecting two image file names"};
  Side sides[2];
  std::optional<Error> failed;
  try {
    for (int i = 0; i < 2; ++i) {
      sides[i].name = rest[i];
      sides[i].image = co_await images.open(rest[i], request.images[i]);
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
