# SPDX-License-Identifier: GPL-2.0-or-later
"""What NBD servers and clients of others have suffered and no other file tries: nodes that move, a
server's own client, and a client's servers that talk too much. The whole list is in attacks.md."""

import contextlib
import os
import socket
import struct
import threading

import pytest

from support import nbd_wire as wire
from support.nbd_wire import NBD
from support.program import ROOT, is_oracle
from support.tools import run

TOOLS = ROOT / os.environ.get("STRATA_BUILD", "build") / "bin"
SIZE = 1 << 20


# A node that moves.

class Load:
    """A client that reads and writes until it is told to end; it must read what it wrote. It is at
    work when this is made."""

    def __init__(self, path, seed):
        self.begun = threading.Event()
        self.ended = threading.Event()
        self.failure = None
        self.rounds = 0
        self.thread = threading.Thread(target=self.run, args=(path, seed))
        self.thread.start()
        self.begun.wait(60)

    def run(self, path, seed):
        try:
            with NBD(path, timeout=60) as client:
                client.open("disk")
                offset = seed * 65536
                while not self.ended.is_set():
                    block = bytes([self.rounds % 256]) * 4096
                    assert client.write(offset, block) == 0
                    assert client.read(offset, 4096) == block
                    self.rounds += 1
                    self.begun.set()
        except BaseException as failure:  # told to whoever joins
            self.failure = failure
            self.begun.set()

    def end(self):
        self.ended.set()
        self.thread.join()
        assert self.failure is None, self.failure
        return self.rounds


@pytest.mark.strata_only("QEMU's node stays where the export put it")
def test_node_moves_between_threads_under_load(daemon):
    daemon.add_file(size=SIZE)
    for name in ("a", "b"):
        daemon.qmp.cmd("object-add", {"qom-type": "iothread", "id": name})
    daemon.serve_nbd()
    daemon.export("disk", writable=True)
    loads = [Load(daemon.nbd_path, seed) for seed in range(3)]
    for turn in range(60):
        reply = daemon.qmp.reply("x-blockdev-set-iothread", {
            "node-name": "disk", "iothread": ["a", "b", None][turn % 3], "force": True})
        assert "return" in reply or "desc" in reply["error"]
    assert all(load.end() > 0 for load in loads)


@pytest.mark.strata_only("QEMU 7.2 aborts when a client leaves an export of an iothread")
def test_exports_in_several_threads_come_and_go_under_load(daemon):
    daemon.add_file(size=SIZE)
    for name in ("a", "b"):
        daemon.qmp.cmd("object-add", {"qom-type": "iothread", "id": name})
    daemon.serve_nbd()
    daemon.export("disk", writable=True)
    load = Load(daemon.nbd_path, 0)
    for turn in range(20):
        daemon.qmp.cmd("block-export-add", {
            "type": "nbd", "id": "other", "node-name": "disk", "name": "other",
            "iothread": "ab"[turn % 2]})
        with NBD(daemon.nbd_path) as client:
            client.open("other")
            assert len(client.read(SIZE // 2, 4096)) == 4096
        daemon.qmp.cmd("block-export-del", {"id": "other", "mode": "hard"})
        daemon.qmp.event("BLOCK_EXPORT_DELETED")
    assert load.end() > 0


# A daemon that is its own client.

def own_client(daemon, name="own"):
    daemon.qmp.cmd("blockdev-add", {
        "driver": "nbd", "node-name": name, "export": "disk",
        "server": {"type": "unix", "path": daemon.nbd_path}})


@pytest.mark.strata_only("QEMU 7.2 waits for itself")
def test_own_server_can_be_a_client_of_it(daemon):
    daemon.add_null(size=SIZE)
    daemon.serve_nbd()
    daemon.export("disk", writable=True)
    own_client(daemon)
    daemon.export("own", ident="exp1", writable=True)
    with NBD(daemon.nbd_path) as client:
        client.open("own")
        assert client.write(0, b"x" * 65536) == 0
        assert client.read(0, 65536) == bytes(65536)
        assert client.request(wire.CMD_FLUSH)[0] == 0
    daemon.qmp.cmd("block-export-del", {"id": "exp1", "mode": "hard"})
    daemon.qmp.event("BLOCK_EXPORT_DELETED")
    daemon.qmp.cmd("blockdev-del", {"node-name": "own"})


@pytest.mark.strata_only("QEMU 7.2 waits for itself")
def test_own_client_whose_server_stops_does_not_wait_for_itself(daemon):
    daemon.add_null(size=SIZE)
    daemon.serve_nbd()
    daemon.export("disk", writable=True)
    own_client(daemon)
    daemon.qmp.cmd("nbd-server-stop")
    daemon.qmp.cmd("blockdev-del", {"node-name": "own"})
    assert daemon.quit() == 0


@pytest.mark.strata_only("QEMU 7.2 waits for itself")
def test_own_client_on_the_command_line(start):
    daemon = start.prepare()
    daemon.image(data=b"own")
    daemon.args = ["--blockdev", "file,node-name=disk,filename=disk.img",
                   "--nbd-server", "addr.type=unix,addr.path=nbd.sock",
                   "--export", "nbd,id=e,node-name=disk",
                   "--blockdev", "nbd,node-name=own,read-only=on,export=disk,server.type=unix,"
                                 "server.path=nbd.sock",
                   "--export", "nbd,id=f,node-name=own"]
    daemon.start()
    with NBD(daemon.nbd_path) as client:
        client.open("own")
        assert client.read(0, 3) == b"own"


@pytest.mark.strata_only("QEMU 7.2 waits for itself")
def test_own_client_at_the_end_of_the_daemon(daemon):
    daemon.add_null(size=SIZE)
    daemon.serve_nbd()
    daemon.export("disk", writable=True)
    own_client(daemon)
    daemon.export("own", ident="exp1", writable=True)
    assert daemon.quit() == 0


# Servers that lie in the handshake.

GREETING = wire.MAGIC + wire.IHAVEOPT + struct.pack(">H", 3)


def reply(option, kind, payload=b"", length=None):
    return struct.pack(">QIII", wire.OPT_REPLY_MAGIC, option, kind,
                       len(payload) if length is None else length) + payload


@contextlib.contextmanager
def liar(path, *parts):
    """A server that says these words, whatever it hears."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()

    def serve():
        peer, _ = listener.accept()
        with peer, contextlib.suppress(OSError):
            for part in parts:
                peer.sendall(part)
            peer.shutdown(socket.SHUT_WR)
            while peer.recv(65536):
                pass

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield
    finally:
        listener.close()


UNSUPPORTED = reply(wire.OPT_EXTENDED, wire.REP_ERR_UNSUP)
STRUCTURED = reply(wire.OPT_STRUCTURED_REPLY, wire.REP_ACK)
CONTEXT = struct.pack(">I", 1) + b"base:allocation"


@pytest.mark.skipif(is_oracle(), reason="tests our own tools")
@pytest.mark.parametrize("answer", [
    reply(wire.OPT_SET_META, wire.REP_META, b"\0\0"),
    reply(wire.OPT_SET_META, wire.REP_META, struct.pack(">I", 1) + b"other:context"),
    reply(wire.OPT_SET_META, wire.REP_META, struct.pack(">I", 1) + b"b" * 5000),
    reply(wire.OPT_SET_META, wire.REP_META, CONTEXT) * 2,
    reply(wire.OPT_SET_META, wire.REP_META, CONTEXT, length=2**32 - 1),
    reply(wire.OPT_SET_META, wire.REP_META, CONTEXT, length=1 << 20),
    reply(wire.OPT_SET_META, wire.REP_INFO, CONTEXT),
    reply(wire.OPT_LIST_META, wire.REP_META, CONTEXT),
], ids=["short", "another", "long", "twice", "4 GiB", "1 MiB", "info", "of another option"])
def test_context_that_is_none_is_refused(tmp_path, answer):
    path = str(tmp_path / "sock")
    with liar(path, GREETING + UNSUPPORTED + STRUCTURED + answer):
        done = run(TOOLS / "strata-img", "info", f"nbd+unix:///?socket={path}", check=False,
                   timeout=30)
    assert done.returncode == 1 and "Could not open" in done.stdout


@pytest.mark.skipif(is_oracle(), reason="tests our own tools")
@pytest.mark.parametrize("entry", [
    struct.pack(">I", 9) + b"short", b"\0\0\0", struct.pack(">I", 2**32 - 1) + b"x",
    struct.pack(">I", 5000) + b"x" * 5000,
], ids=["name behind the end", "no length", "4 GiB", "long name"])
def test_list_with_an_entry_that_is_none_is_refused(tmp_path, entry):
    path = str(tmp_path / "sock")
    with liar(path, GREETING + UNSUPPORTED + STRUCTURED
              + reply(wire.OPT_LIST, wire.REP_SERVER, entry)):
        done = run(TOOLS / "strata-nbd", "-L", "-k", path, check=False, timeout=30)
    assert done.returncode == 1 and done.stdout.count("\n") == 1, done.stdout


@pytest.mark.skipif(is_oracle(), reason="tests our own tools")
def test_list_without_an_end_is_cut_off(tmp_path):
    path = str(tmp_path / "sock")
    entry = reply(wire.OPT_LIST, wire.REP_SERVER, struct.pack(">I", 1) + b"x")
    with liar(path, GREETING + UNSUPPORTED + STRUCTURED, *[entry * 10000] * 10):
        done = run(TOOLS / "strata-nbd", "-L", "-k", path, check=False, timeout=60)
    assert done.returncode == 1 and "Server lists too many exports" in done.stdout, done.stdout


@pytest.mark.skipif(is_oracle(), reason="tests our own tools")
def test_information_without_an_end_is_cut_off(tmp_path):
    path = str(tmp_path / "sock")
    info = reply(wire.OPT_GO, wire.REP_INFO, struct.pack(">H", 77))
    with liar(path, GREETING + UNSUPPORTED + STRUCTURED + reply(wire.OPT_SET_META, wire.REP_ACK)
              + info * 5000):
        done = run(TOOLS / "strata-img", "info", f"nbd+unix:///?socket={path}", check=False,
                   timeout=30)
    assert done.returncode == 1 and "Server sends too much information" in done.stdout
