# SPDX-License-Identifier: GPL-2.0-or-later
"""The nbd driver as a client: of qemu-nbd, nbdkit and ourselves, and of servers that misbehave."""

import contextlib
import json
import os
import re
import signal
import socket
import struct
import subprocess
import threading

import pytest

from support import nbd_wire as wire
from support.program import ROOT, is_oracle, slow_factor
from support.tools import is_listening, run, wait_until

pytestmark = pytest.mark.skipif(is_oracle(), reason="tests our own tools")

TOOLS = ROOT / os.environ.get("STRATA_BUILD", "build") / "bin"
IMG, IO, NBD = (str(TOOLS / f"strata-{name}") for name in ("img", "io", "nbd"))
SIZE = 4 << 20


def strata_io(uri, *commands, check=True):
    words = [word for command in commands for word in ("-c", command)]
    done = run(IO, "-f", "raw", *words, uri, check=False)
    if check:
        assert done.returncode == 0 and "failed" not in done.stdout, done.stdout
    return done.stdout


@pytest.fixture
def place(tmp_path):
    """An image of SIZE bytes, and a socket's path."""
    (tmp_path / "disk.img").write_bytes(os.urandom(1 << 20) + bytes(SIZE - (1 << 20)))
    return tmp_path


@pytest.fixture
def server():
    """Starts servers; each is ended."""
    running = []

    def start(*command, path):
        process = subprocess.Popen([str(c) for c in command], stdin=subprocess.DEVNULL)
        running.append(process)
        wait_until(lambda: is_listening(path) or process.poll() is not None, path)
        assert process.poll() is None
        return process

    yield start
    for process in running:
        process.kill()
        process.wait()


def peer(name, place, sock):
    image = place / "disk.img"
    return {
        "qemu-nbd": ["qemu-nbd", "-t", "-e", "9", "-f", "raw", "-k", sock, image],
        "strata-nbd": [NBD, "-t", "-e", "9", "-f", "raw", "-k", sock, image],
        "nbdkit": ["nbdkit", "-f", "-U", sock, "file", image],
        "nbdkit without structured replies": ["nbdkit", "-f", "--no-sr", "-U", sock, "file", image],
        "old style": ["nbdkit", "-f", "-o", "-U", sock, "file", image],
    }[name]


@pytest.mark.parametrize("name", ["qemu-nbd", "strata-nbd", "nbdkit",
                                  "nbdkit without structured replies"])
def test_reads_writes_and_copies(place, server, name):
    sock = str(place / "sock")
    server(*peer(name, place, sock), path=sock)
    uri = f"nbd+unix:///?socket={sock}"
    strata_io(uri, "write -P 5 64k 1M", "read -P 5 64k 1M", "write -z 128k 64k",
              "read -P 0 128k 64k", "discard 2M 1M", "flush", "aio_write -P 6 3M 512k",
              "aio_write -P 7 3584k 64k", "aio_flush", "read -P 6 3M 512k", "read -P 7 3584k 64k")
    run(IMG, "convert", "-f", "raw", "-O", "raw", uri, place / "copy.img")
    assert (place / "copy.img").read_bytes() == (place / "disk.img").read_bytes()


def test_old_style_server_is_read(place, server):
    """nbdkit offers flush in this style and refuses it, so only reading is asked for."""
    sock = str(place / "sock")
    server(*peer("old style", place, sock), path=sock)
    done = run(IO, "-r", "-f", "raw", "-c", "read -P 0 1M 3M", f"nbd+unix:///?socket={sock}")
    assert "read 3145728/3145728" in done.stdout and "failed" not in done.stdout


@pytest.mark.parametrize("name", ["qemu-nbd", "strata-nbd", "nbdkit"])
def test_map_is_what_qemu_img_says(place, server, name):
    sock = str(place / "sock")
    server(*peer(name, place, sock), path=sock)
    options = f"driver=raw,file.driver=nbd,file.server.type=unix,file.server.path={sock}"
    maps = []
    for tool in (IMG, "qemu-img"):
        text = run(tool, "map", "--output=json", "--image-opts", options).stdout
        maps.append([{key: each[key] for key in ("start", "length", "zero", "data")}
                     for each in json.loads(text)])
    assert maps[0] == maps[1]


@pytest.mark.parametrize("form", [
    "nbd+unix:///?socket={sock}", "nbd:unix:{sock}",
    'json:{{"driver":"nbd","path":"{sock}"}}',
])
def test_every_form_of_a_name(place, server, form):
    sock = str(place / "sock")
    server(*peer("qemu-nbd", place, sock), path=sock)
    name = form.format(sock=sock)
    ours, theirs = (run(tool, "info", "--output=json", name).stdout for tool in (IMG, "qemu-img"))
    for key in ("filename", "virtual-size", "format"):
        assert json.loads(ours)[key] == json.loads(theirs)[key]


@pytest.mark.parametrize("options,text", [
    ("driver=nbd", "NBD server address missing"),
    ("driver=nbd,path=/x,host=y", "path and host may not be used at the same time"),
    ("driver=nbd,path=/nosuch/sock", "Failed to connect to '/nosuch/sock'"),
    ("driver=nbd,path=/nosuch,tls-creds=x", "No TLS credentials with id 'x'"),
])
def test_wrong_options_are_refused_as_qemu_does(options, text):
    for tool in (IMG, "qemu-img"):
        done = run(tool, "info", "--image-opts", options, check=False)
        assert done.returncode == 1 and text in done.stdout, done.stdout


def test_unknown_export_is_not_available(place, server):
    sock = str(place / "sock")
    server(*peer("qemu-nbd", place, sock), path=sock)
    done = run(IMG, "info", f"nbd+unix:///nosuch?socket={sock}", check=False)
    assert "Requested export not available" in done.stdout
    assert "server reported: export 'nosuch' not present" in done.stdout


def test_tls_uri_without_credentials_does_not_fall_back(place, server):
    sock = str(place / "sock")
    server(*peer("qemu-nbd", place, sock), path=sock)
    done = run(IMG, "info", f"nbds+unix:///?socket={sock}", check=False)
    assert done.returncode == 1 and "TLS needs credentials" in done.stdout


# A lost connection.

def add_client(daemon, sock, **options):
    daemon.qmp.cmd("blockdev-add", dict({
        "driver": "nbd", "node-name": "disk", "server": {"type": "unix", "path": sock}}, **options))
    daemon.serve_nbd()
    daemon.export("disk", writable=True)


def test_request_waits_for_a_server_that_comes_back(daemon, place, server):
    sock = str(place / "sock")
    first = server(*peer("qemu-nbd", place, sock), path=sock)
    add_client(daemon, sock, **{"reconnect-delay": 60})
    with wire.NBD(daemon.nbd_path, timeout=60) as client:
        client.open("disk")
        before = client.read(0, 4096)
        first.kill()
        first.wait()
        os.unlink(sock)
        cookie = client.send_request(wire.CMD_READ, 0, 4096)
        server(*peer("qemu-nbd", place, sock), path=sock)
        got, error, _, payload, _ = client.read_reply()
        assert (got, error, payload[8:]) == (cookie, 0, before)
        assert client.write(8192, b"\x42" * 4096) == 0
        assert client.read(8192, 4096) == b"\x42" * 4096
    # The last flush needs the server, which would be waited for.
    assert daemon.quit() == 0


@pytest.mark.parametrize("end", ["quit", "SIGTERM"])
def test_daemon_without_changes_ends_at_once_though_its_server_is_gone(daemon, place, server, end):
    sock = str(place / "sock")
    first = server(*peer("qemu-nbd", place, sock), path=sock)
    add_client(daemon, sock, **{"reconnect-delay": 600})
    with wire.NBD(daemon.nbd_path) as client:
        client.open("disk")
        assert client.write(0, bytes(512)) == 0
        assert client.request(wire.CMD_FLUSH)[0] == 0
        client.read(0, 512)
        first.kill()
        first.wait()
        if end == "quit":
            assert daemon.quit() == 0
        else:
            daemon.signal(signal.SIGTERM)
            assert daemon.wait() == 0


def test_flush_is_sent_after_each_kind_of_change_and_only_then(place, server):
    """nbdkit's log tells which requests came."""
    sock = str(place / "sock")
    log = place / "log"
    server("nbdkit", "-f", "-U", sock, "--filter=log", "file", place / "disk.img",
           f"logfile={log}", path=sock)
    strata_io(f"nbd+unix:///?socket={sock}", "flush", "write 0 64k", "flush", "flush",
              "write -z 0 64k", "flush", "discard 0 64k", "flush", "read 0 64k", "flush")
    wait_until(lambda: " Close " in log.read_text() or "Disconnect" in log.read_text(), "the end")
    found = re.findall(r" (Write|Zero|Trim|Flush) id=", log.read_text())
    assert found == ["Write", "Flush", "Zero", "Flush", "Trim", "Flush"]


def test_request_fails_at_once_without_a_delay_and_works_later(daemon, place, server):
    sock = str(place / "sock")
    first = server(*peer("qemu-nbd", place, sock), path=sock)
    add_client(daemon, sock)
    with wire.NBD(daemon.nbd_path) as client:
        client.open("disk")
        client.read(0, 512)
        first.kill()
        first.wait()
        os.unlink(sock)
        for _ in range(3):
            with pytest.raises(OSError) as failure:
                client.read(0, 512)
            assert failure.value.errno == wire.EIO
        server(*peer("qemu-nbd", place, sock), path=sock)

        def works():
            try:
                return len(client.read(0, 512)) == 512
            except OSError:
                return False
        wait_until(works, "the connection")


def test_requests_of_an_iothread(daemon, place, server):
    sock = str(place / "sock")
    server(*peer("strata-nbd", place, sock), path=sock)
    daemon.qmp.cmd("object-add", {"qom-type": "iothread", "id": "io"})
    daemon.qmp.cmd("blockdev-add", {"driver": "nbd", "node-name": "disk",
                                    "server": {"type": "unix", "path": sock}})
    daemon.serve_nbd()
    daemon.export("disk", writable=True, iothread="io")
    with wire.NBD(daemon.nbd_path) as client:
        client.open("disk")
        for turn in range(50):
            assert client.write(turn * 4096, bytes([turn]) * 4096) == 0
            assert client.read(turn * 4096, 4096) == bytes([turn]) * 4096


def test_open_timeout_waits_for_the_server(place, server):
    sock = str(place / "sock")
    options = f"driver=nbd,path={sock},open-timeout=60"
    waiting = subprocess.Popen([IMG, "info", "--image-opts", options], stdout=subprocess.PIPE)
    server(*peer("qemu-nbd", place, sock), path=sock)
    assert waiting.wait(60 * slow_factor()) == 0


# Servers that misbehave.

class Impostor:
    """A server whose replies to requests are what the test wants: answer(request) -> bytes."""

    def __init__(self, path, answer, structured=True, size=SIZE):
        self.answer, self.structured, self.size = answer, structured, size
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.bind(path)
        self.sock.listen()
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        while True:
            try:
                peer_sock, _ = self.sock.accept()
            except OSError:
                return
            with peer_sock:
                try:
                    self.serve(peer_sock)
                except (OSError, struct.error):
                    pass

    def serve(self, sock):
        sock.sendall(wire.MAGIC + wire.IHAVEOPT + struct.pack(">H", 3))
        sock.recv(4, socket.MSG_WAITALL)
        while True:
            head = sock.recv(16, socket.MSG_WAITALL)
            _, option, length = struct.unpack(">QII", head)
            if length:
                sock.recv(length, socket.MSG_WAITALL)
            if option == wire.OPT_GO:
                info = struct.pack(">HQH", 0, self.size, 1 | 4)
                sock.sendall(self.option_reply(option, wire.REP_INFO, info)
                             + self.option_reply(option, wire.REP_ACK))
                break
            known = option == wire.OPT_STRUCTURED_REPLY and self.structured
            sock.sendall(self.option_reply(
                option, wire.REP_ACK if known else wire.REP_ERR_UNSUP))
            if option == wire.OPT_ABORT:
                return
        while True:
            head = sock.recv(28, socket.MSG_WAITALL)
            if len(head) < 28:
                return
            _, _, command, cookie, offset, length = struct.unpack(">IHHQQI", head)
            if command == wire.CMD_DISC:
                return
            sock.sendall(self.answer(cookie, offset, length))

    @staticmethod
    def option_reply(option, kind, payload=b""):
        return struct.pack(">QIII", wire.OPT_REPLY_MAGIC, option, kind, len(payload)) + payload

    def close(self):
        self.sock.shutdown(socket.SHUT_RDWR)
        self.sock.close()


def chunk(cookie, kind, payload=b"", flags=wire.DONE, length=None):
    size = len(payload) if length is None else length
    return struct.pack(">IHHQI", wire.CHUNK_MAGIC, flags, kind, cookie, size) + payload


def data(cookie, offset, size, flags=wire.DONE):
    return chunk(cookie, wire.T_DATA, struct.pack(">Q", offset) + bytes(size), flags)


HOSTILE = {
    "wrong magic": lambda c, o, n: b"junk" * 8,
    "wrong cookie": lambda c, o, n: data(c + 64, o, n),
    "cookie nobody has": lambda c, o, n: data(2**64 - 1, o, n),
    "data before the request": lambda c, o, n: data(c, o - 1 if o else 2**64 - 1, n),
    "data behind the request": lambda c, o, n: data(c, o + n, n),
    "data across the end": lambda c, o, n: data(c, o, n + 1),
    "offset that wraps": lambda c, o, n: data(c, 2**64 - 8, 64),
    "too little data": lambda c, o, n: data(c, o, n - 1),
    "nothing but the end": lambda c, o, n: chunk(c, wire.T_NONE),
    "data twice": lambda c, o, n: data(c, o, n, 0) + data(c, o, n),
    "overlapping data": lambda c, o, n: data(c, o + 512, n - 512, 0) + data(c, o, 1024),
    "huge data": lambda c, o, n: chunk(c, wire.T_DATA, struct.pack(">Q", o), length=2**32 - 1),
    "data without an offset": lambda c, o, n: chunk(c, wire.T_DATA, b"1234"),
    "hole of another size": lambda c, o, n: chunk(c, wire.T_HOLE, struct.pack(">QI", o, n + 1)),
    "empty hole": lambda c, o, n: chunk(c, wire.T_HOLE, struct.pack(">QI", o, 0)),
    "status for a read": lambda c, o, n: chunk(c, wire.T_STATUS, struct.pack(">III", 0, n, 0)),
    "unknown chunk": lambda c, o, n: chunk(c, 77, b"x"),
    "none with a payload": lambda c, o, n: chunk(c, wire.T_NONE, b"x"),
    "none that goes on": lambda c, o, n: chunk(c, wire.T_NONE, b"", 0),
    "short error": lambda c, o, n: chunk(c, wire.T_ERROR, b"123"),
    "error without an error": lambda c, o, n: chunk(c, wire.T_ERROR, struct.pack(">IH", 0, 0)),
    "error whose text is too long": lambda c, o, n: chunk(
        c, wire.T_ERROR, struct.pack(">IH", 5, 9999) + b"x"),
    "huge error": lambda c, o, n: chunk(c, wire.T_ERROR, struct.pack(">IH", 5, 0), length=1 << 30),
    "simple reply to a read": lambda c, o, n: struct.pack(">IIQ", wire.SIMPLE_MAGIC, 0, c),
}


@pytest.mark.parametrize("name", sorted(HOSTILE))
def test_reply_that_breaks_the_protocol_fails_the_read(place, name):
    sock = str(place / "sock")
    impostor = Impostor(sock, HOSTILE[name])
    done = run(IO, "-r", "-f", "raw", "-c", "read 4096 4096", "-c", "read 0 512",
               f"nbd+unix:///?socket={sock}", check=False, timeout=30)
    impostor.close()
    assert done.stdout.count("read failed: Input/output error") == 2, done.stdout


def test_chunks_in_any_order_are_put_together(place):
    sock = str(place / "sock")

    def answer(cookie, offset, length):
        half = length // 2
        return (data(cookie, offset + half, length - half, 0)
                + chunk(cookie, wire.T_HOLE, struct.pack(">QI", offset, half)))

    impostor = Impostor(sock, answer)
    done = run(IO, "-r", "-f", "raw", "-c", "read -P 0 4096 8192", f"nbd+unix:///?socket={sock}")
    impostor.close()
    assert "read 8192/8192" in done.stdout


def test_error_of_the_server_is_the_error_of_the_read(place):
    sock = str(place / "sock")
    impostor = Impostor(sock, lambda c, o, n: chunk(c, wire.T_ERROR, struct.pack(
        ">IH", wire.ENOMEM, 3) + b"why"))
    done = run(IO, "-r", "-f", "raw", "-c", "read 0 512", "-c", "read 512 512",
               f"nbd+unix:///?socket={sock}", check=False)
    impostor.close()
    assert done.stdout.count("read failed: Cannot allocate memory") == 2


@pytest.mark.parametrize("greeting", [
    b"", b"NBD", b"NBDMAGIC", b"junkjunkjunkjunk", wire.MAGIC + b"otheropt\0\3",
    wire.MAGIC + wire.IHAVEOPT + b"\0\3" + b"\xff" * 20,
    wire.MAGIC + wire.IHAVEOPT + b"\0\3" + struct.pack(
        ">QIII", wire.OPT_REPLY_MAGIC, wire.OPT_EXTENDED, wire.REP_ACK, 2**32 - 1),
])
def test_junk_in_the_handshake_is_an_error(place, greeting):
    sock = str(place / "sock")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(sock)
    listener.listen()

    def serve():
        peer_sock, _ = listener.accept()
        with peer_sock, contextlib.suppress(ConnectionError):
            peer_sock.sendall(greeting)
            peer_sock.shutdown(socket.SHUT_WR)
            while peer_sock.recv(4096):
                pass

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    done = run(IMG, "info", f"nbd+unix:///?socket={sock}", check=False, timeout=30)
    assert done.returncode == 1 and "Could not open" in done.stdout
    listener.close()


def test_copy_with_a_read_error_fails(place):
    """CVE-2022-0485: a read that failed must not become zeroes in the copy."""
    sock = str(place / "sock")

    def answer(cookie, offset, length):
        if offset >= SIZE // 2:
            return chunk(cookie, wire.T_ERROR, struct.pack(">IH", wire.EIO, 0))
        return data(cookie, offset, length)

    impostor = Impostor(sock, answer)
    done = run(IMG, "convert", "-f", "raw", "-O", "raw", f"nbd+unix:///?socket={sock}",
               place / "copy", check=False)
    impostor.close()
    assert done.returncode != 0


@pytest.mark.parametrize("name", ["qemu-nbd", "strata-nbd"])
def test_image_that_needs_more_room_than_the_export_has_says_so(place, server, name):
    path = place / "nbd.sock"
    os.truncate(place / "disk.img", 1 << 20)
    server(NBD if name == "strata-nbd" else name, "-t", "-f", "raw", "-k", path,
           place / "disk.img", path=path)
    uri = f"nbd+unix:///?socket={path}"
    run(IMG, "create", "-q", "-f", "qcow2", uri, "1M")
    written = run(IO, "-f", "qcow2", "-c", "write 0 64k", "-c", "write 64k 960k", uri, check=False)
    assert "wrote 65536/65536" in written.stdout
    assert "write failed: No space left on device" in written.stdout and written.returncode == 1
    refused = run(IMG, "create", "-q", "-f", "qcow2", "-o", "preallocation=metadata", uri, "1M",
                  check=False)
    assert (refused.returncode, refused.stdout) == (
        1, f"strata-img: {uri}: Could not resize image: Cannot grow NBD nodes\n")


def test_client_ends_on_a_signal_while_the_server_stalls(place):
    sock = str(place / "sock")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(sock)
    listener.listen()
    stalled = subprocess.Popen([IMG, "info", f"nbd+unix:///?socket={sock}"],
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    listener.accept()
    stalled.send_signal(signal.SIGTERM)
    stalled.wait(30 * slow_factor())
    listener.close()
