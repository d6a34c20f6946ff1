// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/aio/disk_engine.h"

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <catch2/catch.hpp>
#include <string>

#include "block/aio/aio_context.h"
#include "block/aio/host_disk.h"
#include "block/base/error.h"
#include "tests/unit/aio/scratch_file.h"

namespace strata {
namespace {

std::string refusal(DiskEngine named, bool direct, EngineSupport support) {
  try {
    choose_engine(named, direct, support);
  } catch (const Error& error) {
    return error.text();
  }
  return "";
}

TEST_CASE("The best engine that works is taken where none was named") {
  CHECK(choose_engine({}, true, {}) == DiskEngine::io_uring);
  CHECK(choose_engine({}, false, {}) == DiskEngine::io_uring);
  EngineSupport no_uring{.io_uring = EPERM};
  CHECK(choose_engine({}, true, no_uring) == DiskEngine::native);
  CHECK(choose_engine({}, false, no_uring) == DiskEngine::threads);
  EngineSupport nothing{.native = ENOSYS, .io_uring = ENOSYS};
  CHECK(choose_engine({}, true, nothing) == DiskEngine::threads);
  CHECK(choose_engine({}, false, nothing) == DiskEngine::threads);
}

TEST_CASE("A named engine that cannot be had is refused with the reason") {
  EngineSupport nothing{.native = EAGAIN, .io_uring = EPERM};
  CHECK(refusal(DiskEngine::io_uring, true, nothing) ==
        "Unable to use io_uring: failed to init linux io_uring ring: Operation not permitted");
  CHECK(refusal(DiskEngine::native, true, nothing) ==
        "Unable to use native AIO: failed to create linux AIO context: "
        "Resource temporarily unavailable");
  CHECK(refusal(DiskEngine::native, false, {}) ==
        "aio=native was specified, but it requires cache.direct=on, which was not specified.");
  CHECK(refusal(DiskEngine::threads, false, nothing).empty());
}

// From now on the system calls `first` and `second` are ENOSYS in this process, as in a container
// that forbids them.
bool forbid(unsigned first, unsigned second) {
  std::array<sock_filter, 5> program{{
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, first, 1, 0),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, second, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOSYS),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  }};
  sock_fprog filter{program.size(), program.data()};
  return ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
         ::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) == 0;
}

Task<bool> write_and_read(HostDisk& disk) {
  char out[100] = "hello";
  Status written = co_await disk.write(0, IoVector::buffer(out, sizeof out));
  char in[sizeof out] = "";
  Result<size_t> got = co_await disk.read(0, IoVector::buffer(in, sizeof in));
  Status flushed = co_await disk.flush();
  co_return written.ok() && got.ok() && *got == sizeof in&& flushed.ok() &&
      std::string(in) == "hello";
}

// An exit status that says what went wrong.
int use_disks_without_engines() {
  UniqueFd first = test::scratch_file();
  UniqueFd second = test::scratch_file();
  if (!forbid(SYS_io_uring_setup, SYS_io_setup)) return 100;
  EngineSupport support = EngineSupport::probe();
  if (support.io_uring != ENOSYS || support.native != ENOSYS) return 1;
  AioContext context("test");
  HostDisk unnamed(std::move(first), {}, {.engine = choose_engine({}, false, support)});
  if (!context.run_to_completion(write_and_read(unnamed))) return 2;
  // Chosen when it could be had; in this context it cannot.
  HostDisk hopeful(std::move(second), {}, {.engine = DiskEngine::io_uring});
  if (!context.run_to_completion(write_and_read(hopeful))) return 3;
  return 0;
}

TEST_CASE("Where the kernel allows neither io_uring nor Linux AIO, threads do") {
  pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) ::_exit(use_disks_without_engines());
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  REQUIRE(WIFEXITED(status));
  if (WEXITSTATUS(status) == 100) {
    WARN("no seccomp filters to be had: not tested");
    return;
  }
  CHECK(WEXITSTATUS(status) == 0);
}

}  // namespace
}  // namespace strata
