# SPDX-License-Identifier: GPL-2.0-or-later
"""strata-nbd beside qemu-nbd: the same words, the same exit codes, the same service."""

import os
import re
import signal
import subprocess
import time

import pytest

from support.program import ROOT, is_oracle, slow_factor
from support.tools import nbdinfo, qemu_io, run

pytestmark = pytest.mark.skipif(is_oracle(), reason="tests our own tools")

OURS = str(ROOT / os.environ.get("STRATA_BUILD", "build") / "bin/compat/qemu-nbd")
SIZE = 1 << 20

REFUSED = [
    [], ["-Z"], ["--nosuch"], ["a.img", "b.img"], ["-f", "raw", "nofile"],
    ["--image-opts", "-f", "raw", "a.img"], ["-e", "x", "a.img"], ["-e", "-1", "a.img"],
    ["-f", "raw", "-p", "x", "a.img"], ["-k", "relative", "a.img"], ["--cache=foo", "a.img"],
    ["-n", "--cache=none", "a.img"], ["--aio=foo", "a.img"],
    ["--aio=threads", "--aio=threads", "a.img"],
    ["--discard=foo", "a.img"], ["--discard=on", "--discard=on", "a.img"],
    ["--detect-zeroes=foo", "a.img"], ["--detect-zeroes=unmap", "a.img"], ["-L", "a.img"],
    ["-L", "-x", "foo"], ["-L", "--fork"], ["-L", "-k", "/nosuch/socket"], ["-o", "2M", "a.img"],
    ["-o", "x", "a.img"], ["-f", "raw", "-o", "2097152", "a.img"],
    ["-f", "raw", "-B", "b", "a.img"],
    ["--tls-authz=x", "a.img"], ["--tls-creds=x", "a.img"], ["--tls-hostname=x", "a.img"],
    ["-f", "raw", "-l", "snap", "a.img"], ["--object", "foo,id=x", "a.img"],
    ["--selinux-label=x", "a.img"], ["-c", "/dev/nbd0", "--tls-creds=x", "a.img"],
    ["-d", "/nosuch/nbd0"], ["-f", "raw", "-c", "/nosuch/nbd0", "a.img"],
    ["-x", "x" * 4097, "a.img"],
]


@pytest.fixture
def place(tmp_path):
    (tmp_path / "a.img").write_bytes(b"\x07" * SIZE)
    return tmp_path


@pytest.fixture
def serve(place):
    """Starts servers on place/sock; each must be gone, or is ended, after the test."""
    running = []

    def start(*arguments, program=OURS):
        process = subprocess.Popen([program, "-k", str(place / "sock"), *map(str, arguments)],
                                   cwd=place, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
        running.append(process)
        deadline = time.monotonic() + 30 * slow_factor()
        while not (place / "sock").exists():
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
        return process

    yield start
    for process in running:
        process.kill()
        process.wait()


def uri(place, name=""):
    return f"nbd+unix:///{name}?socket={place}/sock"


@pytest.mark.parametrize("arguments", REFUSED, ids=" ".join)
def test_is_refused_in_the_same_words(place, arguments):
    ours = run(OURS, *arguments, check=False, cwd=place, timeout=20)
    theirs = run("qemu-nbd", *arguments, check=False, cwd=place, timeout=20)
    assert (ours.returncode, ours.stdout) == (theirs.returncode, theirs.stdout)


def test_help_and_version():
    ours, theirs = (run(program, "--help").stdout for program in (OURS, "qemu-nbd"))
    options = re.compile(r"--[a-z-]+")
    assert set(options.findall(theirs)) <= set(options.findall(ours))
    assert run(OURS, "--version").stdout.startswith("qemu-nbd version ")


def test_ends_with_its_only_client(place, serve):
    process = serve("-f", "raw", "a.img")
    qemu_io(uri(place), "read -P 7 0 1M", "write -P 8 0 64k")
    assert process.wait(30 * slow_factor()) == 0
    assert (place / "a.img").read_bytes()[:65536] == b"\x08" * 65536
    assert not (place / "sock").exists()


def test_persistent_server_stays_until_it_is_told(place, serve):
    process = serve("-t", "-e", "2", "-f", "raw", "a.img")
    for _ in range(3):
        qemu_io(uri(place), "read -P 7 0 1M")
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert process.wait(30 * slow_factor()) == 0


def test_export_has_name_description_and_depth(place, serve):
    serve("-t", "-r", "-x", "disk", "-D", "about it", "-A", "-f", "raw", "a.img")
    (export,) = nbdinfo(uri(place, "disk"))["exports"]
    assert export["description"] == "about it" and export["is_read_only"] is True
    assert sorted(export["contexts"]) == ["base:allocation", "qemu:allocation-depth"]


def test_list_is_what_qemu_nbd_lists(place, serve):
    serve("-t", "-e", "3", "-x", "disk", "-D", "about it", "-A", "-f", "raw", "a.img",
          program="qemu-nbd")
    ours, theirs = (run(program, "-L", "-k", place / "sock").stdout
                    for program in (OURS, "qemu-nbd"))
    assert [line for line in ours.splitlines() if "transaction size" not in line] == (
        theirs.splitlines())


def test_offset_shows_a_window(place, serve):
    (place / "a.img").write_bytes(b"\x01" * 65536 + b"\x02" * (SIZE - 65536))
    serve("-o", "65536", "-f", "raw", "a.img")
    qemu_io(uri(place), f"read -P 2 0 {SIZE - 65536}")


def test_snapshot_inside_the_image(place, serve):
    run("qemu-img", "create", "-f", "qcow2", "b.qcow2", "1M", cwd=place)
    run("qemu-io", "-c", "write -P 1 0 64k", "b.qcow2", cwd=place)
    run("qemu-img", "snapshot", "-c", "before", "b.qcow2", cwd=place)
    run("qemu-io", "-c", "write -P 2 0 64k", "b.qcow2", cwd=place)
    serve("-l", "before", "-f", "qcow2", "b.qcow2")
    done = run("qemu-io", "-r", "-f", "raw", "-c", "read -P 1 0 64k", uri(place))
    assert "failed" not in done.stdout


def test_fork_returns_when_the_server_listens(place):
    pid_file = place / "pid"
    run(OURS, "--fork", f"--pid-file={pid_file}", "-t", "-k", place / "sock", "-f", "raw",
        "a.img", cwd=place)
    pid = int(pid_file.read_text())
    try:
        qemu_io(uri(place), "read -P 7 0 1M")
    finally:
        os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + 30 * slow_factor()
    while (place / "sock").exists() or pid_file.exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_fork_that_fails_says_so(place):
    done = run(OURS, "--fork", "-k", place / "sock", "-f", "raw", "nofile", cwd=place, check=False)
    assert done.returncode == 1 and "Could not open 'nofile'" in done.stdout


def test_socket_of_systemd(place):
    command = ["systemd-socket-activate", "-l", str(place / "sock"), OURS, "-f", "raw",
               str(place / "a.img")]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 30 * slow_factor()
        while not (place / "sock").exists():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        qemu_io(uri(place), "read -P 7 0 1M")
        assert process.wait(30 * slow_factor()) == 0
    finally:
        process.kill()
        process.wait()
