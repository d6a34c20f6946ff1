// SPDX-License-Identifier: GPL-2.0-or-later
#include "storage-daemon/sandbox/sandbox.h"

#include <cap-ng.h>
#include <grp.h>
#include <pwd.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <array>
#include <cerrno>

#include "storage-daemon/sandbox/landlock.h"
#include "storage-daemon/sandbox/system_calls.h"

namespace strata {
namespace {

// For opening images of other users, and for ports below 1024.
constexpr std::array kKept{CAP_DAC_OVERRIDE, CAP_NET_BIND_SERVICE};

// What libraries and drivers read besides: names and time, TLS priorities, the shape of disks.
constexpr std::array kRead{"/etc/hosts",
                           "/etc/host.conf",
                           "/etc/resolv.conf",
                           "/etc/gai.conf",
                           "/etc/services",
                           "/etc/nsswitch.conf",
                           "/etc/localtime",
                           "/etc/passwd",
                           "/etc/group",
                           "/etc/gnutls",
                           "/etc/ssl/certs",
                           "/etc/ssl/openssl.cnf",
                           "/lib",
                           "/lib64",
                           "/etc/ld.so.cache",
                           "/usr",
                           "/run/systemd/resolve",
                           "/run/resolvconf",
                           "/sys",
                           "/proc/self",
                           "/proc/sys",
                           "/proc/cpuinfo"};
constexpr std::array kUsed{"/dev/null",   "/dev/zero", "/dev/urandom",
                           "/dev/random", "/dev/ptmx", "/dev/pts"};

void drop_capabilities(bool keep_user_change) {
  if (capng_get_caps_process() != 0) throw Error("Cannot read the process's capabilities");
  std::vector<int> kept;
  for (int capability : kKept)
    if (capng_have_capability(CAPNG_PERMITTED, capability) != 0) kept.push_back(capability);
  if (keep_user_change)
    for (int capability : {CAP_SETUID, CAP_SETGID})
      if (capng_have_capability(CAPNG_PERMITTED, capability) != 0) kept.push_back(capability);
  // The bounding set limits programs that are run: none will be, so it may be left where it cannot
  // be changed.
  bool bounding = capng_have_capability(CAPNG_EFFECTIVE, CAP_SETPCAP) != 0;
  capng_clear(CAPNG_SELECT_BOTH);
  for (int capability : kept)
    capng_update(CAPNG_ADD, static_cast<capng_type_t>(CAPNG_EFFECTIVE | CAPNG_PERMITTED),
                 static_cast<unsigned>(capability));
  if (capng_apply(bounding ? CAPNG_SELECT_BOTH : CAPNG_SELECT_CAPS) != 0)
    throw Error("Cannot drop capabilities");
}

const passwd* find_user(const std::string& name) {
  const passwd* user = ::getpwnam(name.c_str());
  if (user == nullptr) throw Error("User '{}' doesn't exist", name);
  return user;
}

}  // namespace

void enter_sandbox(const SandboxNeeds& needs) {
  if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0)
    throw Error::from_errno(errno, "Cannot give up new privileges");
  std::vector<AllowedPath> all = needs.paths;
  for (const char* path : kRead) all.push_back({path, false});
  for (const char* path : kUsed) all.push_back({path, true});
  drop_capabilities(needs.user_change);
  restrict_files(all, needs.abstract_sockets);
  restrict_system_calls(needs.io_uring);
}

void check_user(const std::string& name) {
  find_user(name);
}

void become_user(const std::string& name) {
  const passwd* user = find_user(name);
  // The C library makes all threads do the same.
  if (::initgroups(user->pw_name, user->pw_gid) != 0)
    throw Error::from_errno(errno, "Cannot take the groups of user '{}'", name);
  if (::setgid(user->pw_gid) != 0 || ::setuid(user->pw_uid) != 0)
    throw Error::from_errno(errno, "Cannot become user '{}'", name);
  if (user->pw_uid != 0 && ::setuid(0) == 0) throw Error("Dropping privileges failed");
}

Error explain_refusal(Error error) {
  bool refused = error.text().ends_with("Permission denied") ||
                 error.text().ends_with("Operation not permitted");
  if (!refused) return error;
  return Error(
      "{} (the sandbox allows the directories that the command line names, those of --allow-path, "
      "and files of descriptors)",
      error.text());
}

}  // namespace strata
