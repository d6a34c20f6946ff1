// SPDX-License-Identifier: GPL-2.0-or-later
//
// Load for a vhost-user-blk export, whoever serves it: a front end and the drivers of its queues.
//
//   vhost-load --socket PATH [--queues N] [--depth N] [--block BYTES] [--rw MODE] [--seconds N]
//              [--size BYTES] [--packed] [--spin]
//   vhost-load --idle --socket PATH...
//
// MODE is randread, randwrite, read or write. Each queue has a thread that, like a guest, sleeps
// until it is called (or, with --spin, never sleeps), and asks for no more calls than it needs.
// Prints a line of JSON. With --idle it connects and starts the queues of every socket, prints
// "ready" and stays until its standard input ends.
#include <linux/virtio_blk.h>
#include <linux/virtio_config.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>
#include <variant>

#include "block/export/vhost_user/protocol.h"
#include "tests/support/vring.h"

namespace strata::test {
namespace {

using vhost_user::bit;
using vhost_user::Request;
using Clock = std::chrono::steady_clock;

constexpr uint64_t kUserBase = 0x7f0000000000;
constexpr int kConnectTries = 500;
constexpr size_t kMostLatencies = 8 << 20;

[[noreturn]] void fail(const std::string& text) {
  throw std::runtime_error(text);
}

struct Options {
  std::vector<std::string> sockets;
  unsigned queues = 1;
  unsigned depth = 1;
  unsigned block = 4096;
  unsigned seconds = 4;
  uint64_t size = 0;  // of the part that is used; 0: all
  bool writes = false;
  bool random = true;
  bool packed = false;
  bool spin = false;
  bool idle = false;
};

// Where a queue's things lie in the guest's memory.
struct Layout {
  explicit Layout(const Options& options)
      : ring_size(ring_size_for(options.depth)),
        slot(uint64_t{4096} + options.block),
        queue(kRings + options.depth * slot) {}

  static constexpr uint64_t kAvailable = 0x10000;
  static constexpr uint64_t kUsed = 0x20000;
  static constexpr uint64_t kRings = 0x40000;
  // In a slot.
  static constexpr uint64_t kHeader = 0;
  static constexpr uint64_t kStatus = 64;
  static constexpr uint64_t kTable = 128;
  static constexpr uint64_t kData = 4096;

  static uint16_t ring_size_for(unsigned depth) {
    uint16_t size = 128;
    while (size < depth) size = static_cast<uint16_t>(size * 2);
    return size;
  }

  uint16_t ring_size;
  uint64_t slot;
  uint64_t queue;
};

class Connection {
 public:
  explicit Connection(const std::string& path) : fd_(::socket(AF_UNIX, SOCK_STREAM, 0)) {
    sockaddr_un address{.sun_family = AF_UNIX};
    if (path.size() >= sizeof address.sun_path) fail("the path of the socket is too long");
    std::memcpy(address.sun_path, path.data(), path.size());
    // A socket has its name a moment before somebody listens.
    int left = kConnectTries;
    while (::connect(fd_, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) {
      if (errno == ECONNREFUSED && --left != 0)
        std::this_thread::sleep_for(std::chrono::milliseconds(10));
      else
        fail("cannot connect to " + path + " (errno " + std::to_string(errno) + ")");
    }
  }
  ~Connection() { ::close(fd_); }
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  template <class... Words>
  void send(Request request, int fd, Words... words) {
    std::array<std::byte, 128> bytes;
    size_t used = 0;
    auto put = [&](auto word) {
      std::memcpy(&bytes[used], &word, sizeof word);
      used += sizeof word;
    };
    put(static_cast<uint32_t>(request));
    put(uint32_t{vhost_user::kVersion});
    put(static_cast<uint32_t>((sizeof(Words) + ... + 0)));
    (put(words), ...);
    iovec part{bytes.data(), used};
    alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof fd)> control{};
    msghdr message{};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    if (fd >= 0) {
      message.msg_control = control.data();
      message.msg_controllen = control.size();
      cmsghdr* head = CMSG_FIRSTHDR(&message);
      head->cmsg_level = SOL_SOCKET;
      head->cmsg_type = SCM_RIGHTS;
      head->cmsg_len = CMSG_LEN(sizeof fd);
      std::memcpy(CMSG_DATA(head), &fd, sizeof fd);
    }
    if (::sendmsg(fd_, &message, MSG_NOSIGNAL) != static_cast<ssize_t>(used))
      fail("the server has closed the connection");
  }
  // Reads an answer's last 64-bit word, and skips what goes before it.
  uint64_t answer(size_t payload = 8) {
    std::array<std::byte, 512> bytes;
    if (::recv(fd_, bytes.data(), 12 + payload, MSG_WAITALL) != static_cast<ssize_t>(12 + payload))
      fail("the server has closed the connection");
    uint64_t word;
    std::memcpy(&word, &bytes[12 + payload - 8], sizeof word);
    return word;
  }

 private:
  int fd_;
};

// What happened during a run.
struct Counts {
  uint64_t requests = 0;
  uint64_t kicks = 0;
  uint64_t calls = 0;
  uint64_t sleeps = 0;  // of the driver

  void add(const Counts& other) {
    requests += other.requests;
    kicks += other.kicks;
    calls += other.calls;
    sleeps += other.sleeps;
  }
};

class QueueDriver {
 public:
  QueueDriver(const Options& options, const Layout& layout, const FakeGuest& guest, uint64_t base,
              uint64_t disk_bytes)
      : options_(options),
        layout_(layout),
        guest_(guest),
        base_(base),
        blocks_(disk_bytes / options.block),
        kick_(::eventfd(0, EFD_CLOEXEC)),
        call_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)),
        random_(static_cast<uint32_t>(base >> 12) + 1),
        ring_(make_ring(guest.data() + base)) {
    // Whoever never sleeps wants no calls; of a split ring the event's index passes once.
    if (auto* packed = std::get_if<PackedDriver>(&ring_); packed != nullptr && options.spin)
      packed->driver_event().flags = VRING_PACKED_EVENT_FLAG_DISABLE;
    for (uint16_t slot = 0; slot < options.depth; ++slot) prepare(slot);
    started_.resize(options.depth);
    latencies_.reserve(kMostLatencies);
  }
  ~QueueDriver() {
    ::close(kick_);
    ::close(call_);
  }
  QueueDriver(const QueueDriver&) = delete;
  QueueDriver& operator=(const QueueDriver&) = delete;

  void set_up(Connection& connection, uint32_t index) const {
    uint64_t user = kUserBase + base_;
    connection.send(Request::set_vring_num, -1, index, uint32_t{layout_.ring_size});
    connection.send(Request::set_vring_base, -1, index,
                    options_.packed ? uint32_t{0x80008000} : uint32_t{0});
    connection.send(Request::set_vring_addr, -1, index, uint32_t{0}, user, user + Layout::kUsed,
                    user + Layout::kAvailable, uint64_t{0});
    connection.send(Request::set_vring_call, call_, uint64_t{index});
    connection.send(Request::set_vring_kick, kick_, uint64_t{index});
    connection.send(Request::set_vring_enable, -1, index, uint32_t{1});
  }

  void run(Clock::time_point end) {
    Clock::time_point now = Clock::now();
    for (uint16_t slot = 0; slot < options_.depth; ++slot) submit(slot, now);
    kick_if_wanted();
    unsigned under_way = options_.depth;
    while (under_way != 0) {
      unsigned done = reap_all(end, under_way);
      if (done != 0) {
        kick_if_wanted();
      } else if (!options_.spin) {
        wait_for_call();
      }
    }
  }

  const Counts& counts() const { return counts_; }
  std::vector<uint32_t>& latencies() { return latencies_; }

 private:
  using AnyRing = std::variant<SplitDriver, PackedDriver>;

  AnyRing make_ring(std::byte* at) const {
    std::byte* available = at + Layout::kAvailable;
    std::byte* used = at + Layout::kUsed;
    if (options_.packed) return PackedDriver(at, available, used, layout_.ring_size);
    return SplitDriver(at, available, used, layout_.ring_size);
  }
  uint64_t slot_at(uint16_t slot) const { return base_ + Layout::kRings + slot * layout_.slot; }

  // Everything but the sector stays as it is.
  void prepare(uint16_t slot) {
    uint64_t at = slot_at(slot);
    auto* header = guest_.at<virtio_blk_outhdr>(at + Layout::kHeader);
    header->type = options_.writes ? VIRTIO_BLK_T_OUT : VIRTIO_BLK_T_IN;
    auto data_flags = static_cast<uint16_t>(options_.writes ? 0 : VRING_DESC_F_WRITE);
    std::memset(guest_.data() + at + Layout::kData, slot, options_.block);
    if (options_.packed) {
      auto* table = guest_.at<vring_packed_desc>(at + Layout::kTable);
      table[0] = {at + Layout::kHeader, sizeof *header, 0, 0};
      table[1] = {at + Layout::kData, options_.block, 0, data_flags};
      table[2] = {at + Layout::kStatus, 1, 0, VRING_DESC_F_WRITE};
      return;
    }
    auto* table = guest_.at<vring_desc>(at + Layout::kTable);
    table[0] = {at + Layout::kHeader, sizeof *header, VRING_DESC_F_NEXT, 1};
    table[1] = {at + Layout::kData, options_.block,
                static_cast<uint16_t>(data_flags | VRING_DESC_F_NEXT), 2};
    table[2] = {at + Layout::kStatus, 1, VRING_DESC_F_WRITE, 0};
    std::get<SplitDriver>(ring_).descriptor(slot) = {at + Layout::kTable, 48, VRING_DESC_F_INDIRECT,
                                                     0};
  }

  void submit(uint16_t slot, Clock::time_point now) {
    uint64_t at = slot_at(slot);
    uint64_t block = options_.random ? random_() % blocks_ : next_block_++ % blocks_;
    guest_.at<virtio_blk_outhdr>(at)->sector = block * (options_.block / 512);
    *guest_.at<uint8_t>(at + Layout::kStatus) = 0xff;
    started_[slot] = now;
    if (options_.packed) {
      Buffer table{at + Layout::kTable, 48, false};
      std::get<PackedDriver>(ring_).add(slot, {&table, 1}, VRING_DESC_F_INDIRECT);
    } else {
      std::get<SplitDriver>(ring_).make_available(slot);
    }
  }

  unsigned reap_all(Clock::time_point end, unsigned& under_way) {
    unsigned done = 0;
    Clock::time_point now{};
    while (auto used = std::visit([](auto& ring) { return ring.reap(); }, ring_)) {
      if (done++ == 0) now = Clock::now();
      if (*guest_.at<uint8_t>(slot_at(used->id) + Layout::kStatus) != VIRTIO_BLK_S_OK)
        fail("a request failed");
      if (latencies_.size() < kMostLatencies)
        latencies_.push_back(static_cast<uint32_t>((now - started_[used->id]).count()));
      ++counts_.requests;
      if (now < end)
        submit(used->id, now);
      else
        --under_way;
    }
    return done;
  }

  void kick_if_wanted() {
    if (!std::visit([](auto& ring) { return ring.wants_kick(); }, ring_)) return;
    ++counts_.kicks;
    ::eventfd_write(kick_, 1);
  }

  void wait_for_call() {
    std::visit([](auto& ring) { ring.want_call(); }, ring_);
    if (std::visit([](auto& ring) { return ring.has_used(); }, ring_)) return;
    pollfd ready{call_, POLLIN, 0};
    if (::poll(&ready, 1, 30'000) == 0) fail("no answer for half a minute");
    eventfd_t calls = 0;
    ::eventfd_read(call_, &calls);
    counts_.calls += calls;
    ++counts_.sleeps;
  }

  const Options& options_;
  const Layout& layout_;
  const FakeGuest& guest_;
  uint64_t base_;
  uint64_t blocks_;
  int kick_;
  int call_;
  std::minstd_rand random_;
  uint64_t next_block_ = 0;
  AnyRing ring_;
  std::vector<Clock::time_point> started_;
  std::vector<uint32_t> latencies_;
  Counts counts_;
};

// A guest with one device, connected and running.
class Machine {
 public:
  Machine(const Options& options, const std::string& path)
      : layout_(options), guest_(options.queues * layout_.queue), connection_(path) {
    negotiate(options);
    uint64_t disk = capacity();
    if (options.size != 0) disk = std::min(disk, options.size);
    if (disk < options.block) fail("the disk is too small");
    for (uint32_t index = 0; index < options.queues; ++index) {
      queues_.push_back(
          std::make_unique<QueueDriver>(options, layout_, guest_, index * layout_.queue, disk));
      queues_.back()->set_up(connection_, index);
    }
    // What was said before has been done when this is answered.
    connection_.send(Request::get_features, -1);
    connection_.answer();
  }

  std::vector<std::unique_ptr<QueueDriver>>& queues() { return queues_; }

 private:
  void negotiate(const Options& options) {
    connection_.send(Request::get_features, -1);
    uint64_t offered = connection_.answer();
    uint64_t wanted = bit(VIRTIO_F_VERSION_1) | bit(VIRTIO_RING_F_INDIRECT_DESC) |
                      bit(VIRTIO_RING_F_EVENT_IDX) | bit(VIRTIO_BLK_F_FLUSH) |
                      vhost_user::kProtocolFeatures;
    if (options.packed) wanted |= bit(VIRTIO_F_RING_PACKED);
    if ((wanted & ~offered) != 0) fail("the server does not offer what is needed");
    connection_.send(Request::set_owner, -1);
    connection_.send(Request::set_protocol_features, -1,
                     vhost_user::feature::kConfig | vhost_user::feature::kMq);
    connection_.send(Request::get_queue_num, -1);
    if (connection_.answer() < options.queues) fail("the server has fewer queues");
    connection_.send(Request::set_features, -1, wanted);
    connection_.send(Request::set_mem_table, guest_.fd(), uint32_t{1}, uint32_t{0}, uint64_t{0},
                     uint64_t{guest_.size()}, kUserBase, uint64_t{0});
  }
  uint64_t capacity() {
    connection_.send(Request::get_config, -1, uint32_t{0}, uint32_t{8}, uint32_t{0}, uint64_t{0});
    return connection_.answer(20) * 512;
  }

  Layout layout_;
  FakeGuest guest_;
  Connection connection_;
  std::vector<std::unique_ptr<QueueDriver>> queues_;
};

uint64_t number(std::string_view text) {
  uint64_t value = 0;
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value == 0)
    fail("'" + std::string(text) + "' is no number");
  return value;
}

Options parse(int argc, char** argv) {
  Options options;
  auto limited = [](std::string_view text, uint64_t most) {
    uint64_t value = number(text);
    if (value > most) fail("'" + std::string(text) + "' is too large");
    return static_cast<unsigned>(value);
  };
  for (int i = 1; i < argc; ++i) {
    std::string_view name = argv[i];
    if (name == "--packed") {
      options.packed = true;
    } else if (name == "--spin") {
      options.spin = true;
    } else if (name == "--idle") {
      options.idle = true;
    } else if (i + 1 == argc) {
      fail("unknown argument '" + std::string(name) + "'");
    } else if (std::string_view value = argv[++i]; name == "--socket") {
      options.sockets.emplace_back(value);
    } else if (name == "--queues") {
      options.queues = limited(value, 64);
    } else if (name == "--depth") {
      options.depth = limited(value, 1024);
    } else if (name == "--block") {
      options.block = limited(value, 1 << 20) & ~511u;
    } else if (name == "--seconds") {
      options.seconds = limited(value, 3600);
    } else if (name == "--size") {
      options.size = number(value);
    } else if (name == "--rw") {
      options.random = value.starts_with("rand");
      options.writes = value.ends_with("write");
    } else {
      fail("unknown argument '" + std::string(name) + "'");
    }
  }
  if (options.sockets.empty() || (options.sockets.size() > 1 && !options.idle) ||
      options.block == 0)
    fail("one --socket, or several with --idle, are needed, and a block of at least 512 bytes");
  return options;
}

void stay_idle(const Options& options) {
  std::vector<std::unique_ptr<Machine>> machines;
  for (const std::string& path : options.sockets)
    machines.push_back(std::make_unique<Machine>(options, path));
  std::puts("ready");
  std::fflush(stdout);
  while (std::getchar() != EOF) {
  }
}

void drive(QueueDriver& queue, Clock::time_point end) try {
  queue.run(end);
} catch (const std::exception& error) {
  std::fprintf(stderr, "vhost-load: %s\n", error.what());
  std::_Exit(1);
}

unsigned long long number_of(uint64_t value) {
  return value;
}

double percentile(std::vector<uint32_t>& sorted, double part) {
  if (sorted.empty()) return 0;
  return sorted[static_cast<size_t>(part * static_cast<double>(sorted.size() - 1))] / 1e3;
}

void load(const Options& options) {
  Machine machine(options, options.sockets.front());
  Clock::time_point start = Clock::now();
  std::vector<std::thread> threads;
  for (auto& queue : machine.queues())
    threads.emplace_back(drive, std::ref(*queue), start + std::chrono::seconds(options.seconds));
  for (std::thread& thread : threads) thread.join();
  double seconds = std::chrono::duration<double>(Clock::now() - start).count();
  Counts counts;
  std::vector<uint32_t> latencies;
  for (auto& queue : machine.queues()) {
    counts.add(queue->counts());
    latencies.insert(latencies.end(), queue->latencies().begin(), queue->latencies().end());
  }
  std::ranges::sort(latencies);
  std::printf(R"({"requests": %llu, "seconds": %.6f, "p50_us": %.3f, "p99_us": %.3f, )"
              R"("kicks": %llu, "calls": %llu, "sleeps": %llu})"
              "\n",
              number_of(counts.requests), seconds, percentile(latencies, 0.5),
              percentile(latencies, 0.99), number_of(counts.kicks), number_of(counts.calls),
              number_of(counts.sleeps));
}

}  // namespace
}  // namespace strata::test

int main(int argc, char** argv) try {
  strata::test::Options options = strata::test::parse(argc, argv);
  if (options.idle)
    strata::test::stay_idle(options);
  else
    strata::test::load(options);
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "vhost-load: %s\n", error.what());
  return 1;
}
