// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/crypto/luks_header.h"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "block/base/error.h"

namespace strata::crypto {
namespace {

using Algo = qapi::QCryptoCipherAlgo;

constexpr std::string_view kMagic("LUKS\xba\xbe", 6);
constexpr uint16_t kVersion = 1;
constexpr size_t kNameBytes = 32;
constexpr size_t kUuidBytes = 40;
constexpr uint32_t kActive = 0x00ac71f3;
constexpr uint32_t kDisabled = 0x0000dead;

// Where the fields are.
constexpr size_t kVersionAt = 6;
constexpr size_t kCipherAt = 8;
constexpr size_t kModeAt = 40;
constexpr size_t kHashAt = 72;
constexpr size_t kPayloadAt = 104;
constexpr size_t kKeyBytesAt = 108;
constexpr size_t kDigestAt = 112;
constexpr size_t kDigestSaltAt = 132;
constexpr size_t kDigestIterationsAt = 164;
constexpr size_t kUuidAt = 168;
constexpr size_t kSlotsAt = 208;
constexpr size_t kSlotBytes = 48;

template <class... Args>
FormatError refuse(fmt::format_string<Args...> format, Args&&... args) {
  return {EINVAL, fmt::format(format, std::forward<Args>(args)...)};
}

using MaybeError = std::optional<FormatError>;

struct CipherName {
  std::string_view name;
  Algo algorithm;
};
constexpr CipherName kCipherNames[]{
    {"aes", Algo::aes_128},         {"aes", Algo::aes_192},         {"aes", Algo::aes_256},
    {"cast5", Algo::cast5_128},     {"serpent", Algo::serpent_128}, {"serpent", Algo::serpent_192},
    {"serpent", Algo::serpent_256}, {"twofish", Algo::twofish_128}, {"twofish", Algo::twofish_192},
    {"twofish", Algo::twofish_256},
};

// The text of a field that has a NUL in it; nothing where there is none.
std::optional<std::string> text_field(ConstBytes bytes, size_t at, size_t size) {
  std::string text = to_text(bytes.subspan(at, size));
  size_t end = text.find('\0');
  if (end == std::string::npos) return std::nullopt;
  text.resize(end);
  return text;
}

void put_text(Bytes bytes, size_t at, size_t size, const std::string& text) {
  std::memcpy(bytes.data() + at, text.data(), std::min(text.size(), size - 1));
}

MaybeError parse_texts(ConstBytes bytes, LuksHeader& header) {
  auto cipher = text_field(bytes, kCipherAt, kNameBytes);
  if (!cipher) return refuse("LUKS header cipher name is not NUL terminated");
  auto mode = text_field(bytes, kModeAt, kNameBytes);
  if (!mode) return refuse("LUKS header cipher mode is not NUL terminated");
  auto hash = text_field(bytes, kHashAt, kNameBytes);
  if (!hash) return refuse("LUKS header hash spec is not NUL terminated");
  header.cipher_name = std::move(*cipher);
  header.cipher_mode = std::move(*mode);
  header.hash_name = std::move(*hash);
  // Nothing depends on it.
  header.uuid = text_field(bytes, kUuidAt, kUuidBytes).value_or("");
  return std::nullopt;
}

MaybeError parse_slot(ConstBytes bytes, size_t index, LuksSlot& slot) {
  uint32_t state = load_be<uint32_t>(bytes, 0);
  slot.iterations = load_be<uint32_t>(bytes, 4);
  std::copy_n(bytes.begin() + 8, kLuksSalt, slot.salt.begin());
  slot.key_sector = load_be<uint32_t>(bytes, 40);
  slot.stripes = load_be<uint32_t>(bytes, 44);
  slot.active = state == kActive;
  if (slot.stripes != kLuksStripes)
    return refuse("Keyslot {} is corrupted (stripes {} != {})", index,
                  static_cast<int32_t>(slot.stripes), kLuksStripes);
  if (state != kActive && state != kDisabled)
    return refuse("Keyslot {} state (active/disable) is corrupted", index);
  if (slot.active && slot.iterations == 0)
    return refuse("Keyslot {} iteration count is zero", index);
  return std::nullopt;
}

MaybeError check_places(const LuksHeader& header, bool detached) {
  constexpr uint64_t kHeaderSectors = (kLuksHeaderBytes + kSectorBytes - 1) / kSectorBytes;
  uint64_t sectors = header.material_bytes() / kSectorBytes;
  for (size_t i = 0; i < kLuksSlots; ++i) {
    uint64_t start = header.slots[i].key_sector;
    if (start < kHeaderSectors) return refuse("Keyslot {} is overlapping with the LUKS header", i);
    if (!detached && start + sectors > header.payload_sector)
      return refuse("Keyslot {} is overlapping with the encrypted payload", i);
    for (size_t other = i + 1; other < kLuksSlots; ++other) {
      uint64_t other_start = header.slots[other].key_sector;
      if (start + sectors > other_start && other_start + sectors > start)
        return refuse("Keyslots {} and {} are overlapping in the header", i, other);
    }
  }
  return std::nullopt;
}

template <class Enum>
std::optional<Enum> known(std::string_view name) {
  return qapi::from_string<Enum>(name);
}

std::optional<Algo> find_cipher(const LuksHeader& header, bool is_xts) {
  for (const CipherName& cipher : kCipherNames) {
    size_t size = key_bytes(cipher.algorithm) * (is_xts ? 2 : 1);
    if (cipher.name == header.cipher_name && size == header.key_bytes) return cipher.algorithm;
  }
  return std::nullopt;
}

// Every bit of the block comes to depend on every other.
void diffuse(qapi::QCryptoHashAlgo algorithm, Bytes block) noexcept {
  size_t digest = digest_bytes(algorithm);
  for (uint32_t index = 0; !block.empty(); ++index) {
    std::array<std::byte, 4> number;
    store_be<uint32_t>(number.data(), index);
    Bytes part = block.first(std::min(block.size(), digest));
    std::array<std::byte, kMaxDigest> out;
    hash(algorithm, {number, part}, Bytes(out).first(part.size()));
    std::copy_n(out.begin(), part.size(), part.begin());
    block = block.subspan(part.size());
  }
}

void combine(Bytes into, ConstBytes with) noexcept {
  for (size_t i = 0; i < into.size(); ++i) into[i] ^= with[i];
}

}  // namespace

Decoded<LuksHeader> parse_luks_header(ConstBytes bytes, bool detached) {
  if (bytes.size() < kLuksHeaderBytes || to_text(bytes.first(kMagic.size())) != kMagic)
    return refuse("Volume is not in LUKS format");
  if (auto version = load_be<uint16_t>(bytes, kVersionAt); version != kVersion)
    return FormatError{ENOTSUP, fmt::format("LUKS version {} is not supported", version)};
  LuksHeader header;
  if (auto error = parse_texts(bytes, header)) return *error;
  header.payload_sector = load_be<uint32_t>(bytes, kPayloadAt);
  header.key_bytes = load_be<uint32_t>(bytes, kKeyBytesAt);
  std::copy_n(bytes.begin() + kDigestAt, kLuksDigest, header.digest.begin());
  std::copy_n(bytes.begin() + kDigestSaltAt, kLuksSalt, header.digest_salt.begin());
  header.digest_iterations = load_be<uint32_t>(bytes, kDigestIterationsAt);
  if (!detached && header.payload_offset() < kLuksHeaderBytes)
    return refuse("LUKS payload is overlapping with the header");
  if (header.digest_iterations == 0) return refuse("LUKS key iteration count is zero");
  // No cipher has such a key; what follows counts in multiples of it.
  if (header.key_bytes == 0 || header.key_bytes > kMaxLuksKey)
    return refuse("Algorithm '{}' with key size {} bytes not supported", header.cipher_name,
                  header.key_bytes);
  for (size_t i = 0; i < kLuksSlots; ++i) {
    ConstBytes slot = bytes.subspan(kSlotsAt + i * kSlotBytes, kSlotBytes);
    if (auto error = parse_slot(slot, i, header.slots[i])) return *error;
  }
  if (auto error = check_places(header, detached)) return *error;
  return header;
}

std::vector<std::byte> encode_luks_header(const LuksHeader& header) {
  std::vector<std::byte> bytes(kLuksHeaderBytes);
  std::memcpy(bytes.data(), kMagic.data(), kMagic.size());
  store_be<uint16_t>(bytes, kVersionAt, kVersion);
  put_text(bytes, kCipherAt, kNameBytes, header.cipher_name);
  put_text(bytes, kModeAt, kNameBytes, header.cipher_mode);
  put_text(bytes, kHashAt, kNameBytes, header.hash_name);
  store_be<uint32_t>(bytes, kPayloadAt, header.payload_sector);
  store_be<uint32_t>(bytes, kKeyBytesAt, header.key_bytes);
  std::copy(header.digest.begin(), header.digest.end(), bytes.begin() + kDigestAt);
  std::copy(header.digest_salt.begin(), header.digest_salt.end(), bytes.begin() + kDigestSaltAt);
  store_be<uint32_t>(bytes, kDigestIterationsAt, header.digest_iterations);
  put_text(bytes, kUuidAt, kUuidBytes, header.uuid);
  for (size_t i = 0; i < kLuksSlots; ++i) {
    const LuksSlot& slot = header.slots[i];
    Bytes out = Bytes(bytes).subspan(kSlotsAt + i * kSlotBytes, kSlotBytes);
    store_be<uint32_t>(out, 0, slot.active ? kActive : kDisabled);
    store_be<uint32_t>(out, 4, slot.iterations);
    std::copy(slot.salt.begin(), slot.salt.end(), out.begin() + 8);
    store_be<uint32_t>(out, 40, slot.key_sector);
    store_be<uint32_t>(out, 44, slot.stripes);
  }
  return bytes;
}

Decoded<LuksParameters> luks_parameters(const LuksHeader& header) {
  LuksParameters parameters;
  size_t dash = header.cipher_mode.find('-');
  if (dash == std::string::npos)
    return refuse("Unexpected cipher mode string format '{}'", header.cipher_mode);
  std::string mode = header.cipher_mode.substr(0, dash);
  std::string ivgen = header.cipher_mode.substr(dash + 1);
  std::string ivgen_hash;
  if (size_t colon = ivgen.find(':'); colon != std::string::npos) {
    ivgen_hash = ivgen.substr(colon + 1);
    ivgen.resize(colon);
    auto hash = known<qapi::QCryptoHashAlgo>(ivgen_hash);
    if (!hash) return refuse("Hash algorithm '{}' not supported", ivgen_hash);
    parameters.cipher.ivgen_hash = *hash;
  }
  auto known_mode = known<qapi::QCryptoCipherMode>(mode);
  if (!known_mode) return refuse("Cipher mode '{}' not supported", mode);
  parameters.cipher.mode = *known_mode;
  bool is_xts = *known_mode == qapi::QCryptoCipherMode::xts;
  auto cipher = find_cipher(header, is_xts);
  if (!cipher)
    return refuse("Algorithm '{}' with key size {} bytes not supported", header.cipher_name,
                  header.key_bytes / (is_xts ? 2 : 1));
  parameters.cipher.algorithm = *cipher;
  auto known_hash = known<qapi::QCryptoHashAlgo>(header.hash_name);
  if (!known_hash) return refuse("Hash algorithm '{}' not supported", header.hash_name);
  parameters.hash = *known_hash;
  auto known_ivgen = known<qapi::QCryptoIVGenAlgo>(ivgen);
  if (!known_ivgen) return refuse("IV generator '{}' not supported", ivgen);
  parameters.cipher.ivgen = *known_ivgen;
  if (*known_ivgen != qapi::QCryptoIVGenAlgo::essiv)
    parameters.cipher.ivgen_hash.reset();
  else if (!parameters.cipher.ivgen_hash)
    return refuse("Missing IV generator hash specification");
  return parameters;
}

LuksHeader plan_luks_header(const LuksParameters& parameters, bool detached) {
  const CipherSpec& cipher = parameters.cipher;
  auto name = std::find_if(std::begin(kCipherNames), std::end(kCipherNames),
                           [&](const auto& one) { return one.algorithm == cipher.algorithm; });
  if (name == std::end(kCipherNames))
    throw Error("Algorithm '{}' not supported", qapi::to_string(cipher.algorithm));
  LuksHeader header;
  header.cipher_name = name->name;
  header.cipher_mode =
      fmt::format("{}-{}", qapi::to_string(cipher.mode), qapi::to_string(cipher.ivgen));
  if (cipher.ivgen == qapi::QCryptoIVGenAlgo::essiv && cipher.ivgen_hash)
    header.cipher_mode += fmt::format(":{}", qapi::to_string(*cipher.ivgen_hash));
  header.hash_name = qapi::to_string(parameters.hash);
  header.key_bytes = static_cast<uint32_t>(cipher.key_bytes());
  uint64_t place = kLuksAlignment;
  for (LuksSlot& slot : header.slots) {
    slot.key_sector = static_cast<uint32_t>(place / kSectorBytes);
    place += (header.material_bytes() + kLuksAlignment - 1) / kLuksAlignment * kLuksAlignment;
  }
  header.payload_sector = detached ? 0 : static_cast<uint32_t>(place / kSectorBytes);
  return header;
}

void split_key(qapi::QCryptoHashAlgo algorithm, ConstBytes key, Bytes stripes) {
  SecretBytes block(key.size());
  size_t last = stripes.size() - key.size();
  fill_random(stripes.first(last));
  for (size_t at = 0; at < last; at += key.size()) {
    combine(block.span(), stripes.subspan(at, key.size()));
    diffuse(algorithm, block.span());
  }
  std::copy(key.begin(), key.end(), stripes.begin() + static_cast<ptrdiff_t>(last));
  combine(stripes.subspan(last), block.span());
}

void merge_key(qapi::QCryptoHashAlgo algorithm, ConstBytes stripes, Bytes key) noexcept {
  std::fill(key.begin(), key.end(), std::byte{0});
  size_t last = stripes.size() - key.size();
  for (size_t at = 0; at < last; at += key.size()) {
    combine(key, stripes.subspan(at, key.size()));
    diffuse(algorithm, key);
  }
  combine(key, stripes.subspan(last));
}

}  // namespace strata::crypto
