// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/aio/fd_sets.h"

#include <fcntl.h>

#include <algorithm>
#include <cerrno>

namespace strata {

int64_t FdSets::add(UniqueFd fd, std::optional<int64_t> set, std::optional<std::string> opaque) {
  int64_t number = set.value_or(0);
  if (!set)
    while (sets_.contains(number)) ++number;
  sets_[number].push_back({std::move(fd), std::move(opaque)});
  return number;
}

bool FdSets::remove(int64_t set, std::optional<int64_t> fd) noexcept {
  auto found = sets_.find(set);
  if (found == sets_.end()) return false;
  Members& members = found->second;
  if (!fd) members.clear();
  if (fd && std::erase_if(members, [&](const Member& m) { return m.fd.get() == *fd; }) == 0)
    return false;
  if (members.empty()) sets_.erase(found);
  return true;
}

UniqueFd FdSets::duplicate(int64_t set, int flags) const noexcept {
  auto found = sets_.find(set);
  errno = ENOENT;
  if (found == sets_.end()) return UniqueFd();
  errno = EACCES;
  for (const Member& member : found->second) {
    int has = ::fcntl(member.fd.get(), F_GETFL);
    if (has < 0 || (has & O_ACCMODE) != (flags & O_ACCMODE)) continue;
    if (((has ^ flags) & O_DIRECT) != 0 && ::fcntl(member.fd.get(), F_SETFL, has ^ O_DIRECT) != 0)
      return UniqueFd();
    return UniqueFd(::fcntl(member.fd.get(), F_DUPFD_CLOEXEC, 0));
  }
  return UniqueFd();
}

}  // namespace strata
