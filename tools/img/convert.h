// SPDX-License-Identifier: GPL-2.0-or-later
//
// Copying images into another.
#pragma once

#include <optional>
#include <vector>

#include "block/base/error.h"
#include "block/coro/event.h"
#include "block/coro/mutex.h"
#include "block/io/backend.h"
#include "tools/img/progress.h"

namespace strata::tools {

struct CopyOptions {
  uint64_t sparse_bytes = 4096;  // runs of zeroes that are left out; 0: none is looked for
  int workers = 8;
  bool in_order = true;         // writes follow one another as they lie
  bool target_is_zero = false;  // what is not written reads as zeroes
  bool salvage = false;         // what cannot be read becomes zeroes
  bool quiet = false;
};

// Copies the sources, one behind the other, over the beginning of the target.
class ImageCopy {
 public:
  ImageCopy(std::vector<Backend*> sources, Backend& target, CopyOptions options,
            Progress& progress);

  // Throws Error.
  Task<void> run();

 private:
  struct Piece {
    uint64_t offset = 0;  // in the target
    uint64_t bytes = 0;
    bool zero = false;
    uint64_t turn = 0;
  };
  struct Place {
    Backend* image = nullptr;
    uint64_t offset = 0;
    uint64_t left = 0;
  };

  Place locate(uint64_t offset) const noexcept;
  Task<Piece> next_piece();
  Task<void> work();
  Task<void> copy(Piece piece, std::byte* buffer);
  Task<void> wait_for_turn(uint64_t turn);
  Task<void> read(uint64_t offset, std::byte* buffer, uint64_t bytes);
  Task<void> write(uint64_t offset, const std::byte* buffer, uint64_t bytes);
  Task<void> write_zeroes(uint64_t offset, uint64_t bytes);

  std::vector<Backend*> sources_;
  Backend& target_;
  CopyOptions options_;
  Progress& progress_;
  uint64_t total_ = 0;

  Mutex cursor_lock_;
  uint64_t cursor_ = 0;
  uint64_t next_turn_ = 0;
  uint64_t turn_ = 0;  // the piece that is written now
  Event turned_;
  std::optional<Error> failed_;
};

}  // namespace strata::tools
