// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/io/backend.h"

#include <cassert>
#include <cerrno>

#include "block/base/error.h"
#include "block/base/trace.h"
#include "block/graph/layer.h"
#include "block/graph/plan.h"

namespace strata {
namespace {

const TracePoint trace_blk_co_preadv("blk_co_preadv");
const TracePoint trace_blk_co_pwritev("blk_co_pwritev");
const TracePoint trace_blk_co_pwrite_zeroes("blk_co_pwrite_zeroes");

}  // namespace

Backend::Backend(BlockLayer& layer, std::string name) : layer_(layer), name_(std::move(name)) {}

Backend::~Backend() {
  assert(gate_.inside() == 0 && "a Backend is closed before it ends");
}

std::string Backend::describe_parent() const {
  return name_.empty() ? "an unnamed block device" : "block device '" + name_ + "'";
}

std::optional<Permissions> Backend::permissions_while(bool active) const {
  if (active) return wanted_;
  if (!allows_inactive_) return std::nullopt;
  return Permissions{};
}

void Backend::attach(MainLoop& loop, NodePtr node, Permissions permissions) {
  assert(!root_);
  wanted_ = permissions;
  if (node->io().inactive && allows_inactive_) permissions = {};
  auto root = std::make_unique<Edge>(*this, "root", ChildRoles{});
  {
    GraphPlan plan(loop);
    plan.set_child(*root, std::move(node));
    plan.set_permissions(*root, permissions);
    plan.prepare();
    plan.commit();
  }
  root_ = std::move(root);
}

void Backend::set_permissions(MainLoop& loop, Permissions permissions) {
  GraphPlan plan(loop);
  plan.set_permissions(*root_, permissions);
  plan.prepare();
  plan.commit();
  wanted_ = permissions;
}

Task<void> Backend::close(MainLoop& loop) {
  co_await gate_.shut();
  NodePtr node = root_->node_ptr();
  root_.reset();
  co_await layer_.release(loop, std::move(node));
  gate_.open();
}

Status Backend::check_inside(uint64_t offset, uint64_t bytes) const noexcept {
  uint64_t length = root_->node().length();
  if (offset > length || bytes > length - offset) return Status::error(EIO);
  return Status();
}

Task<Status> Backend::preadv(uint64_t offset, IoVector into, ReadFlags flags) {
  Gate::Pass pass = co_await gate_.enter();
  trace_blk_co_preadv("blk {} offset {} bytes {}", fmt::ptr(this), offset, into.size());
  IoStats::Request request(stats_, IoKind::read, into.size());
  if (copy_on_read_) [[unlikely]]
    flags |= ReadFlag::copy_on_read;
  Status status = check_inside(offset, into.size());
  if (status.ok()) status = co_await io::preadv(*root_, offset, into, flags);
  request.done(status.ok());
  co_return status;
}

Task<Status> Backend::pwritev(uint64_t offset, IoVector from, WriteFlags flags) {
  Gate::Pass pass = co_await gate_.enter();
  trace_blk_co_pwritev("blk {} offset {} bytes {}", fmt::ptr(this), offset, from.size());
  IoStats::Request request(stats_, IoKind::write, from.size());
  Status status = check_inside(offset, from.size());
  if (status.ok()) status = co_await io::pwritev(*root_, offset, from, with_cache_mode(flags));
  request.done(status.ok());
  co_return status;
}

Task<Status> Backend::pwrite_zeroes(uint64_t offset, uint64_t bytes, WriteFlags flags) {
  Gate::Pass pass = co_await gate_.enter();
  trace_blk_co_pwrite_zeroes("blk {} offset {} bytes {}", fmt::ptr(this), offset, bytes);
  IoStats::Request request(stats_, IoKind::zeroes, bytes);
  Status status = check_inside(offset, bytes);
  if (status.ok())
    status = co_await io::pwrite_zeroes(*root_, offset, bytes, with_cache_mode(flags));
  request.done(status.ok());
  co_return status;
}

Task<Status> Backend::pdiscard(uint64_t offset, uint64_t bytes) {
  Gate::Pass pass = co_await gate_.enter();
  IoStats::Request request(stats_, IoKind::discard, bytes);
  Status status = check_inside(offset, bytes);
  if (status.ok()) status = co_await io::pdiscard(*root_, offset, bytes);
  request.done(status.ok());
  co_return status;
}

Task<Status> Backend::flush() {
  Gate::Pass pass = co_await gate_.enter();
  IoStats::Request request(stats_, IoKind::flush, 0);
  Status status = co_await io::flush(root_->node());
  request.done(status.ok());
  co_return status;
}

Task<Status> Backend::prefetch(uint64_t offset, uint64_t bytes) {
  Gate::Pass pass = co_await gate_.enter();
  Status status = check_inside(offset, bytes);
  if (status.ok()) status = co_await root_->node().driver().prefetch(offset, bytes);
  co_return status;
}

Task<Result<io::ChainStatus>> Backend::block_status(uint64_t offset, uint64_t bytes,
                                                    StatusWant want) {
  Gate::Pass pass = co_await gate_.enter();
  Status status = check_inside(offset, bytes);
  if (!status.ok()) co_return status;
  co_return co_await io::block_status_above(root_->node(), nullptr, true, offset, bytes, want);
}

std::optional<uint64_t> Backend::allocated_size() noexcept {
  Gate::Pass pass = gate_.try_enter();
  return pass ? root_->node().driver().allocated_size() : std::nullopt;
}

uint64_t Backend::node_writes() noexcept {
  Gate::Pass pass = gate_.try_enter();
  if (!pass) return 0;
  const IoStats& stats = root_->node().io().stats;
  return stats.totals(IoKind::write).requests + stats.totals(IoKind::zeroes).requests +
         stats.totals(IoKind::discard).requests;
}

Task<void> Backend::truncate(uint64_t size, TruncateOptions options) {
  Gate::Pass pass = co_await gate_.enter();
  co_await io::truncate(*root_, size, options);
}

}  // namespace strata
