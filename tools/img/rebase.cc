// SPDX-License-Identifier: GPL-2.0-or-later
#include <algorithm>
#include <cerrno>
#include <cstring>

#include "block/base/aligned_buffer.h"
#include "block/names/backing.h"
#include "block/names/filename.h"
#include "block/qcow2/image.h"
#include "block/qcow2/qcow2.h"
#include "tools/common/claims.h"
#include "tools/img/command.h"
#include "tools/img/progress.h"

namespace strata::tools {
namespace {

constexpr uint64_t kStep = 2 * 1024 * 1024;

struct Request {
  ImageChoice image{.flags = {.writable = true}};
  std::optional<std::string> backing;
  std::optional<std::string> backing_format;
  OpenFlags source_flags;
  bool unsafe = false;
  bool compress = false;
  bool progress = false;
  bool quiet = false;
};

std::string parse(Words& words, Request& request) {
  return words.parse_for_image({
      {"-b, --backing FILE", "the new backing file; \"\": none", into(request.backing)},
      {"-B, -F, --backing-format FMT", "its format", into(request.backing_format)},
      {"-u, --backing-unsafe", "change the name only", set(request.unsafe)},
      {"-c, --compress", "compress what has to be copied", set(request.compress)},
      format_option(request.image),
      image_options_option(request.image),
      cache_option(request.image),
      source_cache_option(request.source_flags, "-T, --backing-cache, --source-cache MODE"),
      force_share_option(request.source_flags),
      progress_option(request.progress),
      quiet_option(request.quiet),
  });
}

// A backing file, or none. What lies behind its end reads as zeroes.
class Below {
 public:
  explicit Below(Backend* image) : image_(image) {
    if (image != nullptr) claims_.emplace(image->node());
  }

  // Of a first part of the range. What cannot be asked about is data: reading tells what is wrong.
  Task<BlockStatus> status(uint64_t offset, uint64_t bytes) {
    if (offset >= length()) co_return BlockStatus{StatusFlag::zero, bytes};
    auto answer = co_await image_->block_status(offset, std::min(bytes, length() - offset));
    co_return answer ? answer->status : BlockStatus{StatusFlag::data, bytes};
  }
  // All of it will be looked at, beginning with what the status tells of.
  Task<void> count(BlockStatus first, uint64_t offset, uint64_t bytes) {
    if (!claims_) co_return;
    if (first.bytes >= bytes) co_return claims_->add(first, bytes);
    claims_->add_work(bytes);
    for (uint64_t done = 0; done < bytes;) {
      BlockStatus run = co_await status(offset + done, bytes - done);
      claims_->add(run);
      done += run.bytes;
    }
  }
  Task<Status> read(uint64_t offset, AlignedBuffer& into, uint64_t bytes) {
    uint64_t inside = std::min(bytes, length() - std::min(length(), offset));
    std::memset(into.data() + inside, 0, bytes - inside);
    if (inside == 0) co_return Status();
    co_return co_await image_->preadv(offset, IoVector::buffer(into.data(), inside));
  }

 private:
  uint64_t length() const noexcept { return image_ != nullptr ? image_->length() : 0; }

  Backend* image_;
  std::optional<Claims> claims_;
};

// Copies into the image what it would not find in its new backing file.
class Rebase {
 public:
  Rebase(const Request& request, Backend& image, Backend* before, Backend* after)
      : image_(image),
        claims_(image.node(), image.node().backing()),
        before_(before),
        after_(after),
        compress_(request.compress),
        progress_(request.progress, request.quiet, 1.0) {
    progress_.set_total(image.length());
    if (auto facts = image.node().driver().image_facts())
      unit_ = facts->cluster_size.value_or(unit_);
    chunk_ = std::max(kStep, unit_);
    old_ = AlignedBuffer(chunk_);
    new_ = AlignedBuffer(chunk_);
  }

  Task<void> run() {
    if (!old_ || !new_) fail(Status::error(ENOMEM), "Could not allocate memory");
    uint64_t length = image_.length();
    for (uint64_t offset = 0; offset < length;) {
      auto own = co_await io::block_status(image_.node(), offset, length - offset);
      if (!own) fail(own.status(), "error while reading image metadata");
      claims_.add(*own);
      uint64_t bytes = own->bytes;
      if (!own->flags.has(StatusFlag::allocated)) {
        Stretch next = co_await next_stretch(offset, bytes);
        bytes = next.bytes;
        if (!next.unchanged) co_await merge(offset, bytes);
      }
      offset += bytes;
      progress_.advance(bytes);
    }
    progress_.finish();
  }

 private:
  [[noreturn]] static void fail(Status status, const char* what) {
    throw Error::from_errno(status.error_number(), "{}", what);
  }

  struct Stretch {
    uint64_t bytes = 0;
    bool unchanged = false;  // it is zero in both, and need not be looked at
  };
  // As much as is written alike by qemu-img, which looks at no more than a buffer's worth.
  Task<Stretch> next_stretch(uint64_t offset, uint64_t bytes) {
    BlockStatus old = co_await before_.status(offset, bytes);
    BlockStatus now = co_await after_.status(offset, bytes);
    uint64_t run = std::min({old.bytes, now.bytes, bytes});
    Stretch next;
    next.unchanged = old.flags.has(StatusFlag::zero) && now.flags.has(StatusFlag::zero) &&
                     (run == bytes || run >= unit_);
    if (next.unchanged)
      next.bytes = run == bytes ? run : align_down(run, unit_);
    else
      next.bytes = std::min(bytes, chunk_ - offset % chunk_);
    co_await before_.count(old, offset, next.bytes);
    co_await after_.count(now, offset, next.bytes);
    co_return next;
  }

  Task<void> merge(uint64_t offset, uint64_t bytes) {
    Status status = co_await before_.read(offset, old_, bytes);
    if (!status.ok()) fail(status, "error while reading from old backing file");
    status = co_await after_.read(offset, new_, bytes);
    if (!status.ok()) fail(status, "error while reading from new backing file");
    // Whole clusters: what is not written of one would be copied from the old backing file anyhow.
    for (uint64_t at = 0; at < bytes;) {
      uint64_t run = piece(offset + at, bytes - at);
      bool differs = std::memcmp(old_.data() + at, new_.data() + at, run) != 0;
      while (at + run < bytes) {
        uint64_t next = piece(offset + at + run, bytes - at - run);
        bool also = std::memcmp(old_.data() + at + run, new_.data() + at + run, next) != 0;
        if (also != differs || compress_) break;
        run += next;
      }
      if (differs) co_await write(offset + at, at, run);
      at += run;
    }
  }

  uint64_t piece(uint64_t offset, uint64_t bytes) const noexcept {
    return std::min(bytes, unit_ - offset % unit_);
  }

  static bool is_zero(const std::byte* data, uint64_t bytes) noexcept {
    return data[0] == std::byte{0} && std::memcmp(data, data + 1, bytes - 1) == 0;
  }

  Task<void> write(uint64_t offset, uint64_t at, uint64_t bytes) {
    std::byte* data = old_.data() + at;
    bool whole = offset % unit_ == 0 && (bytes == unit_ || offset + bytes == image_.length());
    Status status;
    if (is_zero(data, bytes))
      status = co_await image_.pwrite_zeroes(offset, bytes, WriteFlag::may_unmap);
    else
      status = co_await image_.pwritev(
          offset, IoVector::buffer(data, bytes),
          compress_ && whole ? WriteFlags(WriteFlag::compressed) : WriteFlags());
    if (!status.ok()) fail(status, "Error while writing to COW image");
  }

  Backend& image_;
  Claims claims_;
  Below before_;
  Below after_;
  bool compress_;
  Progress progress_;
  uint64_t unit_ = 65536;
  uint64_t chunk_ = kStep;
  AlignedBuffer old_;
  AlignedBuffer new_;
};

Task<void> copy_differences(Images& images, const Request& request, Backend& image) {
  Permissions reading{Permission::consistent_read, kAllPermissions};
  Backend* before = nullptr;
  if (Edge* backing = image.node().child_in_role(ChildRole::cow))
    before = &images.adopt(backing->node_ptr(), reading);
  Backend* after = nullptr;
  if (!request.backing->empty()) {
    ImageSource source;
    source.format = request.backing_format;
    OpenFlags flags = request.source_flags;
    std::optional<Error> failed;
    try {
      source.filename = absolute_name(*request.backing, start_of_names(image.node()));
      after = &images.adopt(co_await open_backend(images.tool(), std::move(source), flags));
    } catch (Error& error) {
      failed = std::move(error).prepend(
          fmt::format("Could not open new backing file '{}': ", *request.backing));
    }
    if (failed) throw *failed;
  }
  co_await Rebase(request, image, before, after).run();
  Status status = co_await image.flush();
  if (!status.ok()) throw Error::from_errno(status.error_number(), "Could not flush the image");
}

Task<void> change_backing_file(Backend& image, const Request& request) {
  std::string name = request.backing.value_or("");
  auto fail = [&](const std::string& why) {
    throw Error("Could not change the backing file to '{}': {}", name, why);
  };
  if (!name.empty() && !request.backing_format) fail("backing format must be specified");
  qcow2::Image* format = qcow2::image_of(image.node());
  if (format == nullptr) fail(Error::describe_errno(ENOTSUP));
  if (!name.empty() && format->data_file_raw()) fail(Error::describe_errno(EINVAL));
  std::optional<std::string> backing_format;
  if (!name.empty()) backing_format = request.backing_format;
  if (name.size() > 1023) fail(Error::describe_errno(EINVAL));
  Status status = co_await format->change_backing_file(name, backing_format);
  if (status.error_number() == ENOSPC) fail("No space left in the file header");
  if (!status.ok()) fail(Error::describe_errno(status.error_number()));
}

}  // namespace

Task<int> run_rebase(Images& images, Words& words) {
  Request request;
  std::string name = parse(words, request);
  if (!request.unsafe && !request.backing)
    throw UsageError{"Must specify backing file (-b) or use unsafe mode (-u)"};
  request.image.flags.no_backing = request.unsafe;
  Backend* image = co_await images.open(name, request.image);
  if (request.compress && !image->node().driver().write_flags().has(WriteFlag::compressed))
    throw Error("Compression not supported for this file format");
  if (request.backing_format &&
      find_driver(images.tool().layer(), *request.backing_format) == nullptr)
    throw Error("Invalid format name: '{}'", *request.backing_format);
  if (!request.unsafe) co_await copy_differences(images, request, *image);
  co_await change_backing_file(*image, request);
  co_return 0;
}

}  // namespace strata::tools
