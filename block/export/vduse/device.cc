// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/export/vduse/device.h"

#include <linux/ioctl.h>
#include <linux/virtio_ids.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include "block/base/error.h"

namespace strata::vduse {
namespace {

constexpr const char* kControl = "/dev/vduse/control";
// The version of the interface that we speak; later ones add to it.
constexpr uint64_t kApiVersion = 0;
// Queues begin at a multiple of it.
constexpr uint32_t kQueueAlignment = 4096;

// The words of QEMU's error, and what is behind it.
constexpr const char* kFailed = "failed to create vduse device";

void check_name(const std::string& name) {
  if (name.empty() || name.size() >= VDUSE_NAME_MAX || name == "." || name == ".." ||
      name == "control" || name.find('/') != std::string::npos)
    throw Error("{}: '{}' cannot be its name", kFailed, name);
}

std::array<char, VDUSE_NAME_MAX> name_field(const std::string& name) noexcept {
  std::array<char, VDUSE_NAME_MAX> field{};
  std::ranges::copy(name, field.begin());
  return field;
}

// An argument that ends with the configuration space.
template <class Head>
class WithConfig {
 public:
  WithConfig(const Head& head, const virtio_blk_config& config) noexcept {
    std::memcpy(bytes_.data(), &head, sizeof head);
    std::memcpy(bytes_.data() + sizeof head, &config, kConfigBytes);
  }
  void* data() noexcept { return bytes_.data(); }

 private:
  alignas(Head) std::array<std::byte, sizeof(Head) + kConfigBytes> bytes_;
};

static_assert(sizeof(vduse_dev_config) == offsetof(vduse_dev_config, config));
static_assert(sizeof(vduse_config_data) == offsetof(vduse_config_data, buffer));

}  // namespace

std::unique_ptr<Device> Device::create(Kernel& kernel, const DeviceShape& shape) {
  check_name(shape.name);
  std::unique_ptr<Device> device(new Device(kernel));
  device->name_ = shape.name;
  device->open_control();
  device->make(shape);
  try {
    device->open_device();
    if (device->was_there_) device->check_queues(shape);
    device->set_up_queues(shape);
  } catch (const Error&) {
    if (!device->was_there_) std::ignore = device->destroy();
    throw;
  }
  return device;
}

void Device::open_control() {
  Result<UniqueFd> control = kernel_.open(kControl);
  if (!control) {
    int error = control.error_number();
    bool missing = error == ENOENT || error == ENODEV || error == ENXIO;
    throw Error::from_errno(error, "{}: {}Failed to open {}", kFailed,
                            missing ? "the kernel has no vduse, or its module is not loaded: " : "",
                            kControl);
  }
  control_ = std::move(control).value();
  uint64_t version = kApiVersion;
  auto set = kernel_.control(control_.get(), VDUSE_SET_API_VERSION, &version);
  if (!set)
    throw Error::from_errno(set.error_number(), "{}: the kernel does not speak version {} of vduse",
                            kFailed, kApiVersion);
}

// A device of this name that is nobody's is made anew; what somebody uses is gone on with.
void Device::make(const DeviceShape& shape) {
  Status made = try_make(shape);
  if (made.error_number() == EEXIST) {
    Status destroyed = destroy();
    if (destroyed.error_number() == EBUSY) {
      was_there_ = true;
      return;
    }
    made = try_make(shape);
  }
  if (!made.ok()) throw Error::from_errno(made.error_number(), "{} '{}'", kFailed, name_);
}

Status Device::try_make(const DeviceShape& shape) const noexcept {
  vduse_dev_config wanted{};
  std::ranges::copy(name_, wanted.name);
  wanted.device_id = VIRTIO_ID_BLOCK;
  wanted.features = shape.features;
  wanted.vq_num = shape.queues;
  wanted.vq_align = kQueueAlignment;
  wanted.config_size = kConfigBytes;
  WithConfig<vduse_dev_config> argument(wanted, shape.config);
  return kernel_.control(control_.get(), VDUSE_CREATE_DEV, argument.data()).status();
}

void Device::open_device() {
  Result<UniqueFd> opened = kernel_.open("/dev/vduse/" + name_);
  if (!opened && opened.error_number() == EBUSY)
    throw Error("{}: another process serves '{}'", kFailed, name_);
  if (!opened)
    throw Error::from_errno(opened.error_number(), "{}: Failed to open /dev/vduse/{}", kFailed,
                            name_);
  fd_ = std::move(opened).value();
}

void Device::check_queues(const DeviceShape& shape) const {
  if (queue_info(shape.queues).ok() || !queue_info(shape.queues - 1u).ok())
    throw Error("{}: '{}' is in use, and has not {} queues", kFailed, name_, shape.queues);
}

void Device::set_up_queues(const DeviceShape& shape) const {
  for (uint32_t index = 0; index < shape.queues; ++index) {
    vduse_vq_config config{};
    config.index = index;
    config.max_size = shape.queue_size;
    auto set = kernel_.control(fd_.get(), VDUSE_VQ_SETUP, &config);
    if (!set)
      throw Error::from_errno(set.error_number(), "{}: cannot set up queue {}", kFailed, index);
  }
  if (!was_there_) return;
  Status set = set_config(shape.config);
  if (!set.ok())
    throw Error::from_errno(set.error_number(), "{}: cannot change the configuration of '{}'",
                            kFailed, name_);
}

Result<vduse_dev_request> Device::receive() const noexcept {
  vduse_dev_request request;
  ssize_t got = 0;
  do {
    got = ::read(fd_.get(), &request, sizeof request);
  } while (got < 0 && errno == EINTR);
  if (got < 0) return Result<vduse_dev_request>::error(errno);
  if (got != sizeof request) return Result<vduse_dev_request>::error(EIO);
  return request;
}

Status Device::respond(const vduse_dev_response& response) const noexcept {
  ssize_t sent = 0;
  do {
    sent = ::write(fd_.get(), &response, sizeof response);
  } while (sent < 0 && errno == EINTR);
  return Status::error(sent < 0 ? errno : 0);
}

Result<uint64_t> Device::features() const noexcept {
  uint64_t features = 0;
  auto got = kernel_.control(fd_.get(), VDUSE_DEV_GET_FEATURES, &features);
  if (!got) return got.status();
  return features;
}

Result<vduse_vq_info> Device::queue_info(uint32_t index) const noexcept {
  vduse_vq_info info{};
  info.index = index;
  auto got = kernel_.control(fd_.get(), VDUSE_VQ_GET_INFO, &info);
  if (!got) return got.status();
  return info;
}

Status Device::set_kick(uint32_t index, int event) const noexcept {
  vduse_vq_eventfd wanted{index, event};
  return kernel_.control(fd_.get(), VDUSE_VQ_SETUP_KICKFD, &wanted).status();
}

Status Device::interrupt(uint32_t index) const noexcept {
  return kernel_.control(fd_.get(), VDUSE_VQ_INJECT_IRQ, &index).status();
}

Status Device::set_config(const virtio_blk_config& config) const noexcept {
  vduse_config_data wanted{};
  wanted.length = kConfigBytes;
  WithConfig<vduse_config_data> argument(wanted, config);
  return kernel_.control(fd_.get(), VDUSE_DEV_SET_CONFIG, argument.data()).status();
}

Status Device::announce_config() const noexcept {
  return kernel_.control(fd_.get(), VDUSE_DEV_INJECT_CONFIG_IRQ, nullptr).status();
}

Result<Device::Memory> Device::find_memory(uint64_t address) const noexcept {
  vduse_iotlb_entry entry{};
  entry.start = address;
  entry.last = address;
  auto fd = kernel_.control(fd_.get(), VDUSE_IOTLB_GET_FD, &entry);
  if (!fd) return fd.status();
  return Memory{UniqueFd(*fd), entry.offset, entry.start, entry.last, entry.perm};
}

Status Device::destroy() noexcept {
  fd_.reset();
  auto name = name_field(name_);
  return kernel_.control(control_.get(), VDUSE_DESTROY_DEV, name.data()).status();
}

}  // namespace strata::vduse
