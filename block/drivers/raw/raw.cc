// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/drivers/raw/raw.h"

#include <algorithm>
#include <array>
#include <cerrno>

#include "block/base/error.h"
#include "block/coro/mutex.h"
#include "block/graph/open.h"
#include "block/io/request.h"
#include "block/names/probe.h"

namespace strata {
namespace {

// Passes every request on to the file, whose layer sees to alignment, so none costs a frame here.
class RawDriver final : public Driver {
 public:
  using Driver::Driver;

  Task<void> open(OpenContext& context) override {
    const auto& options = context.branch<qapi::BlockdevOptionsRaw>();
    if (options.offset.value_or(0) < 0)
      throw Error("Parameter 'offset' expects a non-negative number");
    if (options.size.value_or(0) < 0) throw Error("Parameter 'size' expects a non-negative number");
    offset_ = static_cast<uint64_t>(options.offset.value_or(0));
    if (options.size) window_ = static_cast<uint64_t>(*options.size);
    // Without a window the node is its file under another name; with one, it is part of the data.
    ChildRoles roles =
        offset_ != 0 || window_ ? ChildRoles{ChildRole::data, ChildRole::primary} : kFilterRoles;
    file_ = co_await context.open_child(options.file, "file", roles);
    check_window(file_->node().length());
    guarded_ = node().options().guessed_format;
  }

  Task<Status> preadv(uint64_t offset, IoVector into, ReadFlags flags) override {
    if (Status status = check(offset, into.size(), EINVAL); !status.ok()) return failed(status);
    return io::preadv(*file_, offset_ + offset, into, flags);
  }
  Task<Status> pwritev(uint64_t offset, IoVector from, WriteFlags flags) override {
    if (Status status = check(offset, from.size(), ENOSPC); !status.ok()) return failed(status);
    if (guarded_ && offset < kProbeBytes) return guarded_write(offset, from, flags);
    return io::pwritev(*file_, offset_ + offset, from, flags);
  }
  Task<Status> pwrite_zeroes(uint64_t offset, uint64_t bytes, WriteFlags flags) override {
    if (Status status = check(offset, bytes, ENOSPC); !status.ok()) return failed(status);
    if (guarded_ && offset < kProbeBytes) return guarded_zeroes(offset, bytes, flags);
    return io::pwrite_zeroes(*file_, offset_ + offset, bytes, flags);
  }
  Task<Status> pdiscard(uint64_t offset, uint64_t bytes) override {
    if (Status status = check(offset, bytes, ENOSPC); !status.ok()) return failed(status);
    if (guarded_ && offset < kProbeBytes) return guarded_discard(offset, bytes);
    return io::pdiscard(*file_, offset_ + offset, bytes);
  }

  Task<Result<BlockStatus>> block_status(uint64_t offset, uint64_t bytes, StatusWant) override {
    BlockStatus status;
    status.flags = {StatusFlag::raw, StatusFlag::offset_valid};
    status.bytes = bytes;
    status.map_offset = offset_ + offset;
    status.file = &file_->node();
    return Task<Result<BlockStatus>>::ready(status);
  }

  bool knows_zeroes(uint64_t offset, uint64_t bytes) const noexcept override {
    return file_->node().driver().knows_zeroes(offset_ + offset, bytes);
  }

  Task<Result<uint64_t>> length() override {
    uint64_t file = file_->node().length();
    uint64_t length = window_.value_or(file > offset_ ? file - offset_ : 0);
    return Task<Result<uint64_t>>::ready(length);
  }

  Task<void> truncate(uint64_t size, TruncateOptions options) override {
    if (window_) throw Error("Cannot resize fixed-size raw disks");
    std::optional<uint64_t> end = checked_add(offset_, size);
    if (!end || *end > kMaxLength) throw Error("Disk size too large");
    return io::truncate(*file_, *end, options);
  }

  // The file's own layer does, or emulates, what is passed on.
  WriteFlags write_flags() const noexcept override {
    return {WriteFlag::fua, WriteFlag::unchanged, WriteFlag::serialising};
  }
  WriteFlags zero_flags() const noexcept override {
    return {WriteFlag::fua, WriteFlag::may_unmap, WriteFlag::no_fallback, WriteFlag::unchanged};
  }
  Limits limits(const Limits& of_children) const noexcept override { return of_children; }
  bool has_zero_init() const noexcept override { return file_->node().driver().has_zero_init(); }

  boost::json::object strong_options() const override {
    boost::json::object options;
    if (offset_ != 0) options["offset"] = offset_;
    if (window_) options["size"] = *window_;
    return options;
  }

 private:
  static Task<Status> failed(Status status) { return Task<Status>::ready(status); }

  // Requests stay in the window; where there is none, a write may make the file grow.
  Status check(uint64_t offset, uint64_t bytes, int error) const noexcept {
    if (window_ && (offset > *window_ || bytes > *window_ - offset)) return Status::error(error);
    if (!checked_add(offset_, offset + bytes)) return Status::error(EINVAL);
    return Status();
  }

  void check_window(uint64_t file) const {
    if (offset_ > file)
      throw Error("Offset ({}) cannot be greater than size of the containing file ({})", offset_,
                  file);
    if (window_ && *window_ > file - offset_)
      throw Error(
          "The sum of offset ({}) and size ({}) has to be smaller or equal to the  actual size of "
          "the containing file ({})",
          offset_, *window_, file);
    if (window_ && *window_ % kSectorSize != 0)
      throw Error("Specified size is not multiple of {}", kSectorSize);
  }

  // Whether the image would still be taken for raw with `bytes` from `offset` on replaced by `data`
  // (null: by zeroes). EPERM where not.
  Task<Status> check_header(uint64_t offset, const IoVector* data, uint64_t bytes);
  // While one of these is under way, no other changes the header it has judged.
  Task<Status> guarded_write(uint64_t offset, IoVector from, WriteFlags flags);
  Task<Status> guarded_zeroes(uint64_t offset, uint64_t bytes, WriteFlags flags);
  Task<Status> guarded_discard(uint64_t offset, uint64_t bytes);

  Edge* file_ = nullptr;
  uint64_t offset_ = 0;
  std::optional<uint64_t> window_;
  bool guarded_ = false;
  Mutex header_;
};

Task<Status> RawDriver::check_header(uint64_t offset, const IoVector* data, uint64_t bytes) {
  std::array<std::byte, kProbeBytes> header{};
  Status status = co_await io::pread(*file_, offset_, header.data(), header.size());
  if (!status.ok()) co_return status;
  size_t changed = std::min<uint64_t>(bytes, header.size() - offset);
  if (data != nullptr)
    data->slice(0, changed).copy_to(header.data() + offset);
  else
    std::fill_n(header.begin() + static_cast<ptrdiff_t>(offset), changed, std::byte{0});
  co_return probe_format(header) == "raw" ? Status() : Status::error(EPERM);
}

Task<Status> RawDriver::guarded_write(uint64_t offset, IoVector from, WriteFlags flags) {
  Mutex::Lock lock = co_await header_.lock();
  Status status = co_await check_header(offset, &from, from.size());
  if (!status.ok()) co_return status;
  co_return co_await io::pwritev(*file_, offset_ + offset, from, flags);
}

Task<Status> RawDriver::guarded_zeroes(uint64_t offset, uint64_t bytes, WriteFlags flags) {
  Mutex::Lock lock = co_await header_.lock();
  Status status = co_await check_header(offset, nullptr, bytes);
  if (!status.ok()) co_return status;
  co_return co_await io::pwrite_zeroes(*file_, offset_ + offset, bytes, flags);
}

Task<Status> RawDriver::guarded_discard(uint64_t offset, uint64_t bytes) {
  Mutex::Lock lock = co_await header_.lock();
  Status status = co_await check_header(offset, nullptr, bytes);
  if (!status.ok()) co_return status;
  co_return co_await io::pdiscard(*file_, offset_ + offset, bytes);
}

std::unique_ptr<Driver> create(const DriverDescriptor& descriptor) {
  return std::make_unique<RawDriver>(descriptor);
}

}  // namespace

const DriverDescriptor kRawDriver{
    .name = qapi::BlockdevDriver::raw, .is_format = true, .create = create};

}  // namespace strata
