# SPDX-License-Identifier: GPL-2.0-or-later
"""Character devices over QMP."""

import os
import socket
import time

import pytest

from support.daemon import listening_socket
from support.qmp import QMP


def backend(kind, ident="c", **data):
    return {"id": ident, "backend": {"type": kind,
                                     "data": {k.replace("_", "-"): v for k, v in data.items()}}}


def unix(path):
    return {"type": "unix", "data": {"path": path}}


def added(text):
    return f"Failed to add chardev 'c': {text}"


REFUSED = [
    ("no id", {}, "Parameter 'id' is missing"),
    ("no backend", {"id": "c"}, "Parameter 'backend' is missing"),
    ("no data", {"id": "c", "backend": {"type": "null"}}, "Parameter 'backend.data' is missing"),
    ("unknown type", backend("foo"), "Parameter 'type' does not accept value 'foo'"),
    ("ringbuf size", backend("ringbuf", size=100),
     added("size of ringbuf chardev must be power of two")),
    ("file without name", backend("file"), "Parameter 'backend.data.out' is missing"),
    ("file in no directory", backend("file", out="/nonexistent/x"),
     added("Could not open '/nonexistent/x': No such file or directory")),
    ("socket without address", backend("socket"), "Parameter 'backend.data.addr' is missing"),
    ("socket to nowhere", backend("socket", server=False, addr=unix("/nonexistent/s")),
     added("Failed to connect to '/nonexistent/s': No such file or directory")),
    ("socket in no directory", backend("socket", server=True, wait=False,
                                       addr=unix("/nonexistent/s")),
     added("Failed to bind socket to /nonexistent/s: No such file or directory")),
    ("socket wait, client", backend("socket", server=False, wait=False, addr=unix("s")),
     added("'wait' option is incompatible with socket in client connect mode")),
    ("socket path too long", backend("socket", server=True, wait=False, addr=unix("x" * 200)),
     added(f"UNIX socket path '{'x' * 200}' is too long")),
    ("unknown member", backend("null", foo=1), "Parameter 'backend.data.foo' is unexpected"),
]


@pytest.mark.parametrize("arguments, text", [c[1:] for c in REFUSED], ids=[c[0] for c in REFUSED])
def test_refused(daemon, arguments, text):
    before = daemon.fds()
    assert daemon.qmp.error("chardev-add", arguments) == text
    assert [c["label"] for c in daemon.qmp.cmd("query-chardev")] == ["test-qmp"]
    daemon.wait_fds(before)


def test_socket_with_unknown_credentials_is_refused(qmp):
    assert qmp.error("chardev-add", backend(
        "socket", server=True, wait=False, tls_creds="x",
        addr={"type": "inet", "data": {"host": "127.0.0.1", "port": "0"}})).startswith(added(""))


@pytest.mark.strata_only("7.2 counts in seconds")
def test_server_does_not_reconnect(qmp):
    assert qmp.error("chardev-add", backend("socket", server=True, reconnect_ms=1000,
                                            addr=unix("s"))) == (
        added("'reconnect' option is incompatible with socket in server listen mode"))


def test_used_id_is_refused(qmp):
    qmp.cmd("chardev-add", backend("null"))
    assert qmp.error("chardev-add", backend("null")) == "Chardev with id 'c' already exists"


KINDS = [
    backend("null"), backend("ringbuf"), backend("ringbuf", size=16), backend("memory", size=16),
    backend("file", out="out"), backend("file", out="out", append=True), backend("pty"),
    backend("null", logfile="log"), backend("socket", server=True, wait=False, addr=unix("s")),
]


@pytest.mark.parametrize("arguments", KINDS, ids=[str(i) + k["backend"]["type"]
                                                  for i, k in enumerate(KINDS)])
def test_added_and_removed_without_a_trace(daemon, arguments):
    before = daemon.fds()
    daemon.qmp.cmd("chardev-add", arguments)
    assert {c["label"] for c in daemon.qmp.cmd("query-chardev")} == {"test-qmp", "c"}
    daemon.qmp.cmd("chardev-remove", id="c")
    assert {c["label"] for c in daemon.qmp.cmd("query-chardev")} == {"test-qmp"}
    daemon.wait_fds(before)


def test_pty_tells_its_name(qmp):
    reply = qmp.cmd("chardev-add", backend("pty"))
    assert set(reply) == {"pty"} and reply["pty"].startswith("/dev/pts/")


@pytest.mark.parametrize("kind, name", [("null", "null"), ("ringbuf", "ringbuf")])
def test_query_names_the_kind(qmp, kind, name):
    qmp.cmd("chardev-add", backend(kind))
    assert {"label": "c", "filename": name, "frontend-open": False} in qmp.cmd("query-chardev")


def test_query_of_the_monitor_itself(daemon):
    assert daemon.qmp.cmd("query-chardev") == [
        {"label": "test-qmp", "filename": f"unix:{daemon.qmp_path},server=on",
         "frontend-open": True}]


def test_query_of_a_listening_socket(daemon):
    path = daemon.file("s")
    daemon.qmp.cmd("chardev-add", backend("socket", server=True, wait=False, addr=unix(path)))
    assert {"label": "c", "filename": f"disconnected:unix:{path},server=on",
            "frontend-open": False} in daemon.qmp.cmd("query-chardev")


def test_backends(qmp):
    found = {b["name"] for b in qmp.cmd("query-chardev-backends")}
    assert {"socket", "stdio", "file", "null", "pty", "ringbuf"} <= found


def test_remove_refused(qmp):
    assert qmp.error("chardev-remove", id="nosuch") == "Chardev 'nosuch' not found"


def test_used_chardev_is_not_removed(qmp):
    assert qmp.error("chardev-remove", id="test-qmp") == "Chardev 'test-qmp' is busy"


def test_change_of_what_is_not_there(qmp):
    assert qmp.error("chardev-change", backend("null", "nosuch")) == (
        "Chardev 'nosuch' does not exist")


def test_change_of_a_monitor_is_refused(qmp):
    assert qmp.error("chardev-change", backend("null", "test-qmp")) == (
        "Chardev user does not support chardev hotswap")


def test_change(qmp):
    qmp.cmd("chardev-add", backend("ringbuf"))
    qmp.cmd("chardev-change", backend("null"))
    assert {"label": "c", "filename": "null", "frontend-open": False} in qmp.cmd("query-chardev")


def test_send_break(qmp):
    qmp.cmd("chardev-add", backend("null"))
    assert qmp.cmd("chardev-send-break", id="c") == {}
    assert qmp.error("chardev-send-break", id="x") == "Chardev 'x' not found"


# Ring buffers.

@pytest.fixture
def ring(qmp):
    qmp.cmd("chardev-add", backend("ringbuf", size=16))
    return qmp


def test_ring_gives_back_what_was_written(ring):
    ring.cmd("ringbuf-write", device="c", data="hello")
    assert ring.cmd("ringbuf-read", device="c", size=100) == "hello"
    assert ring.cmd("ringbuf-read", device="c", size=100) == ""


def test_ring_is_read_in_parts(ring):
    ring.cmd("ringbuf-write", device="c", data="hello")
    assert [ring.cmd("ringbuf-read", device="c", size=2) for _ in range(3)] == ["he", "ll", "o"]


def test_ring_forgets_the_oldest(ring):
    ring.cmd("ringbuf-write", device="c", data="0123456789abcdefXYZ")
    assert ring.cmd("ringbuf-read", device="c", size=100) == "3456789abcdefXYZ"


def test_ring_in_base64(ring):
    ring.cmd("ringbuf-write", device="c", data="aGVsbG8=", format="base64")
    assert ring.cmd("ringbuf-read", device="c", size=100, format="base64") == "aGVsbG8="


def test_ring_of_utf8(ring):
    ring.cmd("ringbuf-write", device="c", data="é")
    assert ring.cmd("ringbuf-read", device="c", size=100) == "é"


@pytest.mark.parametrize("command, arguments, text", [
    ("ringbuf-write", {}, "Parameter 'device' is missing"),
    ("ringbuf-write", {"device": "x", "data": "x"}, "Device 'x' not found"),
    ("ringbuf-write", {"device": "test-qmp", "data": "x"}, "test-qmp is not a ringbuf device"),
    ("ringbuf-write", {"device": "c", "data": "@@", "format": "base64"},
     "Base64 data contains invalid characters"),
    ("ringbuf-write", {"device": "c", "data": "x", "format": "foo"},
     "Parameter 'format' does not accept value 'foo'"),
    ("ringbuf-read", {}, "Parameter 'device' is missing"),
    ("ringbuf-read", {"device": "x", "size": 1}, "Device 'x' not found"),
    ("ringbuf-read", {"device": "test-qmp", "size": 1}, "test-qmp is not a ringbuf device"),
    ("ringbuf-read", {"device": "c", "size": 0}, "size must be greater than zero"),
    ("ringbuf-read", {"device": "c", "size": -1}, "size must be greater than zero"),
])
def test_ring_refused(ring, command, arguments, text):
    assert ring.error(command, arguments) == text


# Monitors on other devices.

def test_monitor_on_an_abstract_socket(start):
    name = f"strata-test-{os.getpid()}"
    start("--chardev", f"socket,id=m,path={name},abstract=on,server=on,wait=off",
          "--monitor", "m")
    client = QMP.connect("\0" + name)
    assert client.cmd("query-version")
    client.close()


def test_monitor_on_loopback(start):
    free = socket.socket()
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
    free.close()
    start("--chardev", f"socket,id=m,host=127.0.0.1,port={port},server=on,wait=off",
          "--monitor", "m")
    client = QMP.connect(("127.0.0.1", port))
    assert client.cmd("query-version")
    client.close()


def test_monitor_on_a_passed_socket(start):
    prepared = start.prepare(monitor=False)
    with listening_socket(prepared.qmp_path) as sock:
        prepared.args = ["--chardev", f"socket,id=m,fd={sock.fileno()},server=on",
                         "--monitor", "m"]
        prepared.pass_fds = [sock.fileno()]
        prepared.start()
    client = QMP.connect(prepared.qmp_path)
    assert client.cmd("query-version")
    client.close()


def test_monitor_that_connects(start):
    prepared = start.prepare(monitor=False)
    with listening_socket(prepared.file("up.sock")) as sock:
        prepared.args = ["--chardev", "socket,id=m,path=up.sock", "--monitor", "m"]
        prepared.start()
        sock.settimeout(10)
        client = QMP(sock.accept()[0])
    client.negotiate()
    assert client.cmd("query-version")
    client.close()


def test_monitor_that_connects_again(start):
    prepared = start.prepare(monitor=False)
    with listening_socket(prepared.file("up.sock")) as sock:
        prepared.args = ["--chardev", "socket,id=m,path=up.sock,reconnect=1", "--monitor", "m"]
        prepared.start()
        sock.settimeout(10)
        for _ in range(2):
            client = QMP(sock.accept()[0])
            client.negotiate()
            client.close()


def test_server_that_waits_holds_up_the_start(start):
    prepared = start.prepare("--chardev", "socket,id=m,path=w.sock,server=on,wait=on",
                             "--monitor", "m", "--pidfile", "pid", monitor=False)
    prepared.start()
    prepared.wait_for(lambda: os.path.exists(prepared.file("w.sock")), "the socket")
    time.sleep(0.2)
    assert not os.path.exists(prepared.file("pid"))
    client = QMP.connect(prepared.file("w.sock"))
    prepared.wait_for(lambda: os.path.exists(prepared.file("pid")), "the pid file")
    client.close()


def test_monitor_on_a_pty(start):
    daemon = start("--chardev", "pty,id=m", "--monitor", "m")
    name = [c["filename"] for c in daemon.qmp.cmd("query-chardev") if c["label"] == "m"][0]
    assert name.startswith("pty:/dev/pts/")
    with open(name[4:], "rb+", buffering=0) as tty:
        import tty as modes
        modes.setraw(tty.fileno())
        data = b""
        deadline = time.monotonic() + 10
        tty.write(b'{"execute": "qmp_capabilities", "id": "here"}\n')
        while b'"here"' not in data.split(b'"return"')[-1] and time.monotonic() < deadline:
            data += tty.read(4096)
    assert b'"return": {}' in data


def test_monitor_output_into_a_file(start):
    daemon = start("--chardev", "file,id=m,path=out.txt", "--monitor", "m")
    daemon.wait_for(lambda: os.path.getsize(daemon.file("out.txt")) > 0, "the greeting")
    with open(daemon.file("out.txt")) as text:
        assert text.read().startswith('{"QMP": ')
