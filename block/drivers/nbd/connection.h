// SPDX-License-Identifier: GPL-2.0-or-later
//
// The transmission phase of one connection, seen from the client.
//
// Two coroutines serve all calls, and exist only while there are any: one sends what has been
// queued, as much as goes with one system call, the other receives replies and puts the data where
// it belongs. An idle connection costs nothing and may be destroyed at any time.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "block/aio/receive_buffer.h"
#include "block/base/aligned_buffer.h"
#include "block/coro/scope.h"
#include "block/coro/semaphore.h"
#include "block/drivers/nbd/call.h"
#include "block/drivers/nbd/channel.h"
#include "block/drivers/nbd/handshake.h"
#include "block/nbd/reply.h"

namespace strata::nbd_client {

// Lives and works in one context. What the server sends is judged; where it breaks the protocol the
// connection ends.
class Connection {
 public:
  static constexpr size_t kMostCalls = 64;

  Connection(AioContext& context, std::unique_ptr<Channel> channel, ExportInfo info);
  // Nothing is under way.
  ~Connection();

  const ExportInfo& info() const noexcept { return info_; }
  AioContext& context() const noexcept { return context_; }

  // Makes the request and waits for its answer; sets outcome, error and extent.
  Task<void> perform(Call& call);
  bool is_broken() const noexcept { return broken_; }
  // Broken, and by a server that does not keep to the protocol: no other try will do better.
  bool is_hostile() const noexcept { return hostile_; }

  // Calls under way are lost, and later ones at once.
  void break_off() noexcept;
  // Says goodbye. Nothing may be under way.
  Task<void> disconnect();

 private:
  static constexpr size_t kReceiveBytes = 128 * 1024;

  Task<void> send_queued();
  Task<void> receive_replies();
  void gather();
  void ended() noexcept;

  // False where the connection must end.
  Task<bool> receive_reply();
  Task<bool> want(size_t bytes);
  Task<bool> take_data(Call& call, uint64_t offset, uint64_t length);
  bool take_simple(Call& call, const nbd::ReplyHeader& header, bool& has_data) noexcept;
  Task<bool> take_chunk(Call& call, nbd::ReplyHeader header);
  bool take_payload(Call& call, const nbd::ReplyHeader& header, nbd::ConstBytes payload);
  bool take_status(Call& call, const nbd::ReplyHeader& header, nbd::ConstBytes payload);
  bool finish(Call& call) noexcept;
  bool violated() noexcept {
    hostile_ = true;
    return false;
  }

  Call* find(uint64_t cookie) const noexcept;
  void let_go(Call& call) noexcept;

  AioContext& context_;
  std::unique_ptr<Channel> channel_;
  ExportInfo info_;
  AlignedBuffer receive_memory_;
  ReceiveBuffer received_;
  TaskScope scope_;
  Semaphore room_{kMostCalls};

  std::array<Call*, kMostCalls> calls_{};
  size_t under_way_ = 0;  // of calls_
  size_t unanswered_ = 0;
  uint64_t next_cookie_ = 0;

  Call* queued_ = nullptr;
  Call** queued_end_ = &queued_;
  std::vector<Call*> sending_calls_;
  std::vector<iovec> sending_parts_;
  bool sending_ = false;
  bool receiving_ = false;
  bool broken_ = false;
  bool hostile_ = false;
};

}  // namespace strata::nbd_client
