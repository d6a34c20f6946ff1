// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/crypto/luks_volume.h"

#include <algorithm>
#include <cerrno>
#include <utility>

#include "block/aio/thread_pool.h"
#include "block/base/error.h"
#include "block/graph/layer.h"
#include "qapi/runtime/utf8.h"

namespace strata::crypto {
namespace {

ThreadPool& pool() {
  return AioContext::current()->service<ThreadPool>();
}

Task<Status> read_at(const LuksPlace& place, uint64_t offset, Bytes into) {
  uint64_t end = offset + into.size();
  if (end > place.room) return Task<Status>::ready(Status::error(EINVAL));
  return io::pread(*place.child, place.offset + offset, into.data(), into.size());
}

Task<Status> write_at(const LuksPlace& place, uint64_t offset, ConstBytes from) {
  uint64_t end = offset + from.size();
  if (end > place.room) return Task<Status>::ready(Status::error(EINVAL));
  return io::pwrite(*place.child, place.offset + offset, from.data(), from.size());
}

void check(Status status, std::string_view what) {
  if (!status.ok()) throw Error::from_errno(status.error_number(), "{}", what);
}

bool is_text(std::string_view bytes) noexcept {
  while (!bytes.empty())
    if (qapi::take_code_point(bytes) < 0) return false;
  return true;
}

}  // namespace

SecretBytes find_password(const BlockLayer& layer, const std::string& id) {
  std::string secret = layer.secret(id);
  SecretBytes password(std::as_bytes(std::span(secret)));
  bool valid = is_text(secret);
  std::fill(secret.begin(), secret.end(), '\0');
  if (!valid) throw Error("Data from secret {} is not valid UTF-8", id);
  return password;
}

SecretBytes find_password(const BlockLayer& layer, const std::optional<std::string>& id,
                          std::string_view prefix) {
  if (!id) throw Error("Parameter '{}key-secret' is required for cipher", prefix);
  return find_password(layer, *id);
}

LuksParameters parameters_of(const qapi::QCryptoBlockCreateOptionsLUKS& options) noexcept {
  LuksParameters parameters;
  parameters.cipher.algorithm = options.cipher_alg.value_or(qapi::QCryptoCipherAlgo::aes_256);
  parameters.cipher.mode = options.cipher_mode.value_or(qapi::QCryptoCipherMode::xts);
  parameters.cipher.ivgen = options.ivgen_alg.value_or(qapi::QCryptoIVGenAlgo::plain64);
  if (parameters.cipher.ivgen == qapi::QCryptoIVGenAlgo::essiv)
    parameters.cipher.ivgen_hash = options.ivgen_hash_alg.value_or(qapi::QCryptoHashAlgo::sha256);
  parameters.hash = options.hash_alg.value_or(qapi::QCryptoHashAlgo::sha256);
  return parameters;
}

Task<NewLuks> LuksVolume::make(const qapi::QCryptoBlockCreateOptionsLUKS& options,
                               SecretBytes password, bool detached) {
  LuksParameters parameters = parameters_of(options);
  int64_t iter_time = options.iter_time.value_or(0);
  if (iter_time == 0) iter_time = kDefaultIterTime;
  NewLuks made;
  made.header = plan_luks_header(parameters, detached);
  co_await pool().run([&] {
    SecretBytes key = make_master_key(made.header, parameters, iter_time);
    made.material = fill_slot(made.header, parameters, made.header.slots[0], key.span(),
                              password.span(), iter_time);
  });
  co_return made;
}

Task<void> LuksVolume::write_new(LuksPlace place, const NewLuks& volume) {
  constexpr const char* kFailed = "Could not write encryption header";
  const LuksSlot& slot = volume.header.slots[0];
  check(co_await write_at(place, slot.key_offset(), volume.material), kFailed);
  std::vector<std::byte> header = encode_luks_header(volume.header);
  check(co_await write_at(place, 0, header), kFailed);
  check(co_await io::flush(place.child->node()), kFailed);
}

Task<std::unique_ptr<LuksVolume>> LuksVolume::open(LuksPlace place, bool detached,
                                                   std::optional<uint32_t> unlock_time) {
  std::unique_ptr<LuksVolume> volume(new LuksVolume(place, detached, unlock_time));
  std::vector<std::byte> bytes(kLuksHeaderBytes);
  check(co_await read_at(place, 0, bytes), "Unable to read LUKS header");
  auto header = parse_luks_header(bytes, detached);
  if (!header) throw Error::from_text(header.error().text, header.error().error);
  auto parameters = luks_parameters(*header);
  if (!parameters) throw Error::from_text(parameters.error().text, parameters.error().error);
  for (size_t i = 0; i < kLuksSlots; ++i) {
    if (header->slots[i].key_offset() + header->material_bytes() > place.room)
      throw Error("Keyslot {} is overlapping with the encrypted payload", i);
  }
  volume->header_ = std::move(*header);
  volume->parameters_ = *parameters;
  co_return volume;
}

CpuBudget LuksVolume::budget() const noexcept {
  std::chrono::seconds seconds = kDefaultUnlockTime;
  if (unlock_time_) seconds = std::chrono::seconds(*unlock_time_);
  return CpuBudget(seconds.count() != 0 ? seconds : std::chrono::hours(24 * 365));
}

// Those in use, the cheapest first: what one slot asks for takes no time from those that ask less.
std::vector<size_t> LuksVolume::slots_by_cost() const {
  std::vector<size_t> slots;
  for (size_t i = 0; i < kLuksSlots; ++i) {
    if (header_.slots[i].active) slots.push_back(i);
  }
  auto cost = [this](size_t slot) { return std::pair(header_.slots[slot].iterations, slot); };
  std::sort(slots.begin(), slots.end(), [&](size_t a, size_t b) { return cost(a) < cost(b); });
  return slots;
}

// In a thread. Throws Error where the time is over before it is known.
Task<bool> LuksVolume::is_opened_by(size_t index, ConstBytes password, Bytes key,
                                    CpuBudget& budget) const {
  std::vector<std::byte> material(header_.material_bytes());
  const LuksSlot& slot = header_.slots[index];
  check(co_await read_at(place_, slot.key_offset(), material), "Failed to read key material");
  SlotAnswer answer = co_await pool().run(
      [&] { return try_slot(header_, parameters_, slot, material, password, key, budget); });
  if (answer == SlotAnswer::out_of_budget) refuse_slow(index);
  co_return answer == SlotAnswer::opened;
}

// `index`, and so every slot that costs as much or more.
void LuksVolume::refuse_slow(size_t index) const {
  std::string slots;
  for (size_t i = 0; i < kLuksSlots; ++i) {
    const LuksSlot& slot = header_.slots[i];
    if (!slot.active || slot.iterations < header_.slots[index].iterations) continue;
    if (slot.iterations == header_.slots[index].iterations && i < index) continue;
    slots += fmt::format("{}{} ({} iterations)", slots.empty() ? "" : ", ", i, slot.iterations);
  }
  throw Error(
      "Keyslots not tried, as it takes more than {} seconds: {}; the master key digest has {} "
      "iterations. The option 'unlock-time' allows more time",
      unlock_time_.value_or(kDefaultUnlockTime.count()), slots, header_.digest_iterations);
}

Task<LuksVolume::Opened> LuksVolume::find_key(SecretBytes password) const {
  SecretBytes key(header_.key_bytes);
  CpuBudget time = budget();
  for (size_t slot : slots_by_cost()) {
    if (co_await is_opened_by(slot, password.span(), key.span(), time))
      co_return Opened{slot, std::move(key)};
  }
  throw Error("Invalid password, cannot unlock any keyslot");
}

Task<void> LuksVolume::unlock(SecretBytes password) {
  Opened opened = co_await find_key(std::move(password));
  cipher_ = std::make_unique<const SectorCipher>(parameters_.cipher, opened.key.span());
}

size_t LuksVolume::active_slots() const noexcept {
  return static_cast<size_t>(std::count_if(header_.slots.begin(), header_.slots.end(),
                                           [](const LuksSlot& slot) { return slot.active; }));
}

qapi::QCryptoBlockInfoLUKS LuksVolume::info() const {
  qapi::QCryptoBlockInfoLUKS info;
  info.cipher_alg = parameters_.cipher.algorithm;
  info.cipher_mode = parameters_.cipher.mode;
  info.ivgen_alg = parameters_.cipher.ivgen;
  info.ivgen_hash_alg = parameters_.cipher.ivgen_hash;
  info.hash_alg = parameters_.hash;
  info.detached_header = detached_;
  info.payload_offset = static_cast<int64_t>(payload_offset());
  info.master_key_iters = header_.digest_iterations;
  info.uuid = header_.uuid;
  for (const LuksSlot& slot : header_.slots) {
    qapi::QCryptoBlockInfoLUKSSlot out;
    out.active = slot.active;
    out.key_offset = static_cast<int64_t>(slot.key_offset());
    if (slot.active) {
      out.iters = slot.iterations;
      out.stripes = slot.stripes;
    }
    info.slots.push_back(out);
  }
  return info;
}

Task<void> LuksVolume::store_header() const {
  std::vector<std::byte> bytes = encode_luks_header(header_);
  check(co_await write_at(place_, 0, bytes), "Failed to write LUKS header");
  check(co_await io::flush(place_.child->node()), "Failed to write LUKS header");
}

Task<void> LuksVolume::amend(const BlockLayer& layer,
                             const qapi::QCryptoBlockAmendOptionsLUKS& options,
                             const std::optional<std::string>& secret, std::string_view prefix,
                             bool force) {
  // Somebody else may have changed it.
  std::unique_ptr<LuksVolume> now = co_await open(place_, detached_, unlock_time_);
  header_ = now->header_;
  if (options.state == qapi::QCryptoBlockLUKSKeyslotState::active)
    co_await activate(layer, options, secret, prefix, force);
  else
    co_await deactivate(layer, options, force);
}

Task<void> LuksVolume::activate(const BlockLayer& layer,
                                const qapi::QCryptoBlockAmendOptionsLUKS& options,
                                const std::optional<std::string>& secret, std::string_view prefix,
                                bool force) {
  if (!options.new_secret) throw Error("'new-secret' is required to activate a keyslot");
  if (options.old_secret) throw Error("'old-secret' must not be given when activating keyslots");
  size_t index = kLuksSlots;
  if (options.keyslot) {
    if (*options.keyslot < 0 || *options.keyslot >= static_cast<int64_t>(kLuksSlots))
      throw Error("Invalid keyslot {} specified, must be between 0 and {}", *options.keyslot,
                  kLuksSlots - 1);
    index = static_cast<size_t>(*options.keyslot);
    if (header_.slots[index].active && !force)
      throw Error("Refusing to overwrite active keyslot {} - please erase it first", index);
  } else {
    auto free = std::find_if(header_.slots.begin(), header_.slots.end(),
                             [](const LuksSlot& slot) { return !slot.active; });
    if (free == header_.slots.end()) throw Error("Can't add a keyslot - all keyslots are in use");
    index = static_cast<size_t>(free - header_.slots.begin());
  }
  int64_t iter_time = options.iter_time.value_or(kDefaultIterTime);
  Opened opened =
      co_await find_key(find_password(layer, options.secret ? options.secret : secret, prefix));
  SecretBytes password = find_password(layer, *options.new_secret);
  LuksSlot slot = header_.slots[index];
  std::vector<std::byte> material = co_await pool().run([&] {
    return fill_slot(header_, parameters_, slot, opened.key.span(), password.span(), iter_time);
  });
  // The slot is not in use before its key is there.
  if (header_.slots[index].active) {
    header_.slots[index].active = false;
    co_await store_header();
  }
  std::string failed = fmt::format("Failed to write to keyslot {}", index);
  check(co_await write_at(place_, slot.key_offset(), material), failed);
  check(co_await io::flush(place_.child->node()), failed);
  header_.slots[index] = slot;
  co_await store_header();
}

Task<void> LuksVolume::deactivate(const BlockLayer& layer,
                                  const qapi::QCryptoBlockAmendOptionsLUKS& options, bool force) {
  if (options.new_secret) throw Error("'new-secret' must not be given when erasing keyslots");
  if (options.iter_time) throw Error("'iter-time' must not be given when erasing keyslots");
  std::optional<SecretBytes> old;
  if (options.old_secret) old = find_password(layer, *options.old_secret);
  if (!options.keyslot) {
    if (!old)
      throw Error(
          "To erase keyslot(s), either explicit keyslot index or the password currently contained "
          "in them must be given");
    co_return co_await erase_matching(old->span(), force);
  }
  if (*options.keyslot < 0 || *options.keyslot >= static_cast<int64_t>(kLuksSlots))
    throw Error("Invalid keyslot {} specified, must be between 0 and {}", *options.keyslot,
                kLuksSlots - 1);
  auto index = static_cast<size_t>(*options.keyslot);
  bool active = header_.slots[index].active;
  if (old) {
    SecretBytes key(header_.key_bytes);
    CpuBudget time = budget();
    if (!active || !co_await is_opened_by(index, old->span(), key.span(), time))
      throw Error("Given keyslot {} doesn't contain the given old password for erase operation",
                  index);
  }
  if (!force && !active) throw Error("Given keyslot {} is already erased (inactive) ", index);
  if (!force && active_slots() == 1)
    throw Error(
        "Attempt to erase the only active keyslot {} which will erase all the data in the image "
        "irreversibly - refusing operation",
        index);
  co_await erase(index);
}

Task<void> LuksVolume::erase_matching(ConstBytes password, bool force) {
  std::vector<size_t> matching;
  SecretBytes key(header_.key_bytes);
  CpuBudget time = budget();
  for (size_t slot : slots_by_cost()) {
    if (co_await is_opened_by(slot, password, key.span(), time)) matching.push_back(slot);
  }
  if (matching.empty()) throw Error("No keyslots match given (old) password for erase operation");
  if (!force && matching.size() == active_slots())
    throw Error(
        "All the active keyslots match the (old) password that was given and erasing them will "
        "erase all the data in the image irreversibly - refusing operation");
  for (size_t index : matching) co_await erase(index);
}

// The header first, so that nobody tries a slot that is half gone; then the key itself, for good.
Task<void> LuksVolume::erase(size_t index) {
  LuksSlot& slot = header_.slots[index];
  slot.active = false;
  slot.iterations = 0;
  slot.salt.fill(std::byte{0});
  std::string failed = fmt::format("Failed to erase keyslot {}", index);
  std::vector<std::byte> noise(header_.material_bytes());
  co_await store_header();
  fill_random(noise);
  check(co_await write_at(place_, slot.key_offset(), noise), failed);
  check(co_await io::flush(place_.child->node()), failed);
}

}  // namespace strata::crypto
