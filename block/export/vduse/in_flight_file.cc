// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/export/vduse/in_flight_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "block/base/error.h"
#include "block/virtio/in_flight.h"

namespace strata::vduse {
namespace {

constexpr uint64_t kMagic = 0x5354524154410001;
constexpr uint64_t kHeaderBytes = 4096;

struct Header {
  uint64_t magic;
  uint64_t features;
  uint32_t queues;
  uint32_t queue_size;
};

Header header_of(const InFlightShape& shape) noexcept {
  return {kMagic, shape.features, shape.queues, shape.queue_size};
}

// Each has room for the larger of the two layouts.
uint64_t area_bytes(const InFlightShape& shape) noexcept {
  return virtio::in_flight_bytes(true, shape.queue_size);
}

uint64_t file_bytes(const InFlightShape& shape) noexcept {
  return kHeaderBytes + shape.queues * area_bytes(shape);
}

// Everybody may write where temporary files are: it is our file, and no way to another.
UniqueFd open_own(const std::string& path, int flags) {
  UniqueFd fd(::open(path.c_str(), O_RDWR | O_CLOEXEC | O_NOFOLLOW | flags, 0600));
  struct stat status;
  if (!fd || ::fstat(fd.get(), &status) != 0)
    throw Error::from_errno(errno, "Failed to open {}", path);
  if (!S_ISREG(status.st_mode) || status.st_uid != ::geteuid() || status.st_nlink != 1)
    throw Error("{} is not a file of ours", path);
  return fd;
}

}  // namespace

std::string InFlightFile::directory() {
  const char* directory = std::getenv("TMPDIR");
  return directory != nullptr && *directory != '\0' ? directory : "/tmp";
}

std::string InFlightFile::path_for(const std::string& device_name) {
  return directory() + "/strata-vduse-" + device_name;
}

InFlightFile::InFlightFile(std::string path, const InFlightShape& shape, UniqueFd fd)
    : path_(std::move(path)),
      shape_(shape),
      fd_(std::move(fd)),
      mapping_(std::make_shared<const virtio::MappedFile>(fd_.get(), 0, file_bytes(shape))) {}

InFlightFile InFlightFile::make(const std::string& path, const InFlightShape& shape) {
  if (::unlink(path.c_str()) != 0 && errno != ENOENT)
    throw Error::from_errno(errno, "Failed to remove {}", path);
  UniqueFd fd = open_own(path, O_CREAT | O_EXCL);
  try {
    // Space that is not there would be found missing in the middle of a request.
    int error = ::posix_fallocate(fd.get(), 0, static_cast<off_t>(file_bytes(shape)));
    if (error != 0) throw Error::from_errno(error, "No space for {}", path);
    InFlightFile file(path, shape, std::move(fd));
    Header header = header_of(shape);
    std::memcpy(file.mapping_->data(), &header, sizeof header);
    return file;
  } catch (const Error&) {
    ::unlink(path.c_str());
    throw;
  }
}

InFlightFile InFlightFile::open(const std::string& path, const InFlightShape& shape,
                                UniqueFd kept) {
  UniqueFd fd = kept ? std::move(kept) : open_own(path, 0);
  Header found{};
  Header wanted = header_of(shape);
  bool same = ::pread(fd.get(), &found, sizeof found, 0) == sizeof found &&
              std::memcmp(&found, &wanted, sizeof found) == 0;
  if (!same) throw Error("{} belongs to a device with other options", path);
  return InFlightFile(path, shape, std::move(fd));
}

std::byte* InFlightFile::area(uint32_t queue) const noexcept {
  return mapping_->data() + kHeaderBytes + queue * area_bytes(shape_);
}

bool InFlightFile::is_in_use(uint32_t queue) const noexcept {
  // Both layouts begin alike.
  static_assert(offsetof(virtio::QueueRegionSplit, version) ==
                offsetof(virtio::QueueRegionPacked, version));
  return reinterpret_cast<virtio::QueueRegionSplit*>(area(queue))->version != 0;
}

void InFlightFile::clear(uint32_t queue) noexcept {
  std::memset(area(queue), 0, area_bytes(shape_));
}

void InFlightFile::remove() noexcept {
  ::unlink(path_.c_str());
}

}  // namespace strata::vduse
