// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/aio/run_in.h"

namespace strata {
namespace {

detail::RemoteRoot call(std::function<void()> function) {
  function();
  co_return;
}

}  // namespace

void post(Executor& executor, std::function<void()> function) {
  auto root = call(std::move(function)).handle;
  Resumption& start = root.promise().start;
  start.handle = root;
  start.executor = &executor;
  start.resume_later();
}

}  // namespace strata
