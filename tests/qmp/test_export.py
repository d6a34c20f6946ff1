# SPDX-License-Identifier: GPL-2.0-or-later
"""NBD server and block exports, steered by QMP."""

import os

import pytest

from support import nbd_wire as wire
from support.nbd_wire import NBD
from support.tools import nbdinfo


def unix(daemon, **more):
    address = {"addr": {"type": "unix", "data": {"path": daemon.nbd_path}}}
    return dict(address, **{k.replace("_", "-"): v for k, v in more.items()})


def nbd(ident="e0", node="disk", **more):
    return dict({"type": "nbd", "id": ident, "node-name": node},
                **{k.replace("_", "-"): v for k, v in more.items()})


SERVER_REFUSED = [
    ("no address", {}, "Parameter 'addr' is missing"),
    ("no data", {"addr": {"type": "unix"}}, "Parameter 'addr.data' is missing"),
    ("no path", {"addr": {"type": "unix", "data": {}}}, "Parameter 'addr.data.path' is missing"),
    ("unknown type", {"addr": {"type": "foo", "data": {"path": "x"}}},
     "Parameter 'type' does not accept value 'foo'"),
    ("no port", {"addr": {"type": "inet", "data": {"host": "127.0.0.1"}}},
     "Parameter 'addr.data.port' is missing"),
    ("port a number", {"addr": {"type": "inet", "data": {"host": "127.0.0.1", "port": 1}}},
     "Invalid parameter type for 'addr.data.port', expected: string"),
    ("no such directory", {"addr": {"type": "unix", "data": {"path": "/nonexistent/s"}}},
     "Failed to bind socket to /nonexistent/s: No such file or directory"),
    ("path too long", {"addr": {"type": "unix", "data": {"path": "x" * 200}}},
     f"UNIX socket path '{'x' * 200}' is too long"),
    ("unknown member", {"addr": {"type": "unix", "data": {"path": "x"}}, "foo": 1},
     "Parameter 'foo' is unexpected"),
]


@pytest.mark.parametrize("arguments, text", [c[1:] for c in SERVER_REFUSED],
                         ids=[c[0] for c in SERVER_REFUSED])
def test_server_refused(daemon, arguments, text):
    before = daemon.fds()
    assert daemon.qmp.error("nbd-server-start", arguments) == text
    assert daemon.qmp.error("nbd-server-stop") == "NBD server not running"
    daemon.wait_fds(before)


@pytest.mark.parametrize("limit", [-1, 1 << 32])
def test_max_connections_is_32_bits_wide(daemon, limit):
    assert daemon.qmp.error("nbd-server-start", unix(daemon, max_connections=limit)) == (
        "Parameter 'max-connections' expects uint32_t")
    assert not os.path.exists(daemon.nbd_path)


def test_unknown_credentials_are_refused(daemon):
    assert daemon.qmp.error("nbd-server-start", unix(daemon, tls_creds="nosuch")) == (
        "No TLS credentials with id 'nosuch'")


@pytest.mark.strata_only("7.2 knows no monitor descriptors")
def test_unknown_descriptor_is_refused(daemon):
    assert daemon.qmp.error("nbd-server-start", {"addr": {"type": "fd", "data": {"str": "foo"}}})


def test_unresolvable_host_is_refused(daemon):
    text = daemon.qmp.error("nbd-server-start", {"addr": {"type": "inet", "data": {
        "host": "no.such.host.invalid", "port": "10809"}}})
    assert text.startswith("address resolution failed for no.such.host.invalid:10809: ")


def test_second_server_is_refused(served):
    assert served.qmp.error("nbd-server-start", unix(served)) == "NBD server already running"


def test_server_makes_and_removes_its_socket(daemon):
    daemon.serve_nbd()
    assert os.path.exists(daemon.nbd_path)
    daemon.qmp.cmd("nbd-server-stop")
    assert not os.path.exists(daemon.nbd_path)


def test_server_replaces_a_stale_socket(daemon):
    stale = wire.socket.socket(wire.socket.AF_UNIX)
    stale.bind(daemon.nbd_path)
    stale.close()
    daemon.add_null()
    daemon.serve_nbd()
    assert nbdinfo(daemon.export("disk"))["exports"][0]["export-size"] == 1 << 20


def test_server_starts_again_after_a_stop(daemon):
    before = daemon.fds()
    for _ in range(10):
        daemon.serve_nbd()
        daemon.qmp.cmd("nbd-server-stop")
    daemon.wait_fds(before)


def test_server_on_loopback(daemon):
    daemon.add_null()
    daemon.qmp.cmd("nbd-server-start", {"addr": {"type": "inet", "data": {
        "host": "127.0.0.1", "port": "0"}}})
    daemon.export("disk")
    ports = [line.split()[1].split(":")[1] for line in open("/proc/net/tcp")
             if line.split()[3] == "0A" and line.split()[1].startswith("0100007F")]
    inodes = {os.readlink(f"/proc/{daemon.pid}/fd/{fd}") for fd in os.listdir(
        f"/proc/{daemon.pid}/fd")}
    mine = [int(line.split()[1].split(":")[1], 16) for line in open("/proc/net/tcp")
            if line.split()[3] == "0A" and f"socket:[{line.split()[9]}]" in inodes]
    assert len(mine) == 1 and ports
    with NBD(("127.0.0.1", mine[0])) as client:
        client.open("disk")
        assert client.size == 1 << 20


def test_second_server_on_a_used_port_is_refused(start):
    busy = wire.socket.socket()
    busy.bind(("127.0.0.1", 0))
    busy.listen()
    port = str(busy.getsockname()[1])
    assert start().qmp.error("nbd-server-start", {"addr": {"type": "inet", "data": {
        "host": "127.0.0.1", "port": port}}}) == "Failed to find an available port: " \
        "Address already in use"
    busy.close()


EXPORT_REFUSED = [
    ("no type", {}, "Parameter 'type' is missing"),
    ("no id", {"type": "nbd"}, "Parameter 'id' is missing"),
    ("no node", {"type": "nbd", "id": "e"}, "Parameter 'node-name' is missing"),
    ("unknown type", {"type": "foo", "id": "e", "node-name": "disk"},
     "Parameter 'type' does not accept value 'foo'"),
    ("no such node", nbd(node="nosuch"), "Cannot find device='' nor node-name='nosuch'"),
    ("id digit first", nbd("0bad"), "Invalid block export id"),
    ("id empty", nbd(""), "Invalid block export id"),
    ("id with a space", nbd("a b"), "Invalid block export id"),
    ("no such iothread", nbd(iothread="nosuch"), 'iothread "nosuch" not found'),
    ("old member", nbd(bitmap="b"), "Parameter 'bitmap' is unexpected"),
    ("unknown member", nbd(foo=1), "Parameter 'foo' is unexpected"),
    ("writable a string", nbd(writable="on"),
     "Invalid parameter type for 'writable', expected: boolean"),
    ("writethrough a string", nbd(writethrough="x"),
     "Invalid parameter type for 'writethrough', expected: boolean"),
    ("name too long", nbd(name="x" * 4097), f"export name '{'x' * 4097}' too long"),
    ("description too long", nbd(description="x" * 4097), f"description '{'x' * 4097}' too long"),
    ("no such bitmap", nbd(bitmaps=["b"]), "Bitmap 'b' is not found"),
]


@pytest.mark.parametrize("arguments, text", [c[1:] for c in EXPORT_REFUSED],
                         ids=[c[0] for c in EXPORT_REFUSED])
def test_export_refused(served, arguments, text):
    assert served.qmp.error("block-export-add", arguments) == text
    assert served.qmp.cmd("query-block-exports") == []


def test_export_without_a_server_is_refused(daemon):
    daemon.add_null()
    assert daemon.qmp.error("block-export-add", nbd()) == "NBD server not running"


def test_export_of_a_used_id_is_refused(served):
    served.export("disk")
    assert served.qmp.error("block-export-add", nbd("exp0", name="other")) == (
        "Block export id 'exp0' is already in use")


def test_export_of_a_used_name_is_refused(served):
    served.export("disk")
    assert served.qmp.error("block-export-add", nbd("e1")) == (
        "NBD server already has export named 'disk'")


def test_writable_export_of_a_read_only_node_is_refused(served):
    served.add_file("ro", read_only=True)
    assert served.qmp.error("block-export-add", nbd(node="ro", writable=True)) == (
        "Cannot export read-only node as writable")


def test_export_shows_in_the_query(served):
    served.export("disk")
    assert served.qmp.cmd("query-block-exports") == [
        {"id": "exp0", "type": "nbd", "node-name": "disk", "shutting-down": False}]


def test_name_defaults_to_the_node_name(served):
    served.qmp.cmd("block-export-add", nbd())
    assert [e["export-name"] for e in nbdinfo(served.uri(), "--list")["exports"]] == ["disk"]


def test_longest_name_is_accepted(served):
    served.qmp.cmd("block-export-add", nbd(name="x" * 4096))
    with NBD(served.nbd_path) as client:
        client.open("x" * 4096)


def test_empty_name_is_the_default_export(served):
    served.qmp.cmd("block-export-add", nbd(name=""))
    with NBD(served.nbd_path) as client:
        client.open("")


def test_description_is_shown_to_clients(served):
    served.qmp.cmd("block-export-add", nbd(description="a disk"))
    assert nbdinfo(served.uri("disk"))["exports"][0]["description"] == "a disk"


def test_export_is_read_only_unless_asked(served):
    served.qmp.cmd("block-export-add", nbd())
    with NBD(served.nbd_path) as client:
        client.open("disk")
        assert client.flags & wire.FLAG_READ_ONLY
        assert client.write(0, bytes(512)) in (wire.EPERM, wire.EINVAL)


def test_two_exports_of_one_node(served):
    served.export("disk", name="a", ident="a", writable=True)
    served.export("disk", name="b", ident="b", writable=True)
    assert len(nbdinfo(served.uri(), "--list")["exports"]) == 2


@pytest.mark.strata_only("7.2 fails an assertion when the client leaves")
def test_iothread_export(served):
    served.qmp.cmd("object-add", {"qom-type": "iothread", "id": "t0"})
    served.qmp.cmd("block-export-add", nbd(iothread="t0"))
    with NBD(served.nbd_path) as client:
        client.open("disk")
        assert client.read(0, 4096) == bytes(4096)


def test_fixed_iothread_without_iothread_is_fine(served):
    served.qmp.cmd("block-export-add", nbd(fixed_iothread=True))


def test_deleting_an_unknown_export(served):
    assert served.qmp.error("block-export-del", id="x") == "Export 'x' is not found"


def test_unknown_mode_of_deletion(served):
    served.export("disk")
    assert served.qmp.error("block-export-del", id="exp0", mode="foo") == (
        "Parameter 'mode' does not accept value 'foo'")


@pytest.mark.parametrize("mode", ["safe", "hard", None])
def test_idle_export_is_deleted(served, mode):
    served.export("disk")
    served.qmp.cmd("block-export-del", {"id": "exp0", **({"mode": mode} if mode else {})})
    assert served.qmp.event("BLOCK_EXPORT_DELETED")["data"] == {"id": "exp0"}
    assert served.qmp.cmd("query-block-exports") == []


def test_used_export_is_not_deleted_safely(served):
    served.export("disk")
    with NBD(served.nbd_path) as client:
        client.open("disk")
        assert served.qmp.error("block-export-del", id="exp0") == "export 'exp0' still in use"
        assert client.read(0, 512) == bytes(512)


def test_used_export_is_deleted_hard(served):
    served.export("disk")
    with NBD(served.nbd_path) as client:
        client.open("disk")
        served.qmp.cmd("block-export-del", id="exp0", mode="hard")
        served.qmp.event("BLOCK_EXPORT_DELETED")
        client.expect_closed()
    served.qmp.cmd("blockdev-del", node_name="disk")


def test_deleted_export_can_be_added_again(served):
    for _ in range(3):
        served.export("disk")
        served.qmp.cmd("block-export-del", id="exp0")
        served.qmp.event("BLOCK_EXPORT_DELETED")


def test_stopping_the_server_deletes_its_exports(served):
    served.export("disk", name="a", ident="a")
    served.export("disk", name="b", ident="b")
    served.qmp.cmd("nbd-server-stop")
    deleted = {served.qmp.event("BLOCK_EXPORT_DELETED")["data"]["id"] for _ in range(2)}
    assert deleted == {"a", "b"}
    assert served.qmp.cmd("query-block-exports") == []
    served.qmp.cmd("blockdev-del", node_name="disk")


@pytest.mark.strata_only("7.2 hangs with a client in its handshake")
def test_stopping_the_server_closes_its_connections(served):
    served.export("disk")
    with NBD(served.nbd_path) as client, NBD(served.nbd_path) as idle:
        client.open("disk")
        idle.greeting()
        served.qmp.cmd("nbd-server-stop")
        client.expect_closed()
        idle.expect_closed()


def test_connection_count_is_limited(daemon):
    daemon.add_null()
    daemon.serve_nbd(max_connections=2)
    daemon.export("disk")
    first, second = NBD(daemon.nbd_path), NBD(daemon.nbd_path)
    first.open("disk")
    second.open("disk")
    third = NBD(daemon.nbd_path, timeout=0.3)
    with pytest.raises(TimeoutError):
        third.greeting()
    first.close()
    third.sock.settimeout(10)
    third.open("disk")
    second.close()
    third.close()


# The older commands.

OLD_REFUSED = [
    ("no device", {}, "Parameter 'device' is missing"),
    ("no such device", {"device": "nosuch"},
     "Cannot find device='nosuch' nor node-name='nosuch'"),
    ("no such bitmap", {"device": "disk", "bitmap": "nob"}, "Bitmap 'nob' is not found"),
    ("empty name", {"device": "disk", "name": ""}, "Invalid block export id"),
]


@pytest.mark.parametrize("arguments, text", [c[1:] for c in OLD_REFUSED],
                         ids=[c[0] for c in OLD_REFUSED])
def test_nbd_server_add_refused(served, arguments, text):
    assert served.qmp.error("nbd-server-add", arguments) == text


def test_nbd_server_add_names_the_export_by_its_device(served):
    served.qmp.cmd("nbd-server-add", device="disk")
    assert served.qmp.cmd("query-block-exports")[0]["id"] == "disk"


def test_nbd_server_add_with_name_and_description(served):
    served.qmp.cmd("nbd-server-add", device="disk", name="n", description="d", writable=True)
    export = nbdinfo(served.uri("n"))["exports"][0]
    assert export["description"] == "d" and not export["is_read_only"]


def test_nbd_server_add_of_a_used_name(served):
    served.qmp.cmd("nbd-server-add", device="disk", name="n")
    assert served.qmp.error("nbd-server-add", device="disk", name="n") == (
        "Block export id 'n' is already in use")


def test_nbd_server_add_makes_read_only_what_cannot_be_written(served):
    served.add_file("ro", read_only=True)
    served.qmp.cmd("nbd-server-add", device="ro", writable=True)
    assert nbdinfo(served.uri("ro"))["exports"][0]["is_read_only"]


def test_nbd_server_add_without_a_server(daemon):
    daemon.add_null()
    assert daemon.qmp.error("nbd-server-add", device="disk") == "NBD server not running"


def test_nbd_server_remove(served):
    served.qmp.cmd("nbd-server-add", device="disk")
    served.qmp.cmd("nbd-server-remove", name="disk")
    assert served.qmp.cmd("query-block-exports") == []


def test_nbd_server_remove_hard(served):
    served.qmp.cmd("nbd-server-add", device="disk")
    served.qmp.cmd("nbd-server-remove", name="disk", mode="hard")


def test_nbd_server_remove_of_what_is_not_there(served):
    assert served.qmp.error("nbd-server-remove", name="x") == "Export 'x' is not found"


def test_nbd_server_remove_with_an_unknown_mode(served):
    served.qmp.cmd("nbd-server-add", device="disk")
    assert served.qmp.error("nbd-server-remove", name="disk", mode="foo") == (
        "Parameter 'mode' does not accept value 'foo'")
