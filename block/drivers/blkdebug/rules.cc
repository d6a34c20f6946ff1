// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/drivers/blkdebug/rules.h"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>

#include "block/base/error.h"
#include "block/graph/io_limits.h"

namespace strata::blkdebug {
namespace {

using qapi::BlkdebugEvent;
using qapi::BlkdebugIOType;

constexpr uint32_t bit(BlkdebugIOType kind) noexcept {
  return uint32_t{1} << static_cast<unsigned>(kind);
}

constexpr uint32_t kDefaultKinds = bit(BlkdebugIOType::read) | bit(BlkdebugIOType::write) |
                                   bit(BlkdebugIOType::write_zeroes) |
                                   bit(BlkdebugIOType::discard) | bit(BlkdebugIOType::flush);

bool applies(const Injection& injection, BlkdebugIOType kind, uint64_t offset,
             uint64_t bytes) noexcept {
  if ((injection.kinds & bit(kind)) == 0) return false;
  if (!injection.offset) return true;
  return *injection.offset >= offset && *injection.offset - offset < bytes;
}

}  // namespace

Rule make_rule(const qapi::BlkdebugInjectErrorOptions& options) {
  Rule rule;
  rule.event = options.event;
  rule.state = options.state.value_or(0);
  Injection injection;
  int64_t error = options.errno_.value_or(EIO);
  if (error < 0 || error > INT32_MAX) throw Error("Parameter 'errno' expects an error number");
  injection.error = static_cast<int>(error);
  if (int64_t sector = options.sector.value_or(-1); sector >= 0) {
    if (static_cast<uint64_t>(sector) > kMaxLength / kSectorSize)
      throw Error("Parameter 'sector' expects the number of a sector");
    injection.offset = static_cast<uint64_t>(sector) * kSectorSize;
  }
  injection.kinds = options.iotype ? bit(*options.iotype) : kDefaultKinds;
  injection.once = options.once.value_or(false);
  injection.immediately = options.immediately.value_or(false);
  rule.inject = injection;
  return rule;
}

Rule make_rule(const qapi::BlkdebugSetStateOptions& options) {
  Rule rule;
  rule.event = options.event;
  rule.state = options.state.value_or(0);
  rule.new_state = options.new_state;
  return rule;
}

void RuleBook::add(Rule rule) {
  std::lock_guard lock(mutex_);
  rules_.push_back(std::make_shared<const Rule>(std::move(rule)));
}

// From the last rule to the first, so that of two changes of state the first one counts. The errors
// that an event makes due take the place of those that were.
std::vector<std::shared_ptr<RuleBook::Suspended>> RuleBook::process(BlkdebugEvent event) {
  std::vector<std::shared_ptr<Suspended>> waits;
  std::lock_guard lock(mutex_);
  int64_t next_state = state_;
  bool injects = false;
  for (auto at = rules_.end(); at != rules_.begin();) {
    const Rule& rule = **--at;
    if (rule.event != event || (rule.state != 0 && rule.state != state_)) continue;
    if (rule.inject) {
      if (!std::exchange(injects, true)) active_.clear();
      active_.push_front(*at);
    } else if (rule.new_state) {
      next_state = *rule.new_state;
    } else {
      waits.push_back(std::make_shared<Suspended>());
      waits.back()->tag = *rule.breakpoint;
      at = rules_.erase(at);
    }
  }
  state_ = next_state;
  suspended_.insert(suspended_.end(), waits.begin(), waits.end());
  return waits;
}

Task<void> RuleBook::reach(BlkdebugEvent event) {
  std::vector<std::shared_ptr<Suspended>> waits = process(event);
  if (waits.empty()) co_return;
  for (const auto& wait : waits) fmt::print("blkdebug: Suspended request '{}'\n", wait->tag);
  arrived_.set();
  for (const auto& wait : waits) co_await wait->resumed.wait();
}

Injection RuleBook::check(BlkdebugIOType kind, uint64_t offset, uint64_t bytes) {
  std::lock_guard lock(mutex_);
  auto found = std::find_if(active_.begin(), active_.end(), [&](const RulePtr& rule) {
    return applies(*rule->inject, kind, offset, bytes);
  });
  if (found == active_.end() || (*found)->inject->error == 0) return {};
  Injection injection = *(*found)->inject;
  if (injection.once) {
    RulePtr rule = *found;
    active_.erase(found);
    rules_.remove(rule);
  }
  return injection;
}

void RuleBook::set_breakpoint(BlkdebugEvent event, std::string tag) {
  Rule rule;
  rule.event = event;
  rule.breakpoint = std::move(tag);
  add(std::move(rule));
}

std::shared_ptr<RuleBook::Suspended> RuleBook::take_suspended(const std::string& tag) {
  std::lock_guard lock(mutex_);
  auto found = std::find_if(suspended_.begin(), suspended_.end(),
                            [&](const auto& request) { return request->tag == tag; });
  if (found == suspended_.end()) return nullptr;
  std::shared_ptr<Suspended> request = std::move(*found);
  suspended_.erase(found);
  return request;
}

Status RuleBook::resume(const std::string& tag) {
  std::shared_ptr<Suspended> request = take_suspended(tag);
  if (!request) return Status::error(ENOENT);
  fmt::print("blkdebug: Resuming request '{}'\n", tag);
  request->resumed.set();
  return Status();
}

Status RuleBook::remove_breakpoint(const std::string& tag) {
  size_t removed = 0;
  {
    std::lock_guard lock(mutex_);
    removed = rules_.remove_if([&](const RulePtr& rule) { return rule->breakpoint == tag; });
  }
  while (resume(tag).ok()) {
  }
  return removed != 0 ? Status() : Status::error(ENOENT);
}

bool RuleBook::is_suspended(const std::string& tag) {
  std::lock_guard lock(mutex_);
  return std::any_of(suspended_.begin(), suspended_.end(),
                     [&](const auto& request) { return request->tag == tag; });
}

Task<void> RuleBook::wait_until_suspended(std::string tag) {
  for (;;) {
    arrived_.reset();
    if (is_suspended(tag)) co_return;
    co_await arrived_.wait();
  }
}

}  // namespace strata::blkdebug
