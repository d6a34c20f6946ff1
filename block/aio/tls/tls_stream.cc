// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/aio/tls/tls_stream.h"

#include <gnutls/x509.h>
#include <time.h>

#include <algorithm>
#include <cerrno>

#include "block/base/error.h"

namespace strata {
namespace {

constexpr size_t kRecord = 16 * 1024;           // of plain text, the most TLS allows
constexpr size_t kBatch = 256 * 1024;           // plain text encrypted before it is sent
constexpr size_t kHandshakeBuffer = 20 * 1024;  // a record, encrypted
constexpr size_t kTransferBuffer = 256 * 1024;
// In a row, and without data: a peer that sends more is playing games.
constexpr int kMostWarnings = 16;
// Among GnuTLS's errors: the peer has said that there is no more.
constexpr long kEndOfStream = 1L << 40;

}  // namespace

TlsStream::TlsStream(Stream& below, std::shared_ptr<const TlsCredentials> credentials)
    : below_(below), credentials_(std::move(credentials)), received_({}) {
  unsigned flags = credentials_->endpoint() == TlsEndpoint::server ? GNUTLS_SERVER : GNUTLS_CLIENT;
  int error = gnutls_init(&session_, flags | GNUTLS_NONBLOCK | GNUTLS_NO_SIGNAL);
  if (error < 0) throw Error("Cannot initialize TLS session: {}", gnutls_strerror(error));
  std::string priority = credentials_->priority();
  if (error = gnutls_priority_set_direct(session_, priority.c_str(), nullptr); error < 0) {
    gnutls_deinit(session_);
    throw Error("Unable to set TLS session priority {}: {}", priority, gnutls_strerror(error));
  }
  if (error = credentials_->install(session_); error < 0) {
    gnutls_deinit(session_);
    throw Error("Cannot set session credentials: {}", gnutls_strerror(error));
  }
  gnutls_transport_set_ptr(session_, this);
  gnutls_transport_set_pull_function(session_, pull);
  gnutls_transport_set_push_function(session_, push);
  make_room(kHandshakeBuffer);
}

TlsStream::~TlsStream() {
  gnutls_deinit(session_);
}

// Nothing may be unread that does not fit.
void TlsStream::make_room(size_t bytes) {
  std::vector<std::byte> memory(bytes);
  std::span<const std::byte> unread = received_.unread();
  std::ranges::copy(unread, memory.begin());
  size_t count = unread.size();
  receive_memory_ = std::move(memory);
  received_ = ReceiveBuffer(receive_memory_);
  received_.received(count);
}

// ---- What GnuTLS reads and writes

ssize_t TlsStream::pull(gnutls_transport_ptr_t self, void* into, size_t size) {
  auto& stream = *static_cast<TlsStream*>(self);
  size_t taken = stream.received_.take({static_cast<std::byte*>(into), size});
  if (taken != 0 || stream.end_) return static_cast<ssize_t>(taken);
  gnutls_transport_set_errno(stream.session_, EAGAIN);
  return -1;
}

ssize_t TlsStream::push(gnutls_transport_ptr_t self, const void* data, size_t size) {
  auto& stream = *static_cast<TlsStream*>(self);
  const auto* bytes = static_cast<const std::byte*>(data);
  stream.pending_.insert(stream.pending_.end(), bytes, bytes + size);
  return static_cast<ssize_t>(size);
}

Task<Status> TlsStream::receive_more(CancelToken cancel) {
  IoVector room = received_.room();
  if (room.empty()) co_return Status::error(EPROTO);
  Result<size_t> got = co_await below_.read_some(room, cancel);
  if (!got) co_return got.status();
  end_ = *got == 0;
  received_.received(*got);
  co_return Status();
}

// Sends what is pending, in the order of its encryption, whoever encrypted it.
Task<Status> TlsStream::flush(CancelToken cancel) {
  Mutex::Lock lock = co_await flushing_.lock();
  while (!pending_.empty()) {
    sending_.clear();
    sending_.swap(pending_);
    Status sent = co_await below_.write_all(sending_, cancel);
    if (!sent) co_return sent;
  }
  co_return Status();
}

int TlsStream::to_errno(long error) noexcept {
  last_error_ = static_cast<int>(error);
  return error == GNUTLS_E_PREMATURE_TERMINATION ? ECONNABORTED : EIO;
}

std::string TlsStream::describe_read_failure(int error) const {
  if (last_error_ == 0) return below_.describe_read_failure(error);
  return fmt::format("Cannot read from TLS channel: {}", gnutls_strerror(last_error_));
}

// ---- Handshake

Task<void> TlsStream::handshake(std::string hostname) {
  for (;;) {
    int result = gnutls_handshake(session_);
    Status sent = pending_.empty() ? Status() : co_await flush({});
    if (result == 0) {
      if (!sent) throw Error::from_errno(sent.error_number(), "TLS handshake failed");
      break;
    }
    if (result == GNUTLS_E_AGAIN || result == GNUTLS_E_INTERRUPTED) {
      Status received = sent;
      if (sent.ok() && received_.unread().empty()) received = co_await receive_more({});
      if (!received) throw Error::from_errno(received.error_number(), "TLS handshake failed");
      continue;
    }
    if (gnutls_error_is_fatal(result) == 0) continue;
    throw Error("TLS handshake failed: {}", gnutls_strerror(result));
  }
  judge_peer(hostname);
  make_room(kTransferBuffer);
}

namespace {

struct PeerCertificate {
  gnutls_x509_crt_t certificate = nullptr;
  PeerCertificate() = default;
  PeerCertificate(const PeerCertificate&) = delete;
  PeerCertificate& operator=(const PeerCertificate&) = delete;
  ~PeerCertificate() {
    if (certificate != nullptr) gnutls_x509_crt_deinit(certificate);
  }

  void import(const gnutls_datum_t& der) {
    int error = gnutls_x509_crt_init(&certificate);
    if (error < 0) throw Error("Cannot initialize certificate: {}", gnutls_strerror(error));
    error = gnutls_x509_crt_import(certificate, &der, GNUTLS_X509_FMT_DER);
    if (error < 0) throw Error("Cannot import certificate: {}", gnutls_strerror(error));
  }
};

}  // namespace

void TlsStream::judge_peer(const std::string& hostname) const {
  if (credentials_->kind() != TlsCredentials::Kind::x509 || !credentials_->verifies_peer()) return;
  unsigned status = 0;
  int error = gnutls_certificate_verify_peers2(session_, &status);
  if (error < 0) throw Error("Verify failed: {}", gnutls_strerror(error));
  if (status != 0) {
    std::string_view reason = "Invalid certificate";
    if ((status & GNUTLS_CERT_INVALID) != 0) reason = "The certificate is not trusted";
    if ((status & GNUTLS_CERT_SIGNER_NOT_FOUND) != 0)
      reason = "The certificate hasn't got a known issuer";
    if ((status & GNUTLS_CERT_REVOKED) != 0) reason = "The certificate has been revoked";
    if ((status & GNUTLS_CERT_INSECURE_ALGORITHM) != 0)
      reason = "The certificate uses an insecure algorithm";
    throw Error("{}", reason);
  }
  unsigned count = 0;
  const gnutls_datum_t* peers = gnutls_certificate_get_peers(session_, &count);
  if (peers == nullptr) throw Error("No certificate peers");
  time_t now = ::time(nullptr);
  for (unsigned i = 0; i < count; ++i) {
    PeerCertificate peer;
    peer.import(peers[i]);
    if (gnutls_x509_crt_get_expiration_time(peer.certificate) < now)
      throw Error("The certificate has expired");
    if (gnutls_x509_crt_get_activation_time(peer.certificate) > now)
      throw Error("The certificate is not yet activated");
    if (i != 0 || credentials_->endpoint() == TlsEndpoint::server) continue;
    if (hostname.empty()) throw Error("No hostname for certificate validation");
    if (gnutls_x509_crt_check_hostname(peer.certificate, hostname.c_str()) == 0)
      throw Error("Certificate does not match the hostname {}", hostname);
  }
}

std::string TlsStream::peer_name() const {
  if (credentials_->kind() != TlsCredentials::Kind::x509) return {};
  unsigned count = 0;
  const gnutls_datum_t* peers = gnutls_certificate_get_peers(session_, &count);
  if (peers == nullptr || count == 0) return {};
  PeerCertificate peer;
  peer.import(peers[0]);
  gnutls_datum_t name{};
  // As it always was spelt, not in the order of RFC 4514: lists of names depend on it.
  int error = gnutls_x509_crt_get_dn3(peer.certificate, &name, GNUTLS_X509_DN_FLAG_COMPAT);
  if (error < 0) throw Error("Cannot get client distinguished name: {}", gnutls_strerror(error));
  std::string text(reinterpret_cast<char*>(name.data), name.size);
  gnutls_free(name.data);
  return text;
}

// ---- Reading

// Decrypts what is here into `into`, record by record. Bytes, or GnuTLS's error where there are
// none.
long TlsStream::read_records(IoVector into) {
  size_t done = 0;
  long failure = 0;
  into.for_each([&](std::byte* data, size_t size) {
    while (size != 0 && failure == 0) {
      long got = gnutls_record_recv(session_, data, size);
      if (got <= 0) {
        failure = got == 0 ? kEndOfStream : got;
        break;
      }
      data += got;
      size -= static_cast<size_t>(got);
      done += static_cast<size_t>(got);
    }
  });
  return done != 0 ? static_cast<long>(done) : failure;
}

Task<Result<size_t>> TlsStream::read_some(IoVector into, CancelToken cancel) {
  int warnings = 0;
  for (;;) {
    size_t unread = received_.unread().size();
    long got = read_records(into);
    // An answer to a change of keys; who is sending already takes it along.
    if (!pending_.empty() && !is_flushing()) {
      Status sent = co_await flush(cancel);
      if (!sent && got <= 0) co_return sent;
    }
    if (got == kEndOfStream) co_return size_t{0};
    if (got > 0) co_return static_cast<size_t>(got);
    if (got == GNUTLS_E_AGAIN || got == GNUTLS_E_INTERRUPTED) {
      // It may have read a message without data.
      bool goes_on = !received_.unread().empty() && received_.unread().size() != unread;
      Status received = goes_on ? Status() : co_await receive_more(cancel);
      if (!received) co_return received;
      continue;
    }
    bool is_fatal = gnutls_error_is_fatal(static_cast<int>(got)) != 0;
    if (is_fatal || ++warnings == kMostWarnings) co_return Status::error(to_errno(got));
  }
}

Task<Result<size_t>> TlsStream::read_some_with_fds(IoVector into, std::vector<UniqueFd>&,
                                                   CancelToken cancel) {
  return read_some(into, cancel);
}

// ---- Writing

int TlsStream::send_record(const void* data, size_t size) {
  while (size != 0) {
    ssize_t sent = gnutls_record_send(session_, data, size);
    if (sent == GNUTLS_E_AGAIN || sent == GNUTLS_E_INTERRUPTED) continue;
    if (sent < 0) return static_cast<int>(sent);
    data = static_cast<const std::byte*>(data) + sent;
    size -= static_cast<size_t>(sent);
  }
  return 0;
}

// Small parts are put together to a record; of a large one whole records are taken where they lie.
int TlsStream::encrypt(std::span<iovec>& parts) {
  record_.clear();
  int error = 0;
  while (!parts.empty() && pending_.size() < kBatch && error == 0) {
    iovec& part = parts.front();
    const auto* data = static_cast<const std::byte*>(part.iov_base);
    size_t used = 0;
    if (record_.empty() && part.iov_len >= kRecord) {
      used = kRecord;
      error = send_record(data, used);
    } else {
      used = std::min(part.iov_len, kRecord - record_.size());
      record_.insert(record_.end(), data, data + used);
      if (record_.size() == kRecord) {
        error = send_record(record_.data(), record_.size());
        record_.clear();
      }
    }
    part.iov_base = static_cast<std::byte*>(part.iov_base) + used;
    part.iov_len -= used;
    if (part.iov_len == 0) parts = parts.subspan(1);
  }
  if (error == 0) error = send_record(record_.data(), record_.size());
  return error;
}

Task<Status> TlsStream::write(std::span<iovec> parts, CancelToken cancel) {
  while (!parts.empty()) {
    if (int error = encrypt(parts); error != 0) co_return Status::error(to_errno(error));
    Status sent = co_await flush(cancel);
    if (!sent) co_return sent;
  }
  co_return Status();
}

Task<Status> TlsStream::write_with_fds(std::span<const std::byte> data, std::span<const int> fds,
                                       CancelToken cancel) {
  if (!fds.empty()) return Task<Status>::ready(Status::error(ENOTSUP));
  return write_all(data, cancel);
}

Task<Status> TlsStream::bye() {
  int error = gnutls_bye(session_, GNUTLS_SHUT_WR);
  if (error < 0) co_return Status::error(to_errno(error));
  co_return co_await flush({});
}

}  // namespace strata
