// SPDX-License-Identifier: GPL-2.0-or-later
//
// The storage daemon's program: from the command line to the last flush.
#include <signal.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <exception>

#include "block/aio/fd_watch.h"
#include "block/base/error.h"
#include "block/base/log.h"
#include "block/coro/scope.h"
#include "block/export/fuse/mount_process.h"
#ifdef CONFIG_VDUSE_BLK_EXPORT
#include "block/export/vduse/in_flight_file.h"
#endif
#include "storage-daemon/daemon.h"
#include "storage-daemon/program/command_line.h"
#include "storage-daemon/program/daemonize.h"
#include "storage-daemon/program/pid_file.h"
#include "storage-daemon/program/process_options.h"
#include "storage-daemon/program/systemd.h"
#include "storage-daemon/sandbox/sandbox.h"

namespace strata {
namespace {

void report(const Error& error) {
  if (!error.text().empty()) write_log_line(error.text());
  std::fputs(error.hint_text().c_str(), stderr);
}

// SIGINT, SIGTERM and SIGHUP come through a descriptor, to all threads the same.
UniqueFd take_signals() {
  ::signal(SIGPIPE, SIG_IGN);
  ::signal(SIGXFSZ, SIG_IGN);  // a limit of files is an error of the write
  sigset_t signals;
  ::sigemptyset(&signals);
  for (int number : {SIGINT, SIGTERM, SIGHUP}) ::sigaddset(&signals, number);
  ::pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  UniqueFd fd(::signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!fd) throw Error::from_errno(errno, "Cannot receive signals");
  return fd;
}

Task<void> end_on_signal(MainLoop& loop, Daemon& daemon, int signals, FdWatch& watch,
                         CancelToken cancel) {
  if (!co_await watch.readable(cancel)) co_return;
  signalfd_siginfo signal;
  // The one that a service manager sends, which may be about to start a successor.
  if (::read(signals, &signal, sizeof signal) == sizeof signal && signal.ssi_signo == SIGTERM)
    daemon.service_store().begin_end();
  daemon.request_shutdown();
  // An option may be waiting for a device's first client.
  daemon.interrupt_options(loop);
}

struct Start {
  CommandLine line;
  PassedFds passed;
  Daemonizer daemonizer;
  std::shared_ptr<fuse_export::Mounter> mounter;  // null where the sandbox allows none
};

PidFile make_pid_file(const std::string& path) {
  try {
    return PidFile(path);
  } catch (Error& error) {
    throw std::move(error).prepend("cannot create PID file: ");
  }
}

// Yields the process's exit status.
Task<int> serve(MainLoop& loop, Daemon& daemon, Start& start) {
  PidFile pid_file;
  std::optional<Error> failure;
  try {
    if (auto help = co_await process_options(loop, daemon, start.line)) {
      std::fputs(help->c_str(), stdout);
      daemon.request_shutdown();
    }
    if (!daemon.is_shutting_down()) {
      if (start.line.pidfile) pid_file = make_pid_file(*start.line.pidfile);
      if (start.line.user) become_user(*start.line.user);
      start.daemonizer.ready();
      notify_service_manager("READY=1\nSTATUS=Serving");
    }
  } catch (Error& error) {
    failure = std::move(error);
  }
  if (failure)
    report(daemon.explain(*failure));
  else
    co_await daemon.wait_for_shutdown();
  notify_service_manager("STOPPING=1");
  co_await daemon.shut_down(loop);
  daemon.service_store().settle();
  co_return failure ? EXIT_FAILURE : EXIT_SUCCESS;
}

Task<int> run(MainLoop& loop, UniqueFd signals, Start& start) {
  Daemon daemon(loop, std::move(start.passed), std::move(start.mounter));
  if (start.line.sandbox.on) daemon.set_sandboxed();
  FdWatch watch(loop.context(), signals.get());
  CancelSource stop_watching;
  TaskScope scope;
  scope.spawn(end_on_signal(loop, daemon, signals.get(), watch, stop_watching.token()));
  int status = co_await serve(loop, daemon, start);
  stop_watching.cancel();
  co_await scope.join();
  co_return status;
}

// Who mounts once this process may not. Only where an option asks for it: it has all rights.
std::shared_ptr<fuse_export::Mounter> confine(const CommandLine& line) {
  SandboxNeeds needs{.paths = paths_of_options(line), .user_change = line.user.has_value()};
  // A service manager's socket may be one, too.
  const char* manager = std::getenv("NOTIFY_SOCKET");
  needs.abstract_sockets =
      is_mentioned(line, "abstract") || (manager != nullptr && manager[0] == '@');
  // Disks that come later may want it, and they come over a monitor.
  needs.io_uring = is_mentioned(line, "io_uring") || has_monitor(line);
  std::shared_ptr<fuse_export::Mounter> mounter;
  if (asks_for_export(line, qapi::BlockExportType::fuse)) {
    std::vector<std::string> writable;
    for (const AllowedPath& path : needs.paths)
      if (path.writable) writable.push_back(path.path);
    mounter = fuse_export::start_mount_process(std::move(writable));
    needs.paths.push_back({"/dev/fuse", true});
  }
#ifdef CONFIG_VDUSE_BLK_EXPORT
  if (asks_for_export(line, qapi::BlockExportType::vduse_blk)) {
    needs.paths.push_back({"/dev/vduse", true});
    needs.paths.push_back({vduse::InFlightFile::directory(), true});
  }
#endif
  enter_sandbox(needs);
  return mounter;
}

int main_program(int argc, char** argv, Start& start) {
  start.passed = PassedFds::inherited();
  start.line = parse_command_line(argc, argv);
  if (start.line.message) {
    std::fputs(start.line.message->c_str(), stdout);
    return EXIT_SUCCESS;
  }
  name_activated_sockets(start.passed);
  if (start.line.daemonize) start.daemonizer.begin();
  if (start.line.user) check_user(*start.line.user);
  if (start.line.sandbox.on)
    start.mounter = confine(start.line);
  else
    start.mounter = fuse_export::make_mounter();
  UniqueFd signals = take_signals();
  AioContext context("main-loop");
  MainLoop loop(context);
  return context.run_to_completion(run(loop, std::move(signals), start));
}

}  // namespace
}  // namespace strata

int main(int argc, char** argv) {
  strata::set_program_name(argv[0]);
  strata::Start start;  // what went wrong is said before a parent in the foreground ends
  try {
    return strata::main_program(argc, argv, start);
  } catch (const strata::Error& error) {
    strata::report(error);
  } catch (const std::exception& error) {
    strata::write_log_line(error.what());
  }
  return EXIT_FAILURE;
}
