// SPDX-License-Identifier: GPL-2.0-or-later
//
// How an image's guest data is encrypted: not at all, with LUKS, or as the first qcow2 images were.
#pragma once

#include "block/crypto/encrypted_io.h"
#include "block/crypto/luks_volume.h"
#include "block/qcow2/format/header.h"
#include "qapi/types_blockdev.h"

namespace strata::qcow2 {

class Encryption {
 public:
  // What LUKS encrypts stays readable where it is, whatever guest offset it gets: its sector
  // numbers count in the file. The old AES counts on the virtual disk.
  enum class Method : uint8_t { none, aes, luks };

  Encryption() noexcept = default;

  // All throw Error.

  // `options` as given to the node. Without `needs_key` data stays locked; what is known of the
  // encryption can still be told.
  static Task<Encryption> open(const Node& node, Edge& file, const Header& header,
                               const Extensions& extensions,
                               const std::optional<qapi::BlockdevQcow2Encryption>& options);
  // For a new image: with the old AES nothing is stored but the method.
  static Encryption make_aes(const BlockLayer& layer, const std::optional<std::string>& key_secret);
  // The header is at `place` already.
  static Task<Encryption> open_luks(const Node& node, crypto::LuksPlace place,
                                    const std::optional<std::string>& key_secret,
                                    std::optional<uint32_t> unlock_time);

  explicit operator bool() const noexcept { return method_ != Method::none; }
  Method method() const noexcept { return method_; }
  // Null unless it is LUKS.
  crypto::LuksVolume* luks() const noexcept { return luks_.get(); }
  const std::optional<std::string>& key_secret() const noexcept { return key_secret_; }

  // Requests to `data`, for guest data that lies at `host` there.
  Task<Status> read(Edge& data, HostOffset host, GuestOffset guest, IoVector into) const;
  Task<Status> write(Edge& data, HostOffset host, GuestOffset guest, IoVector from) const;

 private:
  const crypto::SectorCipher* cipher() const noexcept {
    return luks_ != nullptr ? luks_->cipher() : aes_.get();
  }
  uint64_t number_at(HostOffset host, GuestOffset guest) const noexcept {
    return method_ == Method::luks ? host.value : guest.value;
  }

  Method method_ = Method::none;
  std::optional<std::string> key_secret_;
  std::unique_ptr<crypto::LuksVolume> luks_;
  std::unique_ptr<const crypto::SectorCipher> aes_;
};

}  // namespace strata::qcow2
