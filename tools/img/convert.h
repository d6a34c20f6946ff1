// SPDX-License-Identifier: GPL-2.0-or-later
//
// Copying images into another.
#pragma once

#include <optional>
#include <vector>

#include "block/aio/clock.h"
#include "block/base/error.h"
#include "block/coro/mutex.h"
#include "block/coro/turnstile.h"
#include "block/io/backend.h"
#include "tools/common/claims.h"
#include "tools/img/disk_threads.h"
#include "tools/img/progress.h"
#include "tools/img/status_step.h"

namespace strata::tools {

struct CopyOptions {
  uint64_t sparse_bytes = 4096;  // runs of zeroes that are left out; 0: none is looked for
  int workers = 8;
  bool in_order = true;         // writes follow one another as they lie
  bool target_is_zero = false;  // what is not written reads as zeroes
  bool salvage = false;         // what cannot be read becomes zeroes
  bool quiet = false;
  bool compressed = false;
  bool scan_data = true;            // for such runs; else only what the source knows of them
  bool in_host = false;             // copied by the host itself, where it can
  bool target_has_backing = false;  // what the source has from its backing file is left to it
  uint64_t bytes_per_second = 0;    // 0: no limit
};

// Copies the sources, one behind the other, over the beginning of the target. What is neither
// packed nor slowed down is copied by several threads.
class ImageCopy {
 public:
  ImageCopy(std::vector<Backend*> sources, Backend& target, CopyOptions options,
            Progress& progress);

  // Throws Error.
  Task<void> run();

 private:
  enum class Kind : uint8_t { data, zero, backing };
  struct Piece {
    uint64_t offset = 0;  // in the target
    uint64_t bytes = 0;
    Kind kind = Kind::data;
    uint64_t in_source = 0;  // where it is there
    uint64_t run_end = 0;    // until where it goes on like that
    StatusStep sight;
    uint64_t end() const noexcept { return offset + bytes; }
  };
  struct Place {
    Backend* image = nullptr;
    size_t source = 0;
    uint64_t offset = 0;
    uint64_t left = 0;
  };

  Place locate(uint64_t offset) const noexcept;
  void begin_pass();
  Task<void> find_run();
  Task<Piece> next_piece();
  bool is_work(const Piece& piece) const noexcept {
    return piece.kind == Kind::data || (piece.kind == Kind::zero && options_.sparse_bytes == 0);
  }
  Task<uint64_t> count_data();
  Task<Piece> whole_units(Piece piece);
  int workers() const noexcept;
  Task<void> work();
  Task<void> copy(Piece piece, std::byte* buffer, Turnstile::Turn& turn);
  Task<void> copy_in_host(Piece piece, std::byte* buffer, Turnstile::Turn& turn);
  Task<void> read(uint64_t offset, std::byte* buffer, uint64_t bytes);
  Task<void> write(uint64_t offset, const std::byte* buffer, uint64_t bytes);
  Task<void> write_compressed(uint64_t offset, const std::byte* buffer, uint64_t bytes,
                              Turnstile::Turn& turn);
  Task<void> write_zeroes(uint64_t offset, uint64_t bytes);
  Task<void> keep_to_rate(uint64_t bytes);
  Task<void> read_ahead(const Piece& piece, std::byte* buffer);
  void show_begun(const Piece& piece);
  void fail(const Error& error, uint64_t offset);

  std::vector<Backend*> sources_;
  std::vector<Claims> claims_;  // of each, as far as the cursor
  Backend& target_;
  CopyOptions options_;
  Progress& progress_;
  uint64_t total_ = 0;
  uint64_t unit_ = 0;                       // what zeroes are looked for in, bytes
  uint64_t cluster_ = 0;                    // of a compressed target
  std::optional<uint64_t> backing_length_;  // of the target's

  Mutex cursor_lock_;
  uint64_t cursor_ = 0;
  Piece run_;  // where the cursor is: of one kind
  Turnstile order_;
  TimePoint next_write_{};       // where the rate is limited
  uint64_t next_step_ = 0;       // of the progress: where it begins
  std::optional<Error> failed_;  // the first in the image
  uint64_t failed_offset_ = 0;
  std::optional<DiskThreads> readers_;
};

}  // namespace strata::tools
