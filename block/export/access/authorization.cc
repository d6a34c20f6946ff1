// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/export/access/authorization.h"

#include <fcntl.h>
#include <security/pam_appl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <vector>

#include "block/aio/aio_context.h"
#include "block/aio/thread_pool.h"
#include "block/base/error.h"
#include "block/base/log.h"
#include "block/base/unique_fd.h"
#include "qapi/runtime/json_parser.h"
#include "qapi/runtime/visitor.h"
#include "qapi/visit_authz.h"

namespace strata {
namespace {

using qapi::QAuthZListFormat;
using qapi::QAuthZListPolicy;
using qapi::QAuthZListRule;

constexpr size_t kMostListFile = 16 << 20;

// '*' stands for any characters, '?' for one.
bool matches_glob(std::string_view pattern, std::string_view text) noexcept {
  size_t p = 0;
  size_t t = 0;
  size_t star = pattern.npos;
  size_t retry = 0;
  while (t < text.size()) {
    if (p < pattern.size() && pattern[p] == '*') {
      star = p++;
      retry = t;
    } else if (p < pattern.size() && (pattern[p] == '?' || pattern[p] == text[t])) {
      ++p;
      ++t;
    } else if (star != pattern.npos) {
      p = star + 1;
      t = ++retry;
    } else {
      return false;
    }
  }
  while (p < pattern.size() && pattern[p] == '*') ++p;
  return p == pattern.size();
}

// The first rule that matches decides.
bool judge(const qapi::AuthZListProperties& list, std::string_view identity) {
  if (list.rules) {
    for (const QAuthZListRule& rule : *list.rules) {
      bool is_glob = rule.format.value_or(QAuthZListFormat::exact) == QAuthZListFormat::glob;
      if (is_glob ? matches_glob(rule.match, identity) : rule.match == identity)
        return rule.policy == QAuthZListPolicy::allow;
    }
  }
  return list.policy.value_or(QAuthZListPolicy::deny) == QAuthZListPolicy::allow;
}

class ListAuthorization final : public Authorization {
 public:
  explicit ListAuthorization(qapi::AuthZListProperties list) : list_(std::move(list)) {}
  Task<bool> allows(std::string identity) override {
    return Task<bool>::ready(judge(list_, identity));
  }

 private:
  qapi::AuthZListProperties list_;
};

class SimpleAuthorization final : public Authorization {
 public:
  explicit SimpleAuthorization(std::string identity) : identity_(std::move(identity)) {}
  Task<bool> allows(std::string identity) override {
    return Task<bool>::ready(identity == identity_);
  }

 private:
  std::string identity_;
};

// What tells one version of a file from another.
struct Version {
  dev_t device = 0;
  ino_t inode = 0;
  off_t size = 0;
  timespec changed{};
  bool operator==(const Version& other) const noexcept {
    return device == other.device && inode == other.inode && size == other.size &&
           changed.tv_sec == other.changed.tv_sec && changed.tv_nsec == other.changed.tv_nsec;
  }
};

std::optional<Version> version_of(const std::string& path) noexcept {
  struct stat info{};
  if (::stat(path.c_str(), &info) != 0) return std::nullopt;
  return Version{info.st_dev, info.st_ino, info.st_size, info.st_ctim};
}

qapi::AuthZListProperties load_list(const std::string& path) {
  UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!fd)
    throw Error("Unable to read '{0}': Failed to open file \u201C{0}\u201D: {1}", path,
                Error::describe_errno(errno));
  std::string text;
  std::array<char, 4096> buffer;
  for (;;) {
    ssize_t got = ::read(fd.get(), buffer.data(), buffer.size());
    if (got < 0) throw Error::from_errno(errno, "Unable to read '{}'", path);
    if (got == 0) break;
    text.append(buffer.data(), static_cast<size_t>(got));
    if (text.size() > kMostListFile) throw Error("Unable to read '{}': too long", path);
  }
  boost::json::value json = qapi::parse_json(text);
  if (!json.is_object()) throw Error("File '{}' must contain a JSON object", path);
  return qapi::from_json<qapi::AuthZListProperties>(json);
}

// Read again whenever it has changed.
class ListFileAuthorization final : public Authorization {
 public:
  explicit ListFileAuthorization(const qapi::AuthZListFileProperties& options)
      : path_(options.filename), refresh_(options.refresh.value_or(true)) {
    version_ = version_of(path_);
    list_ = load_list(path_);
  }

  Task<bool> allows(std::string identity) override {
    if (refresh_) refresh();
    return Task<bool>::ready(list_ && judge(*list_, identity));
  }

 private:
  // A file that cannot be read, or says nothing sensible, lets nobody in.
  void refresh() {
    std::optional<Version> now = version_of(path_);
    if (now == version_ && list_) return;
    try {
      list_ = load_list(path_);
    } catch (const Error& error) {
      log_error("{}", error.text());
      list_.reset();
    }
    version_ = now;
  }

  std::string path_;
  bool refresh_;
  std::optional<Version> version_;
  std::optional<qapi::AuthZListProperties> list_;
};

int answer_nothing(int, const pam_message**, pam_response**, void*) {
  return PAM_CONV_ERR;
}

bool ask_pam(const std::string& service, const std::string& identity) {
  pam_conv conversation{answer_nothing, nullptr};
  pam_handle_t* pam = nullptr;
  int status = ::pam_start(service.c_str(), identity.c_str(), &conversation, &pam);
  if (status != PAM_SUCCESS) {
    log_error("Unable to start PAM transaction: {}", ::pam_strerror(nullptr, status));
    return false;
  }
  status = ::pam_acct_mgmt(pam, PAM_SILENT);
  if (status != PAM_SUCCESS)
    log_error("Unable to authorize user '{}': {}", identity, ::pam_strerror(pam, status));
  ::pam_end(pam, status);
  return status == PAM_SUCCESS;
}

// Modules may wait for the network, so they are asked in a thread.
class PamAuthorization final : public Authorization {
 public:
  explicit PamAuthorization(std::string service) : service_(std::move(service)) {}
  Task<bool> allows(std::string identity) override {
    auto& pool = AioContext::current()->service<ThreadPool>();
    co_return co_await pool.run(
        [service = service_, identity] { return ask_pam(service, identity); });
  }

 private:
  std::string service_;
};

}  // namespace

std::shared_ptr<Authorization> make_authorization(const qapi::AuthZListProperties& options) {
  return std::make_shared<ListAuthorization>(options);
}
std::shared_ptr<Authorization> make_authorization(const qapi::AuthZListFileProperties& options) {
  return std::make_shared<ListFileAuthorization>(options);
}
std::shared_ptr<Authorization> make_authorization(const qapi::AuthZSimpleProperties& options) {
  return std::make_shared<SimpleAuthorization>(options.identity);
}
std::shared_ptr<Authorization> make_authorization(const qapi::AuthZPAMProperties& options) {
  return std::make_shared<PamAuthorization>(options.service);
}

}  // namespace strata
