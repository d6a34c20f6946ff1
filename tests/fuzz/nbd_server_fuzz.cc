// SPDX-License-Identifier: GPL-2.0-or-later
//
// A client of the NBD server that sends any bytes: handshake, then transmission on a null node. The
// first byte says how the rest arrives: in pieces of what size, and whether it starts in the
// handshake or, in one of three modes, right in the transmission phase.
#include <array>
#include <cstdint>
#include <cstring>
#include <memory>

#include "block/aio/aio_context.h"
#include "block/aio/main_loop.h"
#include "block/aio/stream.h"
#include "block/drivers/null/null.h"
#include "block/export/nbd/connection.h"
#include "block/export/nbd/export.h"
#include "block/export/nbd/export_table.h"
#include "block/export/nbd/handshake.h"
#include "block/graph/open.h"
#include "block/io/backend.h"

using namespace strata;
using namespace strata::nbd_export;

namespace {

// Delivers the input and swallows the output.
class InputStream final : public Stream {
 public:
  InputStream(nbd::ConstBytes input, size_t piece) : input_(input), piece_(piece) {}

  Task<Result<size_t>> read_some(IoVector into, CancelToken) override {
    size_t size = std::min({into.size(), input_.size(), piece_});
    if (size != 0) into.slice(0, size).copy_from(input_.data());
    input_ = input_.subspan(size);
    return Task<Result<size_t>>::ready(size);
  }
  Task<Result<size_t>> read_some_with_fds(IoVector into, std::vector<UniqueFd>&,
                                          CancelToken cancel) override {
    return read_some(into, cancel);
  }
  Task<Status> write(std::span<iovec>, CancelToken) override {
    return Task<Status>::ready(Status());
  }
  Task<Status> write_with_fds(std::span<const std::byte>, std::span<const int>,
                              CancelToken) override {
    return Task<Status>::ready(Status());
  }
  void shutdown() noexcept override { input_ = {}; }

 private:
  nbd::ConstBytes input_;
  size_t piece_;
};

class Server {
 public:
  Server() {
    qapi::BlockdevOptions options;
    options.select(qapi::BlockdevDriver::null_co);
    options.node_name = "null";
    options.get_if<qapi::BlockdevOptionsNull>()->size = 64 << 20;
    options.get_if<qapi::BlockdevOptionsNull>()->read_zeroes = true;
    NodePtr node = context_.run_to_completion(open_node(loop_, layer_, std::move(options)));
    auto backend = std::make_unique<Backend>(layer_);
    backend->attach(loop_, std::move(node),
                    {{Permission::consistent_read, Permission::write}, kAllPermissions});
    export_ = std::make_shared<NbdExport>(
        std::move(backend),
        ExportSettings{.name = "x", .writable = true, .allocation_depth = true});
    exports_.add(export_);
  }

  void serve(nbd::ConstBytes input, size_t piece, int start) {
    context_.run_to_completion(converse(input, piece, start));
  }

 private:
  Task<void> converse(nbd::ConstBytes input, size_t piece, int start) {
    InputStream stream(input, piece);
    std::optional<Agreement> agreement;
    if (start == 0) {
      Handshake handshake(stream, exports_);
      agreement = co_await handshake.run();
    } else {
      agreement.emplace(
          Agreement{.target = ExportUser(export_), .mode = static_cast<nbd::ReplyMode>(start - 1)});
      agreement->contexts.select_all(export_->meta_offer());
    }
    if (!agreement) co_return;
    Connection connection(context_, stream, *agreement);
    co_await connection.run();
  }

  AioContext context_{"fuzz"};
  MainLoop loop_{context_};
  std::array<const DriverDescriptor*, 1> drivers_{&kNullCoDriver};
  BlockLayer layer_{loop_, drivers_, [](std::string_view, boost::json::object) {}};
  std::shared_ptr<NbdExport> export_;
  ExportTable exports_;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static Server* server = new Server();  // lives as long as the process
  if (size < 1) return 0;
  constexpr size_t kPieces[] = {1, 7, 29, 4096};
  nbd::ConstBytes input{reinterpret_cast<const std::byte*>(data + 1), size - 1};
  server->serve(input, kPieces[data[0] % 4], data[0] / 4 % 4);
  return 0;
}
