// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/drivers/blkdebug/blkdebug.h"

#include <algorithm>
#include <bit>
#include <cerrno>

#include "block/aio/aio_context.h"
#include "block/base/error.h"
#include "block/drivers/blkdebug/config_file.h"
#include "block/drivers/filter.h"
#include "block/io/request.h"
#include "qapi/runtime/scalars.h"
#include "qapi/visit_block_debug.h"

namespace strata {
namespace {

using blkdebug::Injection;
using qapi::BlkdebugEvent;
using qapi::BlkdebugIOType;

PermissionSet permission_set(const std::optional<std::vector<qapi::BlockPermission>>& names) {
  PermissionSet set;
  for (qapi::BlockPermission name : names.value_or(std::vector<qapi::BlockPermission>())) {
    switch (name) {
      case qapi::BlockPermission::consistent_read:
        set |= Permission::consistent_read;
        break;
      case qapi::BlockPermission::write:
        set |= Permission::write;
        break;
      case qapi::BlockPermission::write_unchanged:
        set |= Permission::write_unchanged;
        break;
      case qapi::BlockPermission::resize:
        set |= Permission::resize;
        break;
    }
  }
  return set;
}

// A limit out of the options; 0 if it is not set.
uint32_t read_limit(std::string_view name, std::optional<int64_t> value, uint64_t unit) {
  if (!value) return 0;
  if (*value < 0) throw qapi::not_a_size(name, *value);
  auto size = static_cast<uint64_t>(*value);
  if (size >= INT32_MAX || size % unit != 0)
    throw Error("Cannot meet constraints with {} {}", name, size);
  return static_cast<uint32_t>(size);
}

class BlkdebugDriver final : public FilterDriver {
 public:
  using FilterDriver::FilterDriver;

  Task<void> open(OpenContext& context) override;

  Task<Status> preadv(uint64_t offset, IoVector into, ReadFlags flags) override {
    Injection injection = rules_.check(BlkdebugIOType::read, offset, into.size());
    if (injection.error != 0) return fail(injection);
    return FilterDriver::preadv(offset, into, flags);
  }
  Task<Status> pwritev(uint64_t offset, IoVector from, WriteFlags flags) override {
    Injection injection = rules_.check(BlkdebugIOType::write, offset, from.size());
    if (injection.error != 0) return fail(injection);
    return FilterDriver::pwritev(offset, from, flags);
  }
  // Like a device that leaves to others what is less than its unit.
  Task<Status> pwrite_zeroes(uint64_t offset, uint64_t bytes, WriteFlags flags) override {
    const Limits& limits = node().io().limits;
    if (bytes < std::max(limits.request_alignment, limits.pwrite_zeroes_alignment))
      return Task<Status>::ready(Status::error(ENOTSUP));
    Injection injection = rules_.check(BlkdebugIOType::write_zeroes, offset, bytes);
    if (injection.error != 0) return fail(injection);
    return FilterDriver::pwrite_zeroes(offset, bytes, flags);
  }
  Task<Status> pdiscard(uint64_t offset, uint64_t bytes) override {
    if (bytes < node().io().limits.request_alignment)
      return Task<Status>::ready(Status::error(ENOTSUP));
    Injection injection = rules_.check(BlkdebugIOType::discard, offset, bytes);
    if (injection.error != 0) return fail(injection);
    return FilterDriver::pdiscard(offset, bytes);
  }
  Task<Status> flush() override {
    Injection injection = rules_.check(BlkdebugIOType::flush, 0, 0);
    return injection.error != 0 ? fail(injection) : Task<Status>::ready(Status());
  }
  Task<Result<BlockStatus>> block_status(uint64_t offset, uint64_t bytes,
                                         StatusWant want) override {
    Injection injection = rules_.check(BlkdebugIOType::block_status, offset, bytes);
    if (injection.error != 0) return fail_status(injection);
    return Driver::block_status(offset, bytes, want);
  }
  Task<void> debug_event(BlkdebugEvent event) override { return rules_.reach(event); }

  Task<void> truncate(uint64_t size, TruncateOptions options) override {
    return io::truncate(child(), size, options);
  }

  Limits limits(const Limits& of_children) const noexcept override {
    Limits limits = of_children;
    if (limits_.request_alignment != 0) limits.request_alignment = limits_.request_alignment;
    if (limits_.max_transfer != 0) limits.max_transfer = limits_.max_transfer;
    if (limits_.pwrite_zeroes_alignment != 0)
      limits.pwrite_zeroes_alignment = limits_.pwrite_zeroes_alignment;
    if (limits_.max_pwrite_zeroes != 0) limits.max_pwrite_zeroes = limits_.max_pwrite_zeroes;
    if (limits_.pdiscard_alignment != 0) limits.pdiscard_alignment = limits_.pdiscard_alignment;
    if (limits_.max_pdiscard != 0) limits.max_pdiscard = limits_.max_pdiscard;
    return limits;
  }

  Permissions child_permissions(const Edge& child, Permissions of_parents) const override {
    Permissions permissions = Driver::child_permissions(child, of_parents);
    permissions.needed |= taken_;
    permissions.shared = permissions.shared.without(unshared_);
    return permissions;
  }

  FileName file_name() const override;
  std::optional<uint64_t> allocated_size() const override { return std::nullopt; }

  blkdebug::RuleBook& rules() noexcept { return rules_; }

 private:
  void read_limits(const qapi::BlockdevOptionsBlkdebug& options);
  void read_rules(const qapi::BlockdevOptionsBlkdebug& options);
  void keep_strong_options(const qapi::BlockdevOptionsBlkdebug& options);

  static Task<Status> fail(Injection injection) {
    if (!injection.immediately) co_await AioContext::current()->yield();
    co_return Status::error(injection.error);
  }
  static Task<Result<BlockStatus>> fail_status(Injection injection) {
    co_return co_await fail(injection);
  }

  blkdebug::RuleBook rules_;
  Limits limits_{.request_alignment = 0};  // 0: as the image has it
  PermissionSet taken_;
  PermissionSet unshared_;
  std::string config_;
  boost::json::object strong_;  // what the name does not say
};

Task<void> BlkdebugDriver::open(OpenContext& context) {
  const auto& options = context.branch<qapi::BlockdevOptionsBlkdebug>();
  taken_ = permission_set(options.take_child_perms);
  unshared_ = permission_set(options.unshare_child_perms);
  read_rules(options);
  co_await open_filtered(context, options.image, "image");
  read_limits(options);
  keep_strong_options(options);
  co_await rules_.reach(BlkdebugEvent::none);
}

void BlkdebugDriver::read_rules(const qapi::BlockdevOptionsBlkdebug& options) {
  config_ = options.config.value_or("");
  if (options.config)
    for (blkdebug::Rule& rule : blkdebug::read_config(config_)) rules_.add(std::move(rule));
  if (options.inject_error)
    for (const auto& rule : *options.inject_error) rules_.add(blkdebug::make_rule(rule));
  if (options.set_state)
    for (const auto& rule : *options.set_state) rules_.add(blkdebug::make_rule(rule));
}

void BlkdebugDriver::read_limits(const qapi::BlockdevOptionsBlkdebug& options) {
  limits_.request_alignment = read_limit("align", options.align, 1);
  if (limits_.request_alignment != 0 && !std::has_single_bit(limits_.request_alignment))
    throw Error("Cannot meet constraints with align {}", limits_.request_alignment);
  uint32_t align = std::max(limits_.request_alignment, below().io().limits.request_alignment);
  limits_.max_transfer = read_limit("max-transfer", options.max_transfer, align);
  limits_.pwrite_zeroes_alignment = read_limit("opt-write-zero", options.opt_write_zero, align);
  limits_.max_pwrite_zeroes = read_limit("max-write-zero", options.max_write_zero,
                                         std::max(limits_.pwrite_zeroes_alignment, align));
  limits_.pdiscard_alignment = read_limit("opt-discard", options.opt_discard, align);
  limits_.max_pdiscard =
      read_limit("max-discard", options.max_discard, std::max(limits_.pdiscard_alignment, align));
}

void BlkdebugDriver::keep_strong_options(const qapi::BlockdevOptionsBlkdebug& options) {
  boost::json::object all = qapi::to_json(options).as_object();
  for (const auto& [key, value] : all) {
    std::string_view name(key.data(), key.size());
    bool weak = name == "image" || name == "config" || name == "take-child-perms" ||
                name == "unshare-child-perms";
    if (!weak) strong_[key] = value;
  }
}

FileName BlkdebugDriver::file_name() const {
  FileName image = below().file_name();
  FileName name;
  if (strong_.empty() && !image.exact.empty())
    name.exact = "blkdebug:" + config_ + ":" + image.exact;
  name.options["driver"] = std::string(descriptor().format_name());
  if (!config_.empty()) name.options["config"] = config_;
  name.options["image"] = std::move(image.options);
  for (const auto& [key, value] : strong_) name.options[key] = value;
  return name;
}

std::unique_ptr<Driver> create(const DriverDescriptor& descriptor) {
  return std::make_unique<BlkdebugDriver>(descriptor);
}

}  // namespace

const DriverDescriptor kBlkdebugDriver{.name = qapi::BlockdevDriver::blkdebug,
                                       .is_protocol = true,
                                       .is_filter = true,
                                       .hears_events = true,
                                       .reopens = true,
                                       .create = create};

blkdebug::RuleBook* debug_rules_of(Node& node) noexcept {
  for (Node* at = &node; at != nullptr;) {
    if (auto* driver = dynamic_cast<BlkdebugDriver*>(&at->driver())) return &driver->rules();
    Edge* primary = at->child_in_role(ChildRole::primary);
    at = primary != nullptr ? &primary->node() : nullptr;
  }
  return nullptr;
}

}  // namespace strata
