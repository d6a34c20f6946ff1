# SPDX-License-Identifier: GPL-2.0-or-later
"""Socket activation and readiness as systemd does them."""

import os
import shutil
import signal
import socket
import subprocess
import time

import pytest

from support.nbd_wire import NBD
from support.program import ROOT, daemon_program, slow_factor

UNITS = ROOT / "docs/systemd"


@pytest.fixture
def activate(start):
    """systemd-socket-activate with a daemon that gets the socket as descriptor 3."""
    if not shutil.which("systemd-socket-activate"):
        pytest.skip("systemd-socket-activate is not installed")
    prepared = start.prepare(monitor=False)
    prepared.image(data=b"activated")
    processes = []

    def run(*args):
        processes.append(subprocess.Popen(
            ["systemd-socket-activate", "--listen", prepared.nbd_path, daemon_program(), *args],
            cwd=prepared.path, stderr=subprocess.DEVNULL))
        return prepared

    yield run
    for process in processes:
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) in (0, -signal.SIGTERM)


def connect(path, seconds=30):
    """To a socket that will be there, and listen, soon."""
    deadline = time.monotonic() + seconds * slow_factor()
    while True:
        try:
            return NBD(path)
        except (FileNotFoundError, ConnectionRefusedError):
            assert time.monotonic() < deadline
            time.sleep(0.005)


def test_socket_activation_by_descriptor(activate):
    place = activate("--blockdev", "driver=file,node-name=disk,filename=disk.img",
                     "--nbd-server", "addr.type=fd,addr.str=3",
                     "--export", "nbd,id=e,node-name=disk")
    with connect(place.nbd_path) as client:
        client.open("disk")
        assert client.read(0, 9) == b"activated"


def notify_socket(path):
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sock.bind(path)
    sock.settimeout(20)
    return sock


@pytest.mark.strata_only("QEMU does not notify")
def test_readiness_is_notified(start):
    daemon = start.prepare("--pidfile", "pid")
    with notify_socket(daemon.file("notify")) as sock:
        daemon.env["NOTIFY_SOCKET"] = daemon.file("notify")
        daemon.start()
        words = sock.recv(4096).decode().split("\n")
        assert "READY=1" in words
        # Ready means that everything promised on the command line is there.
        assert os.path.exists(daemon.file("pid"))


@pytest.mark.strata_only("QEMU does not notify")
def test_readiness_on_an_abstract_socket(start):
    name = f"strata-notify-{os.getpid()}"
    with notify_socket("\0" + name) as sock:
        start(env={"NOTIFY_SOCKET": "@" + name})
        assert "READY=1" in sock.recv(4096).decode()


@pytest.mark.strata_only("QEMU does not notify")
def test_end_is_notified(start):
    daemon = start.prepare()
    with notify_socket(daemon.file("notify")) as sock:
        daemon.env["NOTIFY_SOCKET"] = daemon.file("notify")
        daemon.start()
        assert "READY=1" in sock.recv(4096).decode()
        daemon.quit()
        assert "STOPPING=1" in sock.recv(4096).decode()


def test_missing_notify_socket_is_no_failure(start):
    assert start(env={"NOTIFY_SOCKET": "/nonexistent/notify"}).qmp.cmd("query-version")


def test_units_are_valid(tmp_path):
    if not shutil.which("systemd-analyze"):
        pytest.skip("systemd-analyze is not installed")
    units = []
    for unit in UNITS.iterdir():
        if unit.suffix in (".service", ".socket", ".in"):
            name = unit.name.removesuffix(".in")
            text = unit.read_text().replace("@bindir@", "/bin").replace(
                "/bin/strata-storage-daemon", "/bin/true")
            (tmp_path / name).write_text(text)
            units.append(str(tmp_path / name))
    assert units
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", *units], capture_output=True,
                          text=True)
    mine = [line for line in done.stderr.split("\n") if "strata" in line]
    assert not mine, done.stderr
