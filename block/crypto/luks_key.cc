// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/crypto/luks_key.h"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>

#include "block/base/error.h"

namespace strata::crypto {
namespace {

// The digest of the master key takes this part of the time of a slot.
constexpr uint64_t kDigestShare = 8;

uint32_t iterations_for(qapi::QCryptoHashAlgo hash, size_t key_bytes, int64_t iter_time,
                        uint64_t share) {
  uint64_t rate = iterations_per_second(hash, key_bytes);
  auto time = static_cast<uint64_t>(iter_time);
  uint64_t scaled = 0;
  if (__builtin_mul_overflow(rate, time, &scaled))
    throw Error::from_errno(ERANGE, "PBKDF iterations {} too large to scale", rate);
  uint64_t iterations = scaled / 1000 / share;
  if (iterations > UINT32_MAX)
    throw Error::from_errno(ERANGE, "PBKDF iterations {} larger than {}", iterations, UINT32_MAX);
  return std::max(static_cast<uint32_t>(iterations), kLuksMinIterations);
}

std::string make_uuid() {
  std::array<std::byte, 16> random;
  fill_random(random);
  random[6] = (random[6] & std::byte{0x0f}) | std::byte{0x40};
  random[8] = (random[8] & std::byte{0x3f}) | std::byte{0x80};
  std::string text;
  for (size_t i = 0; i < random.size(); ++i) {
    if (i == 4 || i == 6 || i == 8 || i == 10) text += '-';
    text += fmt::format("{:02x}", std::to_integer<unsigned>(random[i]));
  }
  return text;
}

// Equal or not takes the same time.
bool same_bytes(ConstBytes a, ConstBytes b) noexcept {
  std::byte difference{0};
  for (size_t i = 0; i < a.size(); ++i) difference |= a[i] ^ b[i];
  return difference == std::byte{0};
}

}  // namespace

SlotAnswer try_slot(const LuksHeader& header, const LuksParameters& parameters,
                    const LuksSlot& slot, Bytes material, ConstBytes password, Bytes key,
                    CpuBudget& budget) {
  SecretBytes slot_key(header.key_bytes);
  if (!derive_key(parameters.hash, password, slot.salt, slot.iterations, slot_key.span(), budget))
    return SlotAnswer::out_of_budget;
  SectorCipher(parameters.cipher, slot_key.span()).decrypt(0, material.data(), material.size());
  merge_key(parameters.hash, material.first(size_t{header.key_bytes} * kLuksStripes), key);
  std::array<std::byte, kLuksDigest> digest;
  if (!derive_key(parameters.hash, key, header.digest_salt, header.digest_iterations, digest,
                  budget))
    return SlotAnswer::out_of_budget;
  return same_bytes(digest, header.digest) ? SlotAnswer::opened : SlotAnswer::wrong;
}

std::vector<std::byte> fill_slot(const LuksHeader& header, const LuksParameters& parameters,
                                 LuksSlot& slot, ConstBytes key, ConstBytes password,
                                 int64_t iter_time) {
  slot.iterations = iterations_for(parameters.hash, header.key_bytes, iter_time, 1);
  fill_random(slot.salt);
  CpuBudget unlimited{std::chrono::hours(24)};
  SecretBytes slot_key(header.key_bytes);
  (void)derive_key(parameters.hash, password, slot.salt, slot.iterations, slot_key.span(),
                   unlimited);
  std::vector<std::byte> material(header.material_bytes());
  split_key(parameters.hash, key, Bytes(material).first(key.size() * kLuksStripes));
  SectorCipher(parameters.cipher, slot_key.span()).encrypt(0, material.data(), material.size());
  slot.active = true;
  slot.stripes = kLuksStripes;
  return material;
}

SecretBytes make_master_key(LuksHeader& header, const LuksParameters& parameters,
                            int64_t iter_time) {
  SecretBytes key(header.key_bytes);
  fill_random(key.span());
  // Refuses what does not go together before any time is spent.
  SectorCipher cipher(parameters.cipher, key.span());
  header.uuid = make_uuid();
  fill_random(header.digest_salt);
  header.digest_iterations =
      iterations_for(parameters.hash, header.key_bytes, iter_time, kDigestShare);
  CpuBudget unlimited{std::chrono::hours(24)};
  (void)derive_key(parameters.hash, key.span(), header.digest_salt, header.digest_iterations,
                   header.digest, unlimited);
  return key;
}

}  // namespace strata::crypto
