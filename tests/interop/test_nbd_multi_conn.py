# SPDX-License-Identifier: GPL-2.0-or-later
"""Several connections of the nbd driver: one for each thread that makes requests, if the server
says that they see the same data."""

import contextlib
import os
import socket
import subprocess
import threading
import time

import pytest

from support import nbd_wire as wire
from support.program import ROOT, is_oracle, slow_factor
from support.tools import is_listening, run, wait_until

pytestmark = pytest.mark.skipif(is_oracle(), reason="tests our own client")

NBD = str(ROOT / os.environ.get("STRATA_BUILD", "build") / "bin/strata-nbd")
SIZE = 4 << 20


class Proxy:
    """Passes connections on to `target`; counts them, and can cut one or let nobody in."""

    def __init__(self, path, target):
        self.target = target
        self.pairs = []  # (client's end, server's end, bytes the client has sent), in their order
        self.accepts = True
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.bind(path)
        self.sock.listen()
        threading.Thread(target=self.run, daemon=True).start()

    def run(self):
        while True:
            try:
                client, _ = self.sock.accept()
            except OSError:
                return
            if not self.accepts:
                client.close()
                continue
            server = socket.socket(socket.AF_UNIX)
            server.connect(self.target)
            pair = [client, server, 0]
            self.pairs.append(pair)
            threading.Thread(target=self.pump, args=(client, server, pair), daemon=True).start()
            threading.Thread(target=self.pump, args=(server, client, None), daemon=True).start()

    @staticmethod
    def pump(source, target, counted):
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                if counted:
                    counted[2] += len(data)
                target.sendall(data)
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def cut(self, index):
        for end in self.pairs[index][:2]:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def sent(self, index):
        return self.pairs[index][2]

    def close(self):
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)
        self.sock.close()
        for index in range(len(self.pairs)):
            self.cut(index)


# Command lines, with {sock} and {image}, and whether they say that several connections are fine.
SERVERS = {
    "strata-nbd": (NBD + " -t -e 9 -f raw -k {sock} {image}", True),
    "qemu-nbd": ("qemu-nbd -t -e 9 -f raw -k {sock} {image}", True),
    "nbdkit": ("nbdkit -f -U {sock} file {image}", True),
    "qemu-nbd for one": ("qemu-nbd -t -e 1 -f raw -k {sock} {image}", False),
    "nbdkit that does not say so": (
        "nbdkit -f -U {sock} --filter=multi-conn file {image} multi-conn-mode=disable", False),
}


@pytest.fixture
def proxied(tmp_path):
    """Starts a server of that name behind a proxy: the proxy, and the path of its socket."""
    running = []

    def start(name):
        image = tmp_path / "disk.img"
        image.write_bytes(b"\x11" * SIZE)
        sock = str(tmp_path / "server.sock")
        command = SERVERS[name][0].format(sock=sock, image=image)
        process = subprocess.Popen(command.split(), stdin=subprocess.DEVNULL)
        running.append(process)
        wait_until(lambda: is_listening(sock), "the server's socket")
        path = str(tmp_path / "proxy.sock")
        proxy = Proxy(path, sock)
        running.append(proxy)
        return proxy, path

    yield start
    for each in reversed(running):
        if isinstance(each, Proxy):
            each.close()
        else:
            each.kill()
            each.wait()


def serve_in_thread(daemon, path, **options):
    """The client's node, exported by an iothread of the daemon."""
    daemon.qmp.cmd("object-add", {"qom-type": "iothread", "id": "io"})
    daemon.qmp.cmd("blockdev-add", {"driver": "nbd", "node-name": "disk",
                                    "server": {"type": "unix", "path": path}, **options})
    daemon.serve_nbd()
    daemon.export("disk", writable=True, iothread="io")
    client = wire.NBD(daemon.nbd_path, timeout=60)
    client.open("disk")
    return client


def check_data(client, pattern):
    block = bytes([pattern]) * 4096
    assert client.write(8192, block) == 0
    assert client.request(wire.CMD_FLUSH)[0] == 0
    assert client.read(8192, 4096) == block


@pytest.mark.parametrize("name", sorted(SERVERS))
def test_a_thread_has_a_connection_of_its_own_where_the_server_allows_it(daemon, proxied, name):
    proxy, path = proxied(name)
    with serve_in_thread(daemon, path) as client:
        before = proxy.sent(0)
        for pattern in range(5):
            check_data(client, pattern)
        if SERVERS[name][1]:
            assert len(proxy.pairs) == 2
            assert proxy.sent(1) > 5 * 4096 and proxy.sent(0) == before
        else:
            assert len(proxy.pairs) == 1 and proxy.sent(0) > before + 5 * 4096


@pytest.mark.parametrize("name", ["strata-nbd", "qemu-nbd", "nbdkit"])
def test_a_lost_connection_of_a_thread_is_made_again(daemon, proxied, name):
    proxy, path = proxied(name)
    with serve_in_thread(daemon, path) as client:
        check_data(client, 1)
        assert len(proxy.pairs) == 2
        proxy.cut(1)
        # Reading changes nothing, and goes over the other connection.
        assert client.read(0, 4096) == b"\x11" * 4096

        def is_back():
            check_data(client, 2)
            return len(proxy.pairs) == 3 and proxy.sent(2) > 4096
        wait_until(is_back, "the thread's new connection")


def test_a_lost_first_connection_is_made_again_and_the_threads_goes_on(daemon, proxied):
    proxy, path = proxied("strata-nbd")
    with serve_in_thread(daemon, path, **{"reconnect-delay": 60}) as client:
        check_data(client, 1)
        proxy.cut(0)
        check_data(client, 2)
        sent = proxy.sent(1)
        check_data(client, 3)
        assert proxy.sent(1) > sent
    assert daemon.quit() == 0


def test_all_connections_lost_at_once_come_back(daemon, proxied):
    proxy, path = proxied("strata-nbd")
    with serve_in_thread(daemon, path, **{"reconnect-delay": 60}) as client:
        check_data(client, 1)
        for index in range(2):
            proxy.cut(index)
        check_data(client, 2)
        wait_until(lambda: check_data(client, 3) or len(proxy.pairs) == 4, "both connections")
    # The last flush needs the server, which would be waited for.
    assert daemon.quit() == 0


def test_a_write_whose_fate_is_unknown_fails_without_a_delay(daemon, proxied):
    proxy, path = proxied("strata-nbd")
    with serve_in_thread(daemon, path) as client:
        check_data(client, 1)
        proxy.cut(1)
        error = client.write(8192, b"\x05" * 4096)
        # Either the thread saw the loss before it sent, or nobody knows what became of the write.
        assert error in (0, wire.EIO)
        check_data(client, 2)


def test_a_thread_that_gets_no_connection_uses_the_first(daemon, proxied):
    proxy, path = proxied("strata-nbd")
    daemon.qmp.cmd("object-add", {"qom-type": "iothread", "id": "io"})
    daemon.qmp.cmd("blockdev-add", {"driver": "nbd", "node-name": "disk",
                                    "server": {"type": "unix", "path": path}})
    proxy.accepts = False
    daemon.serve_nbd()
    daemon.export("disk", writable=True, iothread="io")
    with wire.NBD(daemon.nbd_path, timeout=60) as client:
        client.open("disk")
        check_data(client, 1)
        assert len(proxy.pairs) == 1
        proxy.accepts = True

        def has_its_own():
            check_data(client, 2)
            return len(proxy.pairs) == 2
        wait_until(has_its_own, "the thread's connection")


def test_a_server_that_is_full_holds_up_one_request_only(daemon, tmp_path):
    """The second of our connections would wait in the server's backlog for ever."""
    image = tmp_path / "disk.img"
    image.write_bytes(b"\x11" * SIZE)
    sock = str(tmp_path / "full.sock")
    process = subprocess.Popen([NBD, "-t", "-e", "2", "-f", "raw", "-k", sock, str(image)],
                               stdin=subprocess.DEVNULL)
    try:
        wait_until(lambda: is_listening(sock), "the server's socket")
        other = wire.NBD(sock)
        with other, serve_in_thread(daemon, sock) as client:
            other.open()
            started = time.monotonic()
            for pattern in range(20):
                check_data(client, pattern)
            assert time.monotonic() - started < 20 * slow_factor()
    finally:
        process.kill()
        process.wait()


def test_readers_in_several_threads_each_have_a_connection(daemon, proxied):
    proxy, path = proxied("strata-nbd")
    daemon.qmp.cmd("blockdev-add", {"driver": "nbd", "node-name": "disk", "read-only": True,
                                    "server": {"type": "unix", "path": path}})
    daemon.serve_nbd()
    for index in range(3):
        daemon.qmp.cmd("object-add", {"qom-type": "iothread", "id": f"io{index}"})
        daemon.export("disk", name=f"e{index}", ident=f"e{index}", iothread=f"io{index}")
    uris = [f"nbd+unix:///e{index}?socket={daemon.nbd_path}" for index in range(3)]
    for uri in uris:
        run("qemu-io", "-r", "-f", "raw", "-c", f"read -P 17 0 {SIZE}", uri)
    assert len(proxy.pairs) == 4
    # They go with their threads.
    for index in range(3):
        # The client is gone, but the daemon need not have seen that yet.
        daemon.qmp.cmd("block-export-del", {"id": f"e{index}", "mode": "hard"})
        daemon.qmp.event("BLOCK_EXPORT_DELETED")
        daemon.qmp.cmd("object-del", {"id": f"io{index}"})
    daemon.qmp.cmd("blockdev-del", {"node-name": "disk"})
