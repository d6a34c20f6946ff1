// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "block/aio/main_loop.h"
#include "block/aio/stream.h"
#include "block/coro/cancel.h"
#include "block/coro/event.h"
#include "block/coro/task.h"
#include "storage-daemon/chardev/streams.h"

namespace strata {

// A character device: a source of byte streams for one front end (a monitor). A socket yields a new
// stream for each peer, a terminal or a file just one. Main loop only.
//
//   chardev.attach();                                   // throws if another has it
//   while (auto stream = co_await chardev.next_stream()) {
//     ... read and write, with closing() for a token, until the end ...
//     chardev.stream_ended();
//   }
class Chardev {
 public:
  explicit Chardev(std::string id) : id_(std::move(id)) {}
  virtual ~Chardev();
  Chardev(const Chardev&) = delete;
  Chardev& operator=(const Chardev&) = delete;

  const std::string& id() const noexcept { return id_; }
  // What it is and where it leads to, as query-chardev shows it.
  virtual std::string filename() const = 0;
  // "chardev-socket" and so on.
  virtual std::string_view qom_type() const noexcept = 0;

  // Makes the caller its only front end, for good.
  void attach();
  bool has_front_end() const noexcept { return attached_; }

  // Waits for a peer. Null when the device is closed.
  Task<std::shared_ptr<Stream>> next_stream();
  // Cancelled by close().
  CancelToken closing() noexcept { return closing_.token(); }
  // The front end is done with the stream, because it ended or because of what came out of it.
  void stream_ended();
  bool is_connected() const noexcept { return stream_ != nullptr; }
  // Waits until somebody is there for the first time, or the device is closed.
  Task<void> wait_connected();

  // Copies to `log` what front ends write from now on.
  void set_log(std::shared_ptr<LogFile> log) { log_ = std::move(log); }

  virtual void send_break() {}

  // Tells all who wait for the device that it is being closed.
  void begin_close();
  // Ends streams and tasks; nothing happens on the device afterwards. Once, before destruction.
  Task<void> close();

 protected:
  // A peer is there.
  void set_stream(std::shared_ptr<Stream> stream);
  // The stream was given up, by stream_ended() or close().
  virtual void on_stream_ended() {}
  virtual Task<void> on_close() { return Task<void>::ready(); }

 private:
  std::string id_;
  bool attached_ = false;
  CancelSource closing_;
  std::shared_ptr<Stream> stream_;
  std::shared_ptr<LogFile> log_;
  Event changed_;  // a stream is there, or the device is closed
};

}  // namespace strata
