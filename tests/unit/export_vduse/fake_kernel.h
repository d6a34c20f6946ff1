// SPDX-License-Identifier: GPL-2.0-or-later
//
// A stand-in for the kernel's VDUSE: the control device, devices, and for each the bus it may be
// attached to. It checks what the kernel checks, and keeps what the kernel keeps when the process
// that serves a device ends.
#pragma once

#include <fcntl.h>
#include <linux/ioctl.h>
#include <linux/vduse.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ids.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "block/aio/aio_context.h"
#include "block/aio/fd_watch.h"
#include "block/base/error.h"
#include "block/export/vduse/kernel.h"

namespace strata::test {

struct FakeQueue {
  uint16_t max_size = 0;
  vduse_vq_info info{};  // what the driver has set
  UniqueFd kick_fd;
  bool kicked = false;  // while nobody could be told
  unsigned interrupts = 0;
  unsigned refused_interrupts = 0;
};

struct FakeRegion {
  int fd = -1;  // the test's
  vduse_iotlb_entry entry{};
};

struct FakeDevice {
  std::vector<std::byte> creation;  // what it was made with
  std::vector<uint8_t> config;
  uint64_t accepted = 0;  // features
  uint8_t status = 0;
  std::vector<FakeQueue> queues;
  std::vector<FakeRegion> regions;
  bool on_bus = false;
  bool broken = false;
  unsigned config_interrupts = 0;
  unsigned lookups = 0;  // of memory
  uint32_t next_request = 1;
  UniqueFd end;  // the kernel's, of what a process has open
  std::vector<vduse_dev_request> unanswered;

  vduse_dev_config made() const {
    vduse_dev_config found{};
    std::memcpy(&found, creation.data(), std::min(creation.size(), sizeof found));
    return found;
  }
  virtio_blk_config blk_config() const {
    virtio_blk_config found{};
    std::memcpy(&found, config.data(), std::min(config.size(), sizeof found));
    return found;
  }
  bool is_connected() const {
    pollfd poll{end.get(), 0, 0};
    return end && ::poll(&poll, 1, 0) == 0;
  }
  void reset() {
    status = 0;
    accepted = 0;
    for (FakeQueue& queue : queues) {
      queue.info = {};
      queue.kick_fd.reset();
      queue.kicked = false;
    }
  }
};

// Any thread, but for what a test does to the devices.
class FakeKernel final : public vduse::Kernel {
 public:
  Result<UniqueFd> open(const std::string& path) noexcept override {
    std::lock_guard lock(mutex_);
    if (open_error != 0) return Result<UniqueFd>::error(open_error);
    if (path == "/dev/vduse/control") {
      UniqueFd control(::eventfd(0, EFD_CLOEXEC));
      opened_.erase(control.get());
      return control;
    }
    auto found = devices.find(path.substr(path.rfind('/') + 1));
    if (found == devices.end()) return Result<UniqueFd>::error(ENOENT);
    FakeDevice& device = found->second;
    if (device.is_connected()) return Result<UniqueFd>::error(EBUSY);
    int ends[2];
    if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) != 0)
      return Result<UniqueFd>::error(errno);
    device.end.reset(ends[0]);
    opened_[ends[1]] = found->first;
    for (const vduse_dev_request& request : device.unanswered) send(device, request);
    return UniqueFd(ends[1]);
  }

  Result<int> control(int fd, unsigned long request, void* argument) noexcept override {
    std::lock_guard lock(mutex_);
    auto found = opened_.find(fd);
    int result = found == opened_.end() || !devices.contains(found->second)
                     ? control_all(request, argument)
                     : control_one(devices.at(found->second), request, argument);
    if (result < 0) return Result<int>::error(-result);
    return result;
  }

  // What the driver or the bus asks of a device; waits for the answer.
  Task<vduse_dev_response> ask(AioContext& context, std::string name, vduse_dev_request request) {
    FakeDevice& device = devices.at(name);
    request.request_id = device.next_request++;
    device.unanswered.push_back(request);
    send(device, request);
    vduse_dev_response response{};
    FdWatch watch(context, device.end.get());
    while (::read(device.end.get(), &response, sizeof response) != sizeof response)
      std::ignore = co_await watch.readable();
    auto same = [&](const auto& asked) { return asked.request_id == response.request_id; };
    if (std::erase_if(device.unanswered, same) != 1) throw Error("an answer to nothing");
    for (uint32_t word : response.reserved) {
      if (word != 0) throw Error("an answer with what is reserved");
    }
    co_return response;
  }

  // As the driver does it. False where the device refuses.
  Task<bool> set_status(AioContext& context, std::string name, uint8_t status) {
    vduse_dev_request request{};
    request.type = VDUSE_SET_STATUS;
    request.s.status = status;
    vduse_dev_response response = co_await ask(context, name, request);
    FakeDevice& device = devices.at(name);
    bool ok = response.result == VDUSE_REQ_RESULT_OK;
    for (unsigned i = 0; i < status_delay; ++i) co_await context.yield();
    std::lock_guard lock(mutex_);
    if (status == 0)
      device.reset();
    else if (ok)
      device.status = status;
    co_return ok;
  }

  void kick(FakeDevice& device, uint32_t index) {
    std::lock_guard lock(mutex_);
    FakeQueue& queue = device.queues.at(index);
    if (queue.info.ready == 0) return;
    if (queue.kick_fd)
      signal(queue);
    else
      queue.kicked = true;
  }

  unsigned interrupts(const FakeDevice& device, uint32_t index) {
    std::lock_guard lock(mutex_);
    return device.queues.at(index).interrupts;
  }

  std::map<std::string, FakeDevice> devices;
  int open_error = 0;         // of the control device and all others
  uint64_t api_version = 0;   // the highest known
  unsigned status_delay = 0;  // turns of the loop after an answer until the kernel knows it
  std::vector<unsigned long> refused;  // requests of ioctl(2) that fail with EINVAL

 private:
  static void send(FakeDevice& device, const vduse_dev_request& request) {
    std::ignore = ::write(device.end.get(), &request, sizeof request);
  }
  static void signal(const FakeQueue& queue) {
    uint64_t one = 1;
    std::ignore = ::write(queue.kick_fd.get(), &one, sizeof one);
  }

  int control_all(unsigned long request, void* argument) noexcept {
    switch (request) {
      case VDUSE_SET_API_VERSION:
        return *static_cast<uint64_t*>(argument) > api_version ? -EINVAL : 0;
      case VDUSE_CREATE_DEV:
        return create(static_cast<vduse_dev_config*>(argument));
      case VDUSE_DESTROY_DEV: {
        auto found = devices.find(static_cast<const char*>(argument));
        if (found == devices.end()) return -EINVAL;
        if (found->second.on_bus || found->second.is_connected()) return -EBUSY;
        devices.erase(found);
        return 0;
      }
      default:
        return -EINVAL;
    }
  }

  int create(const vduse_dev_config* wanted) {
    bool reserved = std::ranges::any_of(wanted->reserved, [](uint32_t word) { return word != 0; });
    uint64_t features = wanted->features;
    if (reserved || wanted->vq_align > 4096 || wanted->config_size > 4096 ||
        wanted->vq_num > 0xffff || wanted->name[0] == 0 || wanted->device_id != VIRTIO_ID_BLOCK ||
        (features & uint64_t{1} << VIRTIO_F_ACCESS_PLATFORM) == 0 ||
        (features & uint64_t{1} << VIRTIO_BLK_F_CONFIG_WCE) != 0)
      return -EINVAL;
    auto [place, fresh] = devices.try_emplace(wanted->name);
    if (!fresh) return -EEXIST;
    FakeDevice& device = place->second;
    auto* bytes = reinterpret_cast<const std::byte*>(wanted);
    device.creation.assign(bytes, bytes + sizeof *wanted);
    device.config.assign(wanted->config, wanted->config + wanted->config_size);
    device.queues.resize(wanted->vq_num);
    return 0;
  }

  int control_one(FakeDevice& device, unsigned long request, void* argument) noexcept {
    if (device.broken) return -EPERM;
    if (std::ranges::find(refused, request) != refused.end()) return -EINVAL;
    switch (request) {
      case VDUSE_IOTLB_GET_FD:
        return find_memory(device, *static_cast<vduse_iotlb_entry*>(argument));
      case VDUSE_DEV_GET_FEATURES:
        *static_cast<uint64_t*>(argument) = device.accepted;
        return 0;
      case VDUSE_DEV_SET_CONFIG: {
        auto* config = static_cast<vduse_config_data*>(argument);
        if (config->length == 0 || config->offset > device.config.size() ||
            config->length > device.config.size() - config->offset)
          return -EINVAL;
        std::copy_n(config->buffer, config->length, device.config.begin() + config->offset);
        return 0;
      }
      case VDUSE_DEV_INJECT_CONFIG_IRQ:
        if ((device.status & VIRTIO_CONFIG_S_DRIVER_OK) == 0) return -EINVAL;
        ++device.config_interrupts;
        return 0;
      default:
        return control_queue(device, request, argument);
    }
  }

  int control_queue(FakeDevice& device, unsigned long request, void* argument) noexcept {
    uint32_t index = *static_cast<uint32_t*>(argument);
    if (index >= device.queues.size()) return -EINVAL;
    FakeQueue& queue = device.queues[index];
    switch (request) {
      case VDUSE_VQ_SETUP: {
        auto* config = static_cast<vduse_vq_config*>(argument);
        for (uint16_t word : config->reserved) {
          if (word != 0) return -EINVAL;
        }
        queue.max_size = config->max_size;
        return 0;
      }
      case VDUSE_VQ_GET_INFO:
        *static_cast<vduse_vq_info*>(argument) = queue.info;
        static_cast<vduse_vq_info*>(argument)->index = index;
        return 0;
      case VDUSE_VQ_SETUP_KICKFD:
        return set_kick(queue, static_cast<vduse_vq_eventfd*>(argument)->fd);
      case VDUSE_VQ_INJECT_IRQ:
        if ((device.status & VIRTIO_CONFIG_S_DRIVER_OK) == 0) {
          ++queue.refused_interrupts;
          return -EINVAL;
        }
        ++queue.interrupts;
        return 0;
      default:
        return -ENOTTY;
    }
  }

  static int set_kick(FakeQueue& queue, int fd) {
    queue.kick_fd.reset(fd >= 0 ? ::dup(fd) : -1);
    if (queue.kick_fd && queue.info.ready != 0 && std::exchange(queue.kicked, false)) signal(queue);
    return 0;
  }

  static int find_memory(FakeDevice& device, vduse_iotlb_entry& entry) {
    ++device.lookups;
    for (const FakeRegion& region : device.regions) {
      if (region.entry.start > entry.last || region.entry.last < entry.start) continue;
      entry = region.entry;
      // The kernel opens it with the region's rights, as a new file.
      std::string path = "/proc/self/fd/" + std::to_string(region.fd);
      int flags = entry.perm == VDUSE_ACCESS_RW   ? O_RDWR
                  : entry.perm == VDUSE_ACCESS_RO ? O_RDONLY
                                                  : O_WRONLY;
      int fd = ::open(path.c_str(), flags | O_CLOEXEC);
      return fd < 0 ? -errno : fd;
    }
    return -EINVAL;
  }

  std::mutex mutex_;
  std::map<int, std::string> opened_;  // by the process's descriptor
};

}  // namespace strata::test
