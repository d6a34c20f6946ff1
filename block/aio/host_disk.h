// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <vector>

#include "block/aio/disk.h"
#include "block/aio/disk_engine.h"
#include "block/base/unique_fd.h"

namespace strata {

class UringFiles;

// A file or a block device of this host.
class HostDisk final : public Disk {
 public:
  struct Options {
    bool direct = false;  // the descriptor has O_DIRECT
    DiskEngine engine = DiskEngine::threads;
    // Requests handed to the kernel in one call at most; 0: as the context says.
    uint32_t max_batch = 0;
  };

  // `geometry` is what probe_geometry() found for this descriptor. The engine is one that
  // choose_engine() allowed; a context in which it cannot be had after all (out of memory or
  // descriptors) uses threads.
  HostDisk(UniqueFd fd, const DiskGeometry& geometry, Options options) noexcept;
  ~HostDisk() override;

  int fd() const noexcept { return fd_.get(); }
  const Options& options() const noexcept { return options_; }

  bool start(DiskRequest& request) noexcept override;
  const DiskGeometry& geometry() const noexcept override { return geometry_; }
  Task<Result<uint64_t>> size() override;
  Task<Status> truncate(uint64_t size) override;
  Task<Status> change_space(SpaceChange change, ByteRange range) override;
  Task<Result<DiskExtent>> extent_at(uint64_t offset, uint64_t bytes) override;
  Task<Result<uint64_t>> copy_range(uint64_t offset, Disk& to, uint64_t to_offset,
                                    uint64_t bytes) override;
  Task<Status> drop_cache() override;

  // From now on `fd`, another descriptor of the same file with the same flags but for the access
  // mode. Requests may be under way.
  void replace_descriptor(UniqueFd fd) noexcept;

  // For the io_uring engine: from now on `files` holds this descriptor, until told otherwise.
  void held_by(std::shared_ptr<UringFiles> files);
  // For the engines: the answer to a flush as the caller is to see it.
  int64_t flushed(int64_t answer) noexcept;

 private:
  bool try_at_once(DiskRequest& request, size_t& done) noexcept;
  bool read_cached(DiskRequest& request, size_t& done) noexcept;

  UniqueFd fd_;
  DiskGeometry geometry_;
  Options options_;
  bool is_memory_;  // of the host: nothing waits for a device
  // Once the kernel could not write back its page cache it forgets what it could not write, and the
  // next fdatasync() would claim success: so the error is for good.
  std::atomic<int> write_back_error_{0};
  // How many reads to pass over before the page cache is tried again, and the same for the next
  // miss.
  std::atomic<uint32_t> reads_to_pass_{0};
  std::atomic<uint32_t> next_pass_{0};
  std::mutex mutex_;
  std::vector<std::shared_ptr<UringFiles>> held_by_;
};

}  // namespace strata
