# SPDX-License-Identifier: GPL-2.0-or-later
"""Front ends and guests that mean harm: each ends with itself, and the daemon serves on.

What others have suffered, and where it is tried, is in tests/interop/attacks.md. Rings are also in
tests/unit/virtio, and all of it is the fuzzers': split-ring, packed-ring and vhost-user.
"""

import fcntl
import os
import select
import socket
import struct

import pytest

from support import vhost_user as vu

MIB = 1 << 20


@pytest.fixture
def served(daemon):
    """Two exports of one file; yields the daemon. Afterwards both must work and nothing be left."""
    daemon.add_file()
    for name in ("a", "b"):
        daemon.qmp.cmd("block-export-add", {
            "type": "vhost-user-blk", "id": name, "node-name": "disk", "num-queues": 2,
            "writable": True, "addr": {"type": "unix", "path": daemon.file(f"{name}.sock")}})
    idle = daemon.fds().count("socket")
    check_service(daemon)
    # A session's socket is the last that it closes.
    daemon.wait_for(lambda: daemon.fds().count("socket") == idle, "the end of the sessions")
    before = daemon.fds()
    yield daemon
    check_service(daemon)
    daemon.wait_fds(before)


def check_service(daemon):
    for name in ("a", "b"):
        front_end, rings = vu.start(daemon.file(f"{name}.sock"), queues=2)
        with front_end:
            for ring in rings:
                ring.write(0, b"\x11" * 512)
                assert ring.read(0, 512) == b"\x11" * 512
                ring.close()


def connect(served):
    return vu.FrontEnd(served.file("a.sock"))


@pytest.fixture(params=[0, 1 << vu.F_PACKED], ids=["split", "packed"])
def running(served, request):
    front_end, (ring,) = vu.start(served.file("a.sock"), request.param)
    with front_end:
        yield ring
    ring.close()


@pytest.fixture
def split(served):
    front_end, (ring,) = vu.start(served.file("a.sock"))
    with front_end:
        yield ring
    ring.close()


def block(ring, kind=vu.T_IN):
    ring.memory[ring.buffers:ring.buffers + 16] = vu.block_header(kind)
    return ring.buffers


# Rings.

@pytest.mark.parametrize("features", [0, 1 << vu.F_PACKED], ids=["split", "packed"])
def test_heads_twice_while_the_disk_is_slow(served, features):
    """Requests that never end before the second time the head is seen."""
    served.qmp.cmd("blockdev-add", {"driver": "null-co", "node-name": "slow",
                                    "latency-ns": 200_000_000, "read-zeroes": True})
    served.qmp.cmd("block-export-add", {
        "type": "vhost-user-blk", "id": "slow", "node-name": "slow",
        "addr": {"type": "unix", "path": served.file("slow.sock")}})
    front_end, (ring,) = vu.start(served.file("slow.sock"), features)
    with front_end:
        at = block(ring)
        for _ in range(2):
            ring.add([(at, 16, False), (at + 0x1000, 512, True), (at + 32, 1, True)], 0)
        ring.kick()
        assert ring.is_broken()
        assert ring.wait() == (0, 513)  # the first one is answered all the same
    ring.close()
    served.qmp.cmd("block-export-del", {"id": "slow", "mode": "hard"})
    served.qmp.event("BLOCK_EXPORT_DELETED")
    served.qmp.cmd("blockdev-del", {"node-name": "slow"})
    assert "made available twice" in served.stderr


def test_chain_that_is_its_own_successor(split):
    at = block(split)
    split.descriptor(0, at, 16, vu.NEXT, 0)
    split.make_available(0)
    split.kick()
    assert split.is_broken()


def test_chain_of_two_in_a_circle(split):
    at = block(split)
    split.descriptor(0, at, 16, vu.NEXT, 1)
    split.descriptor(1, at, 16, vu.NEXT, 0)
    split.make_available(0)
    split.kick()
    assert split.is_broken()


def test_packed_chain_without_end(served):
    front_end, (ring,) = vu.start(served.file("a.sock"), 1 << vu.F_PACKED)
    with front_end:
        at = block(ring)
        for place in range(ring.size):
            ring.descriptor(place, at, 16, vu.NEXT | 0x80, 0)
        ring.kick()
        assert ring.is_broken()
    ring.close()


def test_circle_in_an_indirect_table(split):
    at = block(split)
    table = split.buffers + 0x800
    split.descriptor(0, at, 16, vu.NEXT, 1, table)
    split.descriptor(1, at, 16, vu.NEXT, 0, table)
    split.descriptor(0, table, 32, vu.INDIRECT)
    split.make_available(0)
    split.kick()
    assert split.is_broken()


def test_indirect_within_indirect(running):
    at = block(running)
    table = running.buffers + 0x800
    running.descriptor(0, at, 16, vu.INDIRECT, 0, table)
    if running.packed:
        running.add_packed([(table, 16, False)], 0, vu.INDIRECT)
    else:
        running.descriptor(0, table, 16, vu.INDIRECT)
        running.make_available(0)
    running.kick()
    assert running.is_broken()


@pytest.mark.parametrize("size", [0, 15, 17, 0xffffffff])
def test_indirect_table_of_bad_size(split, size):
    split.descriptor(0, split.buffers, size, vu.INDIRECT)
    split.make_available(0)
    split.kick()
    assert split.is_broken()


BAD_BUFFERS = [
    ("outside", 1 << 40, 512), ("across the end", 8 * MIB - 256, 512),
    ("wrapping", (1 << 64) - 256, 512), ("longer than memory", 0, 0xffffffff),
]


@pytest.mark.parametrize("address, size", [b[1:] for b in BAD_BUFFERS],
                         ids=[b[0] for b in BAD_BUFFERS])
def test_buffer_outside_memory(running, address, size):
    at = block(running)
    running.add([(at, 16, False), (address, size, True), (at + 32, 1, True)])
    running.kick()
    assert running.is_broken()


def test_index_that_jumps(split):
    split.set_available_index(split.available_index() + split.size + 1)
    split.kick()
    assert split.is_broken()


def test_head_outside_the_table(split):
    split.make_available(split.size)
    split.kick()
    assert split.is_broken()


def test_status_not_writable(running):
    at = block(running)
    running.add([(at, 16, False), (at + 32, 1, False)])
    running.kick()
    assert running.wait()[1] == 0


def test_empty_and_short_requests(running):
    at = block(running)
    for chain in ([(at, 0, False)], [(at, 15, False), (at + 32, 1, True)], [(at + 32, 1, True)]):
        running.add(chain)
        running.kick()
        assert running.wait()[1] == 0


def test_header_over_sixteen_descriptors(served):
    front_end, (ring,) = vu.start(served.file("a.sock"), size=32)
    with front_end:
        at = block(ring)
        chain = [(at + i, 1, False) for i in range(16)]
        ring.add(chain + [(at + 0x1000, 512, True), (at + 32, 1, True)])
        ring.kick()
        assert ring.wait() == (0, 513)
        assert ring.memory[at + 32] == vu.OK
    ring.close()


def test_writable_before_readable(running):
    at = block(running)
    running.add([(at + 32, 1, True), (at, 16, False)])
    running.kick()
    assert running.is_broken()


RANGES = [
    ("2^63 sectors", struct.pack("<QII", 1 << 63, 1, 0), vu.IOERR),
    ("last sector wraps", struct.pack("<QII", (1 << 64) - 1, 2, 0), vu.IOERR),
    ("too many sectors", struct.pack("<QII", 0, 0xffffffff, 0), vu.IOERR),
    ("no segment", b"", vu.IOERR),
    ("half a segment", bytes(8), vu.IOERR),
    ("many segments", bytes(16 * 1024), vu.IOERR),
    ("reserved flags", struct.pack("<QII", 0, 8, 0x80000000), vu.UNSUPP),
]


@pytest.mark.parametrize("kind", [vu.T_DISCARD, vu.T_WRITE_ZEROES], ids=["discard", "zeroes"])
@pytest.mark.parametrize("segment, status", [r[1:] for r in RANGES], ids=[r[0] for r in RANGES])
def test_ranges_that_make_no_sense(split, kind, segment, status):
    assert split.request(kind, data=segment)[0] == status


@pytest.mark.parametrize("sector, size, status", [
    (1 << 63, 512, vu.IOERR), ((1 << 64) - 1, 512, vu.IOERR), (2048, 512, vu.IOERR),
    (2047, 1024, vu.IOERR), (0, 100, vu.IOERR), (0, 0, vu.OK)])
def test_transfers_that_make_no_sense(split, sector, size, status):
    assert split.request(vu.T_IN, sector, into=size)[0] == status


def test_unknown_request(split):
    assert split.request(99)[0] == vu.UNSUPP


# Messages.

BAD_MESSAGES = [
    ("wrong version", vu.header(vu.GET_FEATURES, flags=2), 0),
    ("a reply", vu.header(vu.GET_FEATURES, flags=5), 0),
    ("unknown", vu.header(99), 0),
    ("number 0", vu.header(0), 0),
    ("huge", struct.pack("<III", vu.SET_MEM_TABLE, 1, 0xffffffff), 0),
    ("payload to none", vu.header(vu.GET_FEATURES, bytes(8)), 0),
    ("no payload", vu.header(vu.SET_FEATURES), 0),
    ("half a state", vu.header(vu.SET_VRING_NUM, bytes(4)), 0),
    ("short address", vu.header(vu.SET_VRING_ADDR, bytes(39)), 0),
    ("9 regions", vu.header(vu.SET_MEM_TABLE, struct.pack("<II", 9, 0) + bytes(256)), 8),
    ("2^32-1 regions", vu.header(vu.SET_MEM_TABLE, struct.pack("<II", 0xffffffff, 0)), 0),
    ("region without fd", vu.header(vu.SET_MEM_TABLE, struct.pack("<II", 1, 0) + bytes(32)), 0),
    ("region with 2 fds", vu.header(vu.SET_MEM_TABLE, struct.pack("<II", 1, 0) + bytes(32)), 2),
    ("add without fd", vu.header(vu.ADD_MEM_REG, bytes(40)), 0),
    ("add with 2 fds", vu.header(vu.ADD_MEM_REG, bytes(40)), 2),
    ("remove with 2 fds", vu.header(vu.REM_MEM_REG, bytes(40)), 2),
    ("features with 8 fds", vu.header(vu.SET_FEATURES, bytes(8)), 8),
    ("query with 8 fds", vu.header(vu.GET_FEATURES), 8),
    ("kick without fd", vu.header(vu.SET_VRING_KICK, bytes(8)), 0),
    ("kick with 2 fds", vu.header(vu.SET_VRING_KICK, bytes(8)), 2),
    ("fd that is denied", vu.header(vu.SET_VRING_CALL, struct.pack("<Q", 0x100)), 1),
    ("log without fd", vu.header(vu.SET_LOG_BASE, bytes(16)), 0),
    ("in-flight without fd", vu.header(vu.SET_INFLIGHT_FD, bytes(24)), 0),
    ("config of another size", vu.header(vu.GET_CONFIG, struct.pack("<III", 0, 60, 0)), 0),
    ("config too long", vu.header(vu.GET_CONFIG, struct.pack("<III", 0, 300, 0) + bytes(300)), 0),
    ("features not offered", vu.header(vu.SET_FEATURES, b"\xff" * 8), 0),
    ("protocol not offered", vu.header(vu.SET_PROTOCOL_FEATURES, b"\xff" * 8), 0),
]


@pytest.mark.parametrize("message, fds", [m[1:] for m in BAD_MESSAGES],
                         ids=[m[0] for m in BAD_MESSAGES])
def test_message_that_makes_no_sense(served, message, fds):
    with connect(served) as front_end:
        try:
            front_end.send_raw(message, [front_end.memory_fd] * fds)
        except vu.Closed:
            pass
        assert front_end.is_closed()


@pytest.mark.parametrize("number", range(1, 46))
def test_eight_descriptors_with_every_message(served, number):
    """Whether they are refused or closed, none of them stays."""
    with connect(served) as front_end:
        front_end.negotiate()
        try:
            front_end.send(number, bytes(8), [front_end.memory_fd] * 8, need_reply=True)
            front_end.send(number, fds=[front_end.memory_fd] * 8)
        except vu.Closed:
            pass
        front_end.socket.shutdown(socket.SHUT_WR)
        assert front_end.is_closed()


INDEXED = [vu.SET_VRING_NUM, vu.SET_VRING_BASE, vu.SET_VRING_ENABLE]


@pytest.mark.parametrize("request_number", INDEXED)
@pytest.mark.parametrize("index", [2, 255, 0xffffffff])
def test_ring_that_is_not_there(served, request_number, index):
    with connect(served) as front_end:
        front_end.negotiate()
        assert not front_end.acknowledged(request_number, struct.pack("<II", index, 1))


@pytest.mark.parametrize("size", [0, 3, 32769, 65535, 65536, 0xffffffff])
def test_ring_of_bad_size(served, size):
    with connect(served) as front_end:
        front_end.negotiate()
        front_end.share_memory()
        ring = vu.Vring(front_end)
        sound = front_end.acknowledged(vu.SET_VRING_NUM, struct.pack("<II", 0, size))
        if sound:  # no power of two: found when the ring shall run
            front_end.send(vu.SET_VRING_ADDR, ring.addresses())
            front_end.send(vu.SET_VRING_KICK, struct.pack("<Q", 0), [ring.kick_fd])
            assert not front_end.acknowledged(vu.SET_VRING_ENABLE, struct.pack("<II", 0, 1))
        ring.close()


@pytest.mark.parametrize("address", [0, vu.USER_BASE - 16, vu.USER_BASE + 8 * MIB - 16,
                                     (1 << 64) - 16])
def test_ring_outside_memory(served, address):
    with connect(served) as front_end:
        front_end.negotiate()
        front_end.share_memory()
        ring = vu.Vring(front_end)
        front_end.send(vu.SET_VRING_NUM, struct.pack("<II", 0, 16))
        front_end.send(vu.SET_VRING_ADDR, struct.pack("<IIQQQQ", 0, 0, address, address, address,
                                                      0))
        front_end.send(vu.SET_VRING_KICK, struct.pack("<Q", 0), [ring.kick_fd])
        assert not front_end.acknowledged(vu.SET_VRING_ENABLE, struct.pack("<II", 0, 1))
        ring.close()


def test_ring_changed_while_it_runs(running):
    front_end = running.front_end
    assert not front_end.acknowledged(vu.SET_VRING_NUM, struct.pack("<II", 0, 8))
    assert not front_end.acknowledged(vu.SET_VRING_BASE, struct.pack("<II", 0, 5))
    moved = struct.pack("<IIQQQQ", 0, 0, vu.USER_BASE + 0x8000, vu.USER_BASE + 0x9000,
                        vu.USER_BASE + 0xa000, 0)
    assert not front_end.acknowledged(vu.SET_VRING_ADDR, moved)
    assert running.read(0, 512)


def bad_fds():
    closed = socket.socketpair()
    closed[1].close()
    return {
        "O_PATH": os.open("/proc/self/exe", os.O_PATH),
        "directory": os.open("/", os.O_RDONLY),
        "file": os.open("/proc/self/exe", os.O_RDONLY),
        "socket": os.dup(closed[0].fileno()),
        "pipe": os.pipe()[1],
    }


@pytest.mark.parametrize("kind", ["O_PATH", "directory", "file", "socket", "pipe"])
def test_descriptors_that_are_no_events(served, kind):
    fd = bad_fds()[kind]
    with connect(served) as front_end:
        front_end.negotiate()
        for request in (vu.SET_VRING_KICK, vu.SET_VRING_CALL, vu.SET_VRING_ERR):
            assert not front_end.acknowledged(request, bytes(8), [fd])
    os.close(fd)


@pytest.mark.parametrize("kind", ["O_PATH", "directory", "file", "socket", "pipe"])
def test_descriptors_that_are_no_memory(served, kind):
    fd = bad_fds()[kind]
    with connect(served) as front_end:
        front_end.negotiate()
        table = struct.pack("<II", 1, 0) + front_end.region(size=4096)
        assert not front_end.acknowledged(vu.SET_MEM_TABLE, table, [fd])
        assert not front_end.acknowledged(vu.ADD_MEM_REG, bytes(8) + front_end.region(), [fd])
        in_flight = struct.pack("<QQHHI", 4096, 0, 1, 16, 0)
        assert not front_end.acknowledged(vu.SET_INFLIGHT_FD, in_flight, [fd])
    os.close(fd)


TOP = (1 << 64) - 4096
BAD_REGIONS = [("empty", 0, 0, 0, 0), ("guest wraps", TOP, 8192, 0, 0),
               ("user wraps", 0, 8192, TOP, 0), ("offset wraps", 0, 8192, 0, TOP),
               ("behind the file", 0, 4096, 0, 8 * MIB), ("longer", 0, 9 * MIB, 0, 0),
               ("overlapping", 4096, 4096, 0x1000, 0)]


@pytest.mark.parametrize("guest, size, user, offset", [r[1:] for r in BAD_REGIONS],
                         ids=[r[0] for r in BAD_REGIONS])
def test_memory_region_that_makes_no_sense(served, guest, size, user, offset):
    with connect(served) as front_end:
        front_end.negotiate()
        front_end.share_memory()
        region = struct.pack("<QQQQ", guest, size, user, offset)
        assert not front_end.acknowledged(vu.ADD_MEM_REG, bytes(8) + region, [front_end.memory_fd])
        assert not front_end.acknowledged(vu.REM_MEM_REG, bytes(8) + region)
        vring = vu.Vring(front_end).run()
        assert vring.read(0, 512)
        vring.close()


def test_a_thousand_regions_come_and_go(served):
    with connect(served) as front_end:
        front_end.negotiate()
        front_end.share_memory()
        ring = vu.Vring(front_end).run()
        assert ring.read(0, 512)
        before = served.fds(), served.status("VmSize")
        for i in range(1000):
            region = bytes(8) + front_end.region((1 + i) << 32, 4096, (1 + i) << 32)
            assert front_end.acknowledged(vu.ADD_MEM_REG, region, [front_end.memory_fd])
            assert front_end.acknowledged(vu.REM_MEM_REG, region, [front_end.memory_fd] * (i % 2))
        assert ring.read(0, 512)
        assert served.fds() == before[0]
        assert served.status("VmSize") < before[1] + 16 * 1024
        slots = front_end.ask_u64(vu.GET_MAX_MEM_SLOTS)
        added = 0
        while front_end.acknowledged(vu.ADD_MEM_REG,
                                     bytes(8) + front_end.region((1 + added) << 32, 4096,
                                                                 (1 + added) << 32),
                                     [front_end.memory_fd]):
            added += 1
        assert added == slots - 1
        ring.close()


@pytest.mark.parametrize("queues, size", [(0, 16), (3, 16), (65535, 16), (1, 0), (1, 65535)])
def test_in_flight_area_of_bad_size(served, queues, size):
    with connect(served) as front_end:
        front_end.negotiate()
        area = struct.pack("<QQHHI", 0, 0, queues, size, 0)
        assert not front_end.acknowledged(vu.GET_INFLIGHT_FD, area)
        area = struct.pack("<QQHHI", 4096, 0, queues, size, 0)
        assert not front_end.acknowledged(vu.SET_INFLIGHT_FD, area, [front_end.memory_fd])


@pytest.mark.parametrize("mapped, offset", [(16, 0), (0, 0), (1 << 40, 0), (4096, TOP),
                                            (4096, 4)])
def test_in_flight_area_that_does_not_fit(served, mapped, offset):
    with connect(served) as front_end:
        front_end.negotiate()
        area = struct.pack("<QQHHI", mapped, offset, 2, 16, 0)
        assert not front_end.acknowledged(vu.SET_INFLIGHT_FD, area, [front_end.memory_fd])


# Events that shall make the daemon wait: full, and blocking again behind its back.

MOST = (1 << 64) - 2


def make_blocking(fd):
    fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) & ~os.O_NONBLOCK)


def fill(fd):
    try:
        os.eventfd_read(fd)
    except BlockingIOError:
        pass
    os.eventfd_write(fd, MOST)
    make_blocking(fd)


def test_call_that_would_block_holds_up_nobody(served, running):
    assert running.read(0, 512)
    fill(running.call_fd)
    at = block(running)
    running.add([(at, 16, False), (at + 0x1000, 512, True), (at + 32, 1, True)])
    running.kick()
    other, rings = vu.start(served.file("b.sock"))
    with other:
        assert rings[0].read(0, 512)
    rings[0].close()
    served.wait_for(running.reap, "the answer")


def test_error_event_that_would_block_holds_up_nobody(served, running):
    assert running.read(0, 512)
    fill(running.err_fd)
    running.add([(1 << 40, 16, False)])
    running.kick()
    other, rings = vu.start(served.file("b.sock"))
    with other:
        assert rings[0].read(0, 512)
    rings[0].close()


def test_kick_that_is_read_by_the_front_end_holds_up_nobody(served, running):
    """Blocking, and empty by the time at which it would be read."""
    make_blocking(running.kick_fd)
    for _ in range(2000):
        running.kick()
        if select.select([running.kick_fd], [], [], 0)[0]:
            fcntl.fcntl(running.kick_fd, fcntl.F_SETFL, os.O_NONBLOCK)
            try:
                os.eventfd_read(running.kick_fd)
            except BlockingIOError:
                pass
            make_blocking(running.kick_fd)
    other, rings = vu.start(served.file("b.sock"))
    with other:
        assert rings[0].read(0, 512)
    rings[0].close()
    assert running.read(0, 512)


# Memory that is taken away.

def test_memory_cut_off_under_a_ring(running):
    os.ftruncate(running.front_end.memory_fd, 0)
    running.kick()
    assert running.front_end.is_closed()


def test_memory_cut_off_before_the_ring_starts(served):
    with connect(served) as front_end:
        front_end.negotiate()
        front_end.share_memory()
        ring = vu.Vring(front_end)
        ring.set_up()
        os.ftruncate(front_end.memory_fd, 0)
        try:
            front_end.send(vu.SET_VRING_KICK, struct.pack("<Q", 0), [ring.kick_fd])
            front_end.send(vu.SET_VRING_ENABLE, struct.pack("<II", 0, 1))
        except vu.Closed:
            pass
        assert front_end.is_closed()
        ring.close()


def test_buffers_cut_off_while_the_ring_stays(running):
    at = block(running)
    far = 7 * MIB
    os.ftruncate(running.front_end.memory_fd, MIB)
    running.add([(at, 16, False), (far, 4096, True), (far + 4096, 1, True)])
    running.kick()
    assert running.front_end.is_closed()


def test_in_flight_area_cut_off(served):
    with connect(served) as front_end:
        front_end.negotiate()
        front_end.share_memory()
        area = os.memfd_create("area")
        os.ftruncate(area, 4096)
        front_end.send(vu.SET_INFLIGHT_FD, struct.pack("<QQHHI", 4096, 0, 1, 16, 0), [area])
        ring = vu.Vring(front_end).run()
        assert ring.read(0, 512)
        os.ftruncate(area, 0)
        at = block(ring)
        ring.add([(at, 16, False), (at + 0x1000, 512, True), (at + 32, 1, True)])
        ring.kick()
        assert front_end.is_closed()
        os.close(area)
        ring.close()


# Stalls: whoever stops in the middle holds up nobody but those who wait for the same place.

STALLS = [
    ("silent", b""), ("half a header", vu.header(vu.GET_FEATURES)[:5]),
    ("no payload", vu.header(vu.SET_FEATURES, bytes(8))[:12]),
    ("half a payload", vu.header(vu.SET_VRING_ADDR, bytes(40))[:20]),
]


@pytest.mark.parametrize("data", [s[1] for s in STALLS], ids=[s[0] for s in STALLS])
def test_stall_holds_up_nobody_else(served, data):
    with connect(served) as front_end:
        front_end.send_raw(data or b"")
        other, rings = vu.start(served.file("b.sock"))
        with other:
            assert rings[0].read(0, 512)
        rings[0].close()
        assert len(served.qmp.cmd("query-block-exports")) == 2
        with pytest.raises(Exception, match="in use"):
            served.qmp.cmd("block-export-del", {"id": "a"})


def test_clients_that_come_and_go(served):
    for i in range(300):
        with connect(served) as front_end:
            if i % 3 == 1:
                front_end.send_raw(vu.header(vu.GET_FEATURES)[:i % 12])
            elif i % 3 == 2:
                front_end.send(vu.GET_FEATURES)
