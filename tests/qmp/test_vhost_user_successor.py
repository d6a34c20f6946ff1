# SPDX-License-Identifier: GPL-2.0-or-later
"""A daemon hands its listening socket and its clients to its successor through the service
manager's store of descriptors: they do not notice."""

import json
import os
import select
import signal
import socket
import struct

import pytest

from support import vhost_user as vu
from support.service_manager import ServiceManager

pytestmark = pytest.mark.strata_only("QEMU keeps no descriptors for a successor")

RINGS = [0, 1 << vu.F_PACKED | 1 << vu.F_EVENT_IDX]
any_ring = pytest.mark.parametrize("features", RINGS, ids=["split", "packed-event"])

LISTENER = "vhost-user-blk.e0.listener"
SESSION = "vhost-user-blk.e0.session.0"


def pattern(size, seed):
    return bytes((i * 7 + seed) & 0xff for i in range(size))


class Service:
    """A daemon with one export, run by a service manager."""

    def __init__(self, start, export):
        self.daemon = start.prepare()
        self.socket = self.daemon.file("vhost.sock")
        self.export = dict({"type": "vhost-user-blk", "id": "e0", "node-name": "disk",
                            "addr": {"type": "unix", "path": self.socket}}, **export)
        self.daemon.args = ["--blockdev", "driver=file,node-name=disk,filename=disk.img",
                            "--export", json.dumps(self.export)]
        self.daemon.image()
        self.manager = ServiceManager(self.daemon.file("notify"))
        self.start()

    def start(self):
        self.manager.prepare(self.daemon)
        self.daemon.start()
        self.daemon.wait_for(lambda: {"READY": "1", "STATUS": "Serving"} in self.manager.messages,
                             "readiness")
        self.manager.messages.clear()

    def end(self):
        self.daemon.signal(signal.SIGTERM)
        assert self.daemon.wait() == 0

    def restart(self):
        self.end()
        self.start()


@pytest.fixture
def run(start):
    services = []

    def run_service(writable=True, **export):
        services.append(Service(start, dict(export, writable=writable)))
        return services[-1]

    yield run_service
    for service in services:
        service.manager.close()


@any_ring
def test_a_client_goes_on_with_the_successor(run, features):
    service = run()
    front_end, (ring,) = vu.start(service.socket, features)
    with front_end:
        for i in range(21):
            ring.write(8 * i, pattern(512, i))
        for life in range(3):
            service.restart()
            # The connection, the rings and the events are the same.
            assert front_end.ask_u64(vu.GET_QUEUE_NUM) == 1
            for i in range(21):
                assert ring.read(8 * i, 512) == pattern(512, i + life)
                ring.write(8 * i, pattern(512, i + life + 1))
            assert service.manager.names() == [LISTENER]


@any_ring
def test_what_comes_in_between_is_served_by_the_successor(run, features):
    service = run()
    front_end, (ring,) = vu.start(service.socket, features)
    with front_end:
        ring.write(0, pattern(512, 1))
        service.end()
        assert service.manager.names() == [LISTENER, SESSION]
        ring.forget_calls()
        at = ring.buffers
        ring.memory[at:at + 16] = vu.block_header(vu.T_IN)
        ring.add([(at, 16, False), (at + 0x1000, 512, True), (at + 32, 1, True)], 1)
        ring.kick()
        front_end.send(vu.GET_QUEUE_NUM)
        assert not select.select([ring.call_fd, front_end.socket], [], [], 0.2)[0]
        service.start()
        assert front_end.reply() == (vu.GET_QUEUE_NUM, struct.pack("<Q", 1))
        assert ring.wait() == (1, 513)
        assert ring.memory[at + 0x1000:at + 0x1200] == pattern(512, 1)


def test_what_was_negotiated_stays(run):
    """In-flight area, dirty log, the channel for changes of the size."""
    service = run()
    with vu.FrontEnd(service.socket) as front_end:
        front_end.negotiate(1 << vu.F_LOG_ALL, protocol=1 << vu.P_MQ | 1 << vu.P_REPLY_ACK |
                            1 << vu.P_CONFIG | 1 << vu.P_INFLIGHT | 1 << vu.P_BACKEND_REQ |
                            1 << vu.P_LOG_SHMFD)
        front_end.share_memory()
        front_end.send(vu.GET_INFLIGHT_FD, struct.pack("<QQHHI", 0, 0, 1, 16, 0))
        _, area, fds = front_end.reply(with_fd=True)
        front_end.send(vu.SET_INFLIGHT_FD, area, fds)
        log, event = os.memfd_create("log"), os.eventfd(0, os.EFD_NONBLOCK)
        os.ftruncate(log, 4096)
        front_end.ask(vu.SET_LOG_BASE, struct.pack("<QQ", 4096, 0), [log])
        front_end.send(vu.SET_LOG_FD, fds=[event])
        ours, theirs = socket.socketpair()
        front_end.send(vu.SET_BACKEND_REQ_FD, fds=[theirs.fileno()])
        theirs.close()
        ring = vu.Vring(front_end).run()
        ring.write(0, pattern(512, 7))
        service.restart()
        os.pwrite(log, bytes(4096), 0)
        assert select.select([event], [], [], 0)[0]
        os.eventfd_read(event)
        assert ring.read(0, 512) == pattern(512, 7)
        assert any(os.pread(log, 4096, 0))
        assert select.select([event], [], [], vu.TIME_LIMIT)[0]
        used = struct.unpack_from("<H", os.pread(fds[0], 16, 0), 14)[0]
        assert used == ring.seen == 2
        service.daemon.qmp.cmd("block_resize", {"node-name": "disk", "size": 2 << 20})
        ours.settimeout(vu.TIME_LIMIT)
        assert struct.unpack("<III", ours.recv(64)) == (2, 1, 0)
        for fd in (log, event, *fds):
            os.close(fd)
        ours.close()


def test_all_readers_go_on(run):
    service = run(writable=False)
    pairs = [vu.start(service.socket) for _ in range(3)]
    service.restart()
    for front_end, (ring,) in pairs:
        assert ring.read(0, 512) == bytes(512)
        front_end.close()


def test_clients_can_connect_while_there_is_no_daemon(run):
    """Also after one that was killed: its listening socket is kept from its start on."""
    service = run()
    for killed in (False, True):
        if killed:
            service.daemon.process.kill()
            service.daemon.process.wait()
        else:
            service.end()
        front_end = vu.FrontEnd(service.socket)
        front_end.send(vu.GET_QUEUE_NUM)
        service.start()
        with front_end:
            assert front_end.reply() == (vu.GET_QUEUE_NUM, struct.pack("<Q", 1))


def test_a_successor_of_another_shape_sends_the_client_away(run):
    service = run()
    front_end, _ = vu.start(service.socket)
    with front_end:
        service.end()
        service.daemon.args[3] = json.dumps(dict(service.export, **{"num-queues": 2}))
        service.start()
        assert front_end.is_closed()
        front_end, rings = vu.start(service.socket, queues=2)
        with front_end:
            assert rings[1].read(0, 512) == bytes(512)
    assert "cannot go on with a client: it has 1 queues, the export 2" in service.daemon.stderr


def test_nothing_is_kept_of_an_export_that_is_removed(run):
    service = run()
    assert service.manager.names() == [LISTENER]
    service.daemon.qmp.cmd("block-export-del", {"id": "e0"})
    service.daemon.wait_for(lambda: service.manager.names() == [], "the removal")
    assert not os.path.exists(service.socket)


def test_a_daemon_that_is_told_to_quit_keeps_nothing(run):
    service = run()
    front_end, _ = vu.start(service.socket)
    with front_end:
        service.daemon.quit()
        assert front_end.is_closed()
    assert service.manager.names() == []
    assert not os.path.exists(service.socket)
