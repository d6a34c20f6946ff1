// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/crypto/cipher.h"

#include <nettle/aes.h>
#include <nettle/cast128.h>
#include <nettle/cbc.h>
#include <nettle/des.h>
#include <nettle/serpent.h>
#include <nettle/twofish.h>
#include <string.h>

#include "block/base/error.h"

namespace strata::crypto {
namespace {

using Algo = qapi::QCryptoCipherAlgo;

const uint8_t* raw(const std::byte* data) noexcept {
  return reinterpret_cast<const uint8_t*>(data);
}
uint8_t* raw(std::byte* data) noexcept {
  return reinterpret_cast<uint8_t*>(data);
}

// How nettle names a cipher, as a type: Context, and four functions on it.
template <class Traits>
class NettleCipher final : public BlockCipher {
 public:
  explicit NettleCipher(ConstBytes key) : BlockCipher(Traits::kBlock) {
    Traits::set_keys(encrypting_, decrypting_, key);
  }
  ~NettleCipher() override {
    ::explicit_bzero(&encrypting_, sizeof encrypting_);
    ::explicit_bzero(&decrypting_, sizeof decrypting_);
  }

  void encrypt(std::byte* out, const std::byte* in, size_t bytes) const noexcept override {
    Traits::encrypt(&encrypting_, bytes, raw(out), raw(in));
  }
  void decrypt(std::byte* out, const std::byte* in, size_t bytes) const noexcept override {
    Traits::decrypt(&decrypting_, bytes, raw(out), raw(in));
  }
  void encrypt_cbc(std::byte* data, size_t bytes, std::byte* iv) const noexcept override {
    nettle_cbc_encrypt(&encrypting_, function(Traits::encrypt), Traits::kBlock, raw(iv), bytes,
                       raw(data), raw(data));
  }
  void decrypt_cbc(std::byte* data, size_t bytes, std::byte* iv) const noexcept override {
    nettle_cbc_decrypt(&decrypting_, function(Traits::decrypt), Traits::kBlock, raw(iv), bytes,
                       raw(data), raw(data));
  }

 private:
  using Context = typename Traits::Context;
  using Function = void (*)(const Context*, size_t, uint8_t*, const uint8_t*);
  // The library's own way of being generic.
  static nettle_cipher_func* function(Function function) noexcept {
    return reinterpret_cast<nettle_cipher_func*>(reinterpret_cast<void*>(function));
  }

  Context encrypting_;
  Context decrypting_;
};

template <class C, size_t kBlockBytes, auto kEncrypt, auto kDecrypt>
struct CipherTraits {
  using Context = C;
  static constexpr size_t kBlock = kBlockBytes;
  static void encrypt(const C* context, size_t bytes, uint8_t* out, const uint8_t* in) {
    kEncrypt(context, bytes, out, in);
  }
  static void decrypt(const C* context, size_t bytes, uint8_t* out, const uint8_t* in) {
    kDecrypt(context, bytes, out, in);
  }
};

template <class C, auto kEncrypt, auto kDecrypt, auto kSetEncrypt, auto kSetDecrypt>
struct AesTraits : CipherTraits<C, AES_BLOCK_SIZE, kEncrypt, kDecrypt> {
  static void set_keys(C& encrypting, C& decrypting, ConstBytes key) {
    kSetEncrypt(&encrypting, raw(key.data()));
    kSetDecrypt(&decrypting, raw(key.data()));
  }
};
using Aes128 = AesTraits<aes128_ctx, aes128_encrypt, aes128_decrypt, aes128_set_encrypt_key,
                         aes128_set_decrypt_key>;
using Aes192 = AesTraits<aes192_ctx, aes192_encrypt, aes192_decrypt, aes192_set_encrypt_key,
                         aes192_set_decrypt_key>;
using Aes256 = AesTraits<aes256_ctx, aes256_encrypt, aes256_decrypt, aes256_set_encrypt_key,
                         aes256_set_decrypt_key>;

struct Serpent : CipherTraits<serpent_ctx, SERPENT_BLOCK_SIZE, serpent_encrypt, serpent_decrypt> {
  static void set_keys(Context& encrypting, Context& decrypting, ConstBytes key) {
    serpent_set_key(&encrypting, key.size(), raw(key.data()));
    decrypting = encrypting;
  }
};
struct Twofish : CipherTraits<twofish_ctx, TWOFISH_BLOCK_SIZE, twofish_encrypt, twofish_decrypt> {
  static void set_keys(Context& encrypting, Context& decrypting, ConstBytes key) {
    twofish_set_key(&encrypting, key.size(), raw(key.data()));
    decrypting = encrypting;
  }
};
struct Cast5 : CipherTraits<cast128_ctx, CAST128_BLOCK_SIZE, cast128_encrypt, cast128_decrypt> {
  static void set_keys(Context& encrypting, Context& decrypting, ConstBytes key) {
    cast5_set_key(&encrypting, key.size(), raw(key.data()));
    decrypting = encrypting;
  }
};
struct Des : CipherTraits<des_ctx, DES_BLOCK_SIZE, des_encrypt, des_decrypt> {
  static void set_keys(Context& encrypting, Context& decrypting, ConstBytes key) {
    (void)des_set_key(&encrypting, raw(key.data()));
    decrypting = encrypting;
  }
};
struct TripleDes : CipherTraits<des3_ctx, DES3_BLOCK_SIZE, des3_encrypt, des3_decrypt> {
  static void set_keys(Context& encrypting, Context& decrypting, ConstBytes key) {
    (void)des3_set_key(&encrypting, raw(key.data()));
    decrypting = encrypting;
  }
};

template <class Traits>
std::unique_ptr<const BlockCipher> make(ConstBytes key) {
  return std::make_unique<const NettleCipher<Traits>>(key);
}

}  // namespace

size_t key_bytes(Algo algorithm) noexcept {
  switch (algorithm) {
    case Algo::des:
      return 8;
    case Algo::aes_128:
    case Algo::cast5_128:
    case Algo::serpent_128:
    case Algo::twofish_128:
    case Algo::sm4:
      return 16;
    case Algo::aes_192:
    case Algo::serpent_192:
    case Algo::twofish_192:
    case Algo::_3des:
      return 24;
    case Algo::aes_256:
    case Algo::serpent_256:
    case Algo::twofish_256:
      return 32;
  }
  return 0;
}

size_t block_bytes(Algo algorithm) noexcept {
  bool small = algorithm == Algo::des || algorithm == Algo::_3des || algorithm == Algo::cast5_128;
  return small ? 8 : 16;
}

std::unique_ptr<const BlockCipher> make_cipher(Algo algorithm, ConstBytes key) {
  if (key.size() != key_bytes(algorithm))
    throw Error("Cipher key length {} should be {}", key.size(), key_bytes(algorithm));
  switch (algorithm) {
    case Algo::aes_128:
      return make<Aes128>(key);
    case Algo::aes_192:
      return make<Aes192>(key);
    case Algo::aes_256:
      return make<Aes256>(key);
    case Algo::serpent_128:
    case Algo::serpent_192:
    case Algo::serpent_256:
      return make<Serpent>(key);
    case Algo::twofish_128:
    case Algo::twofish_192:
    case Algo::twofish_256:
      return make<Twofish>(key);
    case Algo::cast5_128:
      return make<Cast5>(key);
    case Algo::des:
      return make<Des>(key);
    case Algo::_3des:
      return make<TripleDes>(key);
    case Algo::sm4:
      break;
  }
  throw Error("Unsupported cipher algorithm {}", qapi::to_string(algorithm));
}

}  // namespace strata::crypto
