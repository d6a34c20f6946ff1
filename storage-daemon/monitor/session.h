// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <boost/json/object.hpp>
#include <boost/json/value.hpp>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <variant>

#include "block/aio/stream.h"
#include "block/coro/event.h"
#include "block/coro/scope.h"
#include "qapi/runtime/json_parser.h"
#include "storage-daemon/commands/context.h"
#include "storage-daemon/monitor/events.h"
#include "storage-daemon/monitor/request.h"

namespace strata {

// One client of a QMP monitor, from its greeting to its end. Three coroutines work for it: one
// reads and parses, one executes commands in their order, one writes. A client that does not read
// stops them from the back to the front, so it costs a bounded amount of memory and nobody else's
// time.
class QmpSession final : private EventListener {
 public:
  // Commands that may wait to be executed, when the client has negotiated exec-oob; without it,
  // one.
  static constexpr size_t kMaxQueued = 8;

  QmpSession(Daemon& daemon, MainLoop& loop, std::shared_ptr<Stream> stream, bool pretty);
  ~QmpSession();

  // Serves until the client goes or finish() is called, and what was to be said has been.
  Task<void> run();
  // Reads no more; what is being executed still ends.
  void finish() noexcept;

  // For qmp_capabilities.
  void negotiate(bool enable_oob);
  bool is_negotiated() const noexcept { return negotiated_; }
  // The descriptor that came last and has not been taken; of several that came together, the first.
  UniqueFd take_received_fd() noexcept { return std::move(received_fd_); }

 private:
  using Input = qapi::JsonParser::Item;

  Task<void> read();
  Task<void> take_input(Input input);
  Task<void> execute_queued();
  Task<void> execute(Input input);
  Task<boost::json::object> respond(const boost::json::value& input);
  void check_allowed(const CommandTable::Entry* entry, const QmpRequest& request) const;
  Task<void> write();
  Task<void> limit_flush();

  void on_event(const boost::json::object& event) override;
  void send(const boost::json::object& message);

  Daemon& daemon_;
  MainLoop& loop_;
  std::shared_ptr<Stream> stream_;
  bool pretty_;
  bool negotiated_ = false;
  bool oob_ = false;

  qapi::JsonParser parser_;
  UniqueFd received_fd_;
  std::deque<Input> queue_;
  bool executing_ = false;
  std::string output_;  // not handed to the stream yet
  bool write_failed_ = false;
  bool finishing_ = false;  // no more input
  bool executor_ended_ = false;

  CancelSource stop_reading_;
  CancelSource stop_writing_;
  CancelSource write_ended_;
  Event work_;      // for the executor: something is queued, or the input has ended
  Event room_;      // for the reader: something was taken off the queue
  Event to_write_;  // for the writer: there is output, or there will be none
  Event written_;   // for the executor: the output has become less
  TaskScope scope_;
};

}  // namespace strata
