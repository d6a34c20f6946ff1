// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/drivers/file/file.h"

#include <sys/stat.h>

#include <fcntl.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <mutex>

#include "block/aio/disk_geometry.h"
#include "block/aio/host_disk.h"
#include "block/aio/main_loop.h"
#include "block/base/error.h"
#include "block/drivers/file/create.h"
#include "block/drivers/file/image_file.h"
#include "block/drivers/file/image_lock.h"
#include "block/drivers/file/page_cache.h"
#include "block/drivers/file/resize.h"
#include "block/graph/node.h"
#include "block/graph/open.h"
#include "block/graph/reopen.h"
#include "qapi/types_block_info.h"

namespace strata {
namespace {

std::optional<DiskEngine> engine_of(std::optional<qapi::BlockdevAioOptions> aio) noexcept {
  if (!aio) return std::nullopt;
  switch (*aio) {
    case qapi::BlockdevAioOptions::native:
      return DiskEngine::native;
    case qapi::BlockdevAioOptions::io_uring:
      return DiskEngine::io_uring;
    default:
      return DiskEngine::threads;
  }
}

constexpr PermissionSet kWriting{Permission::write, Permission::write_unchanged,
                                 Permission::resize};

constexpr std::array<std::string_view, 1> kChangeable{"x-check-cache-dropped"};

class FileDriver final : public Driver {
 public:
  using Driver::Driver;

  HostDisk& disk() const noexcept { return *disk_; }

  Task<void> open(OpenContext& context) override;
  Task<Status> preadv(uint64_t offset, IoVector into, ReadFlags flags) override;
  Task<Status> pwritev(uint64_t offset, IoVector from, WriteFlags flags) override;
  Task<Status> pwrite_zeroes(uint64_t offset, uint64_t bytes, WriteFlags flags) override;
  Task<Status> pdiscard(uint64_t offset, uint64_t bytes) override;
  Task<Status> flush() override;
  Task<Result<BlockStatus>> block_status(uint64_t offset, uint64_t bytes, StatusWant want) override;
  bool knows_zeroes(uint64_t, uint64_t) const noexcept override { return false; }
  Task<Result<uint64_t>> length() override { return disk_->size(); }
  Task<void> truncate(uint64_t size, TruncateOptions options) override {
    keep_data_run({});
    return resize_disk(*disk_, size, options);
  }

  WriteFlags write_flags() const noexcept override { return WriteFlag::fua; }
  WriteFlags zero_flags() const noexcept override {
    return {WriteFlag::may_unmap, WriteFlag::no_fallback};
  }
  Limits limits(const Limits&) const noexcept override;
  // What a device held before is still there.
  bool has_zero_init() const noexcept override { return !is_device(); }

  void prepare_permissions(MainLoop& loop, Permissions permissions) override;
  void commit_permissions() noexcept override;
  void abort_permissions() noexcept override;

  Task<void> prepare_reopen(ReopenContext& context) override;
  void commit_reopen() noexcept override;
  Task<void> abort_reopen(MainLoop&) override;

  FileName file_name() const override;
  std::unique_ptr<qapi::ImageInfoSpecific> specific_info() const override;
  std::unique_ptr<qapi::BlockStatsSpecific> specific_stats() const override;
  std::optional<ImageFacts> image_facts() const override { return ImageFacts{}; }
  std::optional<uint64_t> allocated_size() const override;
  Task<void> activate(MainLoop& loop) override;

 private:
  bool is_device() const noexcept { return descriptor().name == qapi::BlockdevDriver::host_device; }
  // How the file is to be opened, and when.
  struct Mode {
    bool direct = false;
    bool read_only = false;
    bool follows_writers = false;  // auto-read-only: open for writing only while someone writes
    bool drop_cache = true;
    bool check_cache_dropped = false;
  };
  static Mode mode_of(const qapi::BlockdevOptionsFile& options, const NodeOptions& in_force);
  std::unique_ptr<HostDisk> make_disk(UniqueFd fd, bool direct) const;
  Task<Status> zero_in_file(ByteRange range, WriteFlags flags);
  uint64_t known_data(uint64_t offset) const noexcept;
  void keep_data_run(ByteRange run) noexcept;
  Task<Status> try_change(SpaceChange change, ByteRange range, std::atomic<bool>& possible);

  std::string filename_;
  std::optional<DiskEngine> engine_;
  uint32_t max_batch_ = 0;

  std::unique_ptr<HostDisk> disk_;

  // Main loop only.
  ImageLock lock_;
  Mode mode_;
  std::optional<Mode> next_mode_;  // from prepare_reopen() on
  bool is_open_writable_ = false;
  // Between prepare_permissions() and what follows; the disk, if more than the access changes.
  UniqueFd replacement_;
  std::unique_ptr<HostDisk> replacement_disk_;
  bool replacement_is_writable_ = false;

  // Cleared once the kernel has said that it cannot.
  std::atomic<bool> can_zero_{true};
  std::atomic<bool> can_punch_{true};
  std::atomic<bool> can_allocate_{true};
  std::atomic<bool> can_discard_{true};

  // Data that was found last: looking again could mean walking all of it. Forgotten when something
  // may have become a hole.
  mutable std::mutex data_run_mutex_;
  ByteRange data_run_;

  std::atomic<uint64_t> discards_{0};
  std::atomic<uint64_t> failed_discards_{0};
  std::atomic<uint64_t> discarded_bytes_{0};
};

Task<void> FileDriver::open(OpenContext& context) {
  const auto& options = context.branch<qapi::BlockdevOptionsFile>();
  const NodeOptions& node_options = context.node.options();
  filename_ = options.filename;
  if (filename_.empty())
    throw Error("The '{}' block driver requires a file name", descriptor().format_name());
  mode_ = mode_of(options, node_options);
  if (options.pr_manager)
    throw Error("No persistent reservation manager with id '{}'", *options.pr_manager);
  int64_t max_batch = options.aio_max_batch.value_or(0);
  if (max_batch < 0 || max_batch > UINT32_MAX) throw Error("aio-max-batch is out of range");
  max_batch_ = static_cast<uint32_t>(max_batch);
  engine_ = engine_of(options.aio);

  is_open_writable_ = !mode_.read_only && !mode_.follows_writers;
  UniqueFd fd = open_image_file(filename_, is_device() ? FileKind::device : FileKind::regular,
                                descriptor().format_name(),
                                {.writable = is_open_writable_, .direct = mode_.direct},
                                context.layer.surroundings().passed_fds);
  disk_ = make_disk(std::move(fd), mode_.direct);

  if (options.locking.value_or(qapi::OnOffAuto::auto_) != qapi::OnOffAuto::off) {
    UniqueFd lock_fd(::fcntl(disk_->fd(), F_DUPFD_CLOEXEC, 0));
    if (!lock_fd) throw Error::from_errno(errno, "Could not open '{}'", filename_);
    lock_ = ImageLock(std::move(lock_fd), filename_, options.locking == qapi::OnOffAuto::on);
  }
  co_return;
}

FileDriver::Mode FileDriver::mode_of(const qapi::BlockdevOptionsFile& options,
                                     const NodeOptions& in_force) {
  return {.direct = in_force.cache_direct,
          .read_only = in_force.read_only,
          .follows_writers = in_force.auto_read_only && !in_force.read_only,
          .drop_cache = options.drop_cache.value_or(true),
          .check_cache_dropped = options.x_check_cache_dropped.value_or(false)};
}

std::unique_ptr<HostDisk> FileDriver::make_disk(UniqueFd fd, bool direct) const {
  HostDisk::Options options{
      .direct = direct, .engine = choose_engine(engine_, direct), .max_batch = max_batch_};
  DiskGeometry geometry = probe_geometry(fd.get(), direct);
  return std::make_unique<HostDisk>(std::move(fd), geometry, options);
}

Task<Status> FileDriver::preadv(uint64_t offset, IoVector into, ReadFlags) {
  Result<size_t> got = co_await disk_->read(offset, into);
  if (!got) co_return got.status();
  if (*got < into.size()) [[unlikely]]
    into.slice(*got, into.size() - *got).fill(std::byte{0});
  co_return Status();
}

Task<Status> FileDriver::pwritev(uint64_t offset, IoVector from, WriteFlags flags) {
  co_return co_await disk_->write(offset, from, flags.has(WriteFlag::fua));
}

Task<Status> FileDriver::flush() {
  co_return co_await disk_->flush();
}

// ENOTSUP also where it was not worth trying.
Task<Status> FileDriver::try_change(SpaceChange change, ByteRange range,
                                    std::atomic<bool>& possible) {
  if (!possible.load(std::memory_order_relaxed)) co_return Status::error(ENOTSUP);
  Status status = co_await disk_->change_space(change, range);
  keep_data_run({});
  switch (status.error_number()) {
    case EOPNOTSUPP:
    case ENOSYS:
    case ENOTTY:
    case ENODEV:
      possible.store(false, std::memory_order_relaxed);
      co_return Status::error(ENOTSUP);
    case EINVAL:  // not this range, as with a device whose blocks it cuts
    case EPERM:   // as with some seals of a memory file
      co_return Status::error(ENOTSUP);
    default:
      co_return status;
  }
}

Task<Status> FileDriver::pwrite_zeroes(uint64_t offset, uint64_t bytes, WriteFlags flags) {
  ByteRange range{offset, bytes};
  bool inside = true;
  if (!is_device()) {
    Result<uint64_t> size = co_await disk_->size();
    inside = size.ok() && range.end() <= *size;
  }
  // A hole never makes a file longer.
  if (flags.has(WriteFlag::may_unmap) && inside) {
    Status status = co_await try_change(SpaceChange::punch_hole, range, can_punch_);
    if (status.error_number() != ENOTSUP) co_return status;
  }
  if (!is_device()) co_return co_await zero_in_file(range, flags);
  // The kernel writes zero bytes itself where a device has no better way, which is not what is
  // asked for if that would be too slow.
  if (flags.has(WriteFlag::no_fallback)) co_return Status::error(ENOTSUP);
  co_return co_await try_change(SpaceChange::zero, range, can_zero_);
}

Task<Status> FileDriver::zero_in_file(ByteRange range, WriteFlags flags) {
  Status status = co_await try_change(SpaceChange::zero, range, can_zero_);
  if (status.error_number() != ENOTSUP) co_return status;
  // File systems without it mostly can make a hole and fill it up again.
  Result<uint64_t> size = co_await disk_->size();
  if (!size) co_return size.status();
  if (range.offset < *size) {
    ByteRange hole{range.offset, std::min(range.end(), *size) - range.offset};
    status = co_await try_change(SpaceChange::punch_hole, hole, can_punch_);
    if (!status.ok()) co_return status;
  }
  co_return co_await try_change(SpaceChange::allocate, range, can_allocate_);
}

Task<Status> FileDriver::pdiscard(uint64_t offset, uint64_t bytes) {
  Status status = co_await try_change(SpaceChange::discard, {offset, bytes}, can_discard_);
  if (status.ok()) {
    discards_.fetch_add(1, std::memory_order_relaxed);
    discarded_bytes_.fetch_add(bytes, std::memory_order_relaxed);
  } else {
    failed_discards_.fetch_add(1, std::memory_order_relaxed);
  }
  co_return status;
}

// How many bytes from `offset` on are known to be data.
uint64_t FileDriver::known_data(uint64_t offset) const noexcept {
  std::lock_guard lock(data_run_mutex_);
  bool inside = offset >= data_run_.offset && offset < data_run_.end();
  return inside ? data_run_.end() - offset : 0;
}

void FileDriver::keep_data_run(ByteRange run) noexcept {
  std::lock_guard lock(data_run_mutex_);
  data_run_ = run;
}

Task<Result<BlockStatus>> FileDriver::block_status(uint64_t offset, uint64_t bytes,
                                                   StatusWant want) {
  BlockStatus status;
  status.flags = {StatusFlag::data, StatusFlag::offset_valid};
  status.bytes = bytes;
  status.map_offset = offset;
  status.file = &node();
  if (want == StatusWant::contents) co_return status;
  if (uint64_t known = known_data(offset); known != 0) {
    status.bytes = std::min(bytes, known);
    co_return status;
  }
  Result<DiskExtent> extent = co_await disk_->extent_at(offset, UINT64_MAX);
  if (!extent) co_return extent.status();
  if (!extent->is_hole) keep_data_run({offset, extent->bytes});
  extent->bytes = std::min(extent->bytes, bytes);
  // The end of the file, and of what a file system calls a hole, may lie inside an aligned unit,
  // which then is as its data is.
  uint32_t alignment = disk_->geometry().request_alignment;
  uint64_t whole = extent->bytes / alignment * alignment;
  if (extent->is_hole && whole != extent->bytes && whole != bytes) {
    // Behind the end there is nothing that the unit could have.
    Result<uint64_t> end = co_await disk_->size();
    if (end && offset + extent->bytes >= *end) whole = std::min(bytes, whole + alignment);
  }
  if (extent->is_hole && whole != 0) {
    status.flags = {StatusFlag::zero, StatusFlag::offset_valid};
    status.bytes = whole;
  } else if (extent->bytes != 0) {
    status.bytes = std::min(bytes, align_up(extent->bytes, alignment));
  } else {
    status.flags = {StatusFlag::zero, StatusFlag::eof, StatusFlag::offset_valid};  // behind the end
  }
  co_return status;
}

std::optional<uint64_t> FileDriver::allocated_size() const {
  constexpr uint64_t kStatBlock = 512;  // of st_blocks, on any file system
  struct stat info{};
  if (::fstat(disk_->fd(), &info) != 0) return std::nullopt;
  return static_cast<uint64_t>(info.st_blocks) * kStatBlock;
}

Limits FileDriver::limits(const Limits&) const noexcept {
  const DiskGeometry& geometry = disk_->geometry();
  Limits limits;
  limits.request_alignment = geometry.request_alignment;
  limits.min_memory_alignment = geometry.memory_alignment;
  limits.optimal_memory_alignment = std::max<size_t>(geometry.memory_alignment, 4096);
  if (geometry.is_block_device) {
    limits.pwrite_zeroes_alignment = geometry.logical_block_size;
    limits.pdiscard_alignment = std::max(geometry.discard_granularity, geometry.logical_block_size);
  }
  return limits;
}

void FileDriver::prepare_permissions(MainLoop&, Permissions permissions) {
  const Mode& mode = next_mode_ ? *next_mode_ : mode_;
  bool want_writable =
      mode.follows_writers ? permissions.needed.has_any(kWriting) : !mode.read_only;
  try {
    if (want_writable != is_open_writable_ || mode.direct != mode_.direct) {
      replacement_ = reopen_image_file(disk_->fd(), filename_,
                                       {.writable = want_writable, .direct = mode.direct},
                                       node().layer().surroundings().passed_fds);
      replacement_is_writable_ = want_writable;
    }
    if (mode.direct != mode_.direct)
      replacement_disk_ = make_disk(std::move(replacement_), mode.direct);
    lock_.prepare(permissions);
  } catch (...) {
    replacement_.reset();
    replacement_disk_.reset();
    throw;
  }
}

void FileDriver::commit_permissions() noexcept {
  lock_.commit();
  if (!replacement_ && !replacement_disk_) return;
  if (replacement_disk_)
    disk_ = std::move(replacement_disk_);
  else
    disk_->replace_descriptor(std::move(replacement_));
  is_open_writable_ = replacement_is_writable_;
}

void FileDriver::abort_permissions() noexcept {
  lock_.abort();
  replacement_.reset();
  replacement_disk_.reset();
}

Task<void> FileDriver::prepare_reopen(ReopenContext& context) {
  next_mode_ = mode_of(context.branch<qapi::BlockdevOptionsFile>(), context.in_force);
  co_return;
}

void FileDriver::commit_reopen() noexcept {
  mode_ = *next_mode_;
  next_mode_.reset();
}

Task<void> FileDriver::abort_reopen(MainLoop&) {
  next_mode_.reset();
  co_return;
}

FileName FileDriver::file_name() const {
  FileName name;
  name.exact = filename_;
  name.options["driver"] = std::string(descriptor().format_name());
  name.options["filename"] = filename_;
  return name;
}

std::unique_ptr<qapi::ImageInfoSpecific> FileDriver::specific_info() const {
  if (is_device()) return nullptr;
  auto info = std::make_unique<qapi::ImageInfoSpecific>();
  info->select(qapi::ImageInfoSpecificKind::file);
  info->get_if<qapi::ImageInfoSpecificFileWrapper>()->data.extent_size_hint =
      extent_size_hint(disk_->fd());
  return info;
}

std::unique_ptr<qapi::BlockStatsSpecific> FileDriver::specific_stats() const {
  auto stats = std::make_unique<qapi::BlockStatsSpecific>();
  stats->select(descriptor().name);
  auto* file = stats->get_if<qapi::BlockStatsSpecificFile>();
  file->discard_nb_ok = discards_.load(std::memory_order_relaxed);
  file->discard_nb_failed = failed_discards_.load(std::memory_order_relaxed);
  file->discard_bytes_ok = discarded_bytes_.load(std::memory_order_relaxed);
  return stats;
}

// Another host may have written to the image: what this one caches of it is stale.
Task<void> FileDriver::activate(MainLoop&) {
  if (mode_.direct || !mode_.drop_cache) co_return;
  Status status = co_await disk_->flush();
  if (!status.ok()) throw Error::from_errno(status.error_number(), "Failed to sync file");
  status = co_await disk_->drop_cache();
  if (!status.ok()) throw Error::from_errno(status.error_number(), "Failed to drop page cache");
  if (mode_.check_cache_dropped) check_page_cache_dropped(disk_->fd());
}

std::unique_ptr<Driver> create(const DriverDescriptor& descriptor) {
  return std::make_unique<FileDriver>(descriptor);
}

}  // namespace

const DriverDescriptor kFileDriver{.name = qapi::BlockdevDriver::file,
                                   .is_protocol = true,
                                   .reopens = true,
                                   .changeable = kChangeable,
                                   .create = create,
                                   .create_image = create_file};
const DriverDescriptor kHostDeviceDriver{.name = qapi::BlockdevDriver::host_device,
                                         .is_protocol = true,
                                         .reopens = true,
                                         .changeable = kChangeable,
                                         .create = create};

Disk* host_disk_of(const Node& node) noexcept {
  auto* driver = dynamic_cast<FileDriver*>(&node.driver());
  return driver != nullptr ? &driver->disk() : nullptr;
}

}  // namespace strata
