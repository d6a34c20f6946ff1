// SPDX-License-Identifier: GPL-2.0-or-later
//
// What every tool has: a block layer of its own in the thread of main(), and a way to complain.
#pragma once

#include <fmt/format.h>

#include <string_view>
#include <utility>

#include "block/aio/main_loop.h"
#include "block/aio/passed_fds.h"
#include "block/base/error.h"
#include "block/base/log.h"
#include "block/graph/layer.h"

namespace strata::tools {

class Tool {
 public:
  // `argv0` is what the program calls itself in texts, without directories.
  explicit Tool(std::string_view argv0);

  AioContext& context() noexcept { return context_; }
  MainLoop& loop() noexcept { return loop_; }
  BlockLayer& layer() noexcept { return layer_; }
  PassedFds& passed_fds() noexcept { return passed_fds_; }

  template <class T>
  T run(Task<T> task) {
    return context_.run_to_completion(std::move(task));
  }

 private:
  PassedFds passed_fds_;  // before anything else is opened
  AioContext context_;
  MainLoop loop_;
  BlockLayer layer_;
};

// "PROGRAM: text", and the hint on a line of its own.
void report(const Error& error);
void report(std::string_view prefix, const Error& error);

// "PROGRAM version V" and what QEMU's tools say of themselves.
void print_version(std::string_view word = " version");

}  // namespace strata::tools
