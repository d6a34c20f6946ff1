// SPDX-License-Identifier: GPL-2.0-or-later
//
// What serving costs once everything has been used for a while.
#include <atomic>
#include <cstdlib>
#include <new>

#include "block/export/nbd/buffer_pool.h"
#include "tests/unit/export_nbd/client.h"

using namespace strata;
using namespace strata::test;
using nbd_export::BufferPool;

namespace {

std::atomic<size_t> allocations{0};

void* counted(size_t size, size_t alignment) {
  allocations.fetch_add(1, std::memory_order_relaxed);
  size = (size + alignment - 1) / alignment * alignment;
  void* memory = std::aligned_alloc(alignment, size);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}

}  // namespace

void* operator new(size_t size) {
  return counted(size, alignof(std::max_align_t));
}
void* operator new(size_t size, std::align_val_t alignment) {
  return counted(size, static_cast<size_t>(alignment));
}
void operator delete(void* memory) noexcept {
  std::free(memory);
}
void operator delete(void* memory, size_t) noexcept {
  std::free(memory);
}
void operator delete(void* memory, std::align_val_t) noexcept {
  std::free(memory);
}
void operator delete(void* memory, size_t, std::align_val_t) noexcept {
  std::free(memory);
}

namespace {

// A null node behind a server, and a client that sends the same batch again and again.
class Bench {
 public:
  static constexpr size_t kBatch = 64;
  static constexpr uint32_t kLength = 4096;

  Bench(ReplyMode mode, Command command) {
    qapi::BlockdevOptions options;
    options.select(qapi::BlockdevDriver::null_co);
    options.node_name = "null";
    node_ = run(open_node(loop_, layer_, std::move(options)));
    PassedFds none;
    UnixAddress address{.path = fmt::format("strata-steady-{}", ::getpid()), .abstract = true};
    run(service_.start(loop_, address, {}));
    qapi::BlockExportOptions exported;
    exported.id = exported.node_name = "null";
    exported.writable = true;
    exported.select(qapi::BlockExportType::nbd);
    run(registry_.add(loop_, std::move(exported)));
    client_ = std::make_unique<Client>(context_, run(connect_to(context_, address, none)));
    run(client_->enter("null", mode));
    write_batch(mode, command);
  }
  ~Bench() {
    client_.reset();
    run(service_.stop(loop_));
    run(layer_.release(loop_, std::move(node_)));
  }

  void rounds(int count) { run(send_rounds(count)); }
  size_t kept() { return context_.service<BufferPool>().kept(); }

 private:
  template <class T>
  T run(Task<T> task) {
    return context_.run_to_completion(std::move(task));
  }
  void write_batch(ReplyMode mode, Command command) {
    for (size_t i = 0; i < kBatch; ++i) {
      std::array<std::byte, nbd::kMaxRequestSize> bytes;
      nbd::Request request{
          .cookie = i, .offset = i * kLength, .length = kLength, .command = command};
      size_t size = nbd::encode_request(bytes, request, mode);
      batch_.put(nbd::ConstBytes(bytes).first(size));
      if (command == Command::write) batch_.put_zeroes(kLength);
    }
    size_t header = mode == ReplyMode::simple ? 16 : 28;
    size_t reply = command == Command::write ? 16 : header + kLength;
    replies_.resize(kBatch * reply);
  }
  Task<void> send_rounds(int count) {
    for (int i = 0; i < count; ++i) {
      Status sent = co_await client_->stream.write_all(batch_.bytes());
      Status heard =
          co_await client_->stream.read_exactly(IoVector::buffer(replies_.data(), replies_.size()));
      if (!sent.ok() || !heard.ok()) throw Error("the server has gone");
    }
  }

  AioContext context_{"test"};
  MainLoop loop_{context_};
  std::array<const DriverDescriptor*, 1> drivers_{&kNullCoDriver};
  BlockLayer layer_{loop_, drivers_, [](std::string_view, boost::json::object) {}};
  NodePtr node_;
  PassedFds passed_;
  ExportRegistry registry_{layer_, [](const std::string& name) -> AioContext& {
                             throw Error("iothread \"{}\" not found", name);
                           }};
  NbdService service_{registry_, passed_};
  std::unique_ptr<Client> client_;
  nbd::Message batch_;
  std::vector<std::byte> replies_;
};

}  // namespace

TEST_CASE("a request in the steady state allocates nothing") {
  ReplyMode mode = GENERATE(ReplyMode::simple, ReplyMode::structured);
  Command command = GENERATE(Command::read, Command::write);
  Bench bench(mode, command);
  bench.rounds(50);
  size_t before = allocations.load();
  size_t kept = bench.kept();
  bench.rounds(200);
  CHECK(allocations.load() == before);
  CHECK(bench.kept() == kept);
}

TEST_CASE("buffers come back to be used again, aligned, and not without limit") {
  AioContext context("test");
  BufferPool pool(context);
  std::byte* first = nullptr;
  {
    BufferPool::Buffer buffer = pool.get(5000);
    first = buffer.data();
    CHECK(buffer.size() == 8192);
    CHECK(reinterpret_cast<uintptr_t>(first) % 4096 == 0);
    CHECK(pool.kept() == 0);
  }
  CHECK(pool.kept() == 8192);
  CHECK(pool.get(8192).data() == first);
  {
    BufferPool::Buffer large[3] = {pool.get(8 << 20), pool.get(8 << 20), pool.get(8 << 20)};
  }
  CHECK(pool.kept() <= BufferPool::kMostKept);
}
