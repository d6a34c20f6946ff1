# SPDX-License-Identifier: GPL-2.0-or-later
"""blockdev-add and blockdev-del: what is accepted, and how the rest is refused."""

import pytest

from support.program import is_oracle

NULL = {"driver": "null-co", "node-name": "n"}
FILE = {"driver": "file", "node-name": "n", "filename": "disk.img"}


def null(**more):
    return dict(NULL, **{k.replace("_", "-"): v for k, v in more.items()})


def file(**more):
    return dict(FILE, **{k.replace("_", "-"): v for k, v in more.items()})


def raw(child, **more):
    return dict({"driver": "raw", "node-name": "n", "file": child}, **more)


def add(daemon, arguments):
    daemon.image()
    daemon.qmp.cmd("blockdev-add", arguments)


def node(daemon, name="n"):
    (found,) = [n for n in daemon.qmp.cmd("query-named-block-nodes", flat=True)
                if n["node-name"] == name]
    return found


MIB = {"driver": "null-co", "size": 1 << 20}

REFUSED = [
    ("no driver", {}, "Parameter 'driver' is missing"),
    ("unknown driver", {"driver": "nosuch"}, "Parameter 'driver' does not accept value 'nosuch'"),
    ("driver type", {"driver": 1}, "Invalid parameter type for 'driver', expected: string"),
    ("driver null", {"driver": None}, "Invalid parameter type for 'driver', expected: string"),
    ("no filename", {"driver": "file"}, "Parameter 'filename' is missing"),
    ("unknown member", file(x=1), "Parameter 'x' is unexpected"),
    ("member of another driver", null(filename="x"), "Parameter 'filename' is unexpected"),
    ("no such file", file(filename="/nonexistent/x"),
     "Could not open '/nonexistent/x': No such file or directory"),
    ("no node name", {"driver": "null-co"}, "'node-name' must be specified for the root node"),
    ("node name digit first", null(node_name="1bad"), "Invalid node-name: '1bad'"),
    ("node name empty", null(node_name=""), "Invalid node-name: ''"),
    ("node name with a space", null(node_name="a b"), "Invalid node-name: 'a b'"),
    ("node name of ours", null(node_name="#block1"), "Invalid node-name: '#block1'"),
    ("node name too long", null(node_name="a" * 32), "Node name too long"),
    ("size a string", null(size="1"), "Invalid parameter type for 'size', expected: integer"),
    ("size a fraction", null(size=1.5), "Invalid parameter type for 'size', expected: integer"),
    ("size null", null(size=None), "Invalid parameter type for 'size', expected: integer"),
    ("size 2^63", null(size=1 << 63), "Invalid parameter type for 'size', expected: integer"),
    ("latency negative", null(latency_ns=-1), "latency-ns is invalid"),
    ("child missing", {"driver": "raw", "node-name": "n"}, "Parameter 'file' is missing"),
    ("child not found", raw("nosuch"), "Cannot find device='nosuch' nor node-name='nosuch'"),
    ("child a number", raw(1), "Invalid parameter type for 'file', expected: BlockdevRef"),
    ("child null", raw(None), "Invalid parameter type for 'file', expected: BlockdevRef"),
    ("child empty", raw({}), "Parameter 'file.driver' is missing"),
    ("child without filename", raw({"driver": "file"}), "Parameter 'file.filename' is missing"),
    ("child of unknown driver", raw({"driver": "x"}),
     "Parameter 'driver' does not accept value 'x'"),
    ("child's child", raw(raw({"driver": "raw", "file": 1})),
     "Invalid parameter type for 'file', expected: BlockdevRef"),
    ("child's member", raw({"driver": "null-co", "x": 1}), "Parameter 'file.x' is unexpected"),
    ("child fails to open", raw({"driver": "file", "filename": "/nonexistent/x"}),
     "Could not open '/nonexistent/x': No such file or directory"),
    ("raw size no multiple", raw(MIB, offset=1024, size=1000),
     "Specified size is not multiple of 512"),
    ("raw offset behind the end", raw(MIB, offset=2 << 20),
     "Offset (2097152) cannot be greater than size of the containing file (1048576)"),
    ("raw size behind the end", raw(MIB, offset=512, size=1 << 20),
     "The sum of offset (512) and size (1048576) has to be smaller or equal to the  actual size "
     "of the containing file (1048576)"),
    ("aio unknown", file(aio="foo"), "Parameter 'aio' does not accept value 'foo'"),
    ("aio native, buffered", file(aio="native"),
     "aio=native was specified, but it requires cache.direct=on, which was not specified."),
    ("locking unknown", file(locking="x"), "Parameter 'locking' does not accept value 'x'"),
    ("cache.direct a string", file(cache={"direct": "on"}),
     "Invalid parameter type for 'cache.direct', expected: boolean"),
    ("cache a number", file(cache=1), "Invalid parameter type for 'cache', expected: object"),
    ("cache member", file(cache={"foo": 1}), "Parameter 'cache.foo' is unexpected"),
    ("pr-manager not found", file(pr_manager="pm"),
     "No persistent reservation manager with id 'pm'"),
    ("detect-zeroes without discard", file(detect_zeroes="unmap"),
     "setting detect-zeroes to unmap is not allowed without setting discard operation to unmap"),
    ("detect-zeroes unknown", file(detect_zeroes="x"),
     "Parameter 'detect-zeroes' does not accept value 'x'"),
    ("discard unknown", file(discard="x"), "Parameter 'discard' does not accept value 'x'"),
    ("force-share on writable", file(force_share=True),
     "force-share=on can only be used with read-only images"),
    ("read-only a string", null(read_only="on"),
     "Invalid parameter type for 'read-only', expected: boolean"),
    ("directory", file(filename="/tmp"), "Could not open '/tmp': Is a directory"),
    ("device as file", file(filename="/dev/null"),
     "'file' driver requires '/dev/null' to be a regular file"),
    ("empty filename", file(filename=""), "The 'file' block driver requires a file name"),
    ("protocol prefix is part of the name", file(filename="file:x"),
     "Could not open 'file:x': No such file or directory"),
]


@pytest.mark.parametrize("arguments, text", [c[1:] for c in REFUSED], ids=[c[0] for c in REFUSED])
def test_refused(daemon, arguments, text):
    daemon.image()
    before = daemon.fds()
    reply = daemon.qmp.reply("blockdev-add", arguments)
    assert reply == {"error": {"class": "GenericError", "desc": text}}
    assert daemon.qmp.cmd("query-named-block-nodes") == []
    if not (is_oracle() and "pr-manager" in arguments):  # QEMU 7.2 leaks the image
        daemon.wait_fds(before)


def test_regular_file_as_host_device_is_refused(daemon):
    path = daemon.image()
    assert daemon.qmp.error("blockdev-add", file(driver="host_device", filename=path)) == (
        f"'host_device' driver requires '{path}' to be either a character or block device")


@pytest.mark.strata_only("QEMU 7.2 crashes")
def test_negative_size_is_refused(qmp):
    assert qmp.error("blockdev-add", null(size=-1))
    assert qmp.cmd("query-named-block-nodes") == []


def test_largest_size_is_refused(qmp):
    assert qmp.error("blockdev-add", null(size=(1 << 63) - 1)) == (
        "Could not refresh total sector count: File too large")


ACCEPTED = [
    ("null", null()),
    ("null-aio", null(driver="null-aio", read_zeroes=True)),
    ("null with latency", null(latency_ns=1000)),
    ("null of odd size", null(size=1000)),
    ("longest node name", null(node_name="n" * 31)),
    ("node name of all kinds of characters", null(node_name="a-b_c.d9")),
    ("file", FILE),
    ("file read-only", file(read_only=True)),
    ("file auto-read-only", file(read_only=True, auto_read_only=True)),
    ("file shared by force", file(read_only=True, force_share=True)),
    ("file threads", file(aio="threads")),
    ("file unlocked", file(locking="off")),
    ("file locked", file(locking="on")),
    ("file locking auto", file(locking="auto")),
    ("file batch", file(aio_max_batch=4)),
    ("file cache", file(cache={"no-flush": True, "direct": False})),
    ("file cache checks", file(x_check_cache_dropped=True, drop_cache=False)),
    ("detect-zeroes on", file(detect_zeroes="on")),
    ("detect-zeroes unmap", file(detect_zeroes="unmap", discard="unmap")),
    ("discard ignore", file(discard="ignore")),
    ("raw inline child", raw(FILE and {"driver": "file", "filename": "disk.img"})),
    ("raw named child", raw({"driver": "null-co", "node-name": "child"})),
    ("raw window", raw(MIB, offset=1000, size=1024)),
    ("raw size zero", raw(MIB, size=0)),
    ("raw over raw over raw", raw({"driver": "raw", "file": {"driver": "raw", "file": MIB}})),
    ("raw read-only over writable", raw({"driver": "null-co"}, **{"read-only": True})),
]


@pytest.mark.parametrize("arguments", [c[1] for c in ACCEPTED], ids=[c[0] for c in ACCEPTED])
def test_accepted_and_deleted_without_a_trace(daemon, arguments):
    daemon.image()
    # What is made once and kept (a ring, a thread pool) is made here.
    daemon.qmp.cmd("blockdev-add", arguments)
    daemon.qmp.cmd("blockdev-del", {"node-name": arguments["node-name"]})
    before = daemon.fds()
    daemon.qmp.cmd("blockdev-add", arguments)
    assert node(daemon, arguments["node-name"])["drv"] == arguments["driver"]
    daemon.qmp.cmd("blockdev-del", {"node-name": arguments["node-name"]})
    assert daemon.qmp.cmd("query-named-block-nodes") == []
    daemon.wait_fds(before)


def test_character_device_as_host_device(daemon):
    add(daemon, file(driver="host_device", filename="/dev/null"))
    assert node(daemon)["image"]["virtual-size"] == 0


def test_duplicate_node_name_is_refused(qmp):
    qmp.cmd("blockdev-add", NULL)
    assert qmp.error("blockdev-add", NULL) == "Duplicate nodes with node-name='n'"


def test_child_with_the_name_of_its_parent_is_refused(qmp):
    assert qmp.error("blockdev-add", raw(NULL)).startswith("Duplicate nodes with node-name='n'")
    assert qmp.cmd("query-named-block-nodes") == []


def test_deleting_what_is_not_there(qmp):
    assert qmp.error("blockdev-del", node_name="x") == "Failed to find node with node-name='x'"


def test_delete_needs_a_name(qmp):
    assert qmp.error("blockdev-del") == "Parameter 'node-name' is missing"


def test_delete_wants_a_string(qmp):
    assert qmp.error("blockdev-del", node_name=1) == (
        "Invalid parameter type for 'node-name', expected: string")


def test_node_with_a_parent_is_not_deleted(qmp):
    qmp.cmd("blockdev-add", NULL)
    qmp.cmd("blockdev-add", raw("n") | {"node-name": "top"})
    assert qmp.error("blockdev-del", node_name="n") == "Block device n is in use"
    qmp.cmd("blockdev-del", node_name="top")
    qmp.cmd("blockdev-del", node_name="n")


def test_exported_node_is_not_deleted(served):
    served.export("disk")
    assert served.qmp.error("blockdev-del", node_name="disk") == "Node disk is in use"


def test_child_of_a_deleted_parent_stays_when_it_was_added_alone(qmp):
    qmp.cmd("blockdev-add", NULL)
    qmp.cmd("blockdev-add", raw("n") | {"node-name": "top"})
    qmp.cmd("blockdev-del", node_name="top")
    assert [n["node-name"] for n in qmp.cmd("query-named-block-nodes")] == ["n"]


def test_inline_child_goes_with_its_parent(qmp):
    qmp.cmd("blockdev-add", raw({"driver": "null-co", "node-name": "child"}))
    qmp.cmd("blockdev-del", node_name="n")
    assert qmp.cmd("query-named-block-nodes") == []


def test_inline_child_with_a_name_is_not_monitor_owned(qmp):
    qmp.cmd("blockdev-add", raw({"driver": "null-co", "node-name": "child"}))
    assert qmp.error("blockdev-del", node_name="child") == "Node child is not owned by the monitor"


def test_unnamed_child_gets_a_name_of_ours(qmp):
    qmp.cmd("blockdev-add", raw({"driver": "null-co"}))
    (name,) = {n["node-name"] for n in qmp.cmd("query-named-block-nodes")} - {"n"}
    assert name.startswith("#block")


def test_child_by_the_name_of_ours_can_be_used(qmp):
    qmp.cmd("blockdev-add", raw({"driver": "null-co"}))
    (name,) = {n["node-name"] for n in qmp.cmd("query-named-block-nodes")} - {"n"}
    qmp.cmd("blockdev-add", {"driver": "raw", "node-name": "m", "file": name, "read-only": True})


def test_relative_file_name_is_relative_to_the_daemon(daemon):
    add(daemon, FILE)
    assert node(daemon)["file"] == "disk.img"


def test_read_only_is_shown(daemon):
    add(daemon, file(read_only=True))
    assert node(daemon)["ro"] is True


def test_detect_zeroes_is_shown(daemon):
    add(daemon, file(detect_zeroes="on"))
    assert node(daemon)["detect_zeroes"] == "on"


def test_cache_is_shown(daemon):
    add(daemon, file(cache={"no-flush": True}))
    assert node(daemon)["cache"] == {"no-flush": True, "direct": False, "writeback": True}


def test_query_of_a_node_has_the_old_limits(daemon):
    add(daemon, FILE)
    found = node(daemon)
    assert {k: found[k] for k in ("bps", "bps_rd", "bps_wr", "iops", "iops_rd", "iops_wr")} == {
        "bps": 0, "bps_rd": 0, "bps_wr": 0, "iops": 0, "iops_rd": 0, "iops_wr": 0}
    assert found["backing_file_depth"] == 0
    assert found["encrypted"] is False
    assert found["write_threshold"] == 0


def test_query_of_a_file_node_describes_the_image(daemon):
    add(daemon, FILE)
    image = node(daemon)["image"]
    assert image["virtual-size"] == 1 << 20
    assert image["filename"] == "disk.img"
    assert image["format"] == "file"
    assert image["actual-size"] == 0


@pytest.mark.parametrize("options, name", [
    ({"driver": "null-co"}, "null-co://"),
    ({"driver": "null-aio"}, "null-aio://"),
])
def test_short_filename_of_null(qmp, options, name):
    qmp.cmd("blockdev-add", dict(options, **{"node-name": "n"}))
    assert qmp.cmd("query-named-block-nodes")[0]["file"] == name


def test_json_filename_of_null_with_a_size(qmp):
    qmp.cmd("blockdev-add", null(size=4096))
    name = qmp.cmd("query-named-block-nodes")[0]["file"]
    assert name in ('json:{"driver": "null-co", "size": 4096}',
                    'json:{"size": 4096, "driver": "null-co"}')


def test_flat_leaves_out_the_children(qmp):
    qmp.cmd("blockdev-add", raw({"driver": "null-co"}))
    for found in qmp.cmd("query-named-block-nodes", flat=True):
        assert "backing-image" not in found["image"]


def test_flat_wants_a_boolean(qmp):
    assert qmp.error("query-named-block-nodes", flat=1) == (
        "Invalid parameter type for 'flat', expected: boolean")


def test_two_nodes_of_one_file_may_both_be_written(daemon):
    """An NBD export shares writing, so that several clients work."""
    daemon.add_file("a")
    daemon.serve_nbd()
    daemon.export("a", ident="ea", writable=True)
    daemon.add_file("b")
    daemon.export("b", ident="eb", writable=True)


def test_lock_conflict_between_two_nodes_of_one_file(daemon):
    daemon.add_file("a")
    daemon.serve_nbd()
    daemon.export("a", writable=True)
    daemon.add_file("b")
    assert daemon.qmp.error("block_resize", node_name="b", size=4096).startswith(
        'Failed to get "resize" lock')


def test_lock_conflict_between_two_daemons(daemon, start):
    daemon.add_file("a")
    daemon.serve_nbd()
    daemon.export("a", writable=True)
    other = start()
    other.qmp.cmd("blockdev-add", file(filename=daemon.file("disk.img")))
    assert other.qmp.error("block_resize", node_name="n", size=4096).startswith(
        'Failed to get "resize" lock')


@pytest.mark.parametrize("count", [100])
def test_many_nodes(daemon, count):
    for i in range(count):
        daemon.qmp.cmd("blockdev-add", null(node_name=f"n{i}"))
    assert len(daemon.qmp.cmd("query-named-block-nodes")) == count
    for i in range(count):
        daemon.qmp.cmd("blockdev-del", {"node-name": f"n{i}"})
    assert daemon.qmp.cmd("query-named-block-nodes") == []
