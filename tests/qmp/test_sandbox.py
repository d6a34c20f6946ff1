# SPDX-License-Identifier: GPL-2.0-or-later
"""What a confined daemon can still do, and what nobody inside it can."""

import contextlib
import ctypes
import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from support import fuse
from support.daemon import Daemon, Failed
from support.program import daemon_program
from support.qmp import QMP

THREADED = ["--object", "iothread,id=t0", "--object", "iothread,id=t1"]

# Runs in a thread of the daemon: waits until the file "go" is there, and writes what the calls of a
# taken-over parser come to, as NAME=ERRNO lines, to a descriptor.
PROBE = r"""
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/xattr.h>
#include <unistd.h>

static void say(int fd, const char* name, long result) {
  dprintf(fd, "%s=%d\n", name, result < 0 ? errno : 0);
}

static void* probe(void* unused) {
  (void)unused;
  const char* go = getenv("PROBE_GO");
  int fd = atoi(getenv("PROBE_FD"));
  while (access(go, F_OK) != 0) usleep(10000);
  char* none[] = {NULL};
  say(fd, "open", open("/etc/shadow", O_RDONLY));
  say(fd, "open-outside", open(getenv("PROBE_OUTSIDE"), O_RDONLY));
  say(fd, "open-inside", open(getenv("PROBE_INSIDE"), O_RDWR));
  say(fd, "create-outside", open(getenv("PROBE_NEW"), O_CREAT | O_WRONLY, 0600));
  say(fd, "chmod-outside", chmod(getenv("PROBE_OUTSIDE"), 04755));
  say(fd, "chown-outside", chown(getenv("PROBE_OUTSIDE"), getuid(), getgid()));
  say(fd, "setxattr-outside", setxattr(getenv("PROBE_OUTSIDE"), "user.probe", "", 0, 0));
  say(fd, "utimens-outside", utimensat(AT_FDCWD, getenv("PROBE_OUTSIDE"), NULL, 0));
  say(fd, "truncate-outside", truncate(getenv("PROBE_OUTSIDE"), 0));
  int shared = open("/usr/bin/env", O_RDONLY);
  say(fd, "fchmod-what-is-readable", fchmod(shared, 0755));
  say(fd, "secrets", open("/etc/ssl/private", O_RDONLY | O_DIRECTORY));
  say(fd, "exec", execve("/bin/true", none, none));
  say(fd, "fork", syscall(SYS_fork));
  say(fd, "clone", syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0));
  say(fd, "ptrace", ptrace(PTRACE_ATTACH, getppid(), 0, 0));
  say(fd, "signal", kill(getppid(), 0));
  say(fd, "limits-of-others", prlimit(getppid(), RLIMIT_NOFILE, NULL, NULL));
  say(fd, "mount", mount("none", "/mnt", "tmpfs", 0, NULL));
  struct sockaddr_un abstract = {AF_UNIX};
  strcpy(abstract.sun_path + 1, getenv("PROBE_ABSTRACT"));
  say(fd, "abstract-socket", connect(socket(AF_UNIX, SOCK_STREAM, 0), (void*)&abstract,
      offsetof(struct sockaddr_un, sun_path) + 1 + strlen(abstract.sun_path + 1)));
  say(fd, "packet", socket(AF_PACKET, SOCK_RAW, 0));
  errno = 0;
  syscall(SYS_socket, AF_ALG | (1UL << 32), SOCK_SEQPACKET, 0);
  say(fd, "family-above-32-bits", errno == EPERM ? -1 : 0);
  errno = 0;
  ioctl(-1, TIOCSTI, "#");
  say(fd, "type", errno == EPERM ? -1 : 0);
  char parameters[120] = {0};
  say(fd, "io-uring", syscall(SYS_io_uring_setup, 1, parameters));
  say(fd, "bpf", syscall(SYS_bpf, 0, NULL, 0));
  say(fd, "end", 0);
  return NULL;
}

/* The daemon's first thread of its own: from then on there is one of ours beside it. */
int pthread_setname_np(pthread_t thread, const char* name) {
  static int started;
  pthread_t own;
  if (getenv("PROBE_GO") != NULL && !__sync_lock_test_and_set(&started, 1))
    pthread_create(&own, NULL, probe, NULL);
  (void)thread;
  (void)name;
  return 0;
}
"""


@pytest.fixture
def elsewhere(tmp_path):
    directory = tmp_path / "elsewhere"
    directory.mkdir()
    (directory / "other.img").write_bytes(bytes(1 << 20))
    return directory


# A search for leaks looks into the process from another one, which the sandbox does not allow.
NO_LEAKS = {"ASAN_OPTIONS": os.environ.get("ASAN_OPTIONS", "") + ":detect_leaks=0"}


def sandboxed(*args, env=None, **options):
    daemon = Daemon("--sandbox", "on", *args, env=dict(NO_LEAKS, **(env or {})), **options)
    daemon.image()
    return daemon


@contextlib.contextmanager
def running(daemon):
    try:
        yield daemon.start()
    finally:
        daemon.stop()


def disk_of(daemon, **options):
    return {"driver": "file", "node-name": "disk", "filename": daemon.file("disk.img"), **options}


def threads_of(process):
    for task in Path(f"/proc/{process.pid}/task").iterdir():
        yield dict(line.split(":\t", 1) for line in (task / "status").read_text().splitlines()
                   if ":\t" in line)


def test_every_thread_is_confined():
    daemon = sandboxed(*THREADED)
    daemon.args += ["--blockdev", json.dumps(disk_of(daemon, aio="threads"))]
    with running(daemon):
        states = list(threads_of(daemon.process))
        assert len(states) >= 3
        for state in states:
            assert state["NoNewPrivs"] == "1"
            assert state["Seccomp"] == "2"
            assert int(state["CapEff"], 16) & ~0x402 == 0  # opening files of others, low ports


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
def test_another_user_has_no_capabilities():
    daemon = sandboxed("--user", "nobody", *THREADED)
    os.chmod(daemon.path, 0o777)
    daemon.args += ["--blockdev", json.dumps(disk_of(daemon))]
    with running(daemon):
        for state in threads_of(daemon.process):
            assert state["CapEff"] == state["CapPrm"] == "0" * 16
            assert state["Uid"].split() == [str(pwd.getpwnam("nobody").pw_uid)] * 4


def test_an_unknown_user_is_refused():
    daemon = Daemon("--user", "nobody-of-that-name")
    with pytest.raises(Failed, match="User 'nobody-of-that-name' doesn't exist"):
        daemon.start()


def test_other_directories_are_closed(elsewhere):
    with running(sandboxed()) as daemon:
        error = daemon.qmp.error("blockdev-add", driver="file", node_name="other",
                                 filename=str(elsewhere / "other.img"))
        assert error == (
            f"Could not open '{elsewhere}/other.img': Permission denied (the sandbox allows the "
            "directories that the command line names, those of --allow-path, and files of "
            "descriptors)")
        daemon.qmp.cmd("blockdev-add", disk_of(daemon))  # its own directory is the socket's


def test_a_path_can_be_allowed(elsewhere):
    with running(sandboxed("--allow-path", str(elsewhere))) as daemon:
        daemon.qmp.cmd("blockdev-add", driver="file", node_name="other",
                           filename=str(elsewhere / "other.img"))


def test_a_descriptor_needs_no_path(elsewhere):
    with open(elsewhere / "other.img", "r+b") as image:
        with running(sandboxed(pass_fds=(image.fileno(),))) as daemon:
            daemon.qmp.cmd("blockdev-add", driver="file", node_name="other",
                           filename=f"/dev/fdset/{image.fileno()}")


def test_a_descriptor_that_comes_later_needs_no_path(elsewhere):
    with open(elsewhere / "other.img", "r+b") as image, running(sandboxed()) as daemon:
        assert "(the sandbox allows" in daemon.qmp.error(
            "chardev-add", id="log", backend={"type": "file", "data": {
                "out": str(elsewhere / "log")}})
        daemon.qmp.with_fds(image.fileno()).cmd("add-fd", fdset_id=1)
        daemon.qmp.cmd("blockdev-add", driver="file", node_name="other",
                       filename="/dev/fdset/1")
        daemon.qmp.cmd("block_resize", node_name="other", size=4 << 20)


def test_links_lead_where_they_lead(elsewhere):
    daemon = sandboxed()
    os.symlink(elsewhere / "other.img", daemon.file("link.img"))
    daemon.args += ["--blockdev", json.dumps(disk_of(daemon, filename=daemon.file("link.img")))]
    with running(daemon):
        assert daemon.qmp.cmd("query-named-block-nodes")


@pytest.mark.skipif(os.geteuid() != 0, reason="makes a file in the root directory")
def test_an_image_in_the_root_directory_opens_nothing_else(elsewhere):
    image = Path(f"/strata-test-{os.getpid()}.img")
    image.write_bytes(bytes(1 << 20))
    try:
        daemon = sandboxed("--blockdev", f"file,node-name=root,filename={image}")
        with running(daemon):
            assert daemon.qmp.error("blockdev-add", driver="file", node_name="other",
                                    filename=str(elsewhere / "other.img")).startswith(
                f"Could not open '{elsewhere}/other.img': Permission denied")
    finally:
        image.unlink()


@pytest.mark.parametrize("aio", ["threads", "native", "io_uring"])
def test_a_disk_is_served(aio):
    options = {"cache": {"direct": True}} if aio == "native" else {}
    daemon = sandboxed("--object", "iothread,id=t0")
    daemon.args += [
        "--blockdev", json.dumps(disk_of(daemon, aio=aio, **options)),
        "--nbd-server", f"addr.type=unix,addr.path={daemon.nbd_path}",
        "--export", "nbd,id=e,node-name=disk,writable=on,iothread=t0"]
    with running(daemon):
        uri = f"nbd+unix:///disk?socket={daemon.nbd_path}"
        for command in (["-c", "write -P 7 0 64k"], ["-c", "read -P 7 0 64k"]):
            done = subprocess.run(["qemu-io", "-f", "raw", *command, uri], capture_output=True,
                                  text=True, check=False)
            assert done.returncode == 0, done.stdout + done.stderr
            assert "Pattern" not in done.stdout


def landlock_version():
    return ctypes.CDLL(None).syscall(444, None, 0, 1)


def test_an_abstract_socket_that_an_option_names_can_be_connected_to():
    with socket.socket(socket.AF_UNIX) as listener:
        name = f"strata-sandbox-{os.getpid()}"
        listener.bind("\0" + name)
        listener.listen()
        listener.settimeout(30)
        with running(sandboxed("--chardev", f"socket,id=c,path={name},abstract=on")):
            listener.accept()[0].close()


def test_in_the_background(tmp_path):
    pid_file = tmp_path / "pid"
    socket = tmp_path / "qmp.sock"
    subprocess.run([daemon_program(), "--sandbox", "on", "--daemonize", "--pidfile", str(pid_file),
                    "--chardev", f"socket,id=c,path={socket},server=on,wait=off",
                    "--monitor", "c"], check=True, timeout=60)
    pid = int(pid_file.read_text())
    assert "Seccomp:\t2" in Path(f"/proc/{pid}/status").read_text()
    QMP.connect(str(socket)).cmd("quit")


def test_a_configuration_may_ask_for_it(elsewhere):
    daemon = Daemon(env=NO_LEAKS)
    config = Path(daemon.file("config.json"))
    daemon.image()
    config.write_text(json.dumps({"sandbox": True, "allow-path": [str(elsewhere)],
                                  "blockdev": [disk_of(daemon)]}))
    daemon.args += ["--config", str(config)]
    with running(daemon):
        assert all(state["Seccomp"] == "2" for state in threads_of(daemon.process))
        daemon.qmp.cmd("blockdev-add", driver="file", node_name="other",
                           filename=str(elsewhere / "other.img"))


def test_the_value_is_checked():
    daemon = Daemon("--sandbox", "maybe")
    with pytest.raises(Failed, match="'sandbox' expects 'on' or 'off'"):
        daemon.start()


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
@pytest.mark.skipif("asan" in os.environ.get("STRATA_BUILD", ""), reason="preloads a library")
@pytest.mark.parametrize("monitor", [True, False])
def test_nothing_can_be_done_from_inside(tmp_path, elsewhere, monitor):
    source = tmp_path / "probe.c"
    source.write_text(PROBE)
    library = tmp_path / "probe.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source, "-lpthread"], check=True)
    reader, writer = os.pipe()
    abstract = socket.socket(socket.AF_UNIX)
    abstract.bind(f"\0strata-probe-{os.getpid()}")
    abstract.listen()
    daemon = sandboxed(*THREADED, monitor=monitor, pass_fds=(writer,), env={
        "LD_PRELOAD": str(library), "PROBE_FD": str(writer), "PROBE_GO": "",
        "PROBE_OUTSIDE": str(elsewhere / "other.img"), "PROBE_NEW": str(elsewhere / "new"),
        "PROBE_ABSTRACT": abstract.getsockname()[1:].decode()})
    daemon.args += ["--blockdev", json.dumps(disk_of(daemon))]
    daemon.env["PROBE_GO"] = daemon.file("go")
    daemon.env["PROBE_INSIDE"] = daemon.file("disk.img")
    with running(daemon):
        os.close(writer)
        Path(daemon.file("go")).touch()
        with os.fdopen(reader) as answers:
            results = {}
            for line in answers:
                name, number = line.strip().split("=")
                results[name] = int(number)
                if name == "end":
                    break
    allowed = {name for name, error in results.items() if error == 0}
    abstract.close()
    if landlock_version() < 6:
        allowed.discard("abstract-socket")
    # Without a monitor no disk that comes later can need it.
    assert allowed == {"open-inside", "end"} | ({"io-uring"} if monitor else set())
    assert not (elsewhere / "new").exists()


# FUSE: somebody else mounts.

@contextlib.contextmanager
def with_fuse(*args):
    """A confined daemon that exports its disk over DIRECTORY/mnt, and that export."""
    daemon = sandboxed(*args)
    file = fuse.Exported(daemon, writable=True)
    daemon.args += [
        "--blockdev", json.dumps(disk_of(daemon)),
        "--export", f"fuse,id=e,node-name=disk,mountpoint={file.path},writable=on"]
    try:
        with running(daemon):
            yield daemon, file
    finally:
        file.close()


@fuse.needed
def test_a_fuse_export_of_the_command_line_is_served_and_unmounted():
    with with_fuse() as (daemon, file):
        assert file.size() == 1 << 20
        os.pwrite(file.open(), b"s" * 4096, 4096)
        assert all(state["Seccomp"] == "2" for state in threads_of(daemon.process))
        file.close_files()
        assert daemon.quit() == 0
        assert not file.is_mounted()
        assert Path(daemon.file("disk.img")).read_bytes()[4096:8192] == b"s" * 4096


@fuse.needed
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_fuse_export_is_unmounted_however_the_daemon_ends(number):
    with with_fuse() as (daemon, file):
        daemon.signal(number)
        daemon.wait()
        fuse.wait_until(lambda: not file.is_mounted(), "the end of the mount")
        daemon.process = None


@fuse.needed
def test_a_fuse_export_can_be_deleted_and_added_where_files_may_be_written(elsewhere):
    with with_fuse() as (daemon, file):
        daemon.qmp.cmd("block-export-del", id="e")
        daemon.qmp.event("BLOCK_EXPORT_DELETED")
        assert not file.is_mounted()
        options = {"type": "fuse", "id": "e", "node-name": "disk"}
        daemon.qmp.cmd("block-export-add", dict(options, mountpoint=file.path))
        assert file.is_mounted()
        daemon.qmp.cmd("block-export-del", id="e")
        daemon.qmp.event("BLOCK_EXPORT_DELETED")
        outside = str(elsewhere / "other.img")
        assert daemon.qmp.error("block-export-add", dict(options, mountpoint=outside)) == (
            f"The sandbox does not allow to mount over '{outside}'")
        os.symlink(outside, daemon.file("link"))
        assert daemon.qmp.error("block-export-add", dict(options, mountpoint=daemon.file("link"))) \
            == f"The sandbox does not allow to mount over '{outside}'"


@fuse.needed
def test_a_fuse_export_with_several_threads_is_served():
    with with_fuse(*THREADED) as (daemon, file):
        daemon.qmp.cmd("block-export-del", id="e")
        daemon.qmp.event("BLOCK_EXPORT_DELETED")
        daemon.qmp.cmd("block-export-add", {
            "type": "fuse", "id": "e", "node-name": "disk", "mountpoint": file.path,
            "iothread": ["t0", "t1"], "writable": True})
        fd = file.open()
        for turn in range(20):
            os.pwrite(fd, bytes([turn]) * 4096, turn * 4096)
            assert os.pread(fd, 4096, turn * 4096) == bytes([turn]) * 4096


@fuse.needed
def test_without_an_option_that_asks_for_one_there_is_no_fuse_export():
    with running(sandboxed()) as daemon:
        daemon.add_null()
        file = fuse.Exported(daemon)
        with pytest.raises(Exception, match="Inside the sandbox there can be FUSE exports only if "
                                            "an option asks for one"):
            file.add()
