# SPDX-License-Identifier: GPL-2.0-or-later
"""block_resize, permissions, write threshold, x-blockdev-set-iothread, blockdev-set-active."""

import os

import pytest

from support.nbd_wire import NBD, EIO, EINVAL, ENOSPC


def conflict(node):
    user = f"an unnamed block device (uses node '{node}' as 'root' child)"
    return (f"Permission conflict on node '{node}': permissions 'resize' are both required by "
            f"{user} and unshared by {user}.")


@pytest.mark.parametrize("arguments, text", [
    ({}, "Parameter 'size' is missing"),
    ({"node-name": "disk"}, "Parameter 'size' is missing"),
    ({"size": 1}, "Cannot find device='' nor node-name=''"),
    ({"node-name": "nosuch", "size": 1}, "Cannot find device='' nor node-name='nosuch'"),
    ({"device": "x", "size": 1}, "Cannot find device='x' nor node-name=''"),
    ({"node-name": "disk", "size": -1}, "Parameter 'size' expects a >0 size"),
    ({"node-name": "disk", "size": "1"}, "Invalid parameter type for 'size', expected: integer"),
], ids=["nothing", "no size", "no node", "unknown node", "unknown device", "negative", "string"])
def test_resize_refused(daemon, arguments, text):
    daemon.add_file()
    assert daemon.qmp.error("block_resize", arguments) == text


def test_null_has_no_resize(daemon):
    daemon.add_null()
    assert daemon.qmp.error("block_resize", node_name="disk", size=4096) == (
        "Image format driver does not support resize")


@pytest.mark.parametrize("size", [0, 512, 1000, 1 << 20, 5 << 20])
def test_file_is_resized(daemon, size):
    daemon.add_file()
    daemon.qmp.cmd("block_resize", node_name="disk", size=size)
    assert os.path.getsize(daemon.file("disk.img")) == size


def test_resize_through_raw(daemon):
    daemon.add_file()
    daemon.qmp.cmd("blockdev-add", {"driver": "raw", "node-name": "r", "file": "disk"})
    daemon.qmp.cmd("block_resize", node_name="r", size=2 << 20)
    for node in daemon.qmp.cmd("query-named-block-nodes"):
        assert node["image"]["virtual-size"] == 2 << 20


def test_raw_window_is_not_resized(daemon):
    daemon.add_file()
    daemon.qmp.cmd("blockdev-add", {"driver": "raw", "node-name": "r", "file": "disk",
                                    "size": 4096})
    assert daemon.qmp.error("block_resize", node_name="r", size=8192) == (
        "Cannot resize fixed-size raw disks")


def test_exported_node_is_not_resized(served):
    served.add_file("f")
    served.export("f")
    assert served.qmp.error("block_resize", node_name="f", size=4096) == conflict("f")
    assert os.path.getsize(served.file("disk.img")) == 1 << 20


def test_node_is_resized_once_its_export_is_gone(served):
    served.add_file("f")
    served.export("f")
    served.qmp.cmd("block-export-del", id="exp0")
    served.qmp.event("BLOCK_EXPORT_DELETED")
    served.qmp.cmd("block_resize", node_name="f", size=4096)


def test_read_only_node_is_not_resized(daemon):
    daemon.add_file(read_only=True)
    assert daemon.qmp.error("block_resize", node_name="disk", size=4096) == (
        "Image is read-only")


def test_resize_beyond_the_file_system(daemon):
    daemon.add_file()
    text = daemon.qmp.error("block_resize", node_name="disk", size=(1 << 63) - 512)
    assert text
    assert os.path.getsize(daemon.file("disk.img")) == 1 << 20


# Write threshold.

@pytest.mark.parametrize("arguments, text", [
    ({}, "Parameter 'node-name' is missing"),
    ({"node-name": "disk"}, "Parameter 'write-threshold' is missing"),
    ({"node-name": "nosuch", "write-threshold": 1}, "Device 'nosuch' not found"),
])
def test_threshold_refused(daemon, arguments, text):
    daemon.add_file()
    assert daemon.qmp.error("block-set-write-threshold", arguments) == text


def test_threshold_shows_in_the_query(daemon):
    daemon.add_file()
    daemon.qmp.cmd("block-set-write-threshold", {"node-name": "disk", "write-threshold": 4096})
    assert daemon.qmp.cmd("query-named-block-nodes")[0]["write_threshold"] == 4096


def threshold_daemon(served, threshold):
    served.add_file("f")
    served.export("f", writable=True)
    served.qmp.cmd("block-set-write-threshold", {"node-name": "f", "write-threshold": threshold})


def test_write_beyond_the_threshold_tells(served):
    threshold_daemon(served, 4096)
    with NBD(served.nbd_path) as client:
        client.open("f")
        assert client.write(3584, bytes(1536)) == 0
    event = served.qmp.event("BLOCK_WRITE_THRESHOLD")
    assert event["data"] == {"node-name": "f", "write-threshold": 4096, "amount-exceeded": 1024}


def test_threshold_is_reset_when_it_has_told(served):
    threshold_daemon(served, 4096)
    with NBD(served.nbd_path) as client:
        client.open("f")
        client.write(8192, bytes(512))
        served.qmp.event("BLOCK_WRITE_THRESHOLD")
        client.write(16384, bytes(512))
    served.qmp.no_event("BLOCK_WRITE_THRESHOLD")
    node = [n for n in served.qmp.cmd("query-named-block-nodes") if n["node-name"] == "f"]
    assert node[0]["write_threshold"] == 0


def test_write_up_to_the_threshold_is_silent(served):
    threshold_daemon(served, 4096)
    with NBD(served.nbd_path) as client:
        client.open("f")
        client.write(0, bytes(4096))
    served.qmp.no_event("BLOCK_WRITE_THRESHOLD")


def test_threshold_zero_disables(served):
    threshold_daemon(served, 4096)
    served.qmp.cmd("block-set-write-threshold", {"node-name": "f", "write-threshold": 0})
    with NBD(served.nbd_path) as client:
        client.open("f")
        client.write(8192, bytes(4096))
    served.qmp.no_event("BLOCK_WRITE_THRESHOLD")


# Iothread of a node.

@pytest.mark.parametrize("arguments, text", [
    ({}, "Parameter 'node-name' is missing"),
    ({"node-name": "disk"}, "Parameter 'iothread' is missing"),
    ({"node-name": "disk", "iothread": "nosuch"}, "Cannot find iothread nosuch"),
    ({"node-name": "disk", "iothread": 1},
     "Invalid parameter type for 'iothread', expected: StrOrNull"),
    ({"node-name": "nosuch", "iothread": None}, "Failed to find node with node-name='nosuch'"),
])
def test_set_iothread_refused(daemon, arguments, text):
    daemon.add_null()
    assert daemon.qmp.error("x-blockdev-set-iothread", arguments) == text


def test_node_moves_to_an_iothread_and_back(daemon):
    daemon.add_null()
    daemon.qmp.cmd("object-add", {"qom-type": "iothread", "id": "t0"})
    daemon.qmp.cmd("x-blockdev-set-iothread", {"node-name": "disk", "iothread": "t0"})
    daemon.qmp.cmd("x-blockdev-set-iothread", {"node-name": "disk", "iothread": None})


def test_used_node_moves_only_by_force(served):
    served.export("disk")
    served.qmp.cmd("object-add", {"qom-type": "iothread", "id": "t0"})
    arguments = {"node-name": "disk", "iothread": "t0"}
    assert served.qmp.error("x-blockdev-set-iothread", arguments) == (
        "Node disk is associated with a BlockBackend and could be in use "
        "(use force=true to override this check)")
    served.qmp.cmd("x-blockdev-set-iothread", dict(arguments, force=True))


# Inactive nodes.

@pytest.mark.strata_only()
def test_inactive_node_says_so_until_an_export_activates_it(served):
    def is_active():
        nodes = served.qmp.cmd("query-named-block-nodes")
        return [n["active"] for n in nodes if n["node-name"] == "f"][0]

    served.add_file("f")
    served.qmp.cmd("blockdev-set-active", {"node-name": "f", "active": False})
    assert not is_active()
    served.qmp.cmd("block-export-add", {"type": "nbd", "id": "e", "node-name": "f",
                                        "writable": True})
    assert is_active()
    assert served.qmp.error("blockdev-set-active", {"node-name": "f", "active": False})


@pytest.mark.strata_only()
def test_inactive_node_stays_so_for_an_export_that_allows_it(served):
    served.add_file("f")
    served.qmp.cmd("blockdev-set-active", {"node-name": "f", "active": False})
    served.qmp.cmd("block-export-add", {"type": "nbd", "id": "e", "node-name": "f",
                                        "writable": True, "allow-inactive": True})
    nodes = served.qmp.cmd("query-named-block-nodes")
    assert [n["active"] for n in nodes if n["node-name"] == "f"] == [False]


@pytest.mark.strata_only()
def test_node_is_active_again(served):
    served.add_file("f")
    served.qmp.cmd("blockdev-set-active", {"node-name": "f", "active": False})
    served.qmp.cmd("blockdev-set-active", {"node-name": "f", "active": True})
    served.export("f", writable=True)
    with NBD(served.nbd_path) as client:
        client.open("f")
        assert client.write(0, b"x" * 512) == 0


@pytest.mark.strata_only()
def test_all_nodes_at_once(served):
    served.add_file("f")
    served.qmp.cmd("blockdev-set-active", active=False)
    assert {n["active"] for n in served.qmp.cmd("query-named-block-nodes")} == {False}
    served.qmp.cmd("blockdev-set-active", active=True)
    assert {n["active"] for n in served.qmp.cmd("query-named-block-nodes")} == {True}


@pytest.mark.strata_only()
def test_unknown_node_is_not_activated(qmp):
    assert "nosuch" in qmp.error("blockdev-set-active", {"node-name": "nosuch", "active": True})


@pytest.mark.strata_only()
def test_node_with_a_writer_is_not_deactivated(served):
    served.add_file("f")
    served.export("f", writable=True)
    assert served.qmp.error("blockdev-set-active", {"node-name": "f", "active": False})


# Errors of the device.

def test_full_device_is_enospc(served):
    served.qmp.cmd("blockdev-add", {"driver": "host_device", "node-name": "full",
                                    "filename": "/dev/full"})
    served.qmp.cmd("blockdev-add", {"driver": "raw", "node-name": "r", "file": "full"})
    served.export("r", writable=True)
    with NBD(served.nbd_path) as client:
        client.open("r")
        assert client.write(0, bytes(512)) in (ENOSPC, EIO, EINVAL)


def test_write_to_a_shrunk_file_grows_it_no_further_than_its_size(served):
    served.add_file("f")
    served.export("f", writable=True)
    os.truncate(served.file("disk.img"), 4096)
    with NBD(served.nbd_path) as client:
        client.open("f")
        assert client.read(512 << 10, 512) == bytes(512)
        assert client.write(1 << 20, bytes(512)) in (ENOSPC, EINVAL)
