// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/export/vduse/export.h"

#include <linux/virtio_config.h>

#include <cerrno>

#include "block/aio/run_in.h"
#include "block/base/error.h"
#include "block/base/log.h"
#include "block/base/math.h"
#include "block/export/vduse/session.h"
#include "block/virtio/blk.h"

namespace strata {
namespace {

using vduse::Device;
using vduse::DeviceShape;
using vduse::InFlightFile;
using vduse::InFlightShape;
using vduse::Session;
using vduse::SessionTraits;

constexpr uint16_t kSmallestQueue = 2;
constexpr uint16_t kLargestQueue = 1024;
// Header and status of a request take a descriptor each.
constexpr uint32_t kOwnSegments = 2;

std::string kept_name(const std::string& id) {
  return "vduse-blk." + id + ".in-flight";
}

// What the export is made from, checked.
struct Plan {
  DeviceShape shape;
  SessionTraits traits;
  InFlightShape in_flight;
};

virtio_blk_config config_for(const Plan& plan, uint64_t bytes) {
  virtio_blk_config config = virtio::make_blk_config({.bytes = bytes,
                                                      .block_size = plan.traits.device.block_size,
                                                      .queues = plan.shape.queues,
                                                      .write_cache = false});
  config.size_max = 0;  // not offered
  config.seg_max = plan.shape.queue_size > kOwnSegments ? plan.shape.queue_size - kOwnSegments : 1;
  return config;
}

Plan plan_from(const ExportParts& parts) {
  const auto& options = *parts.options.get_if<qapi::BlockExportOptionsVduseBlk>();
  Plan plan;
  plan.shape.name = options.name;
  plan.shape.queues = virtio_blk::checked_queues(options.num_queues.value_or(1));
  plan.shape.queue_size = options.queue_size.value_or(256);
  if (plan.shape.queue_size < kSmallestQueue || plan.shape.queue_size > kLargestQueue ||
      !is_power_of_two(plan.shape.queue_size))
    throw Error("queue-size is invalid");
  SessionTraits& traits = plan.traits;
  traits.export_id = parts.options.id;
  traits.device.block_size =
      virtio_blk::checked_block_size(parts.options.id, options.logical_block_size.value_or(512));
  traits.device.writable = parts.options.writable.value_or(false);
  traits.device.serial = options.serial.value_or(parts.options.id);
  traits.features = virtio_blk::common_features(traits.device.writable, plan.shape.queues) |
                    virtio_blk::bit(VIRTIO_F_ACCESS_PLATFORM);
  traits.queue_size = plan.shape.queue_size;
  for (uint16_t i = 0; i < plan.shape.queues; ++i)
    traits.contexts.push_back(parts.contexts[i % parts.contexts.size()]);
  plan.shape.features = traits.features;
  plan.shape.config = config_for(plan, parts.backend->length());
  plan.in_flight = {traits.features, plan.shape.queues, plan.shape.queue_size};
  return plan;
}

bool has_ready_queue(const Device& device, uint32_t queues) {
  for (uint32_t index = 0; index < queues; ++index) {
    Result<vduse_vq_info> info = device.queue_info(index);
    if (info && info->ready != 0) return true;
  }
  return false;
}

InFlightFile find_in_flight(const Device& device, const Plan& plan, DescriptorStore* store) {
  std::string path = InFlightFile::path_for(plan.shape.name);
  UniqueFd kept = store != nullptr ? store->take(kept_name(plan.traits.export_id)) : UniqueFd();
  if (!device.was_there()) return InFlightFile::make(path, plan.in_flight);
  try {
    return InFlightFile::open(path, plan.in_flight, std::move(kept));
  } catch (const Error& error) {
    // What nobody works on can begin anew.
    if (has_ready_queue(device, plan.shape.queues))
      throw Error(
          "failed to create vduse device: '{}' is in use, and what was under way is not "
          "known: {}",
          plan.shape.name, error.text());
  }
  return InFlightFile::make(path, plan.in_flight);
}

// Main loop only.
class VduseExport final : public Export {
 public:
  VduseExport(MainLoop& loop, std::unique_ptr<Backend>& backend, Plan plan,
              std::unique_ptr<Device> device, InFlightFile in_flight, DescriptorStore* store)
      : Export(plan.traits.export_id, qapi::BlockExportType::vduse_blk),
        plan_(std::move(plan)),
        store_(store),
        device_(std::move(device)),
        in_flight_(std::move(in_flight)),
        session_(loop, *backend, plan_.traits, *device_, in_flight_),
        backend_(std::move(backend)) {
    if (store_ != nullptr) store_->keep(kept_name(id()), in_flight_.fd());
    // Whoever resizes the node may do so in another context, and the news come when we are gone.
    backend_->on_resize([this, &context = loop.context(), alive = std::weak_ptr<bool>(alive_)] {
      post(context, [this, alive] {
        if (!alive.expired()) announce_resize();
      });
    });
  }

  // Throws Error: the export is to be shut down then.
  Task<void> start() {
    co_await session_.resume();
    scope_.spawn(session_.run());
  }
  // Of one that never was the registry's.
  Task<void> give_up(MainLoop& loop) { return shut_down(loop); }

  Backend& backend() const noexcept override { return *backend_; }
  size_t users() const noexcept override { return session_.is_live() ? 1 : 0; }

 private:
  Task<void> shut_down(MainLoop& loop) override {
    session_.stop();
    co_await scope_.join();
    co_await session_.end();
    // A device that a driver has stays, and waits for a successor.
    if (device_->destroy().error_number() != EBUSY) {
      in_flight_.remove();
      if (store_ != nullptr) store_->forget(kept_name(id()));
    }
    co_await backend_->close(loop);
  }

  void announce_resize() noexcept {
    Status set = device_->set_config(config_for(plan_, backend_->length()));
    if (!set.ok())
      log_error("vduse-blk export '{}': the driver cannot be told the new size: {}", id(),
                Error::describe_errno(set.error_number()));
    // EINVAL: no driver is ready.
    std::ignore = device_->announce_config();
  }

  const Plan plan_;
  DescriptorStore* store_;
  std::unique_ptr<Device> device_;
  InFlightFile in_flight_;
  Session session_;
  std::unique_ptr<Backend> backend_;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
  TaskScope scope_;
};

Task<std::unique_ptr<Export>> make_export(ExportParts parts, DescriptorStore* store,
                                          vduse::Kernel& kernel) {
  std::exception_ptr failure;
  std::unique_ptr<VduseExport> made;
  try {
    Plan plan = plan_from(parts);
    std::unique_ptr<Device> device = Device::create(kernel, plan.shape);
    try {
      InFlightFile in_flight = find_in_flight(*device, plan, store);
      made = std::make_unique<VduseExport>(parts.loop, parts.backend, std::move(plan),
                                           std::move(device), std::move(in_flight), store);
    } catch (const Error&) {
      if (device != nullptr && !device->was_there()) std::ignore = device->destroy();
      throw;
    }
    co_await made->start();
    co_return made;
  } catch (const Error&) {
    failure = std::current_exception();
  }
  if (made != nullptr)
    co_await made->give_up(parts.loop);
  else
    co_await parts.backend->close(parts.loop);
  std::rethrow_exception(failure);
}

}  // namespace

void register_vduse_blk(ExportRegistry& exports, DescriptorStore* store, vduse::Kernel& kernel) {
  exports.register_type(qapi::BlockExportType::vduse_blk, [store, &kernel](ExportParts parts) {
    return make_export(std::move(parts), store, kernel);
  });
}

}  // namespace strata
