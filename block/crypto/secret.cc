// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/crypto/secret.h"

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <cerrno>

#include "block/base/base64.h"
#include "block/base/error.h"
#include "block/base/unique_fd.h"
#include "block/crypto/cipher.h"

namespace strata::crypto {
namespace {

using qapi::QCryptoSecretFormat;

constexpr size_t kBlock = 16;  // of AES, bytes
constexpr size_t kKey = 32;
constexpr size_t kMaxSecret = 1 << 20;

std::string read_file(const std::string& path) {
  auto fail = [&path](std::string_view what, int error) -> Error {
    return Error("Unable to read {0}: Failed to {1} file \u201C{0}\u201D: {2}", path, what,
                 Error::describe_errno(error));
  };
  UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!fd) throw fail("open", errno);
  std::string data;
  std::array<char, 4096> buffer;
  for (;;) {
    ssize_t got = ::read(fd.get(), buffer.data(), buffer.size());
    if (got < 0) throw fail("read from", errno);
    if (got == 0) return data;
    data.append(buffer.data(), static_cast<size_t>(got));
    if (data.size() > kMaxSecret) throw Error("Secret in {} is too long", path);
  }
}

Bytes bytes_of(std::string& text) noexcept {
  return std::as_writable_bytes(std::span(text));
}

}  // namespace

std::string decrypt_secret(std::string ciphertext, const std::string& key, std::string iv) {
  if (iv.size() != kBlock) throw Error("IV should be {} bytes in length not {}", kBlock, iv.size());
  if (ciphertext.size() % kBlock != 0)
    throw Error("Length {} must be a multiple of block size {}", ciphertext.size(), kBlock);
  auto cipher = make_cipher(qapi::QCryptoCipherAlgo::aes_256, std::as_bytes(std::span(key)));
  cipher->decrypt_cbc(bytes_of(ciphertext).data(), ciphertext.size(), bytes_of(iv).data());
  size_t padding = ciphertext.empty() ? 0 : static_cast<unsigned char>(ciphertext.back());
  if (padding == 0 || padding > kBlock || padding > ciphertext.size())
    throw Error("Incorrect number of padding bytes ({}) found on decrypted data", padding);
  ciphertext.resize(ciphertext.size() - padding);
  return ciphertext;
}

std::string load_secret(const qapi::SecretProperties& options, const FindSecret& find) {
  if (options.file && options.data) throw Error("'file' and 'data' are mutually exclusive");
  if (!options.file && !options.data) throw Error("Either 'file' or 'data' must be provided");
  std::string input = options.file ? read_file(*options.file) : *options.data;
  bool is_base64 = options.format == QCryptoSecretFormat::base64;
  if (!options.keyid) return is_base64 ? decode_base64(input) : input;
  std::optional<std::string> key = find(*options.keyid);
  if (!key) throw Error("No secret with id '{}'", *options.keyid);
  if (key->size() != kKey) throw Error("Key should be {} bytes in length", kKey);
  if (!options.iv) throw Error("IV is required to decrypt secret");
  if (is_base64) input = decode_base64(input);
  return decrypt_secret(std::move(input), *key, decode_base64(*options.iv));
}

}  // namespace strata::crypto
