// SPDX-License-Identifier: GPL-2.0-or-later
//
// A list of what is refused, not of what is allowed: libraries use what they like, and a daemon
// that dies of an update of the C library is no help to anybody. Files are Landlock's part.
#include "storage-daemon/sandbox/system_calls.h"

#include <sched.h>
#include <seccomp.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <memory>

#include "block/base/error.h"

namespace strata {
namespace {

constexpr std::array kRefused{
    // Other programs.
    "execve", "execveat", "fork", "vfork", "ptrace", "process_vm_readv", "process_vm_writev",
    "kcmp", "pidfd_open", "pidfd_getfd", "pidfd_send_signal", "process_madvise", "personality",
    // Other views of the system, and ways around paths.
    "chroot", "pivot_root", "setns", "unshare", "mount", "umount", "umount2", "move_mount",
    "open_tree", "fsopen", "fsmount", "fsconfig", "fspick", "mount_setattr", "mknod", "mknodat",
    "name_to_handle_at", "open_by_handle_at", "fanotify_init", "quotactl", "quotactl_fd",
    // Files by their names in ways that Landlock has no say over, or only in later kernels.
    "chmod", "fchmodat", "fchmodat2", "chown", "chown32", "lchown", "lchown32", "fchownat",
    "setxattr", "lsetxattr", "setxattrat", "removexattr", "lremovexattr", "removexattrat", "utime",
    "utimes", "futimesat", "utimensat", "utimensat_time64", "truncate", "truncate64",
    // And by a descriptor, for which reading is enough.
    "fchmod", "fchown", "fchown32", "fsetxattr", "fremovexattr",
    // The kernel itself.
    "init_module", "finit_module", "delete_module", "kexec_load", "kexec_file_load", "bpf",
    "perf_event_open", "userfaultfd", "lookup_dcookie", "syslog", "iopl", "ioperm", "modify_ldt",
    "move_pages", "migrate_pages", "add_key", "request_key", "keyctl", "acct",
    // The machine.
    "reboot", "swapon", "swapoff", "sethostname", "setdomainname", "settimeofday", "clock_settime",
    "clock_adjtime", "adjtimex", "vhangup", "nfsservctl", "uselib", "_sysctl", "sysfs", "ustat"};

// Sockets that no export, client or monitor has.
constexpr std::array kRefusedFamilies{AF_PACKET, AF_KEY,       AF_ALG, AF_CAN,
                                      AF_TIPC,   AF_BLUETOOTH, AF_RDS, AF_XDP};

// Typing into the terminal that somebody works at.
constexpr std::array<scmp_datum_t, 2> kRefusedIoctls{TIOCSTI, TIOCLINUX};

// The kernel looks at no more of an int: whatever stands above it must not change the answer.
constexpr scmp_datum_t kInt = 0xffffffff;

using Filter = std::unique_ptr<void, decltype(&seccomp_release)>;

void check(int result, const char* name) {
  // A call that this architecture does not have cannot be made either.
  if (result < 0 && result != -EDOM && result != -EINVAL)
    throw Error::from_errno(-result, "Cannot refuse system call '{}' in the sandbox", name);
}

}  // namespace

void restrict_system_calls(bool io_uring) {
  constexpr uint32_t kAnswer = SCMP_ACT_ERRNO(EPERM);
  Filter filter(seccomp_init(SCMP_ACT_ALLOW), seccomp_release);
  if (!filter) throw Error("Cannot make the sandbox's filter of system calls");
  // A tree of comparisons instead of a list: the calls of every request pass through it.
  seccomp_attr_set(filter.get(), SCMP_FLTATR_CTL_OPTIMIZE, 2);
  for (const char* name : kRefused) {
    int number = seccomp_syscall_resolve_name(name);
    if (number != __NR_SCMP_ERROR) check(seccomp_rule_add(filter.get(), kAnswer, number, 0), name);
  }
  if (!io_uring) {
    check(seccomp_rule_add(filter.get(), kAnswer, SCMP_SYS(io_uring_setup), 0), "io_uring_setup");
    check(seccomp_rule_add(filter.get(), kAnswer, SCMP_SYS(io_uring_enter), 0), "io_uring_enter");
  }
  for (int family : kRefusedFamilies)
    check(seccomp_rule_add(filter.get(), kAnswer, SCMP_SYS(socket), 1,
                           SCMP_A0(SCMP_CMP_MASKED_EQ, kInt, static_cast<scmp_datum_t>(family))),
          "socket");
  for (scmp_datum_t request : kRefusedIoctls)
    check(seccomp_rule_add(filter.get(), kAnswer, SCMP_SYS(ioctl), 1,
                           SCMP_A1(SCMP_CMP_MASKED_EQ, kInt, request)),
          "ioctl");
  // Limits of this process only.
  check(seccomp_rule_add(filter.get(), kAnswer, SCMP_SYS(prlimit64), 1, SCMP_A0(SCMP_CMP_NE, 0)),
        "prlimit64");
  // Threads, but no processes. The flags of clone3() are out of a filter's sight: without it, the C
  // library uses clone().
  check(seccomp_rule_add(filter.get(), kAnswer, SCMP_SYS(clone), 1,
                         SCMP_A0(SCMP_CMP_MASKED_EQ, CLONE_THREAD, 0)),
        "clone");
  check(seccomp_rule_add(filter.get(), SCMP_ACT_ERRNO(ENOSYS), SCMP_SYS(clone3), 0), "clone3");
  int result = seccomp_load(filter.get());
  if (result < 0)
    throw Error::from_errno(-result, "Cannot apply the sandbox's filter of system calls");
}

}  // namespace strata
