// SPDX-License-Identifier: GPL-2.0-or-later
#include "storage-daemon/program/service_store.h"

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <cstdlib>

#include "storage-daemon/program/systemd.h"

namespace strata {
namespace {

constexpr int kSettleMs = 5000;
constexpr size_t kLongestName = 255;

}  // namespace

ServiceStore::ServiceStore(PassedFds& passed) noexcept : passed_(passed) {
  is_there_ = environment_number("FDSTORE") > 0 && std::getenv("NOTIFY_SOCKET") != nullptr;
}

// Without FDPOLL=0 the manager would drop what looks closed from the other side.
void ServiceStore::keep(const std::string& name, int fd) noexcept {
  if (!is_there_ || name.size() > kLongestName) return;
  notify_service_manager("FDSTORE=1\nFDPOLL=0\nFDNAME=" + name, fd);
}

void ServiceStore::forget(const std::string& name) noexcept {
  if (is_there_) notify_service_manager("FDSTOREREMOVE=1\nFDNAME=" + name);
}

UniqueFd ServiceStore::take(const std::string& name) noexcept {
  return is_there_ ? passed_.take(name) : UniqueFd();
}

void ServiceStore::settle() const noexcept {
  int ends[2];
  if (!ending_ || ::pipe2(ends, O_CLOEXEC) != 0) return;
  UniqueFd ours(ends[0]);
  UniqueFd theirs(ends[1]);
  notify_service_manager("BARRIER=1", theirs.get());
  theirs.reset();
  pollfd closed{ours.get(), POLLIN, 0};
  std::ignore = ::poll(&closed, 1, kSettleMs);
}

}  // namespace strata
