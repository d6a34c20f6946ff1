# SPDX-License-Identifier: GPL-2.0-or-later
"""Where the NBD server listens, and several servers in one daemon."""

import errno
import os
import signal
import socket

import pytest

from support import nbd_wire as wire
from support.daemon import listening_socket, run_daemon
from support.nbd_wire import NBD
from support.tools import nbdinfo, qemu_io

VSOCK_LOCAL = 1  # the machine itself, where the kernel has a loopback


def unix(path):
    return {"type": "unix", "data": {"path": path}}


def reads(address, export="disk"):
    with NBD(address) as client:
        client.open(export)
        return client.read(0, 4096) == bytes(4096)


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def exports(daemon, path):
    return sorted(e["export-name"]
                  for e in nbdinfo(f"nbd+unix://?socket={path}", "--list")["exports"])


# Kinds of sockets.

def test_a_unix_socket(start):
    daemon = start("--blockdev", "null-co,node-name=disk,size=1048576,read-zeroes=on",
                   "--nbd-server", "addr.type=unix,addr.path=nbd.sock", "--export",
                   "nbd,id=e,node-name=disk")
    assert reads(daemon.nbd_path)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_tcp_socket(start, host):
    port = free_port()
    daemon = start("--blockdev", "null-co,node-name=disk,size=1048576,read-zeroes=on",
                   "--nbd-server", f"addr.type=inet,addr.host={host},addr.port={port}",
                   "--export", "nbd,id=e,node-name=disk")
    uri_host = f"[{host}]" if ":" in host else host
    assert nbdinfo(f"nbd://{uri_host}:{port}/disk")["exports"][0]["export-size"] == 1 << 20
    if host == "127.0.0.1":
        assert reads((host, port))
    assert daemon.alive()


def test_a_descriptor_passed_in(start, tmp_path):
    path = str(tmp_path / "passed")
    sock = listening_socket(path)
    daemon = start("--blockdev", "null-co,node-name=disk,size=1048576,read-zeroes=on",
                   "--nbd-server", f"addr.type=fd,addr.str={sock.fileno()}",
                   "--export", "nbd,id=e,node-name=disk", pass_fds=[sock.fileno()])
    sock.close()
    assert reads(path)
    assert daemon.alive()


@pytest.fixture
def starting(start):
    """A daemon that serves NBD, and waits for a device's client before it goes on to its export."""
    prepared = start.prepare(
        "--blockdev", "null-co,node-name=disk,size=1048576,read-zeroes=on",
        "--nbd-server", "addr.type=unix,addr.path=nbd.sock",
        "--export", "nbd,id=early,node-name=disk",
        "--chardev", "socket,id=c,path=wait.sock,server=on,wait=on",
        "--export", "nbd,id=late,node-name=disk,name=late", monitor=False)
    prepared.start()
    # The device waits for its client; what comes before it has been done.
    prepared.wait_for(lambda: os.path.exists(prepared.file("wait.sock")), "the device")
    return prepared


def let_go_on(daemon):
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(daemon.file("wait.sock"))


def answers_nothing(client):
    client.sock.settimeout(0.2)
    with pytest.raises(TimeoutError):
        client.recv(1)
    client.sock.settimeout(30)
    return True


@pytest.mark.strata_only("QEMU answers nobody while options are carried out")
def test_a_client_of_an_export_yet_to_come_waits_for_it(starting):
    with NBD(starting.nbd_path) as client:
        client.hello()
        client.send_option(wire.OPT_GO, client.info_data("late"))
        assert answers_nothing(client)
        let_go_on(starting)
        kinds = [client.option_reply()[1] for _ in range(3)]
        assert kinds == [wire.REP_INFO, wire.REP_INFO, wire.REP_ACK]
        assert client.read(0, 512) == bytes(512)


@pytest.mark.strata_only("QEMU answers nobody while options are carried out")
def test_an_export_that_is_there_is_served_while_others_are_yet_to_come(starting):
    with NBD(starting.nbd_path) as client:
        client.open("disk")
        assert client.read(0, 512) == bytes(512)
    let_go_on(starting)


@pytest.mark.strata_only("QEMU answers nobody while options are carried out")
def test_a_list_of_exports_waits_until_all_are_there(starting):
    with NBD(starting.nbd_path) as client:
        client.hello()
        client.send_option(wire.OPT_LIST)
        assert answers_nothing(client)
        let_go_on(starting)
        names = [client.option_reply()[2][4:] for _ in range(3)]
        assert names == [b"disk", b"late", b""]


@pytest.mark.strata_only("QEMU answers nobody while options are carried out")
def test_an_export_that_never_came_is_refused_in_the_end(starting):
    with NBD(starting.nbd_path) as client:
        client.hello()
        client.send_option(wire.OPT_GO, client.info_data("other"))
        assert answers_nothing(client)
        let_go_on(starting)
        assert client.option_reply()[1] == wire.REP_ERR_UNKNOWN


@pytest.mark.strata_only("QEMU answers nobody while options are carried out")
def test_a_daemon_that_ends_before_its_exports_are_there_lets_clients_go(starting):
    with NBD(starting.nbd_path) as client:
        client.hello()
        client.send_option(wire.OPT_GO, client.info_data("late"))
        assert answers_nothing(client)
        starting.signal(signal.SIGTERM)
        client.expect_closed(30)
    assert starting.wait() == 0


def test_a_descriptor_that_does_not_listen_is_refused(tmp_path):
    with open(tmp_path / "file", "w") as file:
        done = run_daemon("--nbd-server", f"addr.type=fd,addr.str={file.fileno()}",
                          pass_fds=[file.fileno()])
    assert done.returncode == 1 and done.stderr


def vsock_port(daemon):
    """A vsock server's port; skips where the kernel has no vsock."""
    for port in range(9000, 9100):
        address = {"type": "vsock", "data": {"cid": "4294967295", "port": str(port)}}
        reply = daemon.qmp.reply("nbd-server-start", addr=address)
        if "return" in reply:
            return port
        text = reply["error"]["desc"]
        if "Address already in use" not in text:
            pytest.skip(f"the kernel has no vsock: {text}")
    raise AssertionError("no port is free")


def test_a_vsock_socket(daemon):
    daemon.add_null()
    port = vsock_port(daemon)
    daemon.qmp.cmd("block-export-add", {"type": "nbd", "id": "e", "node-name": "disk"})
    # The address is taken now, whether or not it can be reached from here.
    with socket.socket(socket.AF_VSOCK) as other:
        with pytest.raises(OSError) as taken:
            other.bind((socket.VMADDR_CID_ANY, port))
        assert taken.value.errno == errno.EADDRINUSE
    with socket.socket(socket.AF_VSOCK) as client:
        client.settimeout(20)
        try:
            client.connect((VSOCK_LOCAL, port))
        except OSError:
            pytest.skip("the kernel has no vsock loopback; listening was tested")
        assert client.recv(8) == b"NBDMAGIC"


@pytest.mark.parametrize("cid, port", [("x", "1"), ("1", "x"), ("4294967296", "1")])
def test_a_vsock_address_that_is_none(daemon, cid, port):
    text = daemon.qmp.error("nbd-server-start", {"addr": {
        "type": "vsock", "data": {"cid": cid, "port": port}}})
    assert text.startswith("Failed to parse ")


# Several servers.

several = pytest.mark.strata_only("QEMU has one")


@pytest.fixture
def two(served):
    """Besides the server without a name another, 'b', with the same node."""
    served.qmp.cmd("nbd-server-start", {"id": "b", "addr": unix(served.file("b.sock"))})
    served.export("disk", ident="a", writable=True)
    served.export("disk", ident="b", nbd_server="b", writable=True)
    return served


@several
def test_servers_have_exports_of_their_own(two):
    two.export("disk", ident="c", name="more", nbd_server="b")
    assert exports(two, two.nbd_path) == ["disk"]
    assert exports(two, two.file("b.sock")) == ["disk", "more"]
    assert reads(two.nbd_path) and reads(two.file("b.sock"))


@several
def test_stopping_one_server_leaves_the_other(two):
    with NBD(two.nbd_path) as first, NBD(two.file("b.sock")) as second:
        first.open("disk")
        second.open("disk")
        two.qmp.cmd("nbd-server-stop", id="b")
        assert two.qmp.event("BLOCK_EXPORT_DELETED")["data"] == {"id": "b"}
        second.expect_closed()
        assert first.read(0, 512) == bytes(512)
    assert [e["id"] for e in two.qmp.cmd("query-block-exports")] == ["a"]
    two.qmp.cmd("nbd-server-stop")
    assert two.qmp.error("nbd-server-stop") == "NBD server not running"
    assert two.qmp.cmd("query-block-exports") == []


@several
def test_stopping_the_one_without_a_name_leaves_the_others(two):
    two.qmp.cmd("nbd-server-stop")
    assert reads(two.file("b.sock"))
    two.serve_nbd()
    assert exports(two, two.nbd_path) == []


@several
def test_servers_have_limits_of_their_own(served):
    served.qmp.cmd("nbd-server-start", {"id": "b", "addr": unix(served.file("b.sock")),
                                        "max-connections": 1})
    served.export("disk", ident="b", nbd_server="b")
    with NBD(served.file("b.sock")) as client:
        client.open("disk")
        waiting = NBD(served.file("b.sock"), timeout=0.3)
        with pytest.raises(TimeoutError):
            waiting.greeting()
        with NBD(served.nbd_path) as free:
            free.greeting()
        waiting.close()


@several
@pytest.mark.parametrize("command, arguments, text", [
    ("nbd-server-start", {"id": "b", "addr": unix("x.sock")}, "NBD server 'b' already running"),
    ("nbd-server-start", {"addr": unix("x.sock")}, "NBD server already running"),
    ("nbd-server-start", {"id": "", "addr": unix("x.sock")}, "Invalid NBD server id ''"),
    ("nbd-server-start", {"id": "1 2", "addr": unix("x.sock")}, "Invalid NBD server id '1 2'"),
    ("nbd-server-stop", {"id": "c"}, "NBD server 'c' not running"),
    ("block-export-add", {"type": "nbd", "id": "c", "node-name": "disk", "nbd-server": "c"},
     "NBD server 'c' not running"),
    ("block-export-add", {"type": "nbd", "id": "c", "node-name": "disk", "nbd-server": "b"},
     "NBD server already has export named 'disk'"),
])
def test_what_does_not_fit_is_refused(two, command, arguments, text):
    before = two.fds()
    assert two.qmp.error(command, arguments) == text
    two.wait_fds(before)


@several
def test_servers_come_and_go_without_a_trace(served):
    before = served.fds()
    for turn in range(30):
        served.qmp.cmd("nbd-server-start", {"id": f"s{turn % 3}",
                                            "addr": unix(served.file("x.sock"))})
        served.export("disk", ident="e", nbd_server=f"s{turn % 3}")
        assert reads(served.file("x.sock"))
        served.qmp.cmd("nbd-server-stop", id=f"s{turn % 3}")
    served.wait_fds(before)


@several
def test_servers_on_the_command_line(start):
    daemon = start("--blockdev", "null-co,node-name=disk,size=1048576", "--nbd-server",
                   "id=one,addr.type=unix,addr.path=one.sock", "--nbd-server",
                   "id=two,addr.type=unix,addr.path=two.sock", "--export",
                   "nbd,id=e1,node-name=disk,nbd-server=one,writable=on", "--export",
                   "nbd,id=e2,node-name=disk,nbd-server=two,name=two,writable=on")
    assert exports(daemon, daemon.file("one.sock")) == ["disk"]
    qemu_io(f"nbd+unix:///two?socket={daemon.file('two.sock')}", "write 0 64k")
    assert daemon.qmp.error("nbd-server-stop") == "NBD server not running"
