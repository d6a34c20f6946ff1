// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/drivers/copy_on_read.h"

#include <algorithm>

#include "block/base/error.h"
#include "block/drivers/filter.h"
#include "block/graph/layer.h"
#include "block/io/block_status.h"
#include "block/io/copy_on_read.h"
#include "block/io/request.h"

namespace strata {
namespace {

constexpr PermissionSet kPassedOn{Permission::consistent_read, Permission::write,
                                  Permission::resize};

class CopyOnReadDriver final : public FilterDriver {
 public:
  using FilterDriver::FilterDriver;
  ~CopyOnReadDriver() override {
    for (Edge* edge : frozen_) edge->set_frozen(false);
  }

  Task<void> open(OpenContext& context) override {
    const auto& options = context.branch<qapi::BlockdevOptionsCor>();
    co_await open_filtered(context, options.file);
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
    return FilterDriver::preadv(offset, into, flags | ReadFlag::copy_on_read);
  }
  Task<Status> prefetch(uint64_t offset, uint64_t bytes) override {
    if (bottom_) return prefetch_above_bottom(offset, bytes);
    return io::populate(child(), offset, bytes);
  }
  WriteFlags write_flags() const noexcept override {
    return FilterDriver::write_flags() | (below().driver().write_flags() & WriteFlag::compressed);
  }

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
  for (Edge* edge = &child(); edge != nullptr; edge = edge_down(edge->node())) {
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
  Node& top = below();
  auto own = co_await io::block_status(top, offset, bytes, StatusWant::contents);
  if (!own || own->bytes == 0) co_return true;  // reading it will tell
  bytes = std::min(bytes, own->bytes);
  if (own->flags.has(StatusFlag::allocated)) co_return false;
  Edge* next = edge_down(top);
  if (next == nullptr) co_return false;
  auto chain = co_await io::block_status_above(next->node(), bottom_.get(), true, offset, bytes,
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
    Status status = co_await io::preadv(child(), offset + done, into.slice(done, bytes), with);
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
      Status status = co_await io::populate(child(), offset + done, piece);
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
