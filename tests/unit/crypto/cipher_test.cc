// SPDX-License-Identifier: GPL-2.0-or-later
//
// Ciphers, hashes and sectors against vectors that others published.
#include <catch2/catch.hpp>
#include <numeric>
#include <thread>

#include "block/base/error.h"
#include "block/crypto/hash.h"
#include "block/crypto/sector_cipher.h"

namespace strata::crypto {
namespace {

using Cipher = qapi::QCryptoCipherAlgo;
using Hash = qapi::QCryptoHashAlgo;
using IvGen = qapi::QCryptoIVGenAlgo;
using Mode = qapi::QCryptoCipherMode;
using Buffer = std::vector<std::byte>;

Buffer from_hex(std::string_view hex) {
  Buffer out;
  for (size_t i = 0; i + 1 < hex.size(); i += 2)
    out.push_back(std::byte(std::stoi(std::string(hex.substr(i, 2)), nullptr, 16)));
  return out;
}

std::string to_hex(ConstBytes bytes) {
  std::string out;
  for (std::byte byte : bytes) out += fmt::format("{:02x}", std::to_integer<unsigned>(byte));
  return out;
}

ConstBytes text(std::string_view text) {
  return std::as_bytes(std::span(text));
}

Buffer counting(size_t size) {
  Buffer out(size);
  for (size_t i = 0; i < size; ++i) out[i] = std::byte(i * 7 + i / 256);
  return out;
}

std::string encrypt_block(Cipher algorithm, std::string_view key, std::string_view plain) {
  auto cipher = make_cipher(algorithm, from_hex(key));
  Buffer data = from_hex(plain);
  Buffer out(data.size());
  cipher->encrypt(out.data(), data.data(), data.size());
  Buffer back(data.size());
  cipher->decrypt(back.data(), out.data(), out.size());
  CHECK(back == data);
  return to_hex(out);
}

TEST_CASE("block ciphers agree with their standards", "[crypto]") {
  const char* plain = "00112233445566778899aabbccddeeff";
  // FIPS 197, appendix C.
  CHECK(encrypt_block(Cipher::aes_128, "000102030405060708090a0b0c0d0e0f", plain) ==
        "69c4e0d86a7b0430d8cdb78070b4c55a");
  CHECK(encrypt_block(Cipher::aes_192, "000102030405060708090a0b0c0d0e0f1011121314151617", plain) ==
        "dda97ca4864cdfe06eaf70a0ec0d7191");
  CHECK(encrypt_block(Cipher::aes_256,
                      "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f",
                      plain) == "8ea2b7ca516745bfeafc49904b496089");
  // RFC 2144, B.1.
  CHECK(encrypt_block(Cipher::cast5_128, "0123456712345678234567893456789a", "0123456789abcdef") ==
        "238b4fe5847e44b2");
  // The Twofish paper, with a key of zeroes.
  CHECK(encrypt_block(Cipher::twofish_128, std::string(32, '0'), std::string(32, '0')) ==
        "9f589f5cf6122c32b6bfec2f2ae8c35a");
}

TEST_CASE("a key of the wrong length and an unknown cipher are refused", "[crypto]") {
  CHECK_THROWS_WITH(make_cipher(Cipher::aes_128, from_hex("00")),
                    "Cipher key length 1 should be 16");
  CHECK_THROWS_WITH(make_cipher(Cipher::sm4, Buffer(16)), "Unsupported cipher algorithm sm4");
}

TEST_CASE("hashes agree with their standards", "[crypto]") {
  auto digest = [](Hash algorithm) {
    Buffer out(digest_bytes(algorithm));
    hash(algorithm, {text("a"), text("bc")}, out);
    return to_hex(out);
  };
  CHECK(digest(Hash::md5) == "900150983cd24fb0d6963f7d28e17f72");
  CHECK(digest(Hash::sha1) == "a9993e364706816aba3e25717850c26c9cd0d89d");
  CHECK(digest(Hash::sha256) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  CHECK(digest(Hash::ripemd160) == "8eb208f7e05d987a9b044a8e98c6b087f15a0bfc");
  CHECK(digest(Hash::sha512).substr(0, 32) == "ddaf35a193617abacc417349ae204131");
}

TEST_CASE("PBKDF2 agrees with RFC 6070 and RFC 7914", "[crypto]") {
  CpuBudget budget{std::chrono::hours(1)};
  Buffer key(20);
  REQUIRE(derive_key(Hash::sha1, text("password"), text("salt"), 4096, key, budget));
  CHECK(to_hex(key) == "4b007901b765489abead49d926f721d065a429c1");
  key.resize(25);
  REQUIRE(derive_key(Hash::sha1, text("passwordPASSWORDpassword"),
                     text("saltSALTsaltSALTsaltSALTsaltSALTsalt"), 4096, key, budget));
  CHECK(to_hex(key) == "3d2eec4fe41c849b80c8d83662c0e44a8b291a964cf2f07038");
  key.resize(64);
  REQUIRE(derive_key(Hash::sha256, text("passwd"), text("salt"), 1, key, budget));
  CHECK(to_hex(key) ==
        "55ac046e56e3089fec1691c22544b605f94185216dde0465e68b9d57c20dacbc"
        "49ca9cccf179b645991664b39d77ef317c71b845b1e30bd509112041d3a19783");
}

// What came before the processor's instructions, by another implementation.
TEST_CASE("PBKDF2 with SHA-256 agrees with OpenSSL, whatever the lengths", "[crypto]") {
  struct Case {
    size_t password, salt, key;
    uint64_t iterations;
    std::string_view hex;  // the last 16 bytes
  };
  auto [password, salt, key_bytes, iterations, hex] = GENERATE(values<Case>({
      {0, 32, 64, 1, "ea66e5249d02708e908560a82692e5f9"},
      {1, 32, 16, 2, "062209a0bdfbc01a0f589ebf947a0436"},
      {63, 32, 32, 1000, "4bc276bfebe594e8c7bc0ba87d3ee3b8"},
      {64, 8, 64, 4097, "1d5457a2a2151c741410b3fe1a045237"},
      {65, 32, 64, 3, "f9164eb98ad129d4233bb5b1605a7710"},
      {200, 0, 48, 5000, "73632f887e4aa2fef8ec726dc3ce7e81"},
      {12, 32, 80, 4096, "8f14b66c6e697b168d210483cb4896cd"},
      {12, 32, 128, 4095, "f1452235a455618d6bc46426709ff63f"},
  }));
  CpuBudget budget{std::chrono::hours(1)};
  Buffer key(key_bytes);
  REQUIRE(derive_key(Hash::sha256, Buffer(password, std::byte{'p'}), Buffer(salt, std::byte{'s'}),
                     iterations, key, budget));
  CHECK(to_hex(Buffer(key.end() - 16, key.end())) == hex);
}

TEST_CASE("a derivation ends with its budget", "[crypto]") {
  CpuBudget budget{std::chrono::milliseconds(5)};
  Buffer key(64);
  CHECK_FALSE(derive_key(Hash::sha256, text("a"), text("b"), UINT32_MAX, key, budget));
  CHECK(budget.exhausted());
}

TEST_CASE("AES-XTS agrees with IEEE 1619", "[crypto]") {
  // Vector 4: data unit 0, 512 bytes that count.
  Buffer key = from_hex("2718281828459045235360287471352631415926535897932384626433832795");
  CipherSpec spec;
  spec.algorithm = Cipher::aes_128;
  SectorCipher cipher(spec, key);
  Buffer data(512);
  for (size_t i = 0; i < data.size(); ++i) data[i] = std::byte(i);
  Buffer plain = data;
  cipher.encrypt(0, data.data(), data.size());
  CHECK(to_hex(ConstBytes(data).first(32)) ==
        "27a7479befa1d476489f308cd4cfa6e2a96e4bbe3208ff25287dd3819616e89c");
  cipher.decrypt(0, data.data(), data.size());
  CHECK(data == plain);
}

TEST_CASE("the fast way of AES-XTS is the slow one", "[crypto]") {
  Cipher algorithm = GENERATE(Cipher::aes_128, Cipher::aes_192, Cipher::aes_256);
  size_t half = key_bytes(algorithm);
  Buffer key = counting(2 * half);
  if (AesXts::make(key) == nullptr) return;  // this processor has only the slow one
  CipherSpec spec;
  spec.algorithm = algorithm;
  SectorCipher fast(spec, key);
  auto data_cipher = make_cipher(algorithm, ConstBytes(key).first(half));
  auto tweak_cipher = make_cipher(algorithm, ConstBytes(key).subspan(half));
  Buffer data = counting(512);
  Buffer expected(512);
  std::array<std::byte, 16> tweak{};
  tweak[0] = std::byte{0x34};
  tweak[1] = std::byte{0x12};
  tweak_cipher->encrypt(tweak.data(), tweak.data(), 16);
  for (size_t at = 0; at < data.size(); at += 16) {
    std::array<std::byte, 16> block;
    for (size_t i = 0; i < 16; ++i) block[i] = data[at + i] ^ tweak[i];
    data_cipher->encrypt(block.data(), block.data(), 16);
    for (size_t i = 0; i < 16; ++i) expected[at + i] = block[i] ^ tweak[i];
    unsigned carry = 0;
    for (std::byte& byte : tweak) {
      unsigned doubled = std::to_integer<unsigned>(byte) << 1 | carry;
      carry = doubled >> 8;
      byte = std::byte(doubled);
    }
    if (carry != 0) tweak[0] ^= std::byte{0x87};
  }
  fast.encrypt(0x1234, data.data(), data.size());
  CHECK(data == expected);
  fast.decrypt(0x1234, data.data(), data.size());
  CHECK(data == counting(512));
}

TEST_CASE("every combination gives back what it took", "[crypto]") {
  auto algorithm = GENERATE(Cipher::aes_128, Cipher::aes_192, Cipher::aes_256, Cipher::serpent_128,
                            Cipher::serpent_256, Cipher::twofish_192, Cipher::cast5_128);
  auto mode = GENERATE(Mode::xts, Mode::cbc, Mode::ecb, Mode::ctr);
  auto ivgen = GENERATE(IvGen::plain, IvGen::plain64, IvGen::essiv);
  bool small = block_bytes(algorithm) == 8;
  if (small && (mode == Mode::xts || ivgen == IvGen::essiv)) return;
  CipherSpec spec{algorithm, mode, ivgen, Hash::sha256};
  SectorCipher cipher(spec, counting(spec.key_bytes()));
  Buffer data = counting(2048);
  cipher.encrypt(uint64_t{5} << 32, data.data(), data.size());
  CHECK(data != counting(2048));
  Buffer second(data.begin() + 512, data.begin() + 1024);
  cipher.decrypt((uint64_t{5} << 32) + 1, second.data(), second.size());
  Buffer plain = counting(2048);
  CHECK(std::equal(second.begin(), second.end(), plain.begin() + 512));
  cipher.decrypt(uint64_t{5} << 32, data.data(), data.size());
  CHECK(data == plain);
}

TEST_CASE("plain counts sectors in 32 bits, plain64 in 64", "[crypto]") {
  auto first_block = [](IvGen ivgen, uint64_t sector) {
    CipherSpec spec{Cipher::aes_128, Mode::cbc, ivgen, std::nullopt};
    SectorCipher cipher(spec, counting(16));
    Buffer data(512);
    cipher.encrypt(sector, data.data(), data.size());
    return data;
  };
  uint64_t far = (uint64_t{1} << 32) + 3;
  CHECK(first_block(IvGen::plain, far) == first_block(IvGen::plain, 3));
  CHECK(first_block(IvGen::plain64, far) != first_block(IvGen::plain64, 3));
  CHECK(first_block(IvGen::plain64, 3) == first_block(IvGen::plain, 3));
}

TEST_CASE("parts that do not go together are refused", "[crypto]") {
  auto make = [](CipherSpec spec) { SectorCipher(spec, Buffer(spec.key_bytes())); };
  CHECK_THROWS_WITH(make({Cipher::cast5_128, Mode::xts, IvGen::plain64, std::nullopt}),
                    "Unsupported cipher mode xts");
  CHECK_THROWS_WITH(make({Cipher::aes_128, Mode::cbc, IvGen::essiv, Hash::sha1}),
                    "No AES cipher with key size 20 available");
  CHECK_THROWS_WITH(make({Cipher::serpent_128, Mode::cbc, IvGen::essiv, Hash::sha512}),
                    "No Serpent cipher with key size 64 available");
  CHECK_THROWS_WITH(make({Cipher::cast5_128, Mode::cbc, IvGen::essiv, Hash::sha256}),
                    "Cipher cast5-128 not supported with essiv");
}

TEST_CASE("threads share a cipher", "[crypto]") {
  SectorCipher cipher({}, counting(64));
  std::vector<Buffer> results(4, counting(64 * 1024));
  std::vector<std::thread> threads;
  for (Buffer& data : results)
    threads.emplace_back([&cipher, &data] { cipher.encrypt(9, data.data(), data.size()); });
  for (std::thread& thread : threads) thread.join();
  CHECK(results[0] == results[1]);
  CHECK(results[0] == results[2]);
  CHECK(results[0] == results[3]);
}

}  // namespace
}  // namespace strata::crypto
