# SPDX-License-Identifier: GPL-2.0-or-later
"""A storage daemon in a directory of its own."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

from support.program import daemon_program, slow_factor
from support.qmp import QMP

SANITIZER = re.compile(r"(Address|Leak|Thread|Memory|UndefinedBehavior)Sanitizer|runtime error:")


class Failed(Exception):
    """The daemon ended, or never came up."""


def option(value):
    """An option's argument: a string as it is, anything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value)


class Daemon:
    """Started by start(), ended and examined by stop().

    `path` is its directory (short, so that sockets fit), `qmp` a negotiated client. Arguments
    that are no strings become JSON.
    """

    def __init__(self, *args, monitor=True, oob=False, env=None, pass_fds=(), stdin=None,
                 wrapper=(), path=None):
        self.path = Path(path or tempfile.mkdtemp(prefix="strata-"))
        self.own_path = path is None
        self.args = [option(a) for a in args]
        self.monitor = monitor
        self.oob = oob
        self.env = dict(os.environ, **(env or {}))
        self.pass_fds = pass_fds
        self.stdin = stdin or subprocess.DEVNULL
        self.wrapper = list(wrapper)
        self.process = None
        self.qmp = None
        self.clients = []

    # Places.

    def file(self, name):
        return str(self.path / name)

    @property
    def qmp_path(self):
        return self.file("qmp.sock")

    @property
    def nbd_path(self):
        return self.file("nbd.sock")

    def image(self, name="disk.img", size=1 << 20, data=b""):
        """A raw image in the daemon's directory."""
        with open(self.file(name), "wb") as image:
            image.write(data)
            image.truncate(max(size, len(data)))
        return self.file(name)

    # Life.

    def command(self):
        command = self.wrapper + [daemon_program()] + self.args
        if os.environ.get("STRATA_SANDBOX"):  # any test, confined
            command[len(self.wrapper) + 1:len(self.wrapper) + 1] = ["--sandbox", "on"]
        if self.monitor:
            command += ["--chardev",
                        f"socket,id=test-qmp,path={self.qmp_path},server=on,wait=off",
                        "--monitor", "test-qmp"]
        return command

    def start(self):
        with open(self.file("stderr"), "wb") as stderr, open(self.file("stdout"), "wb") as stdout:
            self.process = subprocess.Popen(
                self.command(), cwd=self.path, env=self.env, stdin=self.stdin, stdout=stdout,
                stderr=stderr, pass_fds=self.pass_fds)
        if self.monitor:
            self.wait_for(lambda: os.path.exists(self.qmp_path), "the QMP socket")
            self.qmp = self.client(oob=self.oob)
        return self

    def client(self, negotiate=True, oob=False):
        """A further QMP client, closed by stop(). A monitor serves one at a time."""
        deadline = time.monotonic() + 20 * slow_factor()
        while True:
            try:
                client = QMP.connect(self.qmp_path, negotiate, oob)
                self.clients.append(client)
                return client
            except (ConnectionRefusedError, FileNotFoundError):
                if self.process.poll() is not None or time.monotonic() > deadline:
                    raise Failed(f"no QMP: {self.stderr}") from None
                time.sleep(0.005)

    def wait_for(self, condition, what, timeout=20):
        deadline = time.monotonic() + timeout * slow_factor()
        while not condition():
            if self.process.poll() is not None:
                raise Failed(f"ended with {self.process.returncode} before {what}: {self.stderr}")
            if time.monotonic() > deadline:
                raise Failed(f"no sign of {what}: {self.stderr}")
            time.sleep(0.005)

    @property
    def pid(self):
        return self.process.pid

    @property
    def stderr(self):
        return Path(self.file("stderr")).read_text(errors="replace")

    @property
    def stdout(self):
        return Path(self.file("stdout")).read_text(errors="replace")

    def alive(self):
        return self.process.poll() is None

    def signal(self, number):
        os.kill(self.pid, number)

    def wait(self, timeout=20):
        """The exit status."""
        return self.process.wait(timeout * slow_factor())

    def quit(self):
        self.qmp.cmd("quit")
        return self.wait()

    def stop(self, status=0):
        """Ends the daemon and asserts that it ended well: status, no sanitizer's report."""
        try:
            if self.process is None:
                return
            if self.alive():
                self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(20 * slow_factor())
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
                raise Failed(f"did not end on SIGTERM: {self.stderr}") from None
            for client in self.clients:
                client.close()
            report = self.stderr
            assert not SANITIZER.search(report), report
            if status is not None:
                assert self.process.returncode == status, (self.process.returncode, report)
        finally:
            if self.own_path:
                shutil.rmtree(self.path, ignore_errors=True)

    # What it holds.

    def fds(self):
        """What its descriptors lead to, sorted."""
        found = []
        for fd in os.listdir(f"/proc/{self.pid}/fd"):
            try:
                # Sockets and anonymous inodes count by kind, as their numbers change.
                found.append(re.sub(r":\[\d+\]", "", os.readlink(f"/proc/{self.pid}/fd/{fd}")))
            except FileNotFoundError:
                pass
        return sorted(found)

    def wait_fds(self, expected, timeout=5):
        """Waits until it holds just these again; fails with the difference."""
        deadline = time.monotonic() + timeout * slow_factor()
        while self.fds() != expected:
            if time.monotonic() > deadline:
                raise AssertionError(f"descriptors {self.fds()}, expected {expected}")
            time.sleep(0.02)

    def status(self, field):
        """A number of /proc/PID/status, in its own unit (kB for memory)."""
        text = Path(f"/proc/{self.pid}/status").read_text()
        return int(re.search(rf"^{field}:\s+(\d+)", text, re.MULTILINE).group(1))

    def threads(self):
        return len(os.listdir(f"/proc/{self.pid}/task"))

    def cpu_seconds(self):
        fields = Path(f"/proc/{self.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    # What nearly every test of an export needs.

    def serve_nbd(self, **server):
        arguments = {"addr": {"type": "unix", "data": {"path": self.nbd_path}}}
        arguments.update({name.replace("_", "-"): value for name, value in server.items()})
        self.qmp.cmd("nbd-server-start", arguments)
        return self.nbd_path

    def export(self, node, name=None, ident="exp0", **options):
        arguments = {"type": "nbd", "id": ident, "node-name": node}
        if name is not None:
            arguments["name"] = name
        arguments.update({key.replace("_", "-"): value for key, value in options.items()})
        self.qmp.cmd("block-export-add", arguments)
        return self.uri(node if name is None else name)

    def uri(self, name=""):
        return f"nbd+unix:///{name}?socket={self.nbd_path}"

    def add_null(self, node="disk", size=1 << 20, **options):
        arguments = {"driver": "null-co", "node-name": node, "size": size, "read-zeroes": True}
        arguments.update({key.replace("_", "-"): value for key, value in options.items()})
        self.qmp.cmd("blockdev-add", arguments)
        return node

    def add_file(self, node="disk", name="disk.img", size=1 << 20, data=b"", **options):
        """A file node over a new image of that size."""
        if not os.path.exists(self.file(name)):
            self.image(name, size, data)
        arguments = {"driver": "file", "node-name": node, "filename": self.file(name)}
        arguments.update({key.replace("_", "-"): value for key, value in options.items()})
        self.qmp.cmd("blockdev-add", arguments)
        return node


def run_daemon(*args, timeout=20, stdin=None, pass_fds=(), cwd=None):
    """Runs the daemon with arguments with which it ends by itself."""
    return subprocess.run([daemon_program()] + [option(a) for a in args], capture_output=True,
                          text=True, timeout=timeout * slow_factor(), input=stdin,
                          stdin=None if stdin is not None else subprocess.DEVNULL,
                          pass_fds=pass_fds, cwd=cwd)


def listening_socket(path):
    """A listening Unix socket to pass to a daemon."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.bind(path)
    sock.listen()
    os.set_inheritable(sock.fileno(), True)
    return sock
