// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/aio/disk_geometry.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <optional>
#include <string>

#include "block/base/aligned_buffer.h"
#include "block/base/error.h"
#include "block/base/math.h"
#include "block/base/unique_fd.h"

namespace strata {
namespace {

constexpr uint32_t kSafeAlignment = 4096;
constexpr std::array<uint32_t, 4> kCandidates{512, 1024, 2048, 4096};

// statx() has had these since 6.1; the C library's headers do not know them.
constexpr unsigned kStatxDioalign = 0x2000;
constexpr size_t kDioMemoryOffset = 0x98;
constexpr size_t kDioOffsetOffset = 0x9c;

struct Alignment {
  uint32_t request;
  uint32_t memory;
};

// What the file system says about direct I/O, where it says anything.
std::optional<Alignment> ask_statx(int fd) noexcept {
  alignas(struct statx) std::byte raw[sizeof(struct statx)];
  auto* info = new (raw) struct statx();
  if (::statx(fd, "", AT_EMPTY_PATH, kStatxDioalign, info) != 0) return std::nullopt;
  if ((info->stx_mask & kStatxDioalign) == 0) return std::nullopt;
  Alignment answer;
  std::copy_n(raw + kDioMemoryOffset, sizeof answer.memory,
              reinterpret_cast<std::byte*>(&answer.memory));
  std::copy_n(raw + kDioOffsetOffset, sizeof answer.request,
              reinterpret_cast<std::byte*>(&answer.request));
  if (!is_power_of_two(answer.memory) || !is_power_of_two(answer.request)) return std::nullopt;
  return answer;
}

// Tries which reads the kernel takes: 0 if none.
uint32_t try_request_alignments(int fd) {
  AlignedBuffer buffer(kSafeAlignment);
  if (!buffer) return 0;
  for (uint32_t alignment : kCandidates) {
    if (::pread(fd, buffer.data(), alignment, 0) >= 0 || errno != EINVAL) return alignment;
  }
  return 0;
}

uint32_t try_memory_alignments(int fd, uint32_t request) {
  AlignedBuffer buffer(2 * kSafeAlignment);
  if (!buffer) return 0;
  for (uint32_t alignment : kCandidates) {
    if (::pread(fd, buffer.data() + alignment, request, 0) >= 0 || errno != EINVAL)
      return alignment;
  }
  return 0;
}

// A file of which nothing is on the disk yet may take what it will refuse once it has data, so what
// was found by trying is a lower bound: never below what the block device underneath is likely to
// have.
Alignment find_alignment(int fd, const DiskGeometry& geometry) {
  if (auto told = ask_statx(fd)) return *told;
  uint32_t request = try_request_alignments(fd);
  uint32_t memory = request == 0 ? 0 : try_memory_alignments(fd, request);
  if (request == 0 || memory == 0)
    throw Error::from_text("Could not find working O_DIRECT alignment")
        .hint("Try cache.direct=off\n");
  struct stat info{};
  bool empty = ::fstat(fd, &info) == 0 && S_ISREG(info.st_mode) && info.st_blocks == 0;
  if (empty) request = memory = kSafeAlignment;
  return {std::max(request, geometry.logical_block_size), memory};
}

std::optional<uint64_t> read_queue_limit(dev_t device, const char* name) {
  // A partition's limits are those of its disk.
  for (const char* where : {"/queue/", "/../queue/"}) {
    std::string path =
        fmt::format("/sys/dev/block/{}:{}{}{}", major(device), minor(device), where, name);
    UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    if (!fd) continue;
    char text[32];
    ssize_t size = ::read(fd.get(), text, sizeof text);
    uint64_t value = 0;
    if (size > 0 && std::from_chars(text, text + size, value).ec == std::errc()) return value;
  }
  return std::nullopt;
}

void probe_block_device(int fd, dev_t device, DiskGeometry& geometry) {
  geometry.is_block_device = true;
  int logical = 0;
  if (::ioctl(fd, BLKSSZGET, &logical) == 0 && is_power_of_two(static_cast<uint64_t>(logical)))
    geometry.logical_block_size = static_cast<uint32_t>(logical);
  unsigned physical = 0;
  if (::ioctl(fd, BLKPBSZGET, &physical) == 0 && is_power_of_two(physical))
    geometry.physical_block_size = physical;
  if (auto kib = read_queue_limit(device, "max_sectors_kb"))
    geometry.max_hardware_transfer = *kib * 1024;
  if (auto segments = read_queue_limit(device, "max_segments"))
    geometry.max_hardware_segments = static_cast<uint32_t>(std::min<uint64_t>(*segments, 1 << 20));
  auto granularity = read_queue_limit(device, "discard_granularity");
  if (granularity && *granularity <= UINT32_MAX && is_power_of_two(*granularity))
    geometry.discard_granularity = static_cast<uint32_t>(*granularity);
}

}  // namespace

DiskGeometry probe_geometry(int fd, bool direct) {
  DiskGeometry geometry;
  struct stat info{};
  if (::fstat(fd, &info) != 0) throw Error::from_errno(errno, "Could not stat file");
  if (S_ISBLK(info.st_mode)) {
    probe_block_device(fd, info.st_rdev, geometry);
  } else if (auto block = static_cast<uint64_t>(info.st_blksize);
             is_power_of_two(block) && block <= (1 << 20)) {
    geometry.discard_granularity = static_cast<uint32_t>(block);
  }
  if (!direct) return geometry;
  Alignment alignment = find_alignment(fd, geometry);
  geometry.request_alignment = alignment.request;
  geometry.memory_alignment = alignment.memory;
  return geometry;
}

}  // namespace strata
