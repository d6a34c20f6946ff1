// SPDX-License-Identifier: GPL-2.0-or-later
//
// TLS over another stream.
#pragma once

#include <gnutls/gnutls.h>

#include <memory>
#include <string>
#include <vector>

#include "block/aio/receive_buffer.h"
#include "block/aio/stream.h"
#include "block/aio/tls/credentials.h"
#include "block/coro/mutex.h"

namespace strata {

// Full records, many to a system call, in both directions: what is received goes from the kernel to
// one buffer and is decrypted from there; what is sent is encrypted into one buffer and leaves in
// one piece. Belongs to the context of the stream below, and moves with it while nothing is under
// way. shutdown() may be called from any thread, as below.
class TlsStream final : public Stream {
 public:
  // `below` outlives this. Throws Error where the credentials are for the other side, or GnuTLS
  // refuses them.
  TlsStream(Stream& below, std::shared_ptr<const TlsCredentials> credentials);
  ~TlsStream() override;

  // Agrees on keys and judges the peer. `hostname` is what a client expects its server to be called
  // (certificates only; empty: not known). Throws Error. Whoever limits its time shuts the stream
  // down.
  Task<void> handshake(std::string hostname);
  // The distinguished name in the peer's certificate; empty where it has shown none.
  std::string peer_name() const;

  Task<Result<size_t>> read_some(IoVector into, CancelToken cancel = {}) override;
  Task<Result<size_t>> read_some_with_fds(IoVector into, std::vector<UniqueFd>& fds,
                                          CancelToken cancel = {}) override;
  Task<Status> write(std::span<iovec> parts, CancelToken cancel = {}) override;
  // Descriptors cannot be sent: ENOTSUP where there are any.
  Task<Status> write_with_fds(std::span<const std::byte> data, std::span<const int> fds,
                              CancelToken cancel = {}) override;
  void shutdown() noexcept override { below_.shutdown(); }

  // Says that nothing more will be written. Does not wait for the peer to say so.
  Task<Status> bye();
  std::string describe_read_failure(int error) const override;

 private:
  static ssize_t pull(gnutls_transport_ptr_t self, void* into, size_t size);
  static ssize_t push(gnutls_transport_ptr_t self, const void* data, size_t size);

  Task<Status> receive_more(CancelToken cancel);
  Task<Status> flush(CancelToken cancel);
  bool is_flushing() noexcept { return !flushing_.try_lock(); }
  long read_records(IoVector into);
  // Encrypts from the front of `parts`, as much as one batch may hold. GnuTLS's error, or 0.
  int encrypt(std::span<iovec>& parts);
  int send_record(const void* data, size_t size);
  int to_errno(long error) noexcept;
  void judge_peer(const std::string& hostname) const;
  void make_room(size_t bytes);

  Stream& below_;
  std::shared_ptr<const TlsCredentials> credentials_;
  gnutls_session_t session_ = nullptr;
  std::vector<std::byte> receive_memory_;
  ReceiveBuffer received_;
  bool end_ = false;                // the stream below has ended
  std::vector<std::byte> pending_;  // encrypted, to be sent
  std::vector<std::byte> sending_;
  Mutex flushing_;
  std::vector<std::byte> record_;  // small parts, put together
  int last_error_ = 0;             // GnuTLS's
};

}  // namespace strata
