// SPDX-License-Identifier: GPL-2.0-or-later
#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <thread>

#include "block/aio/aio_context.h"
#include "block/base/aligned_buffer.h"
#include "block/base/log.h"
#include "block/coro/scope.h"
#include "tools/img/convert.h"
#include "tools/img/host_copy.h"

namespace strata::tools {
namespace {

constexpr uint64_t kBufferSize = 512 << 10;
constexpr unsigned kReaders = 2;
constexpr uint64_t kProgressStep = 2 << 20;
constexpr uint64_t kPackedAtOnce = 128 << 10;
constexpr uint64_t kCopiedInHost = 64 << 20;
constexpr uint64_t kMaxZeroRun = 1 << 30;

[[noreturn]] void throw_errno(int error, std::string_view what, uint64_t offset) {
  throw Error::from_errno(error, "error while {} at byte {}", what, offset);
}

// The length of the run from `data` on that is all zero, or has no zero run of `least` bytes.
// Looks at whole units, as they lie in the image: `offset` is where `data` is in it.
struct Run {
  bool zero;
  uint64_t bytes;
};
Run next_run(const std::byte* data, uint64_t bytes, uint64_t offset, uint64_t unit,
             uint64_t least) noexcept {
  auto end_of_unit = [&](uint64_t at) { return std::min(bytes, at + unit - (offset + at) % unit); };
  auto zero_until = [&](uint64_t at) {
    while (at < bytes) {
      uint64_t end = end_of_unit(at);
      if (!is_zero_memory(data + at, end - at)) break;
      at = end;
    }
    return at;
  };
  uint64_t end = zero_until(0);
  if (end >= std::min(least, bytes)) return {true, end};
  for (uint64_t at = std::max(end, end_of_unit(0)); at < bytes;) {
    end = zero_until(at);
    if (end - at >= least || (end == bytes && end != at)) return {false, at};
    at = end == at ? end_of_unit(at) : end;
  }
  return {false, bytes};
}

}  // namespace

ImageCopy::ImageCopy(std::vector<Backend*> sources, Backend& target, CopyOptions options,
                     Progress& progress)
    : sources_(std::move(sources)), target_(target), options_(options), progress_(progress) {
  for (const Backend* source : sources_) total_ += source->length();
  unit_ = std::max<uint64_t>(std::bit_floor(std::max<uint64_t>(options_.sparse_bytes, kSectorSize)),
                             target_.limits().request_alignment);
  if (auto facts = target_.node().driver().image_facts(); facts && options_.compressed)
    cluster_ = facts->cluster_size.value_or(0);
  if (const Node* backing = target_.node().backing(); backing && options_.target_has_backing)
    backing_length_ = backing->length();
}

ImageCopy::Place ImageCopy::locate(uint64_t offset) const noexcept {
  for (size_t i = 0; i < sources_.size(); ++i) {
    uint64_t length = sources_[i]->length();
    if (offset < length) return {sources_[i], i, offset, length - offset};
    offset -= length;
  }
  return {};
}

void ImageCopy::fail(const Error& error, uint64_t offset) {
  if (failed_ && failed_offset_ < offset) return;
  failed_ = error;
  failed_offset_ = offset;
}

// Finds out of what kind the bytes at the cursor are.
Task<void> ImageCopy::find_run() {
  Place place = locate(cursor_);
  bool behind_backing = backing_length_ && cursor_ >= *backing_length_;
  if (backing_length_ && !behind_backing)
    place.left = std::min(place.left, *backing_length_ - cursor_);
  Node& node = place.image->node();
  // With a backing file of its own, the target is to hold just what the top of the source holds.
  Node* base = options_.target_has_backing ? node.backing() : nullptr;
  bool shown = progress_.is_shown();
  auto status = co_await (
      shown ? long_status_above(node, base, place.offset, place.left, claims_[place.source])
            : io::block_status_above(node, base, false, place.offset, place.left));
  // One sector that cannot be asked about must not hide the others.
  if (!status && options_.salvage && place.left > kSectorSize) {
    place.left = kSectorSize;
    status = co_await io::block_status_above(node, base, false, place.offset, place.left);
  }
  run_ = {.offset = cursor_};
  if (!status) {
    if (!options_.salvage)
      throw Error::from_errno(status.error_number(),
                              "error while reading block status at offset {}", cursor_);
    if (!options_.quiet)
      log_warning("error while reading block status at offset {}: {}", cursor_,
                  Error::describe_errno(status.error_number()));
    run_.bytes = std::min(place.left, kSectorSize);
    co_return;
  }
  StatusFlags flags = status->status.flags;
  run_.bytes = std::min(place.left, status->status.bytes);
  run_.in_source = place.offset;
  run_.sight = StatusStep(node, base, status->depth);
  // What is less than a cluster counts as data, be it so or only seen so.
  if (shown && cluster_ != 0) run_.bytes = std::min(run_.bytes, run_.sight.left(place.offset));
  if (flags.has(StatusFlag::zero))
    run_.kind = behind_backing ? Kind::backing : Kind::zero;
  else if (!flags.has(StatusFlag::data) && options_.target_has_backing)
    run_.kind = Kind::backing;
  // Does not end in the middle of what the source reads at once.
  auto facts = node.driver().image_facts();
  uint64_t align = std::max<uint64_t>(node.io().limits.request_alignment,
                                      facts ? facts->cluster_size.value_or(1) : 1);
  uint64_t rest = (place.offset + run_.bytes) % align;
  if (run_.bytes > rest) run_.bytes -= rest;
  claims_[place.source].add(status->status, run_.bytes);
}

// A compressed target takes clusters: one of several kinds is data.
Task<ImageCopy::Piece> ImageCopy::whole_units(Piece piece) {
  if (piece.bytes >= cluster_) {
    piece.bytes -= piece.bytes % cluster_;
    co_return piece;
  }
  piece.bytes = std::min(cluster_, total_ - piece.offset);
  while (run_.end() < piece.end()) {
    cursor_ = run_.end();
    co_await find_run();
    if (run_.kind != piece.kind) piece.kind = Kind::data;
  }
  // As qemu-img counts its progress.
  if (progress_.is_shown()) piece.kind = Kind::data;
  co_return piece;
}

// The next stretch that nobody copies yet; none is left when `bytes` is 0.
Task<ImageCopy::Piece> ImageCopy::next_piece() {
  Mutex::Lock lock = co_await cursor_lock_.lock();
  if (failed_ || cursor_ >= total_) co_return Piece();
  if (cursor_ >= run_.end()) co_await find_run();
  Piece piece = run_;
  piece.offset = cursor_;
  piece.bytes = run_.end() - cursor_;
  piece.in_source += cursor_ - run_.offset;
  piece.run_end = run_.end();
  uint64_t most = piece.kind != Kind::data ? kMaxZeroRun
                  : cluster_ != 0          ? std::max(kPackedAtOnce, cluster_)
                  : options_.in_host       ? kCopiedInHost
                                           : kBufferSize;
  // Whole buffers as they lie in the image, so that clusters are not cut.
  if (piece.bytes > most) piece.bytes = most - (piece.kind == Kind::data ? cursor_ % most : 0);
  if (cluster_ != 0) piece = co_await whole_units(piece);
  cursor_ = piece.end();
  co_return piece;
}

Task<void> ImageCopy::read(uint64_t offset, std::byte* buffer, uint64_t bytes) {
  while (bytes != 0) {
    Place place = locate(offset);
    uint64_t size = std::min(bytes, place.left);
    Status status = co_await place.image->preadv(place.offset, IoVector::buffer(buffer, size));
    if (!status.ok()) {
      if (!options_.salvage) throw_errno(status.error_number(), "reading", offset);
      // The sectors around the bad one may still be there.
      if (size > kSectorSize) {
        size = kSectorSize;
        status = co_await place.image->preadv(place.offset, IoVector::buffer(buffer, size));
      }
      if (!status.ok()) {
        if (!options_.quiet)
          log_warning("error while reading offset {}: {}", offset,
                      Error::describe_errno(status.error_number()));
        std::memset(buffer, 0, size);
      }
    }
    offset += size;
    buffer += size;
    bytes -= size;
  }
}

Task<void> ImageCopy::read_ahead(const Piece& piece, std::byte* buffer) {
  Task<void> reading = read(piece.offset, buffer, piece.bytes);
  return readers_ ? readers_->run(std::move(reading)) : std::move(reading);
}

Task<void> ImageCopy::keep_to_rate(uint64_t bytes) {
  if (options_.bytes_per_second == 0) co_return;
  AioContext& context = *AioContext::current();
  TimePoint start = std::max(next_write_, context.now());
  double seconds = static_cast<double>(bytes) / static_cast<double>(options_.bytes_per_second);
  next_write_ =
      start + std::chrono::duration_cast<Duration>(std::chrono::duration<double>(seconds));
  if (start > context.now()) co_await context.sleep_until(start);
}

Task<void> ImageCopy::write_zeroes(uint64_t offset, uint64_t bytes) {
  if (options_.target_is_zero) co_return;
  co_await keep_to_rate(bytes);
  Status status = co_await target_.pwrite_zeroes(offset, bytes, WriteFlag::may_unmap);
  if (!status.ok()) throw_errno(status.error_number(), "writing", offset);
}

Task<void> ImageCopy::write(uint64_t offset, const std::byte* buffer, uint64_t bytes) {
  while (bytes != 0) {
    Run run{false, bytes};
    if (options_.sparse_bytes != 0 && options_.scan_data)
      run = next_run(buffer, bytes, offset, unit_, options_.sparse_bytes);
    if (run.zero) {
      co_await write_zeroes(offset, run.bytes);
    } else {
      co_await keep_to_rate(run.bytes);
      Status status = co_await target_.pwritev(offset, IoVector::buffer(buffer, run.bytes));
      if (!status.ok()) throw_errno(status.error_number(), "writing", offset);
    }
    offset += run.bytes;
    buffer += run.bytes;
    bytes -= run.bytes;
  }
}

// Clusters that are all zero are left out. The writes of a piece begin in its turn; the next piece
// need not wait for their end, since the target places what it packs in the order of its coming.
Task<void> ImageCopy::write_compressed(uint64_t offset, const std::byte* buffer, uint64_t bytes,
                                       Turnstile::Turn& turn) {
  auto is_zero_at = [&](uint64_t at) {
    return options_.sparse_bytes != 0 &&
           is_zero_memory(buffer + at, std::min(cluster_, bytes - at));
  };
  for (uint64_t at = 0; at < bytes;) {
    bool zero = is_zero_at(at);
    uint64_t end = at;
    while (end < bytes && is_zero_at(end) == zero) end = std::min(bytes, end + cluster_);
    if (zero) {
      co_await write_zeroes(offset + at, end - at);
    } else {
      co_await keep_to_rate(end - at);
      if (end == bytes) turn.done();
      Status status = co_await target_.pwritev(offset + at, IoVector::buffer(buffer + at, end - at),
                                               WriteFlag::compressed);
      if (!status.ok()) throw_errno(status.error_number(), "writing", offset + at);
    }
    at = end;
  }
}

Task<void> ImageCopy::copy_in_host(Piece piece, std::byte* buffer, Turnstile::Turn& turn) {
  if (options_.in_order)
    co_await turn.wait();
  else
    turn.done();
  co_await keep_to_rate(piece.bytes);
  while (piece.bytes != 0 && !failed_) {
    uint64_t bytes = 0;
    Place place = locate(piece.offset);
    if (options_.in_host)
      bytes = co_await tools::copy_in_host(place.image->node(), place.offset, target_.node(),
                                           piece.offset, std::min(piece.bytes, place.left));
    if (bytes == 0) {
      options_.in_host = false;  // and is not tried again
      bytes = std::min(piece.bytes, kBufferSize);
      co_await read(piece.offset, buffer, bytes);
      co_await write(piece.offset, buffer, bytes);
    }
    piece.offset += bytes;
    piece.bytes -= bytes;
  }
}

Task<void> ImageCopy::copy(Piece piece, std::byte* buffer, Turnstile::Turn& turn) {
  if (options_.in_host && piece.kind == Kind::data)
    co_return co_await copy_in_host(piece, buffer, turn);
  // Without looking for zeroes, all of the target is to be allocated.
  bool as_data = is_work(piece);
  if (piece.kind == Kind::data) co_await read_ahead(piece, buffer);
  if (options_.in_order || options_.compressed)
    co_await turn.wait();
  else
    turn.done();
  if (failed_ || piece.kind == Kind::backing) co_return;
  if (!as_data) co_return co_await write_zeroes(piece.offset, piece.bytes);
  uint64_t most = std::max(kBufferSize, cluster_);
  if (piece.kind == Kind::zero) std::memset(buffer, 0, most);
  for (uint64_t done = 0; done < piece.bytes;) {
    uint64_t size = std::min(piece.bytes - done, most);
    if (cluster_ != 0)
      co_await write_compressed(piece.offset + done, buffer, size, turn);
    else
      co_await write(piece.offset + done, buffer, size);
    done += size;
  }
}

Task<void> ImageCopy::work() {
  AlignedBuffer buffer(std::max(kBufferSize, cluster_));
  Piece piece;
  try {
    if (!buffer) throw Error::from_errno(ENOMEM, "Could not allocate a buffer");
    for (;;) {
      piece = co_await next_piece();
      if (piece.bytes == 0) break;
      // Drawn at once, before the next piece can be asked for.
      Turnstile::Turn turn = order_.draw();
      if (progress_.is_shown()) show_begun(piece);
      co_await copy(piece, buffer.data(), turn);
      if (!progress_.is_shown()) progress_.advance(piece.bytes);
    }
  } catch (const Error& error) {
    fail(error, piece.offset);
  }
}

// In steps as large as qemu-img's, which show, and like its as soon as one is begun.
void ImageCopy::show_begun(const Piece& piece) {
  if (!is_work(piece)) return;
  uint64_t run_end = std::max(piece.run_end, piece.end());
  next_step_ = std::max(next_step_, piece.offset);
  while (next_step_ < piece.end()) {
    uint64_t in_source = piece.in_source + (next_step_ - piece.offset);
    uint64_t step = cluster_ != 0 ? cluster_ : std::min(kProgressStep, piece.sight.left(in_source));
    step = std::min(step, run_end - next_step_);
    progress_.advance(step);
    next_step_ += step;
  }
}

void ImageCopy::begin_pass() {
  cursor_ = 0;
  run_ = Piece();
  claims_.clear();
  for (const Backend* source : sources_) claims_.emplace_back(source->node());
}

// How much data there is: what is shown as it goes is how much of it has been copied.
Task<uint64_t> ImageCopy::count_data() {
  uint64_t bytes = 0;
  for (;;) {
    Piece piece = co_await next_piece();
    if (piece.bytes == 0) break;
    if (is_work(piece)) bytes += piece.bytes;
  }
  begin_pass();
  co_return bytes;
}

// All processors pack while one piece is read and another is written; more pieces than that would
// only take memory.
int ImageCopy::workers() const noexcept {
  if (!options_.compressed) return options_.workers;
  return std::min(options_.workers, static_cast<int>(std::thread::hardware_concurrency()) + 2);
}

Task<void> ImageCopy::run() {
  if (options_.compressed && cluster_ == 0) throw Error("invalid cluster size");
  begin_pass();
  // Of a damaged source all that cannot be asked about is named before anything is copied.
  bool counted = progress_.is_shown() || options_.salvage;
  uint64_t data = counted ? co_await count_data() : total_;
  progress_.set_total(progress_.is_shown() ? data : total_);
  AioContext& context = *AioContext::current();
  ThreadPoolLimits limits = context.thread_pool_limits();
  // Packing has threads of its own; and what cannot be read is told of in order.
  if (!options_.compressed && !options_.in_host && !options_.salvage) {
    readers_.emplace(kReaders);
    context.set_thread_pool_limits({.min = 0, .max = 0});
  }
  TaskScope scope;
  for (int i = 0; i < workers(); ++i) scope.spawn(work());
  co_await scope.join();
  context.set_thread_pool_limits(limits);
  if (failed_) throw *failed_;
}

}  // namespace strata::tools
