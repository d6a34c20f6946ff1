// SPDX-License-Identifier: GPL-2.0-or-later
#include "storage-daemon/monitor/session.h"

#include <array>

#include "block/base/log.h"
#include "block/base/trace.h"
#include "qapi/runtime/json_writer.h"
#include "storage-daemon/daemon.h"

namespace strata {
namespace {

// Commands are executed only while less than this waits to be read by the client (bytes).
constexpr size_t kOutputForNextCommand = 256 << 10;
// A client with so much unread has lost interest in events.
constexpr size_t kMaxOutput = 16 << 20;
// How long a client that has ended its input is given to read the rest.
constexpr auto kLastFlush = std::chrono::milliseconds(500);

const TracePoint trace_handle_qmp_command("handle_qmp_command");
const TracePoint trace_monitor_qmp_respond("monitor_qmp_respond");

}  // namespace

QmpSession::QmpSession(Daemon& daemon, MainLoop& loop, std::shared_ptr<Stream> stream, bool pretty)
    : daemon_(daemon), loop_(loop), stream_(std::move(stream)), pretty_(pretty) {
  daemon_.events().add(*this);
}

QmpSession::~QmpSession() {
  daemon_.events().remove(*this);
}

Task<void> QmpSession::run() {
  boost::json::object hello;
  hello["version"] = qapi::to_json(Daemon::version());
  hello["capabilities"] = boost::json::array{"oob"};
  send({{"QMP", std::move(hello)}});
  scope_.spawn(execute_queued());
  scope_.spawn(write());
  co_await read();
  finish();
  while (executing_) {
    room_.reset();
    co_await room_.wait();
  }
  scope_.spawn(limit_flush());
  co_await scope_.join();
}

// The writer has a little longer.
Task<void> QmpSession::limit_flush() {
  if (co_await loop_.context().sleep_for(kLastFlush, write_ended_.token())) stop_writing_.cancel();
}

void QmpSession::finish() noexcept {
  finishing_ = true;
  stop_reading_.cancel();
  work_.set();
  room_.set();
  written_.set();
}

void QmpSession::negotiate(bool enable_oob) {
  negotiated_ = true;
  oob_ = enable_oob;
}

// ---- Reading

Task<void> QmpSession::read() {
  std::array<char, 4096> buffer;
  while (!finishing_) {
    std::vector<UniqueFd> fds;
    Result<size_t> got = co_await stream_->read_some_with_fds(
        IoVector::buffer(buffer.data(), buffer.size()), fds, stop_reading_.token());
    if (!got || *got == 0) break;
    if (!fds.empty()) received_fd_ = std::move(fds.front());
    fds.clear();  // the others before anything is answered
    std::string_view input(buffer.data(), *got);
    while (!finishing_) {
      std::optional<Input> item = parser_.next(input);
      if (!item) break;
      co_await take_input(std::move(*item));
    }
  }
}

Task<void> QmpSession::take_input(Input input) {
  const auto* value = std::get_if<boost::json::value>(&input);
  if (value != nullptr && trace_handle_qmp_command.is_enabled())
    trace_handle_qmp_command("mon {} req: {}", fmt::ptr(this), qapi::write_json(*value));
  const boost::json::object* members = value != nullptr ? value->if_object() : nullptr;
  if (oob_ && members != nullptr && members->contains("exec-oob") &&
      !members->contains("execute")) {
    send(co_await respond(*value));
    co_return;
  }
  queue_.push_back(std::move(input));
  work_.set();
  // With out-of-band execution the reader goes on while there is room; without it, it waits for the
  // answer.
  while (!finishing_ && (oob_ ? queue_.size() >= kMaxQueued : executing_ || !queue_.empty())) {
    room_.reset();
    co_await room_.wait();
  }
}

// ---- Executing

Task<void> QmpSession::execute_queued() {
  while (!finishing_) {
    if (queue_.empty() || daemon_.is_shutting_down()) {
      work_.reset();
      co_await work_.wait();
      continue;
    }
    while (output_.size() > kOutputForNextCommand && !write_failed_ && !finishing_) {
      written_.reset();
      co_await written_.wait();
    }
    Input input = std::move(queue_.front());
    queue_.pop_front();
    executing_ = true;
    co_await execute(std::move(input));
    executing_ = false;
    room_.set();
  }
  executor_ended_ = true;
  to_write_.set();
}

Task<void> QmpSession::execute(Input input) {
  if (const auto* error = std::get_if<Error>(&input)) {
    send(make_error_reply(*error, std::nullopt));
    co_return;
  }
  // One command at a time, whichever monitor it comes from.
  Mutex::Lock turn = co_await daemon_.command_lock().lock();
  if (daemon_.is_shutting_down()) co_return;
  send(co_await respond(std::get<boost::json::value>(input)));
}

void QmpSession::check_allowed(const CommandTable::Entry* entry, const QmpRequest& request) const {
  bool negotiates = request.command == "qmp_capabilities";
  if (!negotiated_ && !negotiates)
    throw Error(ErrorClass::CommandNotFound,
                "Expecting capabilities negotiation with 'qmp_capabilities'");
  if (negotiated_ && negotiates)
    throw Error(ErrorClass::CommandNotFound,
                "Capabilities negotiation is already complete, command ignored");
  if (entry == nullptr)
    throw Error(ErrorClass::CommandNotFound, "The command {} has not been found", request.command);
  if (request.out_of_band && !entry->info->allow_oob)
    throw Error("The command {} does not support OOB", request.command);
}

Task<boost::json::object> QmpSession::respond(const boost::json::value& input) {
  std::optional<boost::json::value> id = id_of(input);
  std::string_view command;  // once it is being executed
  try {
    QmpRequest request = parse_request(input, oob_);
    const CommandTable::Entry* entry = daemon_.commands().find(request.command);
    check_allowed(entry, request);
    CommandContext context{daemon_, loop_, *this};
    command = entry->info->name;
    daemon_.command_trace().enter(command, request.arguments);
    boost::json::value result =
        co_await CommandTable::call(*entry, context, std::move(request.arguments));
    daemon_.command_trace().exit(command, result);
    co_return make_reply(std::move(result), id);
  } catch (const Error& error) {
    if (!command.empty()) daemon_.command_trace().fail(command, error.text());
    // A reply has no place for the hint; whoever reads the log may be helped by it.
    if (!error.hint_text().empty())
      log_error("{}\n{}", error.text(), error.hint_text().substr(0, error.hint_text().size() - 1));
    co_return make_error_reply(daemon_.explain(error), id);
  } catch (const std::bad_alloc&) {
    co_return make_error_reply(Error("Out of memory"), id);
  }
}

// ---- Writing

void QmpSession::send(const boost::json::object& message) {
  if (write_failed_) return;
  output_ +=
      qapi::write_json(message, pretty_ ? qapi::JsonStyle::pretty : qapi::JsonStyle::compact);
  output_ += "\r\n";
  to_write_.set();
}

void QmpSession::on_event(const boost::json::object& event) {
  if (!negotiated_) return;
  // The client has not read for ages. Leaving out events silently would deceive it, so it goes.
  if (output_.size() > kMaxOutput) return stream_->shutdown();
  send(event);
}

Task<void> QmpSession::write() {
  while (!write_failed_) {
    if (output_.empty()) {
      if (executor_ended_) break;
      to_write_.reset();
      co_await to_write_.wait();
      continue;
    }
    std::string chunk = std::exchange(output_, {});
    written_.set();
    Status status = co_await stream_->write_all(
        std::as_bytes(std::span(chunk.data(), chunk.size())), stop_writing_.token());
    if (!status) write_failed_ = true;
  }
  output_.clear();
  write_ended_.cancel();
  written_.set();
}

}  // namespace strata
