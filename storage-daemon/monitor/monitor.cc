// SPDX-License-Identifier: GPL-2.0-or-later
#include "storage-daemon/monitor/monitor.h"

#include "block/base/error.h"
#include "storage-daemon/chardev/registry.h"
#include "storage-daemon/daemon.h"
#include "storage-daemon/monitor/session.h"

namespace strata {
namespace {

Chardev& find_chardev(Daemon& daemon, const qapi::MonitorOptions& options) {
  if (options.mode == qapi::MonitorMode::readline) throw Error("Only QMP is supported");
  Chardev* chardev = daemon.chardevs().find(options.chardev);
  if (chardev == nullptr) throw Error("chardev \"{}\" not found", options.chardev);
  return *chardev;
}

}  // namespace

Monitor::Monitor(Daemon& daemon, MainLoop& loop, const qapi::MonitorOptions& options)
    : daemon_(daemon),
      loop_(loop),
      id_(options.id.value_or("")),
      pretty_(options.pretty.value_or(false)),
      chardev_(find_chardev(daemon, options)) {
  chardev_.attach();
  scope_.spawn(serve());
}

Monitor::~Monitor() = default;

Task<void> Monitor::serve() {
  while (!stopping_) {
    std::shared_ptr<Stream> stream = co_await chardev_.next_stream();
    if (!stream) break;
    auto session = std::make_unique<QmpSession>(daemon_, loop_, std::move(stream), pretty_);
    session_ = session.get();
    if (stopping_) session->finish();
    co_await session->run();
    session_ = nullptr;
    session.reset();
    chardev_.stream_ended();
  }
}

Task<void> Monitor::stop() {
  stopping_ = true;
  if (session_ != nullptr)
    session_->finish();
  else
    chardev_.begin_close();
  co_await scope_.join();
}

}  // namespace strata
