// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/aio/resolve.h"

#include <linux/vm_sockets.h>
#include <netdb.h>
#include <netinet/in.h>
#include <sys/un.h>

#include <charconv>
#include <cstddef>
#include <cstring>
#include <memory>
#include <thread>

#include "block/base/error.h"
#include "block/coro/executor.h"

namespace strata {
namespace {

using AddressList = std::unique_ptr<addrinfo, void (*)(addrinfo*)>;

struct Lookup {
  int error = 0;  // EAI_...
  AddressList list{nullptr, ::freeaddrinfo};
};

Lookup look_up(const InetAddress& address, addrinfo hints) {
  Lookup result;
  addrinfo* list = nullptr;
  result.error =
      ::getaddrinfo(address.host.empty() ? nullptr : address.host.c_str(),
                    address.port.empty() ? nullptr : address.port.c_str(), &hints, &list);
  result.list.reset(list);
  return result;
}

// getaddrinfo() in a thread of its own: a name server may take its time.
class LookupThread : Resumption {
 public:
  LookupThread(const InetAddress& address, const addrinfo& hints)
      : address_(address), hints_(hints) {}
  bool await_ready() const noexcept { return false; }
  void await_suspend(std::coroutine_handle<> caller) {
    suspend(caller);
    thread_ = std::thread([this] {
      result_ = look_up(address_, hints_);
      resume_later();
    });
  }
  Lookup await_resume() {
    thread_.join();
    return std::move(result_);
  }

 private:
  const InetAddress& address_;
  const addrinfo& hints_;
  Lookup result_;
  std::thread thread_;
};

// What ipv4= and ipv6= leave.
int family_of(const InetAddress& address) {
  if (address.ipv4 == false && address.ipv6 == false)
    throw Error("Cannot disable IPv4 and IPv6 at same time");
  bool want4 = address.ipv4 == true;
  bool want6 = address.ipv6 == true;
  if (want4 && want6) return AF_UNSPEC;
  if (want6 || address.ipv4 == false) return AF_INET6;
  if (want4 || address.ipv6 == false) return AF_INET;
  return AF_UNSPEC;
}

// getaddrinfo() takes a port modulo 65536. None is any.
bool is_port_too_large(std::string_view port) {
  if (port.empty()) return false;
  unsigned long value = 0;
  auto [end, error] = std::from_chars(port.data(), port.data() + port.size(), value);
  return end == port.data() + port.size() && (error != std::errc() || value > 65535);
}

}  // namespace

Task<std::vector<KernelAddress>> resolve(InetAddress address, Purpose purpose) {
  addrinfo hints{};
  hints.ai_family = family_of(address);
  hints.ai_socktype = SOCK_STREAM;
  if (purpose == Purpose::listen) hints.ai_flags |= AI_PASSIVE;
  if (address.numeric) hints.ai_flags |= AI_NUMERICSERV;

  addrinfo numeric = hints;
  numeric.ai_flags |= AI_NUMERICHOST;
  Lookup lookup;
  if (is_port_too_large(address.port))
    lookup.error = EAI_SERVICE;
  else
    lookup = look_up(address, numeric);
  if (lookup.error == EAI_NONAME && !address.numeric && !address.host.empty())
    lookup = co_await LookupThread(address, hints);
  if (lookup.error != 0)
    throw Error("address resolution failed for {}:{}: {}", address.host, address.port,
                ::gai_strerror(lookup.error));

  std::vector<KernelAddress> found;
  for (const addrinfo* entry = lookup.list.get(); entry != nullptr; entry = entry->ai_next) {
    KernelAddress& kernel = found.emplace_back();
    std::memcpy(&kernel.storage, entry->ai_addr, entry->ai_addrlen);
    kernel.size = entry->ai_addrlen;
    if (address.mptcp) kernel.protocol = IPPROTO_MPTCP;
  }
  co_return found;
}

KernelAddress resolve(const UnixAddress& address) {
  KernelAddress kernel;
  auto& un = reinterpret_cast<sockaddr_un&>(kernel.storage);
  size_t room = sizeof un.sun_path - (address.abstract ? 1 : 0);
  if (address.path.size() > room) {
    throw Error("UNIX socket path '{}' is too long", address.path)
        .hint(fmt::format("Path must be less than {} bytes\n", room));
  }
  un.sun_family = AF_UNIX;
  std::memcpy(un.sun_path + (address.abstract ? 1 : 0), address.path.data(), address.path.size());
  kernel.size = sizeof un;
  if (address.abstract && address.tight)
    kernel.size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + address.path.size());
  return kernel;
}

KernelAddress resolve(const VsockAddress& address) {
  auto parse = [](std::string_view what, const std::string& text) {
    uint32_t value = 0;
    auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (text.empty() || error != std::errc() || end != text.data() + text.size())
      throw Error("Failed to parse {} '{}'", what, text);
    return value;
  };
  KernelAddress kernel;
  auto& vm = reinterpret_cast<sockaddr_vm&>(kernel.storage);
  vm.svm_family = AF_VSOCK;
  vm.svm_cid = parse("cid", address.cid);
  vm.svm_port = parse("port", address.port);
  kernel.size = sizeof vm;
  return kernel;
}

}  // namespace strata
