// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/drivers/file/file.h"

#include <fcntl.h>
#include <linux/loop.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>

#include "block/aio/main_loop.h"
#include "block/base/aligned_buffer.h"
#include "block/base/error.h"
#include "block/base/unique_fd.h"
#include "block/drivers/builtin.h"
#include "block/graph/layer.h"
#include "block/graph/open.h"
#include "block/io/backend.h"

namespace strata {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t kMiB = 1 << 20;
constexpr Permissions kReader{Permission::consistent_read, kAllPermissions};
constexpr Permissions kWriter{{Permission::consistent_read, Permission::write},
                              kAllPermissions.without(Permission::resize)};

class Directory {
 public:
  Directory() {
    std::string pattern = (fs::path("/var/tmp") / "strata-test-XXXXXX").string();
    REQUIRE(::mkdtemp(pattern.data()) != nullptr);
    path_ = pattern;
  }
  ~Directory() { fs::remove_all(path_); }
  std::string file(const std::string& name, uint64_t size) const {
    std::string path = path_ / name;
    std::ofstream{path};
    fs::resize_file(path, size);
    return path;
  }
  std::string operator/(const std::string& name) const { return path_ / name; }

 private:
  fs::path path_;
};

// A process that holds a lock on one byte of a file while it lives.
class LockHolder {
 public:
  LockHolder(const std::string& path, long byte) {
    int pipe_fds[2];
    REQUIRE(::pipe(pipe_fds) == 0);
    pid_ = ::fork();
    if (pid_ == 0) {
      int fd = ::open(path.c_str(), O_RDWR);
      struct flock lock{};
      lock.l_type = F_RDLCK;
      lock.l_start = byte;
      lock.l_len = 1;
      ::fcntl(fd, F_OFD_SETLK, &lock);
      std::ignore = ::write(pipe_fds[1], "", 1);
      for (;;) ::pause();
    }
    char byte_read = 0;
    REQUIRE(::read(pipe_fds[0], &byte_read, 1) == 1);
    ::close(pipe_fds[0]);
    ::close(pipe_fds[1]);
  }
  ~LockHolder() {
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }
  pid_t pid() const { return pid_; }

 private:
  pid_t pid_;
};

class LoopDevice {
 public:
  LoopDevice(const std::string& file, bool read_only) {
    UniqueFd control(::open("/dev/loop-control", O_RDWR | O_CLOEXEC));
    if (!control) return;
    int number = ::ioctl(control.get(), LOOP_CTL_GET_FREE);
    if (number < 0) return;
    path_ = "/dev/loop" + std::to_string(number);
    UniqueFd backing(::open(file.c_str(), (read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC));
    fd_ = UniqueFd(::open(path_.c_str(), (read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC));
    loop_config config{};
    config.fd = static_cast<__u32>(backing.get());
    config.info.lo_flags = LO_FLAGS_AUTOCLEAR | (read_only ? LO_FLAGS_READ_ONLY : 0);
    if (!fd_ || ::ioctl(fd_.get(), LOOP_CONFIGURE, &config) != 0) path_.clear();
  }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
  UniqueFd fd_;  // the device goes when the last one has closed it
};

struct World {
  AioContext context{"main"};
  MainLoop loop{context};
  BlockLayer layer{loop, builtin_drivers(), [](std::string_view, boost::json::object) {}};

  void run(Task<void> (*body)(World&, std::string), std::string argument) {
    context.run_to_completion(body(*this, std::move(argument)));
  }
};

qapi::BlockdevOptions options_for(const std::string& filename, bool auto_read_only = false,
                                  bool direct = false,
                                  qapi::BlockdevDriver driver = qapi::BlockdevDriver::file) {
  qapi::BlockdevOptions options;
  options.select(driver);
  options.auto_read_only = auto_read_only;
  options.cache.emplace();
  options.cache->direct = direct;
  options.discard = qapi::BlockdevDiscardOptions::unmap;
  options.get_if<qapi::BlockdevOptionsFile>()->filename = filename;
  return options;
}

// What goes wrong when a node is opened, and perhaps used, in this way; empty if nothing does.
Task<std::string> failure(World& world, qapi::BlockdevOptions options,
                          std::optional<Permissions> use = std::nullopt,
                          std::string* hint = nullptr) {
  NodePtr node;
  Backend backend(world.layer);
  std::string text;
  try {
    node = co_await open_node(world.loop, world.layer, std::move(options));
    if (use) backend.attach(world.loop, node, *use);
  } catch (const Error& error) {
    text = error.text();
    if (hint != nullptr) *hint = error.hint_text();
  }
  if (backend.is_attached()) co_await backend.close(world.loop);
  if (node) co_await world.layer.release(world.loop, std::move(node));
  co_return text;
}

// How the descriptors of this process for `path` are open: O_RDONLY or O_RDWR of the latest.
int access_mode(const std::string& path) {
  int highest = -1;
  int mode = -1;
  for (const auto& entry : fs::directory_iterator("/proc/self/fd")) {
    std::error_code error;
    if (fs::read_symlink(entry.path(), error) != path) continue;
    int fd = std::stoi(entry.path().filename());
    int flags = ::fcntl(fd, F_GETFL) & O_ACCMODE;
    if (highest < 0 || flags != O_RDONLY) mode = flags;
    highest = fd;
  }
  return mode;
}

TEST_CASE("What cannot be opened is refused in QEMU's words") {
  World world;
  Directory directory;
  std::string regular = directory.file("a", kMiB);
  auto check = [&](qapi::BlockdevOptions options, const std::string& text) {
    CHECK(world.context.run_to_completion(failure(world, std::move(options))) == text);
  };
  std::string missing = directory / "missing";
  check(options_for(missing), "Could not open '" + missing + "': No such file or directory");
  check(options_for(""), "The 'file' block driver requires a file name");
  check(options_for("/dev/null"), "'file' driver requires '/dev/null' to be a regular file");
  check(options_for("/var/tmp"), "Could not open '/var/tmp': Is a directory");
  check(options_for(regular, false, false, qapi::BlockdevDriver::host_device),
        "'host_device' driver requires '" + regular + "' to be either a character or block device");
  check(options_for("/dev/fdset/999"),
        "Could not dup FD for /dev/fdset/999 flags 2: No such file or directory");
  check(options_for("fd:x"), "Could not open 'fd:x': a descriptor is named by its number");
  std::string fifo = directory / "fifo";
  REQUIRE(::mkfifo(fifo.c_str(), 0600) == 0);
  check(options_for(fifo, true), "'file' driver requires '" + fifo + "' to be a regular file");

  auto native = options_for(regular);
  native.get_if<qapi::BlockdevOptionsFile>()->aio = qapi::BlockdevAioOptions::native;
  check(native,
        "aio=native was specified, but it requires cache.direct=on, which was not specified.");
  auto reservations = options_for(regular);
  reservations.get_if<qapi::BlockdevOptionsFile>()->pr_manager = "helper";
  check(reservations, "No persistent reservation manager with id 'helper'");
}

Task<void> write_and_read(World& world, std::string path) {
  for (bool direct : {false, true}) {
    Backend backend(world.layer);
    backend.attach(world.loop,
                   co_await open_node(world.loop, world.layer, options_for(path, false, direct)),
                   kWriter);
    AlignedBuffer out(10000);
    std::memset(out.data(), 0x5a, out.size());
    Status status = co_await backend.pwritev(333, IoVector::buffer(out.data(), out.size()));
    CHECK(status.ok());
    AlignedBuffer in(10002);
    std::memset(in.data(), 1, in.size());
    status = co_await backend.preadv(332, IoVector::buffer(in.data(), in.size()));
    CHECK(status.ok());
    CHECK(in.data()[0] == std::byte{0});
    CHECK(std::memcmp(in.data() + 1, out.data(), out.size()) == 0);
    CHECK(in.data()[10001] == std::byte{0});
    status = co_await backend.pwrite_zeroes(333, 10000, WriteFlag::may_unmap);
    CHECK(status.ok());
    status = co_await backend.preadv(332, IoVector::buffer(in.data(), in.size()));
    CHECK(status.ok());
    CHECK(is_zero_memory(in.data(), in.size()));
    status = co_await backend.flush();
    CHECK(status.ok());
    co_await backend.close(world.loop);
  }
}

namespace {

Task<void> open_by_descriptor(World& world, std::string path) {
  UniqueFd inherited(::open(path.c_str(), O_RDWR));  // not closed on exec, as those handed down
  UniqueFd ours(::open(path.c_str(), O_RDWR | O_CLOEXEC));
  for (const char* prefix : {"fd:", "/dev/fdset/"})
    CHECK(co_await failure(world, options_for(prefix + std::to_string(inherited.get()))) == "");
  std::string number = std::to_string(ours.get());
  CHECK(co_await failure(world, options_for("fd:" + number)) ==
        "Could not open 'fd:" + number + "': Bad file descriptor");
  CHECK(co_await failure(world, options_for("/dev/fdset/" + number)) ==
        "Could not dup FD for /dev/fdset/" + number + " flags 2: No such file or directory");
}

}  // namespace

TEST_CASE("A descriptor that was handed down is a file, one of our own is not") {
  World world;
  Directory directory;
  world.run(open_by_descriptor, directory.file("disk", 4096));
}

TEST_CASE("Any bytes can be written and read, with and without the page cache") {
  World world;
  Directory directory;
  world.run(write_and_read, directory.file("a", kMiB));
}

Task<void> tell_extents(World& world, std::string path) {
  Backend backend(world.layer);
  backend.attach(world.loop, co_await open_node(world.loop, world.layer, options_for(path)),
                 kWriter);
  AlignedBuffer out(kMiB);
  std::memset(out.data(), 1, out.size());
  Status status = co_await backend.pwritev(0, IoVector::buffer(out.data(), out.size()));
  CHECK(status.ok());
  status = co_await backend.pdiscard(65536, 65536);
  CHECK(status.ok());
  auto data = co_await backend.block_status(0, kMiB);
  REQUIRE(data.ok());
  CHECK(data->status.bytes == 65536);
  CHECK(data->status.flags.has(StatusFlag::data));
  CHECK(data->status.map_offset == 0);
  auto hole = co_await backend.block_status(65536, kMiB - 65536);
  REQUIRE(hole.ok());
  CHECK(hole->status.bytes == 65536);
  CHECK(hole->status.flags.has(StatusFlag::zero));
  co_await backend.close(world.loop);
}

TEST_CASE("Discarded space is a hole") {
  World world;
  Directory directory;
  world.run(tell_extents, directory.file("a", kMiB));
}

TEST_CASE("Another process's locks are respected, and it is named") {
  World world;
  Directory directory;
  std::string path = directory.file("a", kMiB);
  struct Case {
    long byte;
    Permissions use;
    std::string text;
  };
  std::vector<Case> cases{
      {200, kReader, "Failed to get \"consistent read\" lock"},
      {201, kReader, ""},
      {201, kWriter, "Failed to get \"write\" lock"},
      {202, kWriter, ""},
      {103, kWriter, "Failed to get shared \"resize\" lock"},
      {101, kWriter, ""},
      {101,
       {Permission::consistent_read, kAllPermissions.without(Permission::write)},
       "Failed to get shared \"write\" lock"},
  };
  for (const Case& c : cases) {
    LockHolder holder(path, c.byte);
    std::string hint;
    CHECK(world.context.run_to_completion(failure(world, options_for(path), c.use, &hint)) ==
          c.text);
    if (c.text.empty()) continue;
    CHECK(hint.starts_with("Is another process using the image [" + path + "]?\n"));
    CHECK(hint.find("process " + std::to_string(holder.pid()) + " (") != std::string::npos);
  }
  LockHolder holder(path, 201);
  auto unlocked = options_for(path);
  unlocked.get_if<qapi::BlockdevOptionsFile>()->locking = qapi::OnOffAuto::off;
  CHECK(world.context.run_to_completion(failure(world, unlocked, kWriter)).empty());
}

TEST_CASE("Locks go with the node") {
  World world;
  Directory directory;
  std::string path = directory.file("a", kMiB);
  UniqueFd probe(::open(path.c_str(), O_RDWR | O_CLOEXEC));
  CHECK(world.context.run_to_completion(failure(world, options_for(path), kWriter)).empty());
  struct flock lock{};
  lock.l_type = F_WRLCK;
  REQUIRE(::fcntl(probe.get(), F_OFD_GETLK, &lock) == 0);
  CHECK(lock.l_type == F_UNLCK);
}

Task<void> follow_writers(World& world, std::string path) {
  NodePtr node = co_await open_node(world.loop, world.layer, options_for(path, true));
  CHECK(access_mode(path) == O_RDONLY);
  Backend reader(world.layer);
  reader.attach(world.loop, node, kReader);
  CHECK(access_mode(path) == O_RDONLY);
  AlignedBuffer block(4096);
  std::memset(block.data(), 7, block.size());
  IoVector memory = IoVector::buffer(block.data(), block.size());
  for (int round = 0; round < 3; ++round) {
    Backend writer(world.layer);
    writer.attach(world.loop, node, kWriter);
    CHECK(access_mode(path) == O_RDWR);
    Status status = co_await writer.pwritev(0, memory);
    CHECK(status.ok());
    co_await writer.close(world.loop);
    CHECK(access_mode(path) == O_RDONLY);
    status = co_await reader.preadv(0, memory);
    CHECK(status.ok());
  }
  co_await reader.close(world.loop);
  co_await world.layer.release(world.loop, std::move(node));
  CHECK(access_mode(path) == -1);
}

TEST_CASE("A node with auto-read-only is open for writing while there is a writer") {
  World world;
  Directory directory;
  world.run(follow_writers, directory.file("a", kMiB));
}

Task<std::string> resize_failure(World& world, qapi::BlockdevOptions options, uint64_t size,
                                 TruncateOptions how) {
  Backend backend(world.layer);
  backend.attach(world.loop, co_await open_node(world.loop, world.layer, std::move(options)),
                 {kAllPermissions, kAllPermissions});
  std::string text;
  try {
    co_await backend.truncate(size, how);
    CHECK(backend.length() == size);
  } catch (const Error& error) {
    text = error.text();
  }
  co_await backend.close(world.loop);
  co_return text;
}

TEST_CASE("A file is resized, with space reserved if asked") {
  World world;
  Directory directory;
  std::string path = directory.file("a", kMiB);
  auto resize = [&](uint64_t size, qapi::PreallocMode mode) {
    TruncateOptions how{.exact = true, .preallocation = mode};
    return world.context.run_to_completion(resize_failure(world, options_for(path), size, how));
  };
  CHECK(resize(2 * kMiB, qapi::PreallocMode::off).empty());
  CHECK(fs::file_size(path) == 2 * kMiB);
  CHECK(resize(3 * kMiB, qapi::PreallocMode::falloc).empty());
  CHECK(resize(4 * kMiB + 512, qapi::PreallocMode::full).empty());
  CHECK(fs::file_size(path) == 4 * kMiB + 512);
  struct stat info{};
  REQUIRE(::stat(path.c_str(), &info) == 0);
  CHECK(static_cast<uint64_t>(info.st_blocks) * 512 >= 2 * kMiB);
  CHECK(resize(kMiB, qapi::PreallocMode::falloc) == "Cannot use preallocation for shrinking files");
  CHECK(resize(8 * kMiB, qapi::PreallocMode::metadata) ==
        "Unsupported preallocation mode: metadata");
  CHECK(resize(kMiB, qapi::PreallocMode::off).empty());
}

Task<void> use_device(World& world, std::string path) {
  auto options = options_for(path, false, true, qapi::BlockdevDriver::host_device);
  Backend backend(world.layer);
  backend.attach(world.loop, co_await open_node(world.loop, world.layer, options), kWriter);
  CHECK(backend.length() == kMiB);
  AlignedBuffer out(65536);
  std::memset(out.data(), 3, out.size());
  Status status = co_await backend.pwritev(0, IoVector::buffer(out.data(), out.size()));
  CHECK(status.ok());
  status = co_await backend.pwrite_zeroes(100, 5000);
  CHECK(status.ok());
  status = co_await backend.pwrite_zeroes(16384, 16384, WriteFlag::may_unmap);
  CHECK(status.ok());
  status = co_await backend.pdiscard(32768, 4096);
  CHECK(status.ok());
  AlignedBuffer in(65536);
  status = co_await backend.preadv(0, IoVector::buffer(in.data(), in.size()));
  CHECK(status.ok());
  CHECK(in.data()[99] == std::byte{3});
  CHECK(is_zero_memory(in.data() + 100, 5000));
  CHECK(in.data()[5100] == std::byte{3});
  CHECK(is_zero_memory(in.data() + 16384, 16384));
  CHECK(in.data()[40000] == std::byte{3});
  status = co_await backend.flush();
  CHECK(status.ok());
  co_await backend.close(world.loop);
}

TEST_CASE("A block device is a disk") {
  World world;
  Directory directory;
  std::string file = directory.file("a", kMiB);
  LoopDevice device(file, false);
  if (device.path().empty()) {
    WARN("no loop device to be had: not tested");
    return;
  }
  world.run(use_device, device.path());
  auto options = options_for(device.path(), false, false, qapi::BlockdevDriver::host_device);
  auto resize = [&](uint64_t size, bool exact) {
    return world.context.run_to_completion(
        resize_failure(world, options, size, TruncateOptions{.exact = exact}));
  };
  CHECK(resize(2 * kMiB, false) == "Cannot grow device files");
  CHECK(resize(2 * kMiB, true) == "Cannot resize device files");
  CHECK(resize(kMiB, true).empty());
}

TEST_CASE("A write-protected device is not opened for writing") {
  World world;
  Directory directory;
  std::string file = directory.file("a", kMiB);
  LoopDevice device(file, true);
  if (device.path().empty()) {
    WARN("no loop device to be had: not tested");
    return;
  }
  auto options = options_for(device.path(), false, false, qapi::BlockdevDriver::host_device);
  CHECK(world.context.run_to_completion(failure(world, options)) ==
        "The device is not writable: Permission denied");
  options.auto_read_only = true;
  CHECK(world.context.run_to_completion(failure(world, options)).empty());
  CHECK(world.context.run_to_completion(failure(world, options, kWriter)) ==
        "The device is not writable: Permission denied");
}

}  // namespace
}  // namespace strata
