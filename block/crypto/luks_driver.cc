// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/crypto/luks_driver.h"

#include <cerrno>

#include "block/base/error.h"
#include "block/crypto/amend.h"
#include "block/crypto/encrypted_io.h"
#include "block/crypto/luks_create.h"
#include "block/crypto/luks_volume.h"
#include "block/graph/open.h"
#include "qapi/types_block_info.h"

namespace strata {
namespace {

using crypto::LuksVolume;

class LuksDriver final : public Driver, public crypto::EncryptionOwner {
 public:
  using Driver::Driver;

  Task<void> open(OpenContext& context) override {
    options_ = context.branch<qapi::BlockdevOptionsLUKS>();
    bool detached = options_.header.has_value();
    ChildRoles roles = detached ? ChildRoles{ChildRole::data, ChildRole::primary} : kImageRoles;
    file_ = co_await context.open_child(options_.file, "file", roles);
    if (detached)
      header_ = co_await context.open_child(*options_.header, "header", ChildRole::metadata);
    crypto::LuksPlace place{detached ? header_ : file_};
    bool needs_key = !context.node.options().metadata_only;
    // A key that is not there is complained about first.
    std::optional<crypto::SecretBytes> password;
    if (needs_key) password = crypto::find_password(context.layer, options_.key_secret, "");
    volume_ = co_await LuksVolume::open(place, detached, options_.unlock_time);
    if (password) co_await volume_->unlock(std::move(*password));
  }

  Task<Status> preadv(uint64_t offset, IoVector into, ReadFlags) override {
    const crypto::SectorCipher* cipher = volume_->cipher();
    if (cipher == nullptr) return Task<Status>::ready(Status::error(EIO));
    return crypto::read_encrypted(*cipher, *file_, payload() + offset, offset, into);
  }
  Task<Status> pwritev(uint64_t offset, IoVector from, WriteFlags flags) override {
    const crypto::SectorCipher* cipher = volume_->cipher();
    if (cipher == nullptr) return Task<Status>::ready(Status::error(EIO));
    return crypto::write_encrypted(*cipher, *file_, payload() + offset, offset, from, flags);
  }
  Task<Result<uint64_t>> length() override {
    uint64_t file = file_->node().length();
    if (payload() > file) return Task<Result<uint64_t>>::ready(Status::error(EIO));
    return Task<Result<uint64_t>>::ready(file - payload());
  }
  Task<void> truncate(uint64_t size, TruncateOptions options) override {
    std::optional<uint64_t> end = checked_add(size, payload());
    if (!end || *end > kMaxLength)
      throw Error::from_text("The requested file size is too large", EFBIG);
    // New sectors hold no zeroes, whatever the file has there.
    options.zero_new_area = false;
    return io::truncate(*file_, *end, options);
  }

  WriteFlags write_flags() const noexcept override {
    return {WriteFlag::fua, WriteFlag::unchanged, WriteFlag::serialising};
  }
  Limits limits(const Limits& of_children) const noexcept override {
    Limits limits = of_children;
    limits.request_alignment = crypto::kSectorBytes;
    // What lies below takes requests apart itself.
    limits.max_transfer = 0;
    return limits;
  }
  bool is_encrypted() const noexcept override { return true; }
  std::optional<ImageFacts> image_facts() const override { return ImageFacts{}; }
  std::unique_ptr<qapi::ImageInfoSpecific> specific_info() const override {
    auto info = std::make_unique<qapi::ImageInfoSpecific>();
    info->select(qapi::ImageInfoSpecificKind::luks);
    info->get_if<qapi::ImageInfoSpecificLUKSWrapper>()->data = volume_->info();
    return info;
  }
  boost::json::object strong_options() const override {
    boost::json::object options;
    if (options_.key_secret) options["key-secret"] = *options_.key_secret;
    return options;
  }
  FileName file_name() const override {
    FileName name = Driver::file_name();
    if (header_ == nullptr) return name;
    name.exact.clear();
    name.options["header"] = header_->node().file_name().options;
    return name;
  }

  Task<void> amend_encryption(MainLoop&, const qapi::QCryptoBlockAmendOptionsLUKS& options,
                              bool force) override {
    return volume_->amend(node().layer(), options, options_.key_secret, "", force);
  }

 private:
  uint64_t payload() const noexcept { return volume_->payload_offset(); }

  qapi::BlockdevOptionsLUKS options_;
  Edge* file_ = nullptr;
  Edge* header_ = nullptr;
  std::unique_ptr<LuksVolume> volume_;
};

std::unique_ptr<Driver> create_driver(const DriverDescriptor& descriptor) {
  return std::make_unique<LuksDriver>(descriptor);
}

Task<void> create_image(MainLoop& loop, BlockLayer& layer,
                        const qapi::BlockdevCreateOptions& options) {
  co_await crypto::create_luks(loop, layer, *options.get_if<qapi::BlockdevCreateOptionsLUKS>());
}

}  // namespace

const DriverDescriptor kLuksDriver{.name = qapi::BlockdevDriver::luks,
                                   .is_format = true,
                                   .reopens = true,
                                   .create = create_driver,
                                   .create_image = create_image};

}  // namespace strata
