// SPDX-License-Identifier: GPL-2.0-or-later
//
// LuksVolume: an open LUKS header, wherever it is stored, and the cipher of the data once a
// password has been given.
#pragma once

#include <memory>

#include "block/crypto/luks_key.h"
#include "block/io/request.h"

namespace strata {
class BlockLayer;
}

namespace strata::crypto {

// Where a header is stored: from `offset` on in the child of an image. `room`: so many bytes there
// are the header's.
struct LuksPlace {
  Edge* child = nullptr;
  uint64_t offset = 0;
  uint64_t room = UINT64_MAX;
};

// The password that a secret object holds, which is to be text. `parameter` is what to complain
// about where `id` is not given. Throws Error.
SecretBytes find_password(const BlockLayer& layer, const std::optional<std::string>& id,
                          std::string_view prefix);
SecretBytes find_password(const BlockLayer& layer, const std::string& id);

// How to make one, read from its options. `options` is a QCryptoBlockCreateOptionsLUKS.
LuksParameters parameters_of(const qapi::QCryptoBlockCreateOptionsLUKS& options) noexcept;

// A volume that is to be written. Made without knowing where.
struct NewLuks {
  LuksHeader header;
  std::vector<std::byte> material;  // of slot 0

  // From the start of the header to the end of the last slot's material.
  uint64_t header_bytes() const noexcept {
    return header.slots[kLuksSlots - 1].key_offset() + header.material_bytes();
  }
};

class LuksVolume {
 public:
  // All throw Error.

  // Takes long, in another thread.
  static Task<NewLuks> make(const qapi::QCryptoBlockCreateOptionsLUKS& options,
                            SecretBytes password, bool detached);
  static Task<void> write_new(LuksPlace place, const NewLuks& volume);

  // `unlock_time`: seconds of a processor that a search through the slots may take; 0: any time.
  static Task<std::unique_ptr<LuksVolume>> open(LuksPlace place, bool detached,
                                                std::optional<uint32_t> unlock_time);
  // Finds the slot that the password opens. Takes long, in another thread.
  Task<void> unlock(SecretBytes password);
  // `secret`: what opens the volume where the options do not say.
  Task<void> amend(const BlockLayer& layer, const qapi::QCryptoBlockAmendOptionsLUKS& options,
                   const std::optional<std::string>& secret, std::string_view prefix, bool force);

  // Null until it has been unlocked.
  const SectorCipher* cipher() const noexcept { return cipher_.get(); }
  uint64_t payload_offset() const noexcept { return header_.payload_offset(); }
  const LuksHeader& header() const noexcept { return header_; }
  qapi::QCryptoBlockInfoLUKS info() const;

 private:
  LuksVolume(LuksPlace place, bool detached, std::optional<uint32_t> unlock_time)
      : place_(place), detached_(detached), unlock_time_(unlock_time) {}

  struct Opened {
    std::optional<size_t> slot;
    SecretBytes key;
  };
  Task<Opened> find_key(SecretBytes password) const;
  CpuBudget budget() const noexcept;
  std::vector<size_t> slots_by_cost() const;
  Task<bool> is_opened_by(size_t slot, ConstBytes password, Bytes key, CpuBudget& budget) const;
  [[noreturn]] void refuse_slow(size_t slot) const;
  Task<void> activate(const BlockLayer& layer, const qapi::QCryptoBlockAmendOptionsLUKS& options,
                      const std::optional<std::string>& secret, std::string_view prefix,
                      bool force);
  Task<void> deactivate(const BlockLayer& layer, const qapi::QCryptoBlockAmendOptionsLUKS& options,
                        bool force);
  Task<void> erase_matching(ConstBytes password, bool force);
  Task<void> erase(size_t slot);
  Task<void> store_header() const;
  size_t active_slots() const noexcept;

  LuksPlace place_;
  bool detached_;
  std::optional<uint32_t> unlock_time_;
  LuksHeader header_;
  LuksParameters parameters_;
  std::unique_ptr<const SectorCipher> cipher_;
};

}  // namespace strata::crypto
