// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/crypto/hash.h"

#include <nettle/md5.h>
#include <nettle/nettle-meta.h>
#include <nettle/ripemd160.h>
#include <nettle/sha.h>
#include <nettle/sm3.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#include <algorithm>
#include <array>
#include <cerrno>

#include "block/base/error.h"
#include "block/crypto/sha256_chains.h"

namespace strata::crypto {
namespace {

using Algo = qapi::QCryptoHashAlgo;

constexpr size_t kMaxBlock = 128;
constexpr size_t kMaxContext = 512;
constexpr uint64_t kIterationsBetweenLooks = 4096;

const nettle_hash& library_hash(Algo algorithm) noexcept {
  switch (algorithm) {
    case Algo::md5:
      return nettle_md5;
    case Algo::sha1:
      return nettle_sha1;
    case Algo::sha224:
      return nettle_sha224;
    case Algo::sha256:
      return nettle_sha256;
    case Algo::sha384:
      return nettle_sha384;
    case Algo::sha512:
      return nettle_sha512;
    case Algo::ripemd160:
      return nettle_ripemd160;
    case Algo::sm3:
      return nettle_sm3;
  }
  return nettle_sha256;
}

// A hash under way. Contexts of the library are plain memory, which may be copied.
class HashState {
 public:
  explicit HashState(const nettle_hash& hash) noexcept : hash_(hash) { hash_.init(&memory_); }
  ~HashState() { ::explicit_bzero(&memory_, hash_.context_size); }
  HashState(const HashState&) = delete;
  HashState& operator=(const HashState&) = delete;
  void copy(const HashState& other) noexcept {
    ::memcpy(&memory_, &other.memory_, hash_.context_size);
  }
  void update(ConstBytes bytes) noexcept {
    hash_.update(&memory_, bytes.size(), reinterpret_cast<const uint8_t*>(bytes.data()));
  }
  void finish(Bytes out) noexcept {
    hash_.digest(&memory_, out.size(), reinterpret_cast<uint8_t*>(out.data()));
  }
  const nettle_hash& kind() const noexcept { return hash_; }

 private:
  const nettle_hash& hash_;
  alignas(64) std::array<std::byte, kMaxContext> memory_;
};

// HMAC whose key has been hashed in already, so that a message costs two blocks.
class Hmac {
 public:
  Hmac(const nettle_hash& hash, ConstBytes key) noexcept : inner_(hash), outer_(hash), work_(hash) {
    std::array<std::byte, kMaxBlock> padded{};
    if (key.size() > hash.block_size) {
      HashState shorter(hash);
      shorter.update(key);
      shorter.finish(Bytes(padded).first(hash.digest_size));
    } else {
      std::copy(key.begin(), key.end(), padded.begin());
    }
    Bytes block = Bytes(padded).first(hash.block_size);
    for (std::byte& byte : block) byte ^= std::byte{0x36};
    inner_.update(block);
    for (std::byte& byte : block) byte ^= std::byte{0x36 ^ 0x5c};
    outer_.update(block);
    ::explicit_bzero(padded.data(), padded.size());
  }
  void start() noexcept { work_.copy(inner_); }
  void update(ConstBytes bytes) noexcept { work_.update(bytes); }
  void finish(Bytes digest) noexcept {
    work_.finish(digest);
    work_.copy(outer_);
    work_.update(digest);
    work_.finish(digest);
  }

 private:
  HashState inner_;
  HashState outer_;
  HashState work_;
};

CpuBudget::Duration thread_cpu_time() noexcept {
  timespec now{};
  ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return std::chrono::seconds(now.tv_sec) + std::chrono::nanoseconds(now.tv_nsec);
}

// Spends what has gone by since it was asked last.
class Clock {
 public:
  explicit Clock(CpuBudget& budget) noexcept : budget_(budget), since_(thread_cpu_time()) {}
  bool is_time_left() noexcept {
    CpuBudget::Duration now = thread_cpu_time();
    budget_.spend(now - since_);
    since_ = now;
    return !budget_.exhausted();
  }

 private:
  CpuBudget& budget_;
  CpuBudget::Duration since_;
};

// The first iteration.
void start_block(Hmac& hmac, ConstBytes salt, uint32_t index, Bytes digest) noexcept {
  std::array<std::byte, 4> number;
  store_be<uint32_t>(number, 0, index);
  hmac.start();
  hmac.update(salt);
  hmac.update(number);
  hmac.finish(digest);
}

bool derive_block(Hmac& hmac, ConstBytes salt, uint32_t index, uint64_t iterations, Bytes block,
                  CpuBudget& budget) noexcept {
  std::array<std::byte, kMaxDigest> memory{};
  Bytes digest = Bytes(memory).first(block.size());
  start_block(hmac, salt, index, digest);
  std::copy(digest.begin(), digest.end(), block.begin());
  Clock clock(budget);
  for (uint64_t i = 1; i < iterations; ++i) {
    hmac.start();
    hmac.update(digest);
    hmac.finish(digest);
    for (size_t at = 0; at < block.size(); ++at) block[at] ^= digest[at];
    if (i % kIterationsBetweenLooks == 0 && !clock.is_time_left()) return false;
  }
  (void)clock.is_time_left();
  ::explicit_bzero(memory.data(), memory.size());
  return true;
}

// By the library.
bool derive_plainly(const nettle_hash& kind, ConstBytes password, ConstBytes salt,
                    uint64_t iterations, Bytes out, CpuBudget& budget) noexcept {
  Hmac hmac(kind, password);
  std::array<std::byte, kMaxDigest> memory;
  Bytes block = Bytes(memory).first(kind.digest_size);
  for (uint32_t index = 1; !out.empty(); ++index) {
    if (!derive_block(hmac, salt, index, iterations, block, budget)) return false;
    size_t bytes = std::min(out.size(), block.size());
    std::copy_n(block.begin(), bytes, out.begin());
    out = out.subspan(bytes);
  }
  ::explicit_bzero(memory.data(), memory.size());
  return true;
}

bool run_chains(const HmacSha256Key& key, std::span<Sha256Chain> chains, uint64_t iterations,
                CpuBudget& budget) noexcept {
  Clock clock(budget);
  for (uint64_t left = std::max<uint64_t>(iterations, 1) - 1; left > 0;) {
    uint64_t some = std::min(left, kIterationsBetweenLooks);
    advance(key, chains, some);
    left -= some;
    if (!clock.is_time_left() && left > 0) return false;
  }
  return true;
}

// SHA-256 by the processor's instructions, two blocks at a time.
bool derive_in_chains(ConstBytes password, ConstBytes salt, uint64_t iterations, Bytes out,
                      CpuBudget& budget) noexcept {
  std::array<std::byte, sizeof(Sha256Words)> digest;
  if (password.size() > nettle_sha256.block_size) {
    hash(Algo::sha256, {password}, digest);
    password = digest;
  }
  Hmac hmac(nettle_sha256, password);
  HmacSha256Key key(password);
  std::array<Sha256Chain, 2> chains;
  for (uint32_t index = 1; !out.empty(); index += 2) {
    size_t blocks = out.size() > digest.size() ? 2 : 1;
    for (size_t i = 0; i < blocks; ++i) {
      std::array<std::byte, sizeof(Sha256Words)> first;
      start_block(hmac, salt, index + static_cast<uint32_t>(i), first);
      for (size_t word = 0; word < 8; ++word)
        chains[i].digest[word] = load_be<uint32_t>(first, word * 4);
      chains[i].sum = chains[i].digest;
    }
    if (!run_chains(key, std::span(chains).first(blocks), iterations, budget)) return false;
    for (size_t i = 0; i < blocks && !out.empty(); ++i) {
      std::array<std::byte, sizeof(Sha256Words)> block;
      for (size_t word = 0; word < 8; ++word)
        store_be<uint32_t>(block, word * 4, chains[i].sum[word]);
      size_t bytes = std::min(out.size(), block.size());
      std::copy_n(block.begin(), bytes, out.begin());
      out = out.subspan(bytes);
      ::explicit_bzero(block.data(), block.size());
    }
  }
  ::explicit_bzero(&chains, sizeof chains);
  ::explicit_bzero(digest.data(), digest.size());
  return true;
}

}  // namespace

size_t digest_bytes(Algo algorithm) noexcept {
  return library_hash(algorithm).digest_size;
}

void hash(Algo algorithm, std::initializer_list<ConstBytes> parts, Bytes out) noexcept {
  HashState state(library_hash(algorithm));
  for (ConstBytes part : parts) state.update(part);
  state.finish(out);
}

bool derive_key(Algo algorithm, ConstBytes password, ConstBytes salt, uint64_t iterations,
                Bytes out, CpuBudget& budget) noexcept {
  if (algorithm == Algo::sha256 && can_chain_sha256())
    return derive_in_chains(password, salt, iterations, out, budget);
  return derive_plainly(library_hash(algorithm), password, salt, iterations, out, budget);
}

uint64_t iterations_per_second(Algo algorithm, size_t key_bytes) noexcept {
  constexpr auto kLongEnough = std::chrono::milliseconds(50);
  constexpr std::array<std::byte, 16> kAnything{};
  SecretBytes key(key_bytes);
  for (uint64_t iterations = 1 << 12;; iterations *= 2) {
    CpuBudget unlimited{std::chrono::hours(1)};
    CpuBudget::Duration start = thread_cpu_time();
    (void)derive_plainly(library_hash(algorithm), kAnything, kAnything, iterations, key.span(),
                         unlimited);
    CpuBudget::Duration taken = thread_cpu_time() - start;
    if (taken < kLongEnough) continue;
    return iterations * 1'000'000'000 / static_cast<uint64_t>(taken.count());
  }
}

void fill_random(Bytes out) {
  while (!out.empty()) {
    ssize_t got = ::getrandom(out.data(), std::min<size_t>(out.size(), 256), 0);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) throw Error::from_errno(errno, "Unable to read random bytes");
    out = out.subspan(static_cast<size_t>(got));
  }
}

SecretBytes::~SecretBytes() {
  if (!bytes_.empty()) ::explicit_bzero(bytes_.data(), bytes_.size());
}

}  // namespace strata::crypto
