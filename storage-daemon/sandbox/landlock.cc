// SPDX-License-Identifier: GPL-2.0-or-later
//
// Landlock's system calls, which the C library does not have; see landlock(7).
#include "storage-daemon/sandbox/landlock.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>

#include "block/base/error.h"
#include "block/base/unique_fd.h"

namespace strata {
namespace {

// LANDLOCK_ACCESS_FS_*
enum Access : uint64_t {
  kExecute = 1 << 0,
  kWriteFile = 1 << 1,
  kReadFile = 1 << 2,
  kReadDir = 1 << 3,
  kRemoveDir = 1 << 4,
  kRemoveFile = 1 << 5,
  kMakeChar = 1 << 6,
  kMakeDir = 1 << 7,
  kMakeReg = 1 << 8,
  kMakeSock = 1 << 9,
  kMakeFifo = 1 << 10,
  kMakeBlock = 1 << 11,
  kMakeSym = 1 << 12,
  kRefer = 1 << 13,     // since ABI 2
  kTruncate = 1 << 14,  // since ABI 3
  kIoctlDev = 1 << 15,  // since ABI 5
};

constexpr uint64_t kOfAbi1 = (1 << 13) - 1;
constexpr uint64_t kReading = kReadFile | kReadDir;
constexpr uint64_t kWriting =
    kReading | kWriteFile | kRemoveFile | kMakeReg | kMakeSock | kTruncate | kIoctlDev;
// What a rule for a file, not a directory, may have.
constexpr uint64_t kOfFiles = kExecute | kWriteFile | kReadFile | kTruncate | kIoctlDev;

struct RulesetAttributes {
  uint64_t handled_fs = 0;
  uint64_t handled_net = 0;  // since ABI 4
  uint64_t scoped = 0;       // since ABI 6
};
constexpr uint64_t kScopeAbstractSockets = 1 << 0;
constexpr uint64_t kScopeSignal = 1 << 1;

struct [[gnu::packed]] PathAttributes {
  uint64_t allowed = 0;
  int32_t parent = -1;
};

constexpr int kRulePathBeneath = 1;
constexpr unsigned kCreateRulesetVersion = 1;

long create_ruleset(const RulesetAttributes* attributes, size_t size, unsigned flags) noexcept {
  return ::syscall(SYS_landlock_create_ruleset, attributes, size, flags);
}

uint64_t handled_by(long abi) noexcept {
  uint64_t handled = kOfAbi1;
  if (abi >= 2) handled |= kRefer;
  if (abi >= 3) handled |= kTruncate;
  if (abi >= 5) handled |= kIoctlDev;
  return handled;
}

// What does not exist needs no rule.
void allow(int ruleset, const AllowedPath& path, uint64_t handled) {
  UniqueFd fd(::open(path.path.c_str(), O_PATH | O_CLOEXEC));
  struct stat status{};
  if (!fd || ::fstat(fd.get(), &status) != 0) return;
  PathAttributes rule;
  rule.allowed = (path.writable ? kWriting : kReading) & handled;
  if (!S_ISDIR(status.st_mode)) rule.allowed &= kOfFiles;
  rule.parent = fd.get();
  if (::syscall(SYS_landlock_add_rule, ruleset, kRulePathBeneath, &rule, 0) != 0)
    throw Error::from_errno(errno, "Cannot allow '{}' in the sandbox", path.path);
}

}  // namespace

void restrict_files(const std::vector<AllowedPath>& paths, bool abstract_sockets) {
  long abi = create_ruleset(nullptr, 0, kCreateRulesetVersion);
  if (abi < 0)
    throw Error::from_errno(errno, "The kernel has no Landlock, which the sandbox is made of");
  RulesetAttributes attributes;
  attributes.handled_fs = handled_by(abi);
  if (abi >= 6) attributes.scoped = kScopeSignal | (abstract_sockets ? 0 : kScopeAbstractSockets);
  UniqueFd ruleset(static_cast<int>(
      create_ruleset(&attributes, abi >= 6 ? sizeof attributes : sizeof(uint64_t), 0)));
  if (!ruleset) throw Error::from_errno(errno, "Cannot make the sandbox's rules for files");
  for (const AllowedPath& path : paths) allow(ruleset.get(), path, attributes.handled_fs);
  if (::syscall(SYS_landlock_restrict_self, ruleset.get(), 0) != 0)
    throw Error::from_errno(errno, "Cannot apply the sandbox's rules for files");
}

}  // namespace strata
