// SPDX-License-Identifier: GPL-2.0-or-later
//
// Streams that are no sockets: what the simpler character devices are made of.
#pragma once

#include <memory>
#include <string>

#include "block/aio/stream.h"
#include "block/base/unique_fd.h"

namespace strata {

// Shared parts of streams that carry no descriptors.
class PlainStream : public Stream {
 public:
  Task<Result<size_t>> read_some_with_fds(IoVector into, std::vector<UniqueFd>&,
                                          CancelToken cancel = {}) override {
    return read_some(into, cancel);
  }
  Task<Status> write_with_fds(std::span<const std::byte> data, std::span<const int>,
                              CancelToken cancel = {}) override {
    return write_all(data, cancel);
  }
};

// Nothing ever comes in; what goes out is thrown away.
class NullStream : public PlainStream {
 public:
  Task<Result<size_t>> read_some(IoVector into, CancelToken cancel = {}) override;
  Task<Status> write(std::span<iovec> parts, CancelToken cancel = {}) override;
  void shutdown() noexcept override {}
};

// Reads from one stream and writes to another.
class PairStream final : public PlainStream {
 public:
  PairStream(std::unique_ptr<Stream> in, std::unique_ptr<Stream> out)
      : in_(std::move(in)), out_(std::move(out)) {}
  Task<Result<size_t>> read_some(IoVector into, CancelToken cancel = {}) override {
    return in_->read_some(into, cancel);
  }
  Task<Status> write(std::span<iovec> parts, CancelToken cancel = {}) override {
    return out_->write(parts, cancel);
  }
  void shutdown() noexcept override {
    in_->shutdown();
    out_->shutdown();
  }

 private:
  std::unique_ptr<Stream> in_;
  std::unique_ptr<Stream> out_;
};

// Writes also to a file what goes out (the options logfile and logappend).
class LogFile {
 public:
  // Throws Error.
  LogFile(const std::string& path, bool append, bool timestamps);
  void write(std::span<const iovec> parts) noexcept;

 private:
  UniqueFd fd_;
  bool timestamps_;
  bool at_line_start_ = true;
};

class LoggedStream final : public PlainStream {
 public:
  LoggedStream(std::shared_ptr<Stream> inner, std::shared_ptr<LogFile> log)
      : inner_(std::move(inner)), log_(std::move(log)) {}
  Task<Result<size_t>> read_some(IoVector into, CancelToken cancel = {}) override {
    return inner_->read_some(into, cancel);
  }
  Task<Result<size_t>> read_some_with_fds(IoVector into, std::vector<UniqueFd>& fds,
                                          CancelToken cancel = {}) override {
    return inner_->read_some_with_fds(into, fds, cancel);
  }
  Task<Status> write(std::span<iovec> parts, CancelToken cancel = {}) override {
    log_->write(parts);
    return inner_->write(parts, cancel);
  }
  void shutdown() noexcept override { inner_->shutdown(); }

 private:
  std::shared_ptr<Stream> inner_;
  std::shared_ptr<LogFile> log_;
};

}  // namespace strata
