// SPDX-License-Identifier: GPL-2.0-or-later
//
// What blkdebug is to do, and when.
#pragma once

#include <cstdint>
#include <list>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "block/base/enum_set.h"
#include "block/base/result.h"
#include "block/coro/event.h"
#include "block/coro/task.h"
#include "qapi/types_block_debug.h"

namespace strata::blkdebug {

// An error for the requests it is for.
struct Injection {
  int error = 0;                   // 0: none
  std::optional<uint64_t> offset;  // only requests that touch this byte
  uint32_t kinds = 0;              // a bit for each BlkdebugIOType
  bool once = false;
  bool immediately = false;
};

struct Rule {
  qapi::BlkdebugEvent event = qapi::BlkdebugEvent::none;
  int64_t state = 0;  // only in this one; 0: in any
  // One of them.
  std::optional<Injection> inject;
  std::optional<int64_t> new_state;
  std::optional<std::string> breakpoint;  // its tag
};

// Throw Error for a value that cannot be.
Rule make_rule(const qapi::BlkdebugInjectErrorOptions& options);
Rule make_rule(const qapi::BlkdebugSetStateOptions& options);

// The rules of one node, and what has become of them. Any thread.
class RuleBook {
 public:
  void add(Rule rule);

  // An event has come: errors become due, the state changes, the caller waits at breakpoints.
  Task<void> reach(qapi::BlkdebugEvent event);

  // What a request of this kind gets; an injection without an error: it goes its way.
  Injection check(qapi::BlkdebugIOType kind, uint64_t offset, uint64_t bytes);

  // Breakpoints: each stops the first request that reaches its event, and is gone then. ENOENT:
  // there is none by this tag. Removing them lets go of those who were stopped by them.
  void set_breakpoint(qapi::BlkdebugEvent event, std::string tag);
  Status remove_breakpoint(const std::string& tag);
  Status resume(const std::string& tag);
  Task<void> wait_until_suspended(std::string tag);

 private:
  struct Suspended {
    std::string tag;
    Event resumed;
  };
  using RulePtr = std::shared_ptr<const Rule>;

  std::vector<std::shared_ptr<Suspended>> process(qapi::BlkdebugEvent event);
  std::shared_ptr<Suspended> take_suspended(const std::string& tag);
  bool is_suspended(const std::string& tag);

  std::mutex mutex_;
  int64_t state_ = 1;
  std::list<RulePtr> rules_;   // in the order of their definition
  std::list<RulePtr> active_;  // errors that are due
  std::vector<std::shared_ptr<Suspended>> suspended_;
  Event arrived_;  // somebody has been suspended
};

}  // namespace strata::blkdebug
