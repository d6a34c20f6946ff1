// SPDX-License-Identifier: GPL-2.0-or-later
//
// The LUKS header: what is written is read, and what is damaged is refused.
#include <catch2/catch.hpp>

#include "block/base/error.h"
#include "block/crypto/luks_key.h"

namespace strata::crypto {
namespace {

using Hash = qapi::QCryptoHashAlgo;
using Buffer = std::vector<std::byte>;

ConstBytes text(std::string_view text) {
  return std::as_bytes(std::span(text));
}

// A header as it is made, with slot 0 active; nothing secret in it.
LuksHeader sample() {
  LuksHeader header = plan_luks_header({}, false);
  header.digest_iterations = 1000;
  header.uuid = "00000000-0000-4000-8000-000000000000";
  header.slots[0].active = true;
  header.slots[0].iterations = 1000;
  return header;
}

std::string complaint(ConstBytes bytes, bool detached = false) {
  auto header = parse_luks_header(bytes, detached);
  return header ? "" : header.error().text;
}

// With `value` at `offset`.
template <class T>
std::string complaint_with(size_t offset, T value) {
  Buffer bytes = encode_luks_header(sample());
  store_be<T>(bytes, offset, value);
  return complaint(bytes);
}

// The text field at `offset` filled to its end.
std::string complaint_with_full(size_t offset, size_t size) {
  Buffer bytes = encode_luks_header(sample());
  std::fill_n(bytes.begin() + static_cast<long>(offset), size, std::byte{'a'});
  return complaint(bytes);
}

TEST_CASE("a LUKS header is read as it was written", "[crypto][luks]") {
  LuksHeader header = sample();
  auto parsed = parse_luks_header(encode_luks_header(header), false);
  REQUIRE(parsed.ok());
  CHECK(*parsed == header);
}

TEST_CASE("a new volume lies where QEMU and cryptsetup put it", "[crypto][luks]") {
  LuksHeader header = plan_luks_header({}, false);
  CHECK(header.cipher_name == "aes");
  CHECK(header.cipher_mode == "xts-plain64");
  CHECK(header.slots[0].key_offset() == 4096);
  CHECK(header.slots[1].key_offset() == 262144);
  CHECK(header.payload_offset() == 2068480);
  CHECK(plan_luks_header({}, true).payload_offset() == 0);
}

TEST_CASE("LUKS hardening: magic and version", "[crypto][luks][attacks]") {
  CHECK(complaint_with<uint8_t>(0, 'K') == "Volume is not in LUKS format");
  CHECK(complaint_with<uint16_t>(6, 2) == "LUKS version 2 is not supported");
  CHECK(complaint(Buffer(100)) == "Volume is not in LUKS format");
}

TEST_CASE("LUKS hardening: texts that do not end", "[crypto][luks][attacks]") {
  CHECK(complaint_with_full(8, 32) == "LUKS header cipher name is not NUL terminated");
  CHECK(complaint_with_full(40, 32) == "LUKS header cipher mode is not NUL terminated");
  CHECK(complaint_with_full(72, 32) == "LUKS header hash spec is not NUL terminated");
  CHECK(complaint_with_full(168, 40).empty());  // the UUID decides nothing
}

TEST_CASE("LUKS hardening: stripes that are not 4000", "[crypto][luks][attacks]") {
  CHECK(complaint_with<uint32_t>(208 + 44, 1) == "Keyslot 0 is corrupted (stripes 1 != 4000)");
  CHECK(complaint_with<uint32_t>(208 + 7 * 48 + 44, 0xffffffff) ==
        "Keyslot 7 is corrupted (stripes -1 != 4000)");
}

TEST_CASE("LUKS hardening: states and iteration counts", "[crypto][luks][attacks]") {
  CHECK(complaint_with<uint32_t>(208, 1) == "Keyslot 0 state (active/disable) is corrupted");
  CHECK(complaint_with<uint32_t>(208 + 4, 0) == "Keyslot 0 iteration count is zero");
  CHECK(complaint_with<uint32_t>(164, 0) == "LUKS key iteration count is zero");
}

TEST_CASE("LUKS hardening: what overlaps", "[crypto][luks][attacks]") {
  CHECK(complaint_with<uint32_t>(208 + 40, 1) == "Keyslot 0 is overlapping with the LUKS header");
  CHECK(complaint_with<uint32_t>(208 + 40, 0xffffffff) ==
        "Keyslot 0 is overlapping with the encrypted payload");
  CHECK(complaint_with<uint32_t>(208 + 48 + 40, 8) ==
        "Keyslots 0 and 1 are overlapping in the header");
  CHECK(complaint_with<uint32_t>(104, 1) == "LUKS payload is overlapping with the header");
  Buffer bytes = encode_luks_header(sample());
  store_be<uint32_t>(bytes, 104, 0);
  CHECK(complaint(bytes, true).empty());  // the payload is elsewhere
}

TEST_CASE("LUKS hardening: keys of absurd size", "[crypto][luks][attacks]") {
  CHECK(complaint_with<uint32_t>(108, 0xffffffff) ==
        "Algorithm 'aes' with key size 4294967295 bytes not supported");
  CHECK(complaint_with<uint32_t>(108, 0) == "Algorithm 'aes' with key size 0 bytes not supported");
}

TEST_CASE("names in a header mean parameters", "[crypto][luks]") {
  LuksHeader header = sample();
  auto complaint_of = [&] {
    auto parameters = luks_parameters(header);
    return parameters ? "" : parameters.error().text;
  };
  CHECK(complaint_of().empty());
  header.cipher_mode = "cbc-essiv:sha256";
  header.key_bytes = 32;
  auto parameters = luks_parameters(header);
  REQUIRE(parameters.ok());
  CHECK(parameters->cipher.ivgen_hash == Hash::sha256);
  header.cipher_mode = "cbc-essiv";
  CHECK(complaint_of() == "Missing IV generator hash specification");
  header.cipher_mode = "cbc";
  CHECK(complaint_of() == "Unexpected cipher mode string format 'cbc'");
  header.cipher_mode = "cbc-plain64:nohash";
  CHECK(complaint_of() == "Hash algorithm 'nohash' not supported");
  header.cipher_mode = "xyz-plain64";
  CHECK(complaint_of() == "Cipher mode 'xyz' not supported");
  header.cipher_mode = "cbc-dull";
  CHECK(complaint_of() == "IV generator 'dull' not supported");
  header.cipher_mode = "cbc-plain64";
  header.cipher_name = "rot13";
  CHECK(complaint_of() == "Algorithm 'rot13' with key size 32 bytes not supported");
  header.cipher_name = "aes";
  header.hash_name = "nohash";
  CHECK(complaint_of() == "Hash algorithm 'nohash' not supported");
}

TEST_CASE("a split key comes together again, and only whole", "[crypto][luks]") {
  auto hash = GENERATE(Hash::sha1, Hash::sha256, Hash::sha512, Hash::ripemd160);
  Buffer key(48, std::byte{0x5a});
  Buffer stripes(key.size() * kLuksStripes);
  split_key(hash, key, stripes);
  Buffer merged(key.size());
  merge_key(hash, stripes, merged);
  CHECK(merged == key);
  stripes[17] ^= std::byte{1};
  merge_key(hash, stripes, merged);
  CHECK(merged != key);
}

TEST_CASE("a slot opens with its password alone", "[crypto][luks]") {
  LuksParameters parameters;
  LuksHeader header = plan_luks_header(parameters, false);
  SecretBytes key = make_master_key(header, parameters, 1);
  CHECK(header.digest_iterations >= kLuksMinIterations);
  Buffer material = fill_slot(header, parameters, header.slots[2], key.span(), text("geheim"), 1);
  CHECK(header.slots[2].active);
  auto answer = [&](std::string_view password) {
    CpuBudget budget(kDefaultUnlockTime);
    Buffer copy = material;
    Buffer found(header.key_bytes);
    SlotAnswer result =
        try_slot(header, parameters, header.slots[2], copy, text(password), found, budget);
    if (result == SlotAnswer::opened)
      CHECK(std::equal(found.begin(), found.end(), key.span().begin()));
    return result;
  };
  CHECK(answer("geheim") == SlotAnswer::opened);
  CHECK(answer("Geheim") == SlotAnswer::wrong);
  CHECK(answer("") == SlotAnswer::wrong);
}

TEST_CASE("LUKS hardening: iteration counts without measure end with the budget",
          "[crypto][luks][attacks]") {
  LuksHeader header = sample();
  header.slots[0].iterations = UINT32_MAX;
  Buffer material(header.material_bytes());
  Buffer key(header.key_bytes);
  CpuBudget budget{std::chrono::milliseconds(5)};
  CHECK(try_slot(header, {}, header.slots[0], material, text("x"), key, budget) ==
        SlotAnswer::out_of_budget);
}

TEST_CASE("a time that no iteration count expresses is refused", "[crypto][luks]") {
  LuksParameters parameters;
  LuksHeader header = plan_luks_header(parameters, false);
  SecretBytes key(header.key_bytes);
  CHECK_THROWS_WITH(
      fill_slot(header, parameters, header.slots[0], key.span(), text("x"), int64_t{1} << 40),
      Catch::Contains("larger than 4294967295: Numerical result out of range"));
  CHECK_THROWS_WITH(fill_slot(header, parameters, header.slots[0], key.span(), text("x"), -1),
                    Catch::Contains("too large to scale"));
}

}  // namespace
}  // namespace strata::crypto
