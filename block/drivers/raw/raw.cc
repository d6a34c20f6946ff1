// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/drivers/raw/raw.h"

#include <algorithm>
#include <array>
#include <cerrno>

#include "block/base/error.h"
#include "block/coro/mutex.h"
#include "block/graph/open.h"
#include "block/graph/reopen.h"
#include "block/io/request.h"
#include "block/names/probe.h"
#include "qapi/runtime/scalars.h"

namespace strata {
namespace {

constexpr std::array<std::string_view, 2> kChangeable{"offset", "size"};

// Passes every request on to the file, whose layer sees to alignment, so none costs a frame here.
class RawDriver final : public Driver {
 public:
  using Driver::Driver;

  Task<void> open(OpenContext& context) override {
    const auto& options = context.branch<qapi::BlockdevOptionsRaw>();
    window_ = window_of(options);
    file_ = co_await context.open_child(options.file, "file", window_.roles());
    check_window(window_, file_->node().length());
    guarded_ = node().options().guessed_format;
  }

  Task<void> prepare_reopen(ReopenContext& context) override {
    next_window_ = window_of(context.branch<qapi::BlockdevOptionsRaw>());
    check_window(next_window_, file_->node().length());
    file_->set_roles(next_window_.roles());
    co_return;
  }
  void commit_reopen() noexcept override { window_ = next_window_; }
  Task<void> abort_reopen(MainLoop&) override {
    file_->set_roles(window_.roles());
    co_return;
  }

  Task<Status> preadv(uint64_t offset, IoVector into, ReadFlags flags) override {
    if (Status status = check(offset, into.size(), EINVAL); !status.ok()) return failed(status);
    return io::preadv(*file_, window_.offset + offset, into, flags);
  }
  Task<Status> pwritev(uint64_t offset, IoVector from, WriteFlags flags) override {
    if (Status status = check(offset, from.size(), ENOSPC); !status.ok()) return failed(status);
    if (guarded_ && offset < kProbeBytes) return guarded_write(offset, from, flags);
    return io::pwritev(*file_, window_.offset + offset, from, flags);
  }
  Task<Status> pwrite_zeroes(uint64_t offset, uint64_t bytes, WriteFlags flags) override {
    if (Status status = check(offset, bytes, ENOSPC); !status.ok()) return failed(status);
    if (guarded_ && offset < kProbeBytes) return guarded_zeroes(offset, bytes, flags);
    return io::pwrite_zeroes(*file_, window_.offset + offset, bytes, flags);
  }
  Task<Status> pdiscard(uint64_t offset, uint64_t bytes) override {
    if (Status status = check(offset, bytes, ENOSPC); !status.ok()) return failed(status);
    if (guarded_ && offset < kProbeBytes) return guarded_discard(offset, bytes);
    return io::pdiscard(*file_, window_.offset + offset, bytes);
  }

  Task<Result<BlockStatus>> block_status(uint64_t offset, uint64_t bytes, StatusWant) override {
    BlockStatus status;
    status.flags = {StatusFlag::raw, StatusFlag::offset_valid};
    status.bytes = bytes;
    status.map_offset = window_.offset + offset;
    status.file = &file_->node();
    return Task<Result<BlockStatus>>::ready(status);
  }

  bool knows_zeroes(uint64_t offset, uint64_t bytes) const noexcept override {
    return file_->node().driver().knows_zeroes(window_.offset + offset, bytes);
  }

  Task<Result<uint64_t>> length() override {
    uint64_t file = file_->node().length();
    uint64_t length = window_.size.value_or(file > window_.offset ? file - window_.offset : 0);
    return Task<Result<uint64_t>>::ready(length);
  }

  Task<void> truncate(uint64_t size, TruncateOptions options) override {
    if (window_.size) throw Error("Cannot resize fixed-size raw disks");
    std::optional<uint64_t> end = checked_add(window_.offset, size);
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
  // What is guarded is written in whole sectors.
  Limits limits(const Limits& of_children) const noexcept override {
    Limits limits = of_children;
    if (node().options().guessed_format)
      limits.request_alignment = std::max<uint32_t>(limits.request_alignment, kSectorSize);
    return limits;
  }
  bool has_zero_init() const noexcept override { return file_->node().driver().has_zero_init(); }

  boost::json::object strong_options() const override {
    boost::json::object options;
    if (window_.offset != 0) options["offset"] = window_.offset;
    if (window_.size) options["size"] = *window_.size;
    return options;
  }

 private:
  // What of the file is the node's.
  struct Window {
    uint64_t offset = 0;
    std::optional<uint64_t> size;  // as far as the file goes

    // Without a window the node is its file under another name; with one, it is part of the data.
    ChildRoles roles() const noexcept {
      return offset != 0 || size ? ChildRoles{ChildRole::data, ChildRole::primary} : kFilterRoles;
    }
  };

  static Window window_of(const qapi::BlockdevOptionsRaw& options) {
    if (options.offset.value_or(0) < 0) throw qapi::not_a_size("offset", *options.offset);
    if (options.size.value_or(0) < 0) throw qapi::not_a_size("size", *options.size);
    Window window{.offset = static_cast<uint64_t>(options.offset.value_or(0))};
    if (options.size) window.size = static_cast<uint64_t>(*options.size);
    return window;
  }

  static Task<Status> failed(Status status) { return Task<Status>::ready(status); }

  // Requests stay in the window; where there is none, a write may make the file grow.
  Status check(uint64_t offset, uint64_t bytes, int error) const noexcept {
    const std::optional<uint64_t>& size = window_.size;
    if (size && (offset > *size || bytes > *size - offset)) return Status::error(error);
    if (!checked_add(window_.offset, offset + bytes)) return Status::error(EINVAL);
    return Status();
  }

  static void check_window(const Window& window, uint64_t file) {
    if (window.offset > file)
      throw Error("Offset ({}) cannot be greater than size of the containing file ({})",
                  window.offset, file);
    if (window.size && *window.size > file - window.offset)
      throw Error(
          "The sum of offset ({}) and size ({}) has to be smaller or equal to the  actual size of "
          "the containing file ({})",
          window.offset, *window.size, file);
    if (window.size && *window.size % kSectorSize != 0)
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
  Window window_;
  Window next_window_;  // from prepare_reopen() on
  bool guarded_ = false;
  Mutex header_;
};

Task<Status> RawDriver::check_header(uint64_t offset, const IoVector* data, uint64_t bytes) {
  std::array<std::byte, kProbeBytes> header{};
  Status status = co_await io::pread(*file_, window_.offset, header.data(), header.size());
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
  co_return co_await io::pwritev(*file_, window_.offset + offset, from, flags);
}

Task<Status> RawDriver::guarded_zeroes(uint64_t offset, uint64_t bytes, WriteFlags flags) {
  Mutex::Lock lock = co_await header_.lock();
  Status status = co_await check_header(offset, nullptr, bytes);
  if (!status.ok()) co_return status;
  co_return co_await io::pwrite_zeroes(*file_, window_.offset + offset, bytes, flags);
}

Task<Status> RawDriver::guarded_discard(uint64_t offset, uint64_t bytes) {
  Mutex::Lock lock = co_await header_.lock();
  Status status = co_await check_header(offset, nullptr, bytes);
  if (!status.ok()) co_return status;
  co_return co_await io::pdiscard(*file_, window_.offset + offset, bytes);
}

std::unique_ptr<Driver> create(const DriverDescriptor& descriptor) {
  return std::make_unique<RawDriver>(descriptor);
}

}  // namespace

const DriverDescriptor kRawDriver{.name = qapi::BlockdevDriver::raw,
                                  .is_format = true,
                                  .reopens = true,
                                  .changeable = kChangeable,
                                  .create = create};

}  // namespace strata
