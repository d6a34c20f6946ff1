// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/qcow2/encryption.h"

#include <algorithm>
#include <array>
#include <cerrno>

#include "block/base/error.h"
#include "block/qcow2/image.h"

namespace strata::qcow2 {
namespace {

using Format = qapi::BlockdevQcow2EncryptionFormat;

constexpr std::string_view kPrefix = "encrypt.";

void check(Status status, const char* what) {
  if (!status.ok()) throw Error::from_errno(status.error_number(), "{}", what);
}

Encryption::Method method_of(const Header& header) {
  switch (CryptMethod(header.crypt_method)) {
    case CryptMethod::none:
      return Encryption::Method::none;
    case CryptMethod::aes:
      return Encryption::Method::aes;
    case CryptMethod::luks:
      return Encryption::Method::luks;
  }
  throw Error("Unsupported encryption method {}", header.crypt_method);
}

void check_format(Encryption::Method method,
                  const std::optional<qapi::BlockdevQcow2Encryption>& options) {
  if (!options) return;
  std::string_view wanted = qapi::to_string(options->format);
  if (method == Encryption::Method::none)
    throw Error("No encryption in image header, but options specified format '{}'", wanted);
  std::string_view found = method == Encryption::Method::aes ? "aes" : "luks";
  if (wanted != found)
    throw Error("Header reported '{}' encryption format but options specify '{}'", found, wanted);
}

std::optional<std::string> secret_of(const std::optional<qapi::BlockdevQcow2Encryption>& options) {
  if (!options) return std::nullopt;
  if (const auto* luks = options->get_if<qapi::BlockdevQcow2EncryptionLUKS>())
    return luks->key_secret;
  if (const auto* aes = options->get_if<qapi::QCryptoBlockOptionsQCow>()) return aes->key_secret;
  return std::nullopt;
}

std::optional<uint32_t> unlock_time_of(
    const std::optional<qapi::BlockdevQcow2Encryption>& options) {
  const auto* luks = options ? options->get_if<qapi::BlockdevQcow2EncryptionLUKS>() : nullptr;
  return luks != nullptr ? luks->unlock_time : std::nullopt;
}

// The password itself is the key, as far as it goes.
std::unique_ptr<const crypto::SectorCipher> aes_cipher(const crypto::SecretBytes& password) {
  crypto::CipherSpec spec;
  spec.algorithm = qapi::QCryptoCipherAlgo::aes_128;
  spec.mode = qapi::QCryptoCipherMode::cbc;
  crypto::SecretBytes key(spec.key_bytes());
  size_t bytes = std::min(key.size(), password.size());
  std::copy_n(password.span().begin(), bytes, key.span().begin());
  return std::make_unique<const crypto::SectorCipher>(spec, key.span());
}

}  // namespace

Task<Encryption> Encryption::open(const Node& node, Edge& file, const Header& header,
                                  const Extensions& extensions,
                                  const std::optional<qapi::BlockdevQcow2Encryption>& options) {
  Method method = method_of(header);
  check_format(method, options);
  std::optional<std::string> secret = secret_of(options);
  if (method == Method::luks) {
    const CryptoExtension& place = *extensions.crypto;
    if (place.length > kMaxLength || place.offset.value > kMaxLength - place.length)
      throw Error("Encryption header offset '{}' and size '{}' are out of range",
                  place.offset.value, place.length);
    co_return co_await open_luks(node, {&file, place.offset.value, place.length}, secret,
                                 unlock_time_of(options));
  }
  if (method == Method::none) co_return Encryption();
  if (!node.options().metadata_only) co_return make_aes(node.layer(), secret);
  Encryption locked;
  locked.method_ = Method::aes;
  locked.key_secret_ = secret;
  co_return locked;
}

Encryption Encryption::make_aes(const BlockLayer& layer,
                                const std::optional<std::string>& key_secret) {
  Encryption encryption;
  encryption.method_ = Method::aes;
  encryption.key_secret_ = key_secret;
  encryption.aes_ = aes_cipher(crypto::find_password(layer, key_secret, kPrefix));
  return encryption;
}

Task<Encryption> Encryption::open_luks(const Node& node, crypto::LuksPlace place,
                                       const std::optional<std::string>& key_secret,
                                       std::optional<uint32_t> unlock_time) {
  Encryption encryption;
  encryption.method_ = Method::luks;
  encryption.key_secret_ = key_secret;
  std::optional<crypto::SecretBytes> password;
  if (!node.options().metadata_only)
    password = crypto::find_password(node.layer(), key_secret, kPrefix);
  encryption.luks_ = co_await crypto::LuksVolume::open(place, false, unlock_time);
  if (password) co_await encryption.luks_->unlock(std::move(*password));
  co_return encryption;
}

Task<Status> Encryption::read(Edge& data, HostOffset host, GuestOffset guest, IoVector into) const {
  if (cipher() == nullptr) return Task<Status>::ready(Status::error(EIO));
  return crypto::read_encrypted(*cipher(), data, host.value, number_at(host, guest), into);
}

Task<Status> Encryption::write(Edge& data, HostOffset host, GuestOffset guest,
                               IoVector from) const {
  if (cipher() == nullptr) return Task<Status>::ready(Status::error(EIO));
  return crypto::write_encrypted(*cipher(), data, host.value, number_at(host, guest), from);
}

Task<void> Image::open_encryption(const std::optional<qapi::BlockdevQcow2Encryption>& options) {
  encryption_ = co_await Encryption::open(node_, file_.edge(), header_, extensions_, options);
}

// The header of a LUKS volume in clusters of its own, to which the image's header then points.
Task<void> Image::create_encryption(const qapi::QCryptoBlockCreateOptions& options) {
  constexpr const char* kFailed = "Could not write encryption header";
  const auto* luks = options.get_if<qapi::QCryptoBlockCreateOptionsLUKS>();
  if (luks == nullptr) {
    const auto& aes = *options.get_if<qapi::QCryptoBlockOptionsQCow>();
    encryption_ = Encryption::make_aes(node_.layer(), aes.key_secret);
    header_.crypt_method = static_cast<uint32_t>(CryptMethod::aes);
  } else {
    crypto::NewLuks volume = co_await crypto::LuksVolume::make(
        *luks, crypto::find_password(node_.layer(), luks->key_secret, kPrefix), false);
    uint64_t bytes = volume.header.payload_offset();
    Mutex::Lock lock = co_await metadata_.lock();
    Result<HostCluster> place = co_await allocate_clusters(geometry_.clusters_for(bytes));
    lock.unlock();
    if (!place) check(place.status(), kFailed);
    HostOffset at = geometry_.offset_of(*place);
    check(co_await file_.write_zeroes(at, geometry_.round_up(bytes)), kFailed);
    co_await crypto::LuksVolume::write_new({&file_.edge(), at.value, bytes}, volume);
    encryption_ = co_await Encryption::open_luks(node_, {&file_.edge(), at.value, bytes},
                                                 luks->key_secret, std::nullopt);
    header_.crypt_method = static_cast<uint32_t>(CryptMethod::luks);
    extensions_.crypto = CryptoExtension{at, bytes};
  }
  check(co_await write_back(), kFailed);
  Mutex::Lock lock = co_await writing_back_.lock();
  check(co_await write_header(), kFailed);
  check(co_await file_.flush(), kFailed);
}

void Image::check_encryption_amendable() const {
  if (!encryption_) throw Error("Can't amend encryption options - encryption not present");
  if (encryption_.luks() == nullptr) throw Error("Only LUKS encryption options can be amended");
}

Task<void> Image::amend_encryption(const qapi::QCryptoBlockAmendOptionsLUKS& options, bool force) {
  check_encryption_amendable();
  co_await encryption_.luks()->amend(node_.layer(), options, encryption_.key_secret(), kPrefix,
                                     force);
}

}  // namespace strata::qcow2
