// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/jobs/amend.h"

#include "block/base/error.h"
#include "block/crypto/amend.h"
#include "block/io/backend.h"
#include "block/qcow2/image.h"
#include "block/qcow2/qcow2.h"

namespace strata {
namespace {

using Keys = qapi::QCryptoBlockAmendOptionsLUKS;

// What is to be done to the keys of the image; null: nothing. Throws Error.
const Keys* keys_of(const qapi::BlockdevAmendOptions& options, Node& node) {
  if (const auto* luks = options.get_if<qapi::BlockdevAmendOptionsLUKS>()) return luks;
  const auto& encrypt = options.get_if<qapi::BlockdevAmendOptionsQcow2>()->encrypt;
  if (!encrypt) return nullptr;
  const qcow2::Encryption& encryption = qcow2::image_of(node)->encryption();
  if (!encryption) throw Error("image is not encrypted, can't amend");
  const Keys* keys = encrypt->get_if<Keys>();
  if (keys == nullptr) throw Error("Amend can't be used to change the qcow2 encryption format");
  if (encryption.luks() == nullptr)
    throw Error("Only LUKS encryption options can be amended for qcow2 with blockdev-amend");
  return keys;
}

class AmendWork final : public JobWork {
 public:
  AmendWork(MainLoop& loop, std::shared_ptr<Backend> image, qapi::BlockdevAmendOptions options,
            bool force)
      : loop_(loop), image_(std::move(image)), options_(std::move(options)), force_(force) {}

  Task<void> run(Job& job) override {
    job.set_total(1);
    std::exception_ptr error;
    try {
      const Keys* keys = keys_of(options_, image_->node());
      if (keys != nullptr) co_await crypto::amend_encryption(loop_, image_->node(), *keys, force_);
    } catch (...) {
      error = std::current_exception();
    }
    job.set_done(1);
    co_await image_->close(loop_);
    if (error) std::rethrow_exception(error);
  }

 private:
  MainLoop& loop_;
  std::shared_ptr<Backend> image_;
  qapi::BlockdevAmendOptions options_;
  bool force_;
};

NodePtr find_image(const BlockLayer& layer, const std::string& name, qapi::BlockdevDriver driver) {
  NodePtr node = layer.find_node(name);
  if (!node || !node->is_open()) throw Error("Cannot find device='' nor node-name='{}'", name);
  if (node->descriptor().name != driver)
    throw Error("x-blockdev-amend doesn't support changing the block driver");
  if (dynamic_cast<crypto::EncryptionOwner*>(&node->driver()) == nullptr)
    throw Error("Driver does not support x-blockdev-amend");
  return node;
}

}  // namespace

Task<void> start_amend_job(MainLoop& loop, BlockLayer& layer, Jobs& jobs, std::string id,
                           std::string node_name, qapi::BlockdevAmendOptions options, bool force) {
  NodePtr node = find_image(layer, node_name, options.driver);
  auto image = std::make_shared<Backend>(layer);
  // What a guest reads stays the same, so whoever uses the image need not notice; but there is one
  // such job at a time.
  PermissionSet shared = kAllPermissions.without(Permission::write_unchanged);
  image->attach(loop, std::move(node), {Permission::write_unchanged, shared});
  std::exception_ptr failed;
  try {
    jobs.start(loop, {.id = std::move(id), .type = qapi::JobType::amend, .auto_dismiss = false},
               std::make_unique<AmendWork>(loop, image, std::move(options), force));
  } catch (...) {
    failed = std::current_exception();
  }
  if (!failed) co_return;
  co_await image->close(loop);
  std::rethrow_exception(failed);
}

}  // namespace strata
