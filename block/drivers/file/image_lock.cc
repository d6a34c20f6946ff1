// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/drivers/file/image_lock.h"

#include <fcntl.h>

#include <cerrno>
#include <utility>

#include "block/base/error.h"
#include "block/drivers/file/lock_holders.h"

namespace strata {
namespace {

constexpr long kUsedBase = 100;
constexpr long kUnsharedBase = 200;
constexpr unsigned kPermissions = 4;

bool has(uint32_t bits, unsigned number) noexcept {
  return (bits >> number & 1) != 0;
}

std::string name_of(unsigned number) {
  return describe(PermissionSet::from_bits(1u << number));
}

bool knows_no_locks(int error) noexcept {
  return error == ENOLCK || error == ENOSYS || error == EOPNOTSUPP || error == EINVAL;
}

}  // namespace

ImageLock::ImageLock(UniqueFd fd, std::string name, bool required) noexcept
    : fd_(std::move(fd)), name_(std::move(name)), required_(required) {}

ImageLock& ImageLock::operator=(ImageLock&& other) noexcept {
  release_all_but({});
  fd_ = std::move(other.fd_);
  name_ = std::move(other.name_);
  required_ = other.required_;
  held_ = std::exchange(other.held_, {});
  wanted_ = std::exchange(other.wanted_, {});
  locked_ = std::exchange(other.locked_, {});
  return *this;
}

// Not left to the closing of the descriptor: a ring may hold the open file for a little longer.
ImageLock::~ImageLock() {
  release_all_but({});
}

ImageLock::Bytes ImageLock::bytes_of(Permissions permissions) noexcept {
  return {permissions.needed.bits(), kAllPermissions.without(permissions.shared).bits()};
}

bool ImageLock::set_lock(int type, long byte) noexcept {
  struct flock lock{};
  lock.l_type = static_cast<short>(type);
  lock.l_whence = SEEK_SET;
  lock.l_start = byte;
  lock.l_len = 1;
  int result = 0;
  do {
    result = ::fcntl(fd_.get(), F_OFD_SETLK, &lock);
  } while (result != 0 && errno == EINTR);
  return result == 0;
}

void ImageLock::take(Bytes more) {
  for (unsigned n = 0; n < kPermissions; ++n) {
    auto take_byte = [&](uint32_t wanted, uint32_t& locked, long byte) {
      if (!has(wanted, n) || has(locked, n)) return;
      if (!set_lock(F_RDLCK, byte)) throw Error::from_errno(errno, "Failed to lock byte {}", byte);
      locked |= 1u << n;
    };
    take_byte(more.used, locked_.used, kUsedBase + n);
    take_byte(more.unshared, locked_.unshared, kUnsharedBase + n);
  }
}

void ImageLock::release_all_but(Bytes kept) noexcept {
  if (!fd_) return;
  for (unsigned n = 0; n < kPermissions; ++n) {
    if (has(locked_.used & ~kept.used, n)) set_lock(F_UNLCK, kUsedBase + n);
    if (has(locked_.unshared & ~kept.unshared, n)) set_lock(F_UNLCK, kUnsharedBase + n);
  }
  locked_.used &= kept.used;
  locked_.unshared &= kept.unshared;
}

// What others have said must fit what is wanted here.
void ImageLock::check(Bytes wanted) const {
  auto held_by_another = [&](long byte) {
    struct flock lock{};
    lock.l_type = F_WRLCK;
    lock.l_whence = SEEK_SET;
    lock.l_start = byte;
    lock.l_len = 1;
    return ::fcntl(fd_.get(), F_OFD_GETLK, &lock) == 0 && lock.l_type != F_UNLCK;
  };
  auto refuse = [&](const char* what, unsigned number, long byte) {
    throw Error("Failed to get {}\"{}\" lock", what, name_of(number))
        .hint("Is another process using the image [" + name_ + "]?\n" +
              describe_lock_holders(fd_.get(), byte));
  };
  for (unsigned n = 0; n < kPermissions; ++n) {
    if (has(wanted.used, n) && held_by_another(kUnsharedBase + n)) refuse("", n, kUnsharedBase + n);
    if (has(wanted.unshared, n) && held_by_another(kUsedBase + n))
      refuse("shared ", n, kUsedBase + n);
  }
}

void ImageLock::prepare(Permissions wanted) {
  wanted_ = bytes_of(wanted);
  if (!fd_) return;
  try {
    take(wanted_);
    check(wanted_);
  } catch (const Error& error) {
    abort();
    if (required_ || !knows_no_locks(error.error_number())) throw;
  }
}

void ImageLock::commit() noexcept {
  held_ = wanted_;
  release_all_but(held_);
}

void ImageLock::abort() noexcept {
  wanted_ = held_;
  release_all_but(held_);
}

}  // namespace strata
