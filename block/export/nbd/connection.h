// SPDX-License-Identifier: GPL-2.0-or-later
//
// The transmission phase of one connection: requests in, replies out.
//
// One coroutine receives: it decodes all requests of a receive where they lie, starts one coroutine
// for each and only then lets the replies go. Another sends: whatever has been answered by then
// goes out in one call. Between them is a bounded number of slots and bytes; when they are used up,
// receiving stops until replies have been sent.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "block/aio/receive_buffer.h"
#include "block/base/result.h"
#include "block/coro/scope.h"
#include "block/coro/signal.h"
#include "block/coro/task.h"
#include "block/export/buffer_pool.h"
#include "block/export/nbd/export.h"
#include "block/export/nbd/reply.h"
#include "block/export/nbd/request_check.h"
#include "block/nbd/extents.h"
#include "block/nbd/meta_context.h"
#include "block/nbd/request.h"

namespace strata {
class AioContext;
class Stream;
}  // namespace strata

namespace strata::nbd_export {

// What the handshake has agreed on.
struct Agreement {
  ExportUser target;
  nbd::ReplyMode mode = nbd::ReplyMode::simple;
  nbd::MetaSelection contexts;
};

// Lives in one context, in whose thread it is made, run and destroyed.
class Connection {
 public:
  // Requests in flight or waiting to be sent, and the memory for their data.
  static constexpr size_t kMostSlots = 256;
  static constexpr size_t kMostBytes = nbd::kMaxPayload;
  static constexpr size_t kReceiveBytes = 128 * 1024;

  // `stream` and `agreement` outlive the connection.
  Connection(AioContext& context, Stream& stream, const Agreement& agreement);
  ~Connection();

  // Serves until the client disconnects, breaks the protocol, or the stream is shut down; ends when
  // all requests have ended.
  Task<void> run();

 private:
  // One request in flight.
  struct Slot {
    Slot* next = nullptr;
    nbd::Request request;
    size_t cost = 0;  // bytes of kMostBytes
    BufferPool::Buffer buffer;
    Reply reply;
    std::vector<Piece> pieces;
    std::vector<uint32_t> contexts;   // of a BLOCK_STATUS
    nbd::ConstBytes wanted_contexts;  // ids in `buffer`; empty: all that were agreed on
  };

  // Receiving. What returns a bool returns false when the connection must end.
  Task<bool> take_batch();
  Task<bool> receive();
  Slot* try_admit(size_t cost);
  Task<Slot*> admit(size_t cost);
  // Takes what belongs to the slot's request off the stream and starts it, or answers what is
  // wrong.
  Task<bool> start(Slot& slot);
  Task<bool> refuse(Slot& slot, RequestFault fault, uint64_t payload);
  Task<bool> receive_and_launch(Slot& slot, size_t payload);
  void launch(Slot& slot, size_t payload);
  Task<bool> receive_payload(Slot& slot, size_t length);
  Task<bool> discard_payload(uint64_t length);
  bool take_status_payload(Slot& slot, size_t length);
  void answer_bad_magic();

  // Requests (commands.cc).
  Task<void> serve(Slot& slot);
  Task<void> change(Slot& slot);
  Task<void> read(Slot& slot);
  Task<void> block_status(Slot& slot);
  Task<Status> read_whole(Slot& slot);
  Task<Status> read_pieces(Slot& slot);
  Task<Status> find_pieces(Slot& slot);
  void wanted_contexts(const Slot& slot, std::vector<uint32_t>& ids) const;
  Task<Status> list_extents(nbd::Request request, uint32_t id, nbd::ExtentList& list);

  // Sending.
  Task<void> send_loop();
  void finish(Slot& slot);
  void fail(Slot& slot, int error, std::string_view text);
  void flush();
  Slot* gather();
  void recycle(Slot& slot) noexcept;
  void break_off() noexcept;

  AioContext& context_;
  Stream& stream_;
  const Agreement& agreement_;
  NbdExport& export_;
  Terms terms_;
  BufferPool& pool_;
  BufferPool::Buffer receive_memory_;
  ReceiveBuffer received_;
  TaskScope scope_;

  std::vector<std::unique_ptr<Slot>> slots_;
  Slot* free_slots_ = nullptr;
  size_t slots_used_ = 0;
  size_t bytes_used_ = 0;
  Signal room_;  // slots or bytes have come back

  Slot* answered_ = nullptr;  // first to be sent
  Slot** answered_end_ = &answered_;
  size_t answered_bytes_ = 0;
  Signal to_send_;
  std::vector<iovec> gathered_;

  bool receiving_ = false;  // a batch is being taken: flush() follows
  bool closing_ = false;    // nothing more will be received
  bool broken_ = false;     // nothing more can be sent
};

}  // namespace strata::nbd_export
