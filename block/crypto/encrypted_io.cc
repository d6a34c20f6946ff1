// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/crypto/encrypted_io.h"

#include <algorithm>
#include <cerrno>

#include "block/aio/thread_pool.h"
#include "block/crypto/bounce.h"

namespace strata::crypto {
namespace {

void decrypt_parts(const SectorCipher& cipher, uint64_t sector, IoVector data) noexcept {
  data.for_each([&](std::byte* part, size_t bytes) {
    cipher.decrypt(sector, part, bytes);
    sector += bytes / kSectorBytes;
  });
}

// Sectors that lie in several pieces of memory.
Status decrypt_scattered(const SectorCipher& cipher, uint64_t sector, IoVector data) noexcept {
  while (!data.empty()) {
    size_t bytes = std::min(data.size(), Bounce::kMaxBytes);
    Bounce bounce(bytes);
    if (!bounce) return Status::error(ENOMEM);
    IoVector part = data.slice(0, bytes);
    part.copy_to(bounce.data());
    cipher.decrypt(sector, bounce.data(), bytes);
    part.copy_from(bounce.data());
    sector += bytes / kSectorBytes;
    data = data.slice(bytes, data.size() - bytes);
  }
  return Status();
}

// The size of an image may be such that this is not so at its end.
bool is_whole(uint64_t number_at, IoVector data) noexcept {
  return ((number_at | data.size()) % kSectorBytes) == 0;
}

ThreadPool& pool() {
  return AioContext::current()->service<ThreadPool>();
}

}  // namespace

Task<Status> read_encrypted(const SectorCipher& cipher, Edge& child, uint64_t at,
                            uint64_t number_at, IoVector into) {
  if (!is_whole(number_at, into)) co_return Status::error(EINVAL);
  Status status = co_await io::preadv(child, at, into);
  if (!status.ok()) co_return status;
  uint64_t sector = number_at / kSectorBytes;
  if (!into.is_aligned(1, kSectorBytes)) co_return decrypt_scattered(cipher, sector, into);
  if (into.size() < cipher.bytes_worth_a_thread()) {
    decrypt_parts(cipher, sector, into);
    co_return Status();
  }
  co_await pool().run([&cipher, sector, into] { decrypt_parts(cipher, sector, into); });
  co_return Status();
}

Task<Status> write_encrypted(const SectorCipher& cipher, Edge& child, uint64_t at,
                             uint64_t number_at, IoVector from, WriteFlags flags) {
  if (!is_whole(number_at, from)) co_return Status::error(EINVAL);
  for (size_t done = 0; done < from.size();) {
    size_t bytes = std::min(from.size() - done, Bounce::kMaxBytes);
    Bounce bounce(bytes);
    if (!bounce) co_return Status::error(ENOMEM);
    IoVector part = from.slice(done, bytes);
    uint64_t sector = (number_at + done) / kSectorBytes;
    auto encrypt = [&cipher, sector, part, out = bounce.data()] {
      part.copy_to(out);
      cipher.encrypt(sector, out, part.size());
    };
    if (bytes < cipher.bytes_worth_a_thread())
      encrypt();
    else
      co_await pool().run(encrypt);
    Status status =
        co_await io::pwritev(child, at + done, IoVector::buffer(bounce.data(), bytes), flags);
    if (!status.ok()) co_return status;
    done += bytes;
  }
  co_return Status();
}

}  // namespace strata::crypto
