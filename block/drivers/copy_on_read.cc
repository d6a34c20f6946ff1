// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/drivers/copy_on_read.h"

#include <algorithm>

#include "block/base/error.h"
#include "block/graph/layer.h"
#include "block/graph/open.h"
#include "block/io/block_status.h"
#include "block/io/copy_on_read.h"
#include "block/io/request.h"

namespace strata {
namespace {

constexpr PermissionSet kPassedOn{Permission::consistent_read, Permission::write,
                                  Permission::resize};

class CopyOnReadDriver final : public Driver {
 public:
  using Driver::Driver;
  ~CopyOnReadDriver() override {
    for (Edge* edge : frozen_) edge->set_frozen(false);
  }

  Task<void> open(OpenContext& context) override {
    const auto& options = context.branch<qapi::BlockdevOptionsCor>();
    file_ = co_await context.open_child(options.file, "file", kFilterRoles);
    if (!options.bottom) co_return;
    bottom_ = context.layer.find_node(*options.bottom);
    if (!bottom_) throw Error("Bottom node '{}' not found", *options.bottom);
    if (!bottom_->is_open()) throw Error("Bottom node '{}' not opened", *options.bottom);
    if (bottom_->descriptor().is_filter)
      throw Error("Bottom node '{}' is a filter", *options.bottom);
    freeze_chain();
  }

  Task<Status> preadv(uint64_t offset, IoVector into, ReadFlags flags) override {
    if (bottom_) return read_above_bottom(offset, into, flags);
    return io::preadv(*file_, offset, into, flags | ReadFlag::copy_on_read);
  }
  Task<Status> prefetch(uint64_t offset, uint64_t bytes) override {
    if (bottom_) return prefetch_above_bottom(offset, bytes);
    return io::populate(*file_, offset, bytes);
  }
  Task<Status> pwritev(uint64_t offset, IoVector from, WriteFlags flags) override {
    return io::pwritev(*file_, offset, from, flags);
  }
  Task<Status> pwrite_zeroes(uint64_t offset, uint64_t bytes, WriteFlags flags) override {
    return io::pwrite_zeroes(*file_, offset, bytes, flags);
  }
  Task<Status> pdiscard(uint64_t offset, uint64_t bytes) override {
    return io::pdiscard(*file_, offset, bytes);
  }
  Task<Result<uint64_t>> length() override {
    return Task<Result<uint64_t>>::ready(file_->node().length());
  }

  WriteFlags write_flags() const noexcept override {
    WriteFlags own{WriteFlag::fua, WriteFlag::unchanged, WriteFlag::serialising};
    return own | (file_->node().driver().write_flags() & WriteFlag::compressed);
  }
  WriteFlags zero_flags() const noexcept override {
    return {WriteFlag::fua, WriteFlag::may_unmap, WriteFlag::no_fallback, WriteFlag::unchanged};
  }
  bool has_zero_init() const noexcept override { return file_->node().driver().has_zero_init(); }

  // What it writes changes nothing that anybody reads, so others may do the same.
  Permissions child_permissions(const Edge&, Permissions of_parents) const override {
    Permissions permissions;
    permissions.needed = of_parents.needed & kPassedOn;
    permissions.shared = (of_parents.shared & kPassedOn) | Permission::write_unchanged;
    if (!node().io().inactive) permissions.needed |= Permission::write_unchanged;
    return permissions;
  }

  boost::json::object strong_options() const override {
    boost::json::object options;
    if (bottom_) options["bottom"] = bottom_->name();
    return options;
  }

 private:
  void freeze_chain();
  // Whether the first `bytes` (made fewer where the answer changes) are to be copied: neither in
  // the node below nor under the bottom.
  Task<bool> is_wanted(uint64_t offset, uint64_t& bytes);
  Task<Status> read_above_bottom(uint64_t offset, IoVector into, ReadFlags flags);
  Task<Status> prefetch_above_bottom(uint64_t offset, uint64_t bytes);

  Edge* file_ = nullptr;
  NodePtr bottom_;
  std::vector<Edge*> frozen_;
};

Edge* edge_down(const Node& node) noexcept {
  if (Edge* cow = node.child_in_role(ChildRole::cow)) return cow;
  return node.descriptor().is_filter ? node.child_in_role(ChildRole::filtered) : nullptr;
}

// The way to the bottom stays as it is while this node is there.
void CopyOnReadDriver::freeze_chain() {
  std::vector<Edge*> chain;
  for (Edge* edge = file_; edge != nullptr; edge = edge_down(edge->node())) {
    if (edge->is_frozen())
      throw Error("Cannot change '{}' link from '{}' to '{}'", edge->name(),
                  edge->parent().parent_node()->name(), edge->node().name());
    chain.push_back(edge);
    if (&edge->node() == bottom_.get()) break;
  }
  if (&chain.back()->node() != bottom_.get())
    throw Error("Bottom node '{}' is not in the backing chain", bottom_->name());
  for (Edge* edge : chain) edge->set_frozen(true);
  frozen_ = std::move(chain);
}

Task<bool> CopyOnReadDriver::is_wanted(uint64_t offset, uint64_t& bytes) {
  Node& top = file_->node();
  auto own = co_await io::block_status(top, offset, bytes, StatusWant::contents);
  if (!own || own->bytes == 0) co_return true;  // reading it will tell
  bytes = std::min(bytes, own->bytes);
  if (own->flags.has(StatusFlag::allocated)) co_return false;
  Edge* below = edge_down(top);
  if (below == nullptr) co_return false;
  auto chain = co_await io::block_status_above(below->node(), bottom_.get(), true, offset, bytes,
                                               StatusWant::contents);
  if (!chain || chain->status.bytes == 0) co_return true;
  bytes = std::min(bytes, chain->status.bytes);
  co_return chain->status.flags.has(StatusFlag::allocated);
}

Task<Status> CopyOnReadDriver::read_above_bottom(uint64_t offset, IoVector into, ReadFlags flags) {
  for (size_t done = 0; done < into.size();) {
    uint64_t bytes = into.size() - done;
    ReadFlags with = flags;
    if (co_await is_wanted(offset + done, bytes)) with |= ReadFlag::copy_on_read;
    Status status = co_await io::preadv(*file_, offset + done, into.slice(done, bytes), with);
    if (!status.ok()) co_return status;
    done += bytes;
  }
  co_return Status();
}

Task<Status> CopyOnReadDriver::prefetch_above_bottom(uint64_t offset, uint64_t bytes) {
  for (uint64_t done = 0; done < bytes;) {
    uint64_t piece = bytes - done;
    bool wanted = co_await is_wanted(offset + done, piece);
    if (wanted) {
      Status status = co_await io::populate(*file_, offset + done, piece);
      if (!status.ok()) co_return status;
    }
    done += piece;
  }
  co_return Status();
}

std::unique_ptr<Driver> create(const DriverDescriptor& descriptor) {
  return std::make_unique<CopyOnReadDriver>(descriptor);
}

}  // namespace

const DriverDescriptor kCopyOnReadDriver{
    .name = qapi::BlockdevDriver::copy_on_read, .is_filter = true, .create = create};

}  // namespace strata
