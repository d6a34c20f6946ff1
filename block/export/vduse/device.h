// SPDX-License-Identifier: GPL-2.0-or-later
//
// A device of VDUSE: the kernel's side of it, /dev/vduse/NAME, in our words.
#pragma once

#include <linux/vduse.h>
#include <linux/virtio_blk.h>

#include <cstdint>
#include <memory>
#include <string>

#include "block/base/result.h"
#include "block/base/unique_fd.h"
#include "block/export/vduse/kernel.h"

namespace strata::vduse {

// The configuration space up to where a block device's ends that knows no zones.
inline constexpr uint32_t kConfigBytes = offsetof(virtio_blk_config, unused1) + 3;

// What a device is made with.
struct DeviceShape {
  std::string name;
  uint64_t features = 0;
  uint16_t queues = 1;
  uint16_t queue_size = 256;
  virtio_blk_config config{};
};

// Once made, it may be used by any thread; receive() and respond() by one.
class Device {
 public:
  // Makes the device, or takes the one of this name that nobody serves any more, but that somebody
  // may be using. Throws Error.
  static std::unique_ptr<Device> create(Kernel& kernel, const DeviceShape& shape);
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;

  // Whether it is a device that a predecessor has left.
  bool was_there() const noexcept { return was_there_; }
  // Ready to be read when there is a request. Non-blocking.
  int fd() const noexcept { return fd_.get(); }

  // EAGAIN where there is none.
  Result<vduse_dev_request> receive() const noexcept;
  Status respond(const vduse_dev_response& response) const noexcept;

  // What the driver has accepted.
  Result<uint64_t> features() const noexcept;
  Result<vduse_vq_info> queue_info(uint32_t index) const noexcept;
  Status set_kick(uint32_t index, int event) const noexcept;
  // EINVAL while the kernel does not know yet that the driver is ready.
  Status interrupt(uint32_t index) const noexcept;
  Status set_config(const virtio_blk_config& config) const noexcept;
  // Tells the driver that it has changed.
  Status announce_config() const noexcept;

  // The kernel's memory around one address.
  struct Memory {
    UniqueFd fd;
    uint64_t offset = 0;  // in the file
    uint64_t start = 0;   // address of the first byte
    uint64_t last = 0;    // of the last one
    uint8_t access = 0;   // VDUSE_ACCESS_...
  };
  Result<Memory> find_memory(uint64_t address) const noexcept;

  // EBUSY while it is somebody's: it stays then, for a successor.
  Status destroy() noexcept;

 private:
  explicit Device(Kernel& kernel) noexcept : kernel_(kernel) {}

  void open_control();
  void make(const DeviceShape& shape);
  Status try_make(const DeviceShape& shape) const noexcept;
  void open_device();
  void check_queues(const DeviceShape& shape) const;
  void set_up_queues(const DeviceShape& shape) const;

  Kernel& kernel_;
  std::string name_;
  UniqueFd control_;
  UniqueFd fd_;
  bool was_there_ = false;
};

}  // namespace strata::vduse
