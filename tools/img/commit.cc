// SPDX-License-Identifier: GPL-2.0-or-later
#include <algorithm>
#include <cerrno>
#include <chrono>

#include "block/base/aligned_buffer.h"
#include "block/qcow2/image.h"
#include "block/qcow2/qcow2.h"
#include "tools/common/claims.h"
#include "tools/img/chain.h"
#include "tools/img/command.h"
#include "tools/img/joined_piece.h"
#include "tools/img/progress.h"

namespace strata::tools {
namespace {

constexpr uint64_t kStep = 2 * 1024 * 1024;

struct Request {
  ImageChoice image{.flags = {.writable = true, .discard_unmap = true}};
  std::optional<std::string> base;
  uint64_t bytes_a_second = 0;
  bool keep = false;  // the image is not emptied
  bool progress = false;
  bool quiet = false;
};

std::string parse(Words& words, Request& request) {
  std::string name = words.parse_for_image({
      {"-b, --base FILE", "the image below into which to write; the one above is not emptied",
       into(request.base)},
      {"-d, --drop", "do not empty the image", set(request.keep)},
      {"-r, --rate-limit BYTES", "so much a second at most",
       size_into(request.bytes_a_second, "rate limit")},
      format_option(request.image),
      image_options_option(request.image),
      cache_option(request.image),
      progress_option(request.progress),
      quiet_option(request.quiet),
  });
  if (request.base) request.keep = true;
  return name;
}

// What lies above the base goes into it.
class Commit {
 public:
  Commit(Tool& tool, const Request& request, Backend& top, Backend& base)
      : tool_(tool),
        request_(request),
        top_(top),
        base_(base),
        claims_(top.node(), &base.node()),
        progress_(request.progress, request.quiet, 1.0) {
    progress_.set_total(top.length());
  }

  Task<void> run() {
    uint64_t length = top_.length();
    if (base_.length() < length) co_await base_.truncate(length);
    if (!buffer_) throw Error::from_errno(ENOMEM, "Could not commit");
    for (uint64_t offset = 0; offset < length;) {
      auto answer = co_await io::block_status_above(top_.node(), &base_.node(), false, offset,
                                                    length - offset);
      if (!answer) fail(answer.status());
      claims_.add(answer->status);
      ByteRange range{offset, answer->status.bytes};
      if (answer->depth == 0)
        progress_.advance(range.bytes);
      else if (auto piece = joined_.add({range, answer->status.flags.has(StatusFlag::zero)}))
        co_await copy(*piece);
      offset = range.end();
    }
    if (auto piece = joined_.take()) co_await copy(*piece);
    Status status = co_await base_.flush();
    if (!status.ok()) fail(status);
    progress_.finish();
  }

 private:
  [[noreturn]] static void fail(Status status) {
    throw Error::from_errno(status.error_number(), "Block job failed");
  }

  Task<void> copy(Piece piece) {
    while (!piece.range.empty()) {
      uint64_t step = std::min(kStep, piece.range.bytes);
      co_await copy(piece.range.offset, step, piece.zero);
      progress_.advance(step);
      piece.range = {piece.range.offset + step, piece.range.bytes - step};
    }
  }

  Task<void> copy(uint64_t offset, uint64_t bytes, bool zero) {
    Status status;
    if (zero) {
      status = co_await base_.pwrite_zeroes(offset, bytes, WriteFlag::may_unmap);
    } else {
      status = co_await top_.preadv(offset, IoVector::buffer(buffer_.data(), bytes));
      if (status.ok())
        status = co_await base_.pwritev(offset, IoVector::buffer(buffer_.data(), bytes));
      copied_ += bytes;
    }
    if (!status.ok()) fail(status);
    if (request_.bytes_a_second == 0) co_return;
    std::chrono::duration<double> due(static_cast<double>(copied_) /
                                      static_cast<double>(request_.bytes_a_second));
    auto until = start_ + std::chrono::duration_cast<std::chrono::steady_clock::duration>(due);
    if (until > std::chrono::steady_clock::now())
      co_await tool_.context().sleep_for(until - std::chrono::steady_clock::now());
  }

  Tool& tool_;
  const Request& request_;
  Backend& top_;
  Backend& base_;
  Claims claims_;
  Progress progress_;
  AlignedBuffer buffer_{kStep};
  JoinedPiece joined_;
  uint64_t copied_ = 0;
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

// The chain down to the image that is to be written to.
Task<std::vector<ChainLink>> look_at_chain(Images& images, const Request& request,
                                           const std::string& name) {
  ImageChoice how = request.image;
  how.flags.writable = false;
  how.flags.will_write = true;
  Backend* image = co_await images.open(name, std::move(how));
  Node* base = image->node().backing();
  if (request.base) {
    base = find_in_chain(image->node(), *request.base);
    if (base == nullptr)
      throw Error("Did not find '{}' in the backing chain of '{}'", *request.base, name);
  }
  if (base == nullptr) throw Error("Image does not have a backing file");
  std::vector<ChainLink> links = describe_chain(image->node(), *base);
  (void)co_await images.close_all();
  co_return links;
}

Task<Status> make_empty(Node& node) {
  qcow2::Image* image = qcow2::image_of(node);
  if (image == nullptr) co_return Status();
  co_return co_await image->make_empty();
}

Task<void> commit(Images& images, const Request& request, const std::string& name) {
  Tool& tool = images.tool();
  std::vector<ChainLink> links = co_await look_at_chain(images, request, name);
  std::optional<Error> failed;
  std::vector<NodePtr> nodes;
  try {
    nodes = co_await open_chain(tool, std::move(links));
  } catch (Error& error) {
    failed = std::move(error).prepend(fmt::format("Could not open '{}': ", name));
  }
  if (failed) throw *failed;
  const PermissionSet needed{Permission::consistent_read, Permission::write, Permission::resize};
  Backend& base = images.adopt(nodes.back(), {needed, kAllPermissions});
  Backend& top = images.adopt(nodes.front(), {needed, kAllPermissions});
  base.set_write_cache(!request.image.flags.write_through);
  nodes.clear();
  co_await Commit(tool, request, top, base).run();
  if (request.keep) co_return;
  Status status = co_await make_empty(top.node());
  if (!status.ok()) throw Error::from_errno(status.error_number(), "Failed to empty {}", name);
}

}  // namespace

Task<int> run_commit(Images& images, Words& words) {
  Request request;
  std::string name = parse(words, request);
  co_await commit(images, request, name);
  if (!request.quiet) fmt::print("Image committed.\n");
  co_return 0;
}

}  // namespace strata::tools
