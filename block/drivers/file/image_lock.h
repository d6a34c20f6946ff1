// SPDX-License-Identifier: GPL-2.0-or-later
//
// Locks that keep other processes (ours and QEMU's) from using a file in ways that clash.
#pragma once

#include <string>

#include "block/base/unique_fd.h"
#include "block/graph/permissions.h"

namespace strata {

// Who uses a file how is written into it as shared OFD locks on single bytes: byte 100 + n says
// that permission number n is in use, byte 200 + n that it is not shared with others. Nobody ever
// takes an exclusive lock; whether one could be had tells whether another holds a byte.
//
// Main loop only. Moving to new permissions has two halves, so that a plan can be undone.
class ImageLock {
 public:
  ImageLock() noexcept = default;  // locks nothing
  // `fd` is one more descriptor of the image's, readable, kept while anything is locked: the locks
  // are its open file's. `name` is what error texts call the image. If `required` is false, a file
  // system without locks is accepted.
  ImageLock(UniqueFd fd, std::string name, bool required) noexcept;
  ImageLock(ImageLock&&) noexcept = default;
  ImageLock& operator=(ImageLock&&) noexcept;
  ~ImageLock();

  // Takes what `wanted` needs on top of what is held. Throws Error, with nothing changed. One of
  // the other two follows.
  void prepare(Permissions wanted);
  void commit() noexcept;
  void abort() noexcept;

 private:
  struct Bytes {
    uint32_t used = 0;      // permission bits
    uint32_t unshared = 0;  // permission bits
  };
  static Bytes bytes_of(Permissions permissions) noexcept;
  void take(Bytes more);
  void release_all_but(Bytes kept) noexcept;
  void check(Bytes wanted) const;
  bool set_lock(int type, long byte) noexcept;

  UniqueFd fd_;
  std::string name_;
  bool required_ = false;
  Bytes held_;
  Bytes wanted_;
  Bytes locked_;  // held_ and wanted_ together, between prepare() and what follows
};

}  // namespace strata
