// SPDX-License-Identifier: GPL-2.0-or-later
#include <atomic>
#include <cstring>
#include <deque>
#include <mutex>

#include "block/base/aligned_buffer.h"
#include "block/coro/mutex.h"
#include "block/coro/scope.h"
#include "tools/common/claims.h"
#include "tools/img/command.h"
#include "tools/img/disk_threads.h"
#include "tools/img/progress.h"
#include "tools/img/status_step.h"

namespace strata::tools {
namespace {

constexpr uint64_t kPiece = 256 << 10;  // two of them stay in a processor's cache
constexpr uint64_t kStep = 2 << 20;     // of the progress: as qemu-img's
constexpr int kWorkers = 4;
constexpr unsigned kThreads = 2;
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

struct Side {
  Backend* image = nullptr;
  std::string name;
  std::optional<Claims> claims;
};

// Looks for the first place at which the images differ, or cannot be read. Several workers look at
// pieces one behind the other.
class Comparison {
 public:
  Comparison(const Request& request, Side& a, Side& b)
      : request_(request), a_(a), b_(b), threads_(kThreads) {}

  Task<int> run() {
    uint64_t common = std::min(a_.image->length(), b_.image->length());
    uint64_t total = std::max(a_.image->length(), b_.image->length());
    Progress progress(request_.progress, request_.quiet, 2.0);
    if (request_.strict && common != total) {
      say("Strict mode: Image size mismatch!\n");
      co_return kDifferent;
    }
    progress.set_total(total);
    progress_ = &progress;
    co_await scan(common);
    if (!found_ && common != total) {
      say("Warning: Image size mismatch!\n");
      longer_ = a_.image->length() > common ? &a_ : &b_;
      co_await scan(total);
    }
    if (!found_) {
      say("Images are identical.\n");
      co_return 0;
    }
    if (found_->is_error)
      log_error("{}", found_->text);
    else
      say(found_->text);
    co_return found_->code;
  }

 private:
  struct Run {
    uint64_t offset = 0;
    uint64_t bytes = 0;
    bool in_a = false;  // else it is zeroes there
    bool in_b = false;
    StatusStep of_a;
    StatusStep of_b;
    uint64_t end() const noexcept { return offset + bytes; }
    // What qemu-img would see of it at once.
    uint64_t seen(uint64_t at) const noexcept {
      return std::min({end() - at, of_a.left(at), of_b.left(at)});
    }
  };
  // What is done at once, in the order of the image.
  struct Step {
    Run run;
    uint64_t left;
  };
  struct Piece : Run {
    Step* step = nullptr;
  };
  struct Finding {
    uint64_t offset;
    int code;
    bool is_error;
    std::string text;
  };
  struct Buffers {
    AlignedBuffer a{kPiece};
    AlignedBuffer b{kPiece};
  };

  void say(std::string_view text) const {
    if (!request_.quiet) fmt::print("{}", text);
  }

  // Of several, the first in the image is what is told.
  void note(Finding finding) {
    std::lock_guard lock(mutex_);
    if (!found_ || finding.offset < found_->offset) found_ = std::move(finding);
    stop_ = true;
  }
  void note_unknown(const Side& side) {
    note({cursor_, 3, true, fmt::format("Sector allocation test failed for {}", side.name)});
  }
  Step* begin_step(uint64_t bytes) {
    Run run = run_;
    run.offset = cursor_;
    run.bytes = bytes;
    std::lock_guard lock(mutex_);
    return &steps_.emplace_back(run, bytes);
  }
  void advance(Step& step, uint64_t bytes) {
    std::lock_guard lock(mutex_);
    step.left -= bytes;
    for (; !steps_.empty() && steps_.front().left == 0; steps_.pop_front())
      show(steps_.front().run);
  }
  void show(const Run& run) {
    if (!progress_->is_shown()) return progress_->advance(run.bytes);
    for (uint64_t at = run.offset; at < run.end();) {
      uint64_t bytes = run.seen(at);
      progress_->advance_by_share(bytes);
      at += bytes;
    }
  }

  Task<void> scan(uint64_t end) {
    end_ = end;
    TaskScope scope;
    for (int i = 0; i < kWorkers; ++i) scope.spawn(threads_.run(work()));
    co_await scope.join();
  }

  Task<void> work() {
    Buffers buffers;
    if (!buffers.a || !buffers.b) {
      note({0, kFailed, true, "Could not allocate a buffer"});
      co_return;
    }
    for (;;) {
      Piece piece = co_await next_piece();
      if (piece.bytes == 0) break;
      if (!co_await compare(piece, buffers)) break;
      advance(*piece.step, piece.bytes);
    }
  }

  // The next one that is not zeroes in both; none is left when `bytes` is 0.
  Task<Piece> next_piece() {
    Mutex::Lock lock = co_await cursor_lock_.lock();
    while (cursor_ < end_ && !stop_) {
      if (cursor_ >= run_.end()) {
        if (!co_await find_run()) break;
        step_end_ = cursor_;
      }
      if (!run_.in_a && !run_.in_b) {
        advance(*begin_step(run_.bytes), run_.bytes);
        cursor_ = run_.end();
        continue;
      }
      if (cursor_ == step_end_) {
        uint64_t most = run_.in_a && run_.in_b ? kStep : UINT64_MAX;
        step_end_ = cursor_ + std::min(most, run_.seen(cursor_));
        step_ = begin_step(step_end_ - cursor_);
      }
      Piece piece{run_, step_};
      piece.offset = cursor_;
      piece.bytes = std::min(kPiece, step_end_ - cursor_);
      cursor_ += piece.bytes;
      co_return piece;
    }
    co_return Piece();
  }

  Task<Result<io::ChainStatus>> status_of(Side& side) const {
    if (!progress_->is_shown()) return side.image->block_status(run_.offset, run_.bytes);
    return long_status_above(side.image->node(), nullptr, run_.offset, run_.bytes, *side.claims);
  }

  // What is at the cursor. False, too: something was found.
  Task<bool> find_run() {
    run_ = {cursor_, end_ - cursor_};
    if (longer_ != nullptr) {
      auto status = co_await status_of(*longer_);
      if (!status) co_return note_unknown(*longer_), false;
      run_.bytes = std::min(run_.bytes, status->status.bytes);
      run_.of_a = step_of(*longer_, *status);
      if (!count(*longer_, *status)) co_return false;
      bool holds = !is_zero(*status) && status->status.flags.has(StatusFlag::allocated);
      (longer_ == &a_ ? run_.in_a : run_.in_b) = holds;
      co_return true;
    }
    auto in_a = co_await status_of(a_);
    if (!in_a) co_return note_unknown(a_), false;
    auto in_b = co_await status_of(b_);
    if (!in_b) co_return note_unknown(b_), false;
    run_.bytes = std::min({run_.bytes, in_a->status.bytes, in_b->status.bytes});
    if (!count(a_, *in_a) || !count(b_, *in_b)) co_return false;
    run_.in_a = !is_zero(*in_a);
    run_.in_b = !is_zero(*in_b);
    run_.of_a = step_of(a_, *in_a);
    run_.of_b = step_of(b_, *in_b);
    if (!request_.strict || in_a->status.flags == in_b->status.flags) co_return true;
    note({cursor_, kDifferent, false,
          fmt::format("Strict mode: Offset {} block status mismatch!\n", cursor_)});
    co_return false;
  }

  static StatusStep step_of(const Side& side, const io::ChainStatus& chain) noexcept {
    return {side.image->node(), nullptr, chain.depth};
  }

  // False: the image cannot hold all that it says. Of the answer, what lies in the run.
  bool count(Side& side, const io::ChainStatus& chain) {
    if (side.claims->allow(chain.status, run_.bytes)) return true;
    note({cursor_, 3, true, side.claims->refusal().text()});
    return false;
  }

  static bool is_zero(const io::ChainStatus& chain) noexcept {
    return chain.status.flags.has(StatusFlag::zero);
  }

  // False: something to be told of was found.
  Task<bool> compare(const Piece& piece, Buffers& buffers) {
    if (piece.in_a && !co_await fetch(a_, piece, buffers.a)) co_return false;
    if (piece.in_b && !co_await fetch(b_, piece, buffers.b)) co_return false;
    const std::byte* a = buffers.a.data();
    const std::byte* b = buffers.b.data();
    std::optional<uint64_t> at = piece.in_a && piece.in_b
                                     ? first_difference(a, b, piece.bytes)
                                     : first_nonzero(piece.in_a ? a : b, piece.bytes);
    if (!at) co_return true;
    uint64_t offset = piece.offset + *at;
    note({offset, kDifferent, false, fmt::format("Content mismatch at offset {}!\n", offset)});
    co_return false;
  }

  Task<bool> fetch(const Side& side, const Piece& piece, AlignedBuffer& buffer) {
    Status status =
        co_await side.image->preadv(piece.offset, IoVector::buffer(buffer.data(), piece.bytes));
    if (status.ok()) co_return true;
    note({piece.offset, 4, true,
          fmt::format("Error while reading offset {} of {}: {}", piece.offset, side.name,
                      Error::describe_errno(status.error_number()))});
    co_return false;
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

  const Request& request_;
  Side& a_;
  Side& b_;
  Side* longer_ = nullptr;  // of which the end is compared with zeroes
  DiskThreads threads_;

  Mutex cursor_lock_;
  uint64_t cursor_ = 0;
  uint64_t end_ = 0;
  Run run_;  // where the cursor is
  Step* step_ = nullptr;
  uint64_t step_end_ = 0;
  std::atomic<bool> stop_{false};
  std::mutex mutex_;  // of what follows
  std::optional<Finding> found_;
  std::deque<Step> steps_;
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
      sides[i].claims.emplace(sides[i].image->node());
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
