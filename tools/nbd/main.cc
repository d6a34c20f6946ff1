// SPDX-License-Identifier: GPL-2.0-or-later
//
// strata-nbd: one image as an NBD server, or a look at what another server has.
#include <fcntl.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <charconv>
#include <clocale>
#include <csignal>
#include <cstdio>
#include <cstdlib>

#include "storage-daemon/program/daemonize.h"
#include "tools/nbd/device.h"
#include "tools/nbd/serve.h"

namespace strata::tools {
namespace {

constexpr int kFirstActivatedFd = 3;

long environment_number(const char* name) {
  const char* text = std::getenv(name);
  if (text == nullptr) return -1;
  std::string_view digits = text;
  long value = -1;
  auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
  return error == std::errc() && end == digits.data() + digits.size() ? value : -1;
}

// The socket that a service manager listens on for us.
std::optional<int> activated_socket(const NbdCommandLine& line) {
  long count = environment_number("LISTEN_FDS");
  if (environment_number("LISTEN_PID") != ::getpid() || count <= 0) return std::nullopt;
  ::unsetenv("LISTEN_FDS");
  ::unsetenv("LISTEN_PID");
  if (count > 1) throw Error("qemu-nbd does not support socket activation with LISTEN_FDS > 1");
  auto refuse = [](bool wanted, std::string_view text) {
    if (wanted) throw Error("{}", text);
  };
  refuse(line.port.has_value(), "TCP port number can't be set when using socket activation");
  refuse(line.bind.has_value(), "The interface can't be set when using socket activation");
  refuse(line.socket.has_value(), "Unix socket can't be set when using socket activation");
  refuse(line.connect.has_value(), "NBD device can't be set when using socket activation");
  refuse(line.list, "List mode is incompatible with socket activation");
  refuse(line.selinux_label.has_value(), "SELinux label can't be set when using socket activation");
  if (int flags = ::fcntl(kFirstActivatedFd, F_GETFD); flags < 0)
    throw Error("Socket activation failed: invalid file descriptor fd = {}: {}", kFirstActivatedFd,
                Error::describe_errno(errno));
  ::fcntl(kFirstActivatedFd, F_SETFD, FD_CLOEXEC);
  return kFirstActivatedFd;
}

UniqueFd take_signals() {
  std::signal(SIGPIPE, SIG_IGN);
  std::signal(SIGXFSZ, SIG_IGN);  // a limit of files is an error of the write
  sigset_t signals;
  ::sigemptyset(&signals);
  for (int number : {SIGINT, SIGTERM, SIGHUP}) ::sigaddset(&signals, number);
  ::pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  UniqueFd fd(::signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!fd) throw Error::from_errno(errno, "Cannot receive signals");
  return fd;
}

int disconnect(const std::string& device) {
  KernelDevice::disconnect(device);
  fmt::print("{} disconnected\n", device);
  return 0;
}

int run(int argc, char** argv, Daemonizer& daemonizer) {
  std::setlocale(LC_ALL, "");
  set_program_name(argv[0]);
  NbdStart start;
  start.line = parse_nbd_command_line(argc, argv);
  const NbdCommandLine& line = start.line;
  if (line.exit) return *line.exit;
  if (line.disconnect) return disconnect(*line.disconnect);
  start.passed = activated_socket(line);
  // A device is connected when the program returns.
  if (line.fork || (line.connect && !line.verbose)) daemonizer.begin();
  start.ready = [&daemonizer, &line] { daemonizer.ready(line.verbose); };
  start.signals = take_signals();
  Tool tool(argv[0]);
  if (line.list) return tool.run(list_exports(tool, line));
  return tool.run(serve_image(tool, start));
}

}  // namespace
}  // namespace strata::tools

int main(int argc, char** argv) {
  strata::Daemonizer daemonizer;  // what went wrong is said before the parent ends
  try {
    return strata::tools::run(argc, argv, daemonizer);
  } catch (const strata::Error& error) {
    strata::tools::report(error);
  } catch (const std::exception& error) {
    strata::write_log_line(error.what());
  }
  return EXIT_FAILURE;
}
