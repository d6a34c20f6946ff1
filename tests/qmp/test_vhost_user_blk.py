# SPDX-License-Identifier: GPL-2.0-or-later
"""The vhost-user-blk export: what a driver gets from it, and how it is added and removed."""

import os
import select
import socket
import struct

import pytest

from support import vhost_user as vu

RINGS = [0, 1 << vu.F_PACKED, 1 << vu.F_EVENT_IDX, 1 << vu.F_PACKED | 1 << vu.F_EVENT_IDX]
RING_NAMES = ["split", "packed", "split-event", "packed-event"]
any_ring = pytest.mark.parametrize("features", RINGS, ids=RING_NAMES)


def options(daemon, ident="e0", node="disk", **more):
    return dict({"type": "vhost-user-blk", "id": ident, "node-name": node,
                 "addr": {"type": "unix", "path": daemon.file("vhost.sock")}},
                **{key.replace("_", "-"): value for key, value in more.items()})


def add(daemon, **more):
    daemon.qmp.cmd("block-export-add", options(daemon, **more))
    return daemon.file("vhost.sock")


@pytest.fixture
def disk(daemon):
    """A writable export of a file of 1 MiB; yields its socket."""
    daemon.add_file(discard="unmap")
    return add(daemon, writable=True)


def pattern(size, seed):
    return bytes((i * 7 + seed) & 0xff for i in range(size))


@any_ring
def test_what_is_written_is_read(daemon, disk, features):
    front_end, (ring,) = vu.start(disk, features)
    with front_end:
        for i in range(40):  # several laps of the ring
            ring.write(8 * i, pattern(4096, i))
        assert ring.request(vu.T_FLUSH)[0] == vu.OK
        for i in range(40):
            assert ring.read(8 * i, 4096) == pattern(4096, i)
    with open(daemon.file("disk.img"), "rb") as image:
        assert image.read(4096) == pattern(4096, 0)


@any_ring
def test_a_stopped_ring_goes_on_at_its_base(disk, features):
    front_end, (ring,) = vu.start(disk, features)
    with front_end:
        for i in range(21):
            ring.write(0, pattern(512, i))
            base = ring.stop()
            front_end.send(vu.SET_VRING_BASE, struct.pack("<II", 0, base))
            front_end.send(vu.SET_VRING_KICK, struct.pack("<Q", 0), [ring.kick_fd])
            assert ring.read(0, 512) == pattern(512, i)


@any_ring
def test_many_requests_at_once_are_all_answered(disk, features):
    front_end, (ring,) = vu.start(disk, features, size=64)
    with front_end:
        for i in range(16):
            at = ring.buffers + 0x1000 * i
            ring.memory[at:at + 16] = vu.block_header(vu.T_IN, i)
            head = i if ring.packed else 3 * i
            ring.add([(at, 16, False), (at + 512, 512, True), (at + 32, 1, True)], head)
        ring.kick()
        done = sorted(ring.wait() for _ in range(16))
        assert done == [(i if ring.packed else 3 * i, 513) for i in range(16)]


def test_an_indirect_table_is_served(disk):
    front_end, (ring,) = vu.start(disk)
    with front_end:
        table, at = ring.buffers + 0x800, ring.buffers
        ring.memory[at:at + 16] = vu.block_header(vu.T_IN)
        ring.descriptor(0, at, 16, vu.NEXT, 1, table)
        ring.descriptor(1, at + 0x1000, 512, vu.NEXT | vu.WRITE, 2, table)
        ring.descriptor(2, at + 32, 1, vu.WRITE, 0, table)
        ring.descriptor(0, table, 48, vu.INDIRECT)
        ring.make_available(0)
        ring.kick()
        assert ring.wait() == (0, 513)


@any_ring
def test_a_status_of_zero_stops_rings_and_keeps_their_place(disk, features):
    """QEMU sends it before it asks for the base, which a migration takes along."""
    protocol = 1 << vu.P_STATUS | 1 << vu.P_CONFIG | 1 << vu.P_REPLY_ACK
    front_end, (ring,) = vu.start(disk, features, protocol=protocol)
    with front_end:
        front_end.send(vu.SET_STATUS, struct.pack("<Q", 15))
        assert front_end.ask_u64(vu.GET_STATUS) == 15
        for i in range(3):
            ring.write(8 * i, pattern(512, i))
        front_end.send(vu.SET_STATUS, bytes(8))
        assert front_end.ask_u64(vu.GET_STATUS) == 0
        base = ring.stop()
        assert base == (0x80098009 if ring.packed else 3)
        front_end.send(vu.SET_VRING_BASE, struct.pack("<II", 0, base))
        front_end.send(vu.SET_VRING_KICK, struct.pack("<Q", 0), [ring.kick_fd])
        assert ring.read(8, 512) == pattern(512, 1)


def test_identity_size_and_features(daemon, disk):
    front_end, (ring,) = vu.start(disk)
    with front_end:
        status, serial = ring.request(vu.T_GET_ID, into=20)
        assert (status, serial.rstrip(b"\0")) == (vu.OK, b"vhost_user_blk")
        assert front_end.capacity() == 2048
        config = front_end.config()
        assert struct.unpack_from("<II", config, 8) == (65536, 126)
        assert struct.unpack_from("<I", config, 20)[0] == 512
        assert front_end.ask_u64(vu.GET_QUEUE_NUM) == 1
        offered = front_end.ask_u64(vu.GET_FEATURES)
        assert not offered >> vu.F_BLK_RO & 1
        assert not offered >> vu.F_BLK_MQ & 1


def test_discard_and_write_zeroes_free_space(daemon, disk):
    front_end, (ring,) = vu.start(disk)
    with front_end:
        segment = struct.pack("<QII", 0, 512, 0)
        for kind, more in ((vu.T_DISCARD, 0), (vu.T_WRITE_ZEROES, 1)):
            for sector in range(0, 512, 64):
                ring.write(sector, pattern(32768, 1))
            assert ring.request(vu.T_FLUSH)[0] == vu.OK
            before = os.stat(daemon.file("disk.img")).st_blocks
            segment = struct.pack("<QII", 0, 512, more)
            assert ring.request(kind, data=segment)[0] == vu.OK
            assert ring.read(0, 4096) == bytes(4096)
            assert os.stat(daemon.file("disk.img")).st_blocks < before


def test_several_queues_on_several_iothreads(daemon):
    for name in ("t0", "t1"):
        daemon.qmp.cmd("object-add", {"qom-type": "iothread", "id": name})
    daemon.add_file()
    path = add(daemon, writable=True, num_queues=4, iothread=["t0", "t1"])
    assert "in use" in daemon.qmp.error("object-del", {"id": "t1"})
    front_end, rings = vu.start(path, queues=4)
    with front_end:
        for i, ring in enumerate(rings):
            ring.write(8 * i, pattern(4096, i))
        for i, ring in enumerate(reversed(rings)):
            assert ring.read(8 * i, 4096) == pattern(4096, i)


VQ = "iothread-vq-mapping"
MAPPINGS = [
    ([{"iothread": "t0", "vqs": [0]}, {"iothread": "t1", "vqs": [1]}], None),
    ([{"iothread": "t0"}, {"iothread": "t1"}], None),
    ([{"iothread": "t0", "vqs": [0]}, {"iothread": "t1"}],
     "either all items in iothread-vq-mapping must have vqs or none of them must"),
    ([{"iothread": "t0", "vqs": [0]}], "missing vq 1 IOThread assignment in iothread-vq-mapping"),
    ([{"iothread": "t0", "vqs": [0, 1, 2]}],
     'vq index 2 for IOThread "t0" must be less than num_queues 2'),
    ([{"iothread": "t0", "vqs": [0, 1, 0]}],
     'cannot assign vq 0 to IOThread "t0" because it is already assigned'),
    ([{"iothread": "nope"}], 'iothread "nope" not found'),
    ([], "iothread-vq-mapping is empty"),
]


@pytest.mark.parametrize("mapping, text", MAPPINGS, ids=[str(i) for i in range(len(MAPPINGS))])
def test_queues_are_mapped_to_iothreads(daemon, mapping, text):
    for name in ("t0", "t1"):
        daemon.qmp.cmd("object-add", {"qom-type": "iothread", "id": name})
    daemon.add_null()
    arguments = options(daemon, num_queues=2, **{VQ.replace("-", "_"): mapping})
    if text is not None:
        assert daemon.qmp.error("block-export-add", arguments) == text
        return
    daemon.qmp.cmd("block-export-add", arguments)
    front_end, rings = vu.start(daemon.file("vhost.sock"), queues=2)
    with front_end:
        for ring in rings:
            assert ring.read(0, 512) == bytes(512)


def test_map_and_iothread_exclude_each_other(daemon):
    daemon.qmp.cmd("object-add", {"qom-type": "iothread", "id": "t0"})
    daemon.add_null()
    arguments = options(daemon, iothread="t0", iothread_vq_mapping=[{"iothread": "t0"}])
    assert daemon.qmp.error("block-export-add", arguments) == (
        "iothread and iothread-vq-mapping properties cannot be set at the same time")


REFUSED = [
    ({"num_queues": 0}, "num-queues must be greater than 0"),
    ({"logical_block_size": 511}, "Property e0.logical-block-size doesn't take value 511 "
                                  "(minimum: 512, maximum: 2097152)"),
    ({"logical_block_size": 4 << 20}, "Property e0.logical-block-size doesn't take value 4194304 "
                                      "(minimum: 512, maximum: 2097152)"),
    ({"logical_block_size": 1000}, "Property e0.logical-block-size doesn't take value '1000', "
                                   "it's not a power of 2"),
    ({"addr": {"type": "inet", "host": "127.0.0.1", "port": "1"}},
     "Only socket address types 'unix' and 'fd' are supported"),
    ({"addr": {"type": "unix", "path": "/nonexistent/s"}},
     "Failed to bind socket to /nonexistent/s: No such file or directory"),
    ({"addr": {"type": "fd", "str": "77"}}, "File descriptor '77' is not a socket"),
]


@pytest.mark.parametrize("more, text", REFUSED, ids=[str(i) for i in range(len(REFUSED))])
def test_refused(daemon, more, text):
    daemon.add_null()
    before = daemon.fds()
    error = daemon.qmp.error("block-export-add", options(daemon, **more))
    if "fd" in str(more.get("addr", "")):  # QEMU looks for a monitor's descriptor first
        assert "77" in error
    else:
        assert error == text
    assert daemon.qmp.cmd("query-block-exports") == []
    daemon.wait_fds(before)


def test_query_and_delete(daemon, disk):
    assert daemon.qmp.cmd("query-block-exports") == [
        {"id": "e0", "type": "vhost-user-blk", "node-name": "disk", "shutting-down": False}]
    daemon.qmp.cmd("block-export-del", {"id": "e0"})
    assert daemon.qmp.event("BLOCK_EXPORT_DELETED")["data"] == {"id": "e0"}
    assert not os.path.exists(disk)
    daemon.qmp.cmd("blockdev-del", {"node-name": "disk"})


def test_hard_removal_sends_the_client_away(daemon, disk):
    front_end, (ring,) = vu.start(disk)
    with front_end:
        ring.write(0, pattern(512, 3))
        assert "still in use" in daemon.qmp.error("block-export-del", {"id": "e0"})
        daemon.qmp.cmd("block-export-del", {"id": "e0", "mode": "hard"})
        daemon.qmp.event("BLOCK_EXPORT_DELETED")
        assert front_end.is_closed()


def test_clients_come_one_after_the_other(daemon, disk):
    first, (ring,) = vu.start(disk)
    ring.write(0, pattern(512, 9))
    second = vu.FrontEnd(disk)
    second.send(vu.GET_FEATURES)
    assert not select.select([second.socket], [], [], 0.2)[0]
    first.close()
    with second:
        assert second.reply()[0] == vu.GET_FEATURES


def test_readers_are_served_at_once(daemon):
    daemon.add_file(data=pattern(4096, 5))
    path = add(daemon)
    pairs = [vu.start(path) for _ in range(4)]
    for front_end, (ring,) in pairs:
        assert front_end.ask_u64(vu.GET_FEATURES) >> vu.F_BLK_RO & 1
        assert ring.read(0, 4096) == pattern(4096, 5)
        assert ring.request(vu.T_OUT, 0, bytes(512))[0] == vu.IOERR
    for front_end, _ in pairs:
        front_end.close()


def test_resize_is_announced(daemon):
    daemon.add_file()
    path = add(daemon, writable=True)
    with vu.FrontEnd(path) as front_end:
        front_end.negotiate(protocol=1 << vu.P_CONFIG | 1 << vu.P_BACKEND_REQ)
        ours, theirs = socket.socketpair()
        front_end.send(vu.SET_BACKEND_REQ_FD, fds=[theirs.fileno()])
        theirs.close()
        assert front_end.capacity() == 2048
        daemon.qmp.cmd("block_resize", {"node-name": "disk", "size": 2 << 20})
        ours.settimeout(vu.TIME_LIMIT)
        assert struct.unpack("<III", ours.recv(64)) == (2, 1, 0)
        assert front_end.capacity() == 4096
        ours.close()


def test_write_cache_mode(daemon):
    daemon.add_file()
    path = add(daemon, writable=True, writethrough=True)
    with vu.FrontEnd(path) as front_end:
        front_end.negotiate()
        assert front_end.config()[32] == 0
        for mode in (1, 0):
            change = struct.pack("<III", 32, 1, 0) + bytes([mode])
            assert front_end.acknowledged(vu.SET_CONFIG, change)
            assert front_end.config()[32] == mode
        assert not front_end.acknowledged(vu.SET_CONFIG, struct.pack("<III", 0, 8, 0) + bytes(8))
        assert front_end.config()[32] == 0


def test_large_logical_blocks(daemon):
    daemon.add_file()
    path = add(daemon, writable=True, logical_block_size=4096)
    front_end, (ring,) = vu.start(path)
    with front_end:
        assert struct.unpack_from("<I", front_end.config(), 20)[0] == 4096
        assert ring.request(vu.T_IN, 0, into=512)[0] == vu.IOERR
        assert ring.request(vu.T_IN, 1, into=4096)[0] == vu.IOERR
        assert ring.request(vu.T_IN, 8, into=4096)[0] == vu.OK


def test_socket_passed_as_descriptor(start):
    from support.daemon import listening_socket
    daemon = start.prepare()
    listener = listening_socket(daemon.file("passed.sock"))
    daemon.pass_fds = (listener.fileno(),)
    daemon.args = ["--blockdev", "null-co,node-name=disk,read-zeroes=on",
                   "--export", f"vhost-user-blk,id=e0,node-name=disk,addr.type=fd,"
                               f"addr.str={listener.fileno()}"]
    daemon.start()
    front_end, (ring,) = vu.start(daemon.file("passed.sock"))
    with front_end:
        assert ring.read(0, 512) == bytes(512)
    listener.close()


def test_migration_log(disk):
    front_end, (ring,) = vu.start(disk)
    with front_end:
        log = os.memfd_create("log")
        os.ftruncate(log, 4096)
        reply = front_end.ask(vu.SET_LOG_BASE, struct.pack("<QQ", 4096, 0), [log])
        assert reply == bytes(8)
        front_end.send(vu.SET_FEATURES, struct.pack("<Q", front_end.features | 1 << vu.F_LOG_ALL))
        front_end.send(vu.SET_VRING_ADDR, ring.addresses(flags=1, log=ring.used))
        assert front_end.ask_u64(vu.GET_QUEUE_NUM) == 1
        ring.read(0, 8192)
        bits = int.from_bytes(os.pread(log, 64, 0), "little")
        touched = {page for page in range(512) if bits >> page & 1}
        data = ring.buffers // 4096 + 1
        assert touched == {ring.used // 4096, ring.buffers // 4096, data, data + 1}
        os.close(log)


def test_migration_log_is_signalled(disk):
    front_end, (ring,) = vu.start(disk)
    with front_end:
        log, event = os.memfd_create("log"), os.eventfd(0, os.EFD_NONBLOCK)
        os.ftruncate(log, 4096)
        front_end.ask(vu.SET_LOG_BASE, struct.pack("<QQ", 4096, 0), [log])
        assert front_end.acknowledged(vu.SET_LOG_FD, fds=[event])
        ring.read(0, 512)
        assert not select.select([event], [], [], 0)[0]
        logging = struct.pack("<Q", front_end.features | 1 << vu.F_LOG_ALL)
        assert front_end.acknowledged(vu.SET_FEATURES, logging)
        ring.read(0, 512)
        assert select.select([event], [], [], vu.TIME_LIMIT)[0]
        os.close(log)
        os.close(event)


@any_ring
def test_a_ring_without_kicks_is_served(disk, features):
    front_end, _ = vu.start(disk, features, queues=0)
    with front_end:
        ring = vu.Vring(front_end)
        ring.set_up()
        no_fd = 1 << 8
        front_end.send(vu.SET_VRING_KICK, struct.pack("<Q", no_fd))
        front_end.send(vu.SET_VRING_ENABLE, struct.pack("<II", 0, 1))
        ring.kick = lambda: None
        for i in range(20):
            ring.write(8 * i, pattern(512, i))
            # Also when it has not been used for a while.
            assert not select.select([ring.err_fd], [], [], 0.02)[0]
            assert ring.read(8 * i, 512) == pattern(512, i)
        # And kicked again.
        del ring.kick
        front_end.send(vu.SET_VRING_BASE, struct.pack("<II", 0, ring.stop()))
        front_end.send(vu.SET_VRING_KICK, struct.pack("<Q", 0), [ring.kick_fd])
        assert ring.read(0, 512) == pattern(512, 0)


@pytest.mark.parametrize("features", [0, 1 << vu.F_PACKED], ids=["split", "packed"])
@pytest.mark.parametrize("in_order", [False, True], ids=["any-order", "in-order"])
def test_in_order_requests_are_given_back_in_order(daemon, features, in_order):
    """One that is done at once waits for the slow one before it, if that was negotiated."""
    daemon.qmp.cmd("blockdev-add", {"driver": "null-co", "node-name": "slow", "read-zeroes": True,
                                    "latency-ns": 100_000_000})
    path = add(daemon, node="slow")
    front_end, (ring,) = vu.start(path, features | (1 << vu.F_IN_ORDER if in_order else 0))
    with front_end:
        for i, kind in enumerate((vu.T_IN, vu.T_GET_ID, vu.T_IN, vu.T_GET_ID)):
            at = ring.buffers + 0x1000 * i
            ring.memory[at:at + 16] = vu.block_header(kind)
            size = 20 if kind == vu.T_GET_ID else 512
            ring.add([(at, 16, False), (at + 512, size, True), (at + 32, 1, True)],
                     i if ring.packed else 3 * i)
        ring.kick()
        order = [ring.wait()[0] // (1 if ring.packed else 3) for _ in range(4)]
        assert order[:2] == ([0, 1] if in_order else [1, 3])
        assert sorted(order) == [0, 1, 2, 3]
        if in_order:
            assert order == [0, 1, 2, 3]


@any_ring
def test_unfinished_requests_are_done_by_a_successor(start, features):
    """A daemon killed in the midst of requests, and another one given what it left."""
    args = ["--blockdev", {"driver": "file", "node-name": "file", "filename": "disk.img"}]
    daemon = start.prepare(*args)
    daemon.image()
    daemon.start()
    path = add(daemon, node="file", writable=True)
    front_end, (ring,) = vu.start(path, features)
    area = vu.GET_INFLIGHT_FD, struct.pack("<QQHHI", 0, 0, 1, ring.size, 0)
    ring.stop()
    front_end.send(*area)
    request, payload, fds = front_end.reply(with_fd=True)
    assert request == vu.GET_INFLIGHT_FD and len(fds) == 1
    front_end.send(vu.SET_INFLIGHT_FD, payload, fds)
    base = 0x80008000 if ring.packed else 0
    front_end.send(vu.SET_VRING_BASE, struct.pack("<II", 0, base))
    front_end.send(vu.SET_VRING_KICK, struct.pack("<Q", 0), [ring.kick_fd])
    ring.write(0, pattern(4096, 1))
    os.kill(daemon.pid, 19)  # it takes nothing from here on
    at = ring.buffers + 0x3000
    ring.memory[at:at + 16] = vu.block_header(vu.T_OUT, 64)
    ring.memory[at + 512:at + 1024] = pattern(512, 77)
    ring.add([(at, 16, False), (at + 512, 512, False), (at + 32, 1, True)], 5)
    daemon.process.kill()
    daemon.process.wait()

    daemon.start()
    add(daemon, node="file", writable=True)
    front_end.socket.close()
    front_end.socket = socket.socket(socket.AF_UNIX)
    front_end.socket.settimeout(vu.TIME_LIMIT)
    front_end.socket.connect(path)
    front_end.negotiate(features)
    front_end.share_memory()
    front_end.send(vu.SET_INFLIGHT_FD, payload, fds)
    # Split rings go on where the driver has seen answers; packed ones know it from the area.
    ring.run(base if ring.packed else 1)
    assert ring.wait()[0] == 5
    assert ring.memory[at + 32] == vu.OK
    assert ring.read(64, 512) == pattern(512, 77)
    assert ring.read(0, 4096) == pattern(4096, 1)
    front_end.close()
