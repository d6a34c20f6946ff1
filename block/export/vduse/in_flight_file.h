// SPDX-License-Identifier: GPL-2.0-or-later
//
// The in-flight areas of a device's queues, in a file that outlives this process: from it a
// successor learns what had been taken and not answered.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "block/base/unique_fd.h"
#include "block/virtio/mapped_file.h"

namespace strata::vduse {

// What the areas were made for. Another shape makes them useless.
struct InFlightShape {
  uint64_t features = 0;  // offered
  uint32_t queues = 1;
  uint16_t queue_size = 256;

  friend bool operator==(const InFlightShape&, const InFlightShape&) = default;
};

// Main loop, but for the areas, which are their queues'.
class InFlightFile {
 public:
  // Where files are kept, and the file of a device.
  static std::string directory();
  static std::string path_for(const std::string& device_name);

  // Makes an empty one, in the place of what there is. Throws Error.
  static InFlightFile make(const std::string& path, const InFlightShape& shape);
  // What a predecessor has left: `kept`, where somebody has kept it, or the file. Throws Error:
  // there is none, it is somebody else's, or it has another shape.
  static InFlightFile open(const std::string& path, const InFlightShape& shape, UniqueFd kept);

  int fd() const noexcept { return fd_.get(); }

  const std::shared_ptr<const virtio::MappedFile>& mapping() const noexcept { return mapping_; }
  std::byte* area(uint32_t queue) const noexcept;
  // Whether a queue has begun to work on its area.
  bool is_in_use(uint32_t queue) const noexcept;
  // The queue begins anew.
  void clear(uint32_t queue) noexcept;

  // Nobody needs it any more.
  void remove() noexcept;

 private:
  InFlightFile(std::string path, const InFlightShape& shape, UniqueFd fd);

  std::string path_;
  InFlightShape shape_;
  UniqueFd fd_;
  std::shared_ptr<const virtio::MappedFile> mapping_;
};

}  // namespace strata::vduse
