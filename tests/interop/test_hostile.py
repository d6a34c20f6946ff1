# SPDX-License-Identifier: GPL-2.0-or-later
"""Clients that misbehave. Each gets its error or is dropped; everybody else is served on.

Named after the class of defect that others had.
"""

import random
import socket
import struct
import threading
import time

import pytest

from support import nbd_wire as wire
from support.nbd_wire import NBD, Closed


@pytest.fixture
def server(null):
    """A server whose good health, memory and descriptors are checked after the attack."""
    sockets = null.fds().count("socket")
    with NBD(null.nbd_path) as warm:
        warm.open("disk")
    # What is made once, with the first client, stays; the client itself does not.
    null.wait_for(lambda: null.fds().count("socket") == sockets, "the client's end")
    before, memory = null.fds(), null.status("VmHWM")
    yield null
    assert null.alive(), null.stderr
    with NBD(null.nbd_path) as client:
        client.open("disk")
        assert client.read(0, 4096) == bytes(4096)
    null.wait_fds(before)
    assert null.qmp.cmd("query-block-exports")
    assert null.status("VmHWM") - memory < 160 * 1024


def connect(server, **kwargs):
    return NBD(server.nbd_path, **kwargs)


# Names.

@pytest.mark.parametrize("length", [0, 255, 256, 4096])
@pytest.mark.parametrize("option", [wire.OPT_INFO, wire.OPT_GO])
def test_unknown_name_of_any_length_is_unknown(server, option, length):
    with connect(server) as client:
        client.hello()
        replies = client.option(option, client.info_data(b"n" * length))
        assert replies[-1][0] == wire.REP_ERR_UNKNOWN
        client.go("disk")
        assert client.read(0, 512) == bytes(512)


@pytest.mark.parametrize("option", [wire.OPT_INFO, wire.OPT_GO])
def test_name_over_the_limit_is_refused(server, option):
    with connect(server) as client:
        client.hello()
        client.send_option(option, client.info_data(b"n" * 4097))
        try:
            assert client.option_reply()[1] >> 31
        except Closed:
            pass


def test_error_text_of_a_long_unknown_name_fits(server):
    with connect(server) as client:
        client.hello()
        _, text = client.option(wire.OPT_GO, client.info_data(b"%" * 4096))[-1]
        assert len(text) <= 4096


@pytest.mark.parametrize("length", [0, 255, 256, 4096, 4097, 65536])
def test_export_name_of_any_length_closes_when_unknown(server, length):
    with connect(server) as client:
        client.hello()
        client.send_option(wire.OPT_EXPORT_NAME, b"n" * length)
        client.expect_closed()


@pytest.mark.parametrize("length", [0xffffffff, 0x7fffffff, 100])
def test_name_length_beyond_the_option_is_refused(server, length):
    with connect(server) as client:
        client.hello()
        replies = client.option(wire.OPT_GO, struct.pack(">I", length) + b"disk" + bytes(2))
        assert replies[-1][0] == wire.REP_ERR_INVALID


def test_info_count_beyond_the_option_is_refused(server):
    with connect(server) as client:
        client.hello()
        data = struct.pack(">I", 4) + b"disk" + struct.pack(">H", 0xffff)
        assert client.option(wire.OPT_GO, data)[-1][0] == wire.REP_ERR_INVALID


@pytest.mark.parametrize("data", [b"", b"\0", b"\0\0\0", b"\0\0\0\4disk"])
def test_short_option_is_refused(server, data):
    with connect(server) as client:
        client.hello()
        assert client.option(wire.OPT_GO, data)[-1][0] == wire.REP_ERR_INVALID


def test_name_with_nul_and_garbage_is_unknown(server):
    with connect(server) as client:
        client.hello()
        replies = client.option(wire.OPT_GO, client.info_data(b"disk\0\xff\xfe"))
        assert replies[-1][0] in (wire.REP_ERR_UNKNOWN, wire.REP_ERR_INVALID)


# Lengths of options.

@pytest.mark.parametrize("length", [(32 << 20) + 1, 0x7fffffff, 0xffffffff])
def test_option_over_32_mib_is_dropped_at_once(server, length):
    with connect(server) as client:
        client.hello()
        started = time.monotonic()
        client.send_option(wire.OPT_INFO, b"", length)
        client.expect_closed()
        assert time.monotonic() - started < 2


@pytest.mark.parametrize("option", [wire.OPT_LIST, wire.OPT_STRUCTURED_REPLY, wire.OPT_STARTTLS])
def test_data_where_none_belongs_is_refused(server, option):
    with connect(server) as client:
        client.hello()
        replies = client.option(option, b"x" * 10)
        assert replies[-1][0] >> 31
        assert client.option(wire.OPT_LIST)[-1][0] == wire.REP_ACK


def test_large_unknown_option_is_skipped(server):
    with connect(server) as client:
        client.hello()
        assert client.option(77, bytes(1 << 20))[-1][0] == wire.REP_ERR_UNSUP
        assert client.option(wire.OPT_LIST)[-1][0] == wire.REP_ACK


@pytest.mark.parametrize("option", [wire.OPT_PEEK, 12, 0, 0xffffffff, 0x80000001])
def test_unknown_option_is_unsupported(server, option):
    with connect(server) as client:
        client.hello()
        assert client.option(option)[-1][0] == wire.REP_ERR_UNSUP


def test_tls_is_refused_by_policy_or_unsupported(server):
    with connect(server) as client:
        client.hello()
        assert client.option(wire.OPT_STARTTLS)[-1][0] in (
            wire.REP_ERR_POLICY, wire.REP_ERR_UNSUP)


# Meta contexts.

def test_long_query_is_skipped(server):
    with connect(server) as client:
        client.hello()
        client.negotiate_structured()
        assert client.meta("disk", ["x:" + "y" * 4094], wire.OPT_LIST_META) == {}
        client.go("disk")


def test_query_over_the_limit_is_refused_or_ignored(server):
    with connect(server) as client:
        client.hello()
        client.negotiate_structured()
        try:
            assert client.meta("disk", ["x" * 4097], wire.OPT_LIST_META) in (
                {}, wire.REP_ERR_INVALID, wire.REP_ERR_TOO_BIG)
        except Closed:
            pass


@pytest.mark.parametrize("count", [2, 0xffffffff])
def test_query_count_beyond_the_option_is_refused(server, count):
    with connect(server) as client:
        client.hello()
        client.negotiate_structured()
        data = struct.pack(">I", 4) + b"disk" + struct.pack(">I", count) + struct.pack(
            ">I", 5) + b"base:"
        assert client.option(wire.OPT_SET_META, data)[-1][0] == wire.REP_ERR_INVALID


def test_many_queries(server):
    with connect(server) as client:
        client.hello()
        client.negotiate_structured()
        found = client.meta("disk", ["base:allocation"] * 1000 + ["nosuch:x"] * 1000)
        assert list(found) == ["base:allocation"] or found >> 31


def test_contexts_without_structured_replies_are_refused(server):
    with connect(server) as client:
        client.hello()
        assert client.meta("disk", ["base:allocation"]) == wire.REP_ERR_INVALID


def test_contexts_of_another_export_do_not_count(server):
    server.add_null("other")
    server.export("other", ident="e2")
    with connect(server) as client:
        client.hello()
        client.negotiate_structured()
        assert client.meta("other", ["base:allocation"])
        client.go("disk")
        with pytest.raises(OSError) as refused:
            client.status(0, 4096)
        assert refused.value.errno == wire.EINVAL
    server.qmp.cmd("block-export-del", id="e2", mode="hard")


# Order of commands.

@pytest.mark.parametrize("flags", [0x80000000, 0xffffffff, 4])
def test_unknown_client_flags_are_dropped(server, flags):
    with connect(server) as client:
        client.greeting()
        client.send(struct.pack(">I", flags))
        client.expect_closed()


def test_wrong_magic_of_an_option_is_dropped(server):
    with connect(server) as client:
        client.hello()
        client.send(b"IHAVEOPX" + struct.pack(">II", wire.OPT_LIST, 0))
        client.expect_closed()


def test_request_before_go_is_dropped(server):
    with connect(server) as client:
        client.hello()
        client.send_request(wire.CMD_READ, 0, 512)
        client.expect_closed()


def test_option_after_go_is_dropped(server):
    with connect(server) as client:
        client.open("disk")
        client.send_option(wire.OPT_LIST)
        client.send(bytes(12))
        client.expect_closed()


def test_second_structured_reply_is_refused_or_accepted(server):
    with connect(server) as client:
        client.hello()
        client.negotiate_structured()
        assert client.option(wire.OPT_STRUCTURED_REPLY)[-1][0] in (
            wire.REP_ACK, wire.REP_ERR_INVALID)
        client.go("disk")
        assert client.read(0, 512) == bytes(512)


def test_abort_is_acknowledged_and_closed(server):
    with connect(server) as client:
        client.hello()
        client.send_option(wire.OPT_ABORT)
        assert client.option_reply()[1] == wire.REP_ACK
        client.expect_closed()


def test_abort_and_gone(server):
    for _ in range(50):
        with connect(server) as client:
            client.hello()
            client.send_option(wire.OPT_ABORT)


def test_replies_that_nobody_reads(server):
    for _ in range(20):
        with connect(server) as client:
            client.hello()
            client.send(b"".join(wire.IHAVEOPT + struct.pack(">II", wire.OPT_LIST, 0)
                                 for _ in range(100)))


def test_fuzz_bytes_in_each_state(server):
    junk = random.Random(7)
    for state in range(4):
        for _ in range(50):
            with connect(server) as client:
                if state == 1:
                    client.greeting()
                elif state == 2:
                    client.hello()
                elif state == 3:
                    client.open("disk")
                try:
                    client.send(junk.randbytes(200))
                    client.sock.shutdown(socket.SHUT_WR)
                    client.expect_closed()
                except (BrokenPipeError, ConnectionError):
                    pass


@pytest.mark.parametrize("junk", [
    b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"\0" * 100, b"SSH-2.0-x\r\n", b"NBDMAGICIHAVEOPT"])
def test_junk_of_a_port_scan(server, junk):
    with connect(server) as client:
        try:
            client.send(junk)
            client.sock.shutdown(socket.SHUT_WR)
        except BrokenPipeError:
            pass
        client.expect_closed()


# Connections.

def test_connect_and_close_loop(server):
    for _ in range(10000):
        socket_ = socket.socket(socket.AF_UNIX)
        socket_.connect(server.nbd_path)
        socket_.close()


def test_connect_and_reset_loop_on_loopback(daemon):
    daemon.add_null()
    free = socket.socket()
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
    free.close()
    daemon.qmp.cmd("nbd-server-start", {"addr": {"type": "inet", "data": {
        "host": "127.0.0.1", "port": str(port)}}})
    daemon.export("disk")
    before = daemon.fds()
    for _ in range(10000):
        NBD(("127.0.0.1", port)).reset()
    with NBD(("127.0.0.1", port)) as client:
        client.open("disk")
    daemon.wait_fds(before)


def test_idle_connections_are_limited(null):
    """200 that say nothing: at most 100 are let in, and they are thrown out in time."""
    before = null.fds()
    idle = [connect(null) for _ in range(90)]
    with connect(null) as client:
        client.open("disk")
        assert client.read(0, 512) == bytes(512)
    for client in idle:
        client.close()
    null.wait_fds(before)


@pytest.mark.strata_only("7.2 has no limit")
def test_two_hundred_idle_connections(null):
    before = null.fds().count("socket")
    idle = [connect(null) for _ in range(200)]
    null.wait_for(lambda: null.fds().count("socket") - before >= 100, "the first hundred")
    time.sleep(0.2)
    assert null.fds().count("socket") - before <= 101  # one more waits outside the server
    assert null.qmp.cmd("query-version")
    # Ten seconds later they are gone, and others are let in.
    with connect(null, timeout=30) as client:
        client.open("disk")
        assert client.read(0, 512) == bytes(512)
    for client in idle:
        client.close()


@pytest.mark.strata_only("7.2 waits for ever")
def test_stalled_handshake_is_closed_after_ten_seconds(null):
    with connect(null, timeout=30) as client:
        client.greeting()
        started = time.monotonic()
        client.expect_closed(timeout=30)
        assert 8 < time.monotonic() - started < 20


@pytest.mark.strata_only("7.2 has no such member")
def test_handshake_limit_can_be_set(daemon):
    daemon.add_null()
    daemon.serve_nbd(handshake_max_seconds=1)
    daemon.export("disk")
    with connect(daemon, timeout=30) as slow, connect(daemon) as done:
        done.open("disk")
        started = time.monotonic()
        slow.expect_closed(timeout=30)
        assert time.monotonic() - started < 5
        # The limit is that of the handshake, not of the session.
        assert done.read(0, 512) == bytes(512)


@pytest.mark.strata_only("7.2 has no such member")
def test_handshake_limit_zero_is_none(daemon):
    daemon.add_null()
    daemon.serve_nbd(handshake_max_seconds=0)
    daemon.export("disk")
    with connect(daemon) as slow:
        slow.greeting()
        time.sleep(11)
        slow.send(struct.pack(">I", 3))
        assert slow.option(wire.OPT_LIST)[-1][0] == wire.REP_ACK


@pytest.mark.strata_only("CVE-2024-7409")
def test_server_stop_against_connecting_clients(null):
    done = threading.Event()

    def list_for_ever():
        while not done.is_set():
            try:
                with connect(null, timeout=2) as client:
                    client.hello()
                    client.option(wire.OPT_LIST)
            except (OSError, Closed, AssertionError):
                pass

    clients = [threading.Thread(target=list_for_ever) for _ in range(4)]
    for thread in clients:
        thread.start()
    try:
        for _ in range(30):
            null.qmp.cmd("nbd-server-stop")
            null.serve_nbd()
            null.export("disk", writable=True)
    finally:
        done.set()
        for thread in clients:
            thread.join()
    with connect(null) as client:
        client.open("disk")


@pytest.mark.strata_only("CVE-2024-7409")
def test_server_stop_with_stalled_handshakes(null):
    before = None
    for _ in range(5):
        stalled = [connect(null) for _ in range(10)]
        null.qmp.cmd("nbd-server-stop")
        for client in stalled:
            client.expect_closed()
            client.close()
        null.serve_nbd()
        null.export("disk", writable=True)
        if before is None:
            before = null.fds()
    null.wait_fds(before)


# Requests.

END = 8 << 20


@pytest.mark.parametrize("command", [wire.CMD_READ, wire.CMD_WRITE, wire.CMD_TRIM,
                                     wire.CMD_WRITE_ZEROES, wire.CMD_CACHE])
@pytest.mark.parametrize("offset", [END - 511, END, END + 512, (1 << 63) - 512, 1 << 63,
                                    (1 << 64) - 512])
def test_request_beyond_the_end(server, command, offset):
    with connect(server) as client:
        client.open("disk")
        payload = bytes(512) if command == wire.CMD_WRITE else b""
        error, _ = client.request(command, offset, 512, payload=payload)
        assert error in (wire.EINVAL, wire.ENOSPC)
        assert client.read(0, 512) == bytes(512)


def test_read_over_32_mib_is_refused(server):
    with connect(server) as client:
        client.open("disk")
        error, _ = client.request(wire.CMD_READ, 0, (32 << 20) + 1)
        assert error in (wire.EINVAL, wire.EOVERFLOW)
        assert client.read(0, 512) == bytes(512)


@pytest.mark.parametrize("length", [(32 << 20) + 1, 0xffffffff])
def test_write_over_32_mib_is_dropped(server, length):
    with connect(server) as client:
        client.open("disk")
        client.send_request(wire.CMD_WRITE, 0, length)
        # Its payload cannot be skipped in good time.
        try:
            error = client.read_reply()[1]
            assert error in (wire.EINVAL, wire.EOVERFLOW)
            client.sock.shutdown(socket.SHUT_WR)
        except Closed:
            pass
        client.expect_closed()


@pytest.mark.parametrize("length", [0xffffffff, END + 1, END * 2])
def test_block_status_across_the_end(server, length):
    with connect(server) as client:
        client.open("disk", contexts=["base:allocation"])
        with pytest.raises(OSError) as refused:
            client.status(0, length)
        assert refused.value.errno == wire.EINVAL


def test_extents_end_at_the_end_of_the_disk(server):
    with connect(server) as client:
        ids = client.open("disk", contexts=["base:allocation"])
        (extents,) = client.status(END - 512, 512).values()
        assert sum(length for length, _ in extents) == 512
        assert ids["base:allocation"] is not None


def test_block_status_of_nothing_is_refused(server):
    with connect(server) as client:
        client.open("disk", contexts=["base:allocation"])
        with pytest.raises(OSError) as refused:
            client.status(0, 0)
        assert refused.value.errno == wire.EINVAL


def test_block_status_without_a_context_is_refused(server):
    with connect(server) as client:
        client.open("disk")
        with pytest.raises(OSError) as refused:
            client.status(0, 512)
        assert refused.value.errno == wire.EINVAL


@pytest.mark.parametrize("command", [8, 77, 0xffff])
def test_unknown_command_is_refused(server, command):
    with connect(server) as client:
        client.open("disk")
        assert client.request(command, 0, 512)[0] == wire.EINVAL
        assert client.read(0, 512) == bytes(512)


@pytest.mark.parametrize("command, flags", [
    (wire.CMD_READ, wire.F_NO_HOLE), (wire.CMD_READ, 0x8000), (wire.CMD_FLUSH, wire.F_FAST_ZERO),
    (wire.CMD_TRIM, wire.F_DF), (wire.CMD_WRITE_ZEROES, wire.F_REQ_ONE),
    (wire.CMD_BLOCK_STATUS, wire.F_DF)])
def test_flag_that_does_not_belong_is_refused(server, command, flags):
    with connect(server) as client:
        client.open("disk", contexts=["base:allocation"])
        length = 0 if command == wire.CMD_FLUSH else 512
        assert client.request(command, 0, length, flags)[0] == wire.EINVAL
        assert client.read(0, 512) == bytes(512)


@pytest.mark.parametrize("magic", [0, 0x12560953, 0x25609514, wire.EXT_REQUEST_MAGIC])
def test_wrong_magic_of_a_request_is_dropped(server, magic):
    with connect(server) as client:
        client.open("disk")
        client.send_request(wire.CMD_READ, 0, 512, magic=magic)
        client.expect_closed()


def test_zero_length_requests(server):
    with connect(server) as client:
        client.open("disk")
        for command in (wire.CMD_READ, wire.CMD_WRITE, wire.CMD_TRIM, wire.CMD_WRITE_ZEROES):
            assert client.request(command, 0, 0)[0] in (0, wire.EINVAL)
        assert client.read(0, 512) == bytes(512)


def test_disconnect_with_requests_in_flight(server):
    with connect(server) as client:
        client.open("disk")
        for _ in range(64):
            client.send_request(wire.CMD_READ, 0, 1 << 20)
        client.send_request(wire.CMD_DISC)
        client.expect_closed(timeout=20)


def test_client_that_vanishes_in_mid_header(server):
    for cut in (1, 4, 27):
        client = connect(server)
        client.open("disk")
        client.send(struct.pack(">IHHQQI", wire.REQUEST_MAGIC, 0, 0, 1, 0, 512)[:cut])
        client.close()


def test_client_that_vanishes_in_mid_payload(server):
    for _ in range(20):
        client = connect(server)
        client.open("disk")
        client.send_request(wire.CMD_WRITE, 0, 1 << 20, payload=bytes(1000))
        client.close()


def test_client_that_vanishes_before_its_replies(server):
    for _ in range(20):
        client = connect(server)
        client.open("disk")
        for _ in range(16):
            client.send_request(wire.CMD_READ, 0, 1 << 20)
        client.close()


def test_client_that_does_not_read_its_replies(server):
    """Bounded memory, and nobody else waits."""
    with connect(server, timeout=1) as deaf, connect(server) as other:
        deaf.open("disk", structured=False)
        other.open("disk")
        try:
            for _ in range(400):
                deaf.send_request(wire.CMD_READ, 0, 4 << 20)
        except TimeoutError:
            pass
        for _ in range(10):
            assert other.read(0, 4096) == bytes(4096)


def test_client_that_sends_byte_by_byte(server):
    with connect(server) as client:
        client.open("disk")
        for byte in struct.pack(">IHHQQI", wire.REQUEST_MAGIC, 0, wire.CMD_READ, 9, 0, 512):
            client.send(bytes([byte]))
        assert client.read_reply()[0] == 9


def test_same_cookie_twice_in_flight(server):
    with connect(server) as client:
        client.open("disk", structured=False)
        client.send_request(wire.CMD_READ, 0, 512, cookie=5)
        client.send_request(wire.CMD_READ, 0, 512, cookie=5)
        assert [client.read_reply(512)[0] for _ in range(2)] == [5, 5]


def test_old_style_simple_replies(server):
    with connect(server) as client:
        client.open("disk", structured=False)
        assert client.read(0, 4096) == bytes(4096)
        assert client.write(0, b"x" * 512) == 0


@pytest.mark.parametrize("flags", [wire.C_FIXED, wire.C_FIXED | wire.C_NO_ZEROES])
def test_export_name_enters_transmission(server, flags):
    with connect(server) as client:
        client.hello(flags)
        client.send_option(wire.OPT_EXPORT_NAME, b"disk")
        size, _ = client.unpack(">QH")
        assert size == END
        if not flags & wire.C_NO_ZEROES:
            assert client.recv(124) == bytes(124)
        assert client.read(0, 512) == bytes(512)


def test_no_node_is_touched_before_go(daemon):
    """A stalled or listing client makes no requests to the disk."""
    daemon.add_file("f")
    daemon.serve_nbd()
    daemon.export("f")
    with connect(daemon) as client:
        client.hello()
        client.option(wire.OPT_LIST)
        client.info("f")
        (stats,) = daemon.qmp.cmd("query-blockstats", query_nodes=True)
        assert stats["stats"]["rd_operations"] == 0
