// SPDX-License-Identifier: GPL-2.0-or-later
//
// A queue at work, with a socket in the place of /dev/fuse.
#include <fcntl.h>
#include <linux/falloc.h>
#include <sys/socket.h>

#include <catch2/catch.hpp>
#include <cstring>
#include <map>

#include "block/aio/fd_watch.h"
#include "block/export/fuse/queue.h"
#include "tests/unit/support/memory_driver.h"

namespace strata::test {
namespace {

using fuse_export::ExportedFile;
using fuse_export::FileTraits;
using fuse_export::Queue;

constexpr uint64_t kLength = 1 << 20;

struct Answer {
  uint64_t unique = 0;
  int error = 0;
  std::string body;

  template <class T>
  T as() const {
    T value{};
    if (body.size() >= sizeof value) std::memcpy(&value, body.data(), sizeof value);
    return value;
  }
};

// The kernel, and a file of 1 MiB of the letter d.
class Rig : public Fixture {
 public:
  explicit Rig(FileTraits traits = {.writable = true}) {
    behaviour.knows_zeroes = true;
    behaviour.limits.request_alignment = 1;
    int ends[2];
    if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends) != 0)
      throw Error("no sockets");
    kernel.reset(ends[0]);
    node = open_memory("disk", kLength);
    std::memset(data_of(*node).data(), 'd', kLength);
    user = std::make_unique<Backend>(layer, "user");
    user->attach(loop, node, kReadWrite);
    file = std::make_unique<ExportedFile>(loop, *user, traits);
    queue = std::make_unique<Queue>(context, *file, UniqueFd(ends[1]), [this] { gone = true; });
    run(queue->start());
  }
  ~Rig() {
    run(queue->stop());
    queue.reset();
    run(user->close(loop));
    run(layer.release(loop, std::move(node)));
  }

  uint64_t send_raw(const std::string& bytes) {
    if (::send(kernel.get(), bytes.data(), bytes.size(), 0) < 0) throw Error("cannot send");
    return next_unique_;
  }
  template <class... Parts>
  uint64_t send(uint32_t opcode, const Parts&... parts) {
    std::string body;
    (append(body, parts), ...);
    fuse_in_header header{};
    header.len = static_cast<uint32_t>(sizeof header + body.size());
    header.opcode = opcode;
    header.unique = ++next_unique_;
    header.nodeid = fuse_export::kFileNode;
    std::string bytes;
    append(bytes, header);
    return send_raw(bytes + body);
  }
  // The next answer.
  Answer hear() { return run(hear_one()); }
  template <class... Parts>
  Answer ask(uint32_t opcode, const Parts&... parts) {
    uint64_t unique = send(opcode, parts...);
    Answer answer = hear();
    CHECK(answer.unique == unique);
    return answer;
  }

  static fuse_write_in transfer(uint64_t offset, size_t size) {
    fuse_write_in in{};
    in.offset = offset;
    in.size = static_cast<uint32_t>(size);
    return in;
  }
  Answer read(uint64_t offset, size_t size) { return ask(FUSE_READ, transfer(offset, size)); }
  Answer write(uint64_t offset, const std::string& text) {
    return ask(FUSE_WRITE, transfer(offset, text.size()), text);
  }
  Answer allocate(uint32_t mode, uint64_t offset, uint64_t bytes) {
    fuse_fallocate_in in{};
    in.offset = offset;
    in.length = bytes;
    in.mode = mode;
    return ask(FUSE_FALLOCATE, in);
  }
  Answer seek(uint64_t offset, uint32_t whence) {
    fuse_lseek_in in{};
    in.offset = offset;
    in.whence = whence;
    return ask(FUSE_LSEEK, in);
  }
  // Lets everything that can happen without a timer happen.
  void settle() { run(turns(context)); }
  std::string stored(uint64_t offset, size_t bytes) {
    return {reinterpret_cast<char*>(data_of(*node).data()) + offset, bytes};
  }

  UniqueFd kernel;
  NodePtr node;
  std::unique_ptr<Backend> user;
  std::unique_ptr<ExportedFile> file;
  std::unique_ptr<Queue> queue;
  bool gone = false;

 private:
  static void append(std::string& bytes, const std::string& text) { bytes += text; }
  template <class T>
  static void append(std::string& bytes, const T& value) {
    bytes.append(reinterpret_cast<const char*>(&value), sizeof value);
  }

  static Task<void> turns(AioContext& context) {
    for (int i = 0; i < 100; ++i) co_await context.yield();
  }
  Task<Answer> hear_one() {
    FdWatch watch(context, kernel.get());
    std::string bytes(256 << 10, '\0');
    ssize_t got = 0;
    while ((got = ::recv(kernel.get(), bytes.data(), bytes.size(), 0)) < 0)
      std::ignore = co_await watch.readable();
    fuse_out_header header;
    if (static_cast<size_t>(got) < sizeof header) throw Error("an answer of {} bytes", got);
    std::memcpy(&header, bytes.data(), sizeof header);
    if (header.len != static_cast<size_t>(got)) throw Error("an answer of another length");
    co_return Answer{header.unique, -header.error,
                     bytes.substr(sizeof header, header.len - sizeof header)};
  }

  uint64_t next_unique_ = 0;
};

}  // namespace

TEST_CASE("the file is opened, looked at and closed") {
  Rig rig;
  fuse_init_in init{};
  init.major = FUSE_KERNEL_VERSION;
  init.minor = FUSE_KERNEL_MINOR_VERSION;
  init.flags = FUSE_ASYNC_READ;
  CHECK(rig.ask(FUSE_INIT, init).as<fuse_init_out>().flags == FUSE_ASYNC_READ);
  auto attributes = rig.ask(FUSE_GETATTR, fuse_getattr_in{}).as<fuse_attr_out>();
  CHECK(attributes.attr.size == kLength);
  CHECK(attributes.attr_valid == 1);
  fuse_open_in open{};
  open.flags = O_RDWR | O_DIRECT;
  CHECK((rig.ask(FUSE_OPEN, open).as<fuse_open_out>().open_flags & FOPEN_DIRECT_IO) != 0);
  open.flags = O_RDWR;
  CHECK((rig.ask(FUSE_OPEN, open).as<fuse_open_out>().open_flags & FOPEN_DIRECT_IO) == 0);
  CHECK(rig.ask(FUSE_STATFS).as<fuse_statfs_out>().st.blocks == kLength / 4096);
  CHECK(rig.ask(FUSE_RELEASE, fuse_release_in{}).error == 0);
}

TEST_CASE("what is written is read, small and large, at any offset") {
  Rig rig;
  for (size_t size : {1, 511, 4096, 4097, 32768, 32769, 100000}) {
    std::string text(size, static_cast<char>('a' + size % 26));
    auto written = rig.write(3, text);
    CHECK(written.error == 0);
    CHECK(written.as<fuse_write_out>().size == size);
    CHECK(rig.stored(3, size) == text);
    CHECK(rig.read(3, size).body == text);
    CHECK(rig.stored(0, 3) == "ddd");
  }
}

TEST_CASE("reads end with the file") {
  Rig rig;
  CHECK(rig.read(kLength - 10, 4096).body == "dddddddddd");
  CHECK(rig.read(kLength, 4096).body.empty());
  CHECK(rig.read(UINT64_MAX, 4096).error == 0);
  CHECK(rig.read(0, 0).error == 0);
}

TEST_CASE("writes end with a file that may not grow") {
  Rig rig;
  CHECK(rig.write(kLength - 2, "xyz").as<fuse_write_out>().size == 2);
  CHECK(rig.write(kLength, "x").error == EIO);
  CHECK(rig.write(UINT64_MAX - 1, "xyz").error == EIO);
  CHECK(Rig::data_of(*rig.node).size() == kLength);
}

TEST_CASE("writes make a growable file larger") {
  Rig rig({.writable = true, .growable = true});
  CHECK(rig.write(kLength + 1000, "end").as<fuse_write_out>().size == 3);
  CHECK(rig.ask(FUSE_GETATTR, fuse_getattr_in{}).as<fuse_attr_out>().attr.size >= kLength + 1003);
  CHECK(rig.write(UINT64_MAX - 1, "xyz").error == EFBIG);
}

TEST_CASE("a file that is not writable is not changed") {
  Rig rig({.writable = false});
  CHECK(rig.write(0, "x").error == EACCES);
  CHECK(rig.allocate(FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096).error != 0);
  fuse_setattr_in set{};
  set.valid = FATTR_SIZE;
  CHECK(rig.ask(FUSE_SETATTR, set).error != 0);
  CHECK(rig.stored(0, kLength) == std::string(kLength, 'd'));
}

TEST_CASE("holes are punched, and modes that are not known refused") {
  Rig rig;
  CHECK(rig.allocate(FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 4096, 8192).error == 0);
  CHECK(rig.stored(4096, 8192) == std::string(8192, '\0'));
  CHECK(rig.stored(12288, 1) == "d");
  CHECK(rig.allocate(0x80000000, 0, 4096).error == EOPNOTSUPP);
  CHECK(rig.allocate(FALLOC_FL_ZERO_RANGE, UINT64_MAX - 1, UINT64_MAX - 1).error != 0);
}

TEST_CASE("data and the end of the file are found") {
  Rig rig;
  CHECK(rig.seek(5, SEEK_DATA).as<fuse_lseek_out>().offset == 5);
  CHECK(rig.seek(5, SEEK_HOLE).as<fuse_lseek_out>().offset == kLength);
  CHECK(rig.seek(kLength, SEEK_DATA).error == ENXIO);
  CHECK(rig.seek(UINT64_MAX, SEEK_HOLE).error == ENXIO);
  CHECK(rig.seek(0, 77).error == EINVAL);
}

TEST_CASE("the node's errors are told") {
  Rig rig;
  rig.behaviour.fail_next = EIO;
  CHECK(rig.read(0, 512).error == EIO);
  rig.behaviour.fail_next = ENOSPC;
  CHECK(rig.write(0, "x").error == ENOSPC);
  CHECK(rig.write(0, "x").error == 0);
  rig.behaviour.fail_next = EIO;
  CHECK(rig.ask(FUSE_FSYNC, fuse_fsync_in{}).error == EIO);
}

TEST_CASE("messages of no sense are refused, and the next one is served") {
  Rig rig;
  CHECK(rig.ask(9999, std::string(300, 'x')).error == ENOSYS);
  CHECK(rig.ask(FUSE_WRITE, Rig::transfer(0, 100), std::string("short")).error == EINVAL);
  CHECK(rig.ask(FUSE_READ, Rig::transfer(0, 2 << 20)).error == EINVAL);
  CHECK(rig.ask(FUSE_SETATTR, std::string("x")).error == EINVAL);
  rig.send_raw("less than a header");
  rig.send(FUSE_FORGET, fuse_forget_in{});
  CHECK(rig.read(0, 3).body == "ddd");
}

TEST_CASE("many requests are under way at once, and each is answered") {
  Rig rig;
  rig.behaviour.yields = true;
  std::map<uint64_t, uint64_t> asked;
  for (uint64_t i = 0; i < 100; ++i) {
    std::memset(Rig::data_of(*rig.node).data() + i * 4096, static_cast<int>('A' + i % 26), 4096);
    asked[rig.send(FUSE_READ, Rig::transfer(i * 4096, 16))] = i;
  }
  for (int i = 0; i < 100; ++i) {
    Answer answer = rig.hear();
    REQUIRE(asked.contains(answer.unique));
    CHECK(answer.body == std::string(16, static_cast<char>('A' + asked[answer.unique] % 26)));
    asked.erase(answer.unique);
  }
}

TEST_CASE("a queue that stops answers what it took") {
  Rig rig;
  rig.behaviour.yields = true;
  for (uint64_t i = 0; i < 10; ++i) rig.send(FUSE_WRITE, Rig::transfer(i, 1), std::string("w"));
  rig.settle();
  rig.run(rig.queue->stop());
  CHECK(rig.user->request_gate()->inside() == 0);
}

TEST_CASE("the end of the mount is noticed") {
  Rig rig;
  CHECK(rig.read(0, 1).error == 0);
  rig.kernel.reset();
  while (!rig.gone) rig.settle();
}

}  // namespace strata::test
