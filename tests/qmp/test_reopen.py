# SPDX-License-Identifier: GPL-2.0-or-later
"""blockdev-reopen: which options may change, what becomes of the rest, and what is read after."""

import copy

import pytest

from support.nbd_wire import NBD
from support.program import is_oracle
from support.tools import qemu_io, run

MIB = 1 << 20


def opts(number):
    return {"driver": "qcow2", "node-name": f"hd{number}",
            "file": {"driver": "file", "node-name": f"hd{number}-file",
                     "filename": f"hd{number}.img"}}


@pytest.fixture
def disks(daemon):
    """hd0, hd1 (over hd0) and hd2, each with a MiB of its own, 0xa0 to 0xa2, in its place."""
    run("qemu-img", "create", "-q", "-f", "qcow2", daemon.file("hd0.img"), "3M")
    run("qemu-img", "create", "-q", "-f", "qcow2", "-b", "hd0.img", "-F", "qcow2",
        daemon.file("hd1.img"))
    run("qemu-img", "create", "-q", "-f", "qcow2", daemon.file("hd2.img"), "3M")
    for number in range(3):
        qemu_io(daemon.file(f"hd{number}.img"),
                f"write -P {0xa0 + number} {number}M 1M", image_format="qcow2")
    daemon.serve_nbd()
    return daemon


def add(daemon, options, **changes):
    daemon.qmp.cmd("blockdev-add", changed(options, changes))


def changed(options, changes):
    options = copy.deepcopy(options)
    for key, value in changes.items():
        *path, last = [part.replace("_", "-") for part in key.split("__")]
        place = options
        for part in path:
            place = place[part]
        place[last] = value
    return options


def reopen(daemon, options, error=None, **changes):
    reopen_all(daemon, [changed(options, changes)], error)


def reopen_all(daemon, options, error=None):
    if error is None:
        daemon.qmp.cmd("blockdev-reopen", options=options)
    else:
        assert daemon.qmp.error("blockdev-reopen", options=options) == error


def node(daemon, name):
    found = [n for n in daemon.qmp.cmd("query-named-block-nodes") if n["node-name"] == name]
    return found[0] if found else None


def check(daemon, name, *patterns):
    """The disk's MiBs read as these."""
    daemon.export(name, ident="look")
    with NBD(daemon.nbd_path) as client:
        client.open(name)
        found = [client.read(i * MIB, MIB) for i in range(len(patterns))]
    daemon.qmp.cmd("block-export-del", id="look", mode="hard")
    daemon.qmp.event("BLOCK_EXPORT_DELETED")
    assert found == [bytes([pattern]) * MIB for pattern in patterns]


def cycle(child, parent, name="backing"):
    return f"Making '{child}' a {name} child of '{parent}' would create a cycle"


def test_the_same_options_again_change_nothing(disks):
    add(disks, opts(0))
    before = disks.qmp.cmd("query-named-block-nodes")
    reopen(disks, opts(0))
    reopen(disks, opts(0), file="hd0-file")
    without_name = opts(0)
    del without_name["file"]["node-name"]
    reopen(disks, without_name)
    assert disks.qmp.cmd("query-named-block-nodes") == before


def test_what_cannot_be_changed_is_named(disks):
    add(disks, opts(0))
    before = disks.qmp.cmd("query-named-block-nodes")

    def refused(text, **changes):
        reopen(disks, opts(0), text, **changes)

    refused("Failed to find node with node-name='other'", node_name="other")
    refused("Failed to find node with node-name=''", node_name="")
    refused("Cannot change the option 'driver'", driver="raw")
    refused("Cannot find device='' nor node-name='other'", file="other")
    refused("Cannot find device='' nor node-name=''", file="")
    refused("Invalid parameter type for 'file', expected: BlockdevRef", file=None)
    refused("Cannot change the option 'node-name'", file__node_name="new")
    refused("Cannot change the option 'driver'", file__driver="host_device")
    refused("Cannot change the option 'filename'", file__filename="hd1.img")
    refused("Cannot change the option 'aio'", file__aio="threads")
    refused("Cannot change the option 'locking'", file__locking="off")
    refused("Cannot change the option 'force-share'", force_share=True, read_only=True)
    nameless = opts(0)
    del nameless["node-name"]
    reopen(disks, nameless, "node-name not specified")
    assert disks.qmp.cmd("query-named-block-nodes") == before


def test_options_that_are_left_out_fall_back_unless_they_cannot(disks):
    options = changed(opts(0), {"file__locking": "off", "file__x_check_cache_dropped": True})
    add(disks, options)
    reopen(disks, options, file__x_check_cache_dropped=False)
    del options["file"]["x-check-cache-dropped"]
    reopen(disks, options)
    del options["file"]["locking"]
    reopen(disks, options, "Option 'locking' cannot be reset to its default value")
    reopen(disks, options, file__locking="off")


def test_read_only_cache_and_zero_detection(disks):
    options = changed(opts(1), {"backing": opts(0)})
    add(disks, options)
    before = disks.qmp.cmd("query-named-block-nodes")
    reopen(disks, options, read_only=True)
    assert node(disks, "hd1")["ro"] and node(disks, "hd1-file")["ro"]
    reopen(disks, options)
    assert not node(disks, "hd1")["ro"]
    reopen(disks, options, cache={"direct": False, "no-flush": True})
    assert node(disks, "hd1")["cache"] == {"writeback": True, "direct": False, "no-flush": True}
    assert node(disks, "hd1-file")["cache"]["no-flush"]
    reopen(disks, options, detect_zeroes="on")
    assert node(disks, "hd1")["detect_zeroes"] == "on"
    reopen(disks, options, "setting detect-zeroes to unmap is not allowed without setting "
           "discard operation to unmap", detect_zeroes="unmap")
    assert node(disks, "hd1")["detect_zeroes"] == "on"
    reopen(disks, options, detect_zeroes="unmap", discard="unmap")
    reopen(disks, options)
    assert disks.qmp.cmd("query-named-block-nodes") == before


def test_a_file_opened_with_o_direct_and_without_again(disks):
    add(disks, opts(0))
    for direct in (True, False):
        reopen(disks, opts(0), cache={"direct": direct})
        assert node(disks, "hd0-file")["cache"]["direct"] is direct
        check(disks, "hd0", 0xa0, 0, 0)


def test_qcow2_options(disks):
    add(disks, opts(0))
    reopen(disks, opts(0), "L2 cache entry size must be a power of two between 512 and the "
           "cluster size (65536)", l2_cache_entry_size=128 << 10)
    reopen(disks, opts(0), "l2-cache-size may not exceed cache-size", l2_cache_size=MIB,
           cache_size=MIB // 2)
    uri = disks.export("hd0", writable=True)
    for changes in ({"l2_cache_size": 4 * MIB, "refcount_cache_size": 4 * MIB},
                    {"l2_cache_entry_size": 512, "lazy_refcounts": True},
                    {"lazy_refcounts": False, "cache_clean_interval": 1},
                    {"overlap_check": "all", "pass_discard_request": False},
                    {"overlap_check": {"template": "none", "main-header": True}}, {}):
        reopen(disks, opts(0), **changes)
        qemu_io(uri, "read -P 0xa0 0 1M", "write -P 7 1M 1M", "discard 1M 64k",
                "read -P 7 2047k 1k")
    disks.quit()
    assert "No errors" in run("qemu-img", "check", disks.file("hd0.img")).stdout


def test_a_writer_keeps_a_node_from_becoming_read_only(disks):
    add(disks, opts(0))
    disks.export("hd0", writable=True)
    reopen(disks, opts(0), "Read-only block node 'hd0' cannot support read-write users",
           read_only=True)
    assert not node(disks, "hd0")["ro"]


def test_raw_window_moves_under_a_client(daemon):
    daemon.image("raw.img", 2 * MIB, b"\xa0" * MIB + b"\xa1" * MIB)
    options = {"driver": "raw", "node-name": "r",
               "file": {"driver": "file", "filename": "raw.img"}}
    add(daemon, options)
    daemon.serve_nbd()
    check(daemon, "r", 0xa0, 0xa1)
    reopen(daemon, options, offset=MIB)
    assert node(daemon, "r")["image"]["virtual-size"] == MIB
    check(daemon, "r", 0xa1)
    reopen(daemon, options, "Offset (4194304) cannot be greater than size of the containing file "
           "(2097152)", offset=4 * MIB)
    check(daemon, "r", 0xa1)
    reopen(daemon, options)
    check(daemon, "r", 0xa0, 0xa1)


def test_backing_must_be_spoken_of(disks):
    add(disks, opts(1))
    reopen(disks, opts(1), "backing is missing for 'hd1'")
    reopen(disks, opts(1), "Cannot find device='' nor node-name='other'", backing="other")
    backing = [n["node-name"] for n in disks.qmp.cmd("query-named-block-nodes")
               if n["drv"] == "qcow2" and n["node-name"] != "hd1"]
    reopen(disks, opts(1), backing=backing[0])
    inline = {"driver": "qcow2", "file": {"driver": "file", "filename": "hd0.img"}}
    reopen(disks, opts(1), "Cannot change the option 'node-name'",
           backing=dict(inline, **{"node-name": "new"}))
    reopen(disks, opts(1), "Cannot change the option 'driver'", backing=dict(inline, driver="raw"))
    reopen(disks, opts(1), backing=None)
    assert "backing-image" not in node(disks, "hd1")["image"]
    assert [n["node-name"] for n in disks.qmp.cmd("query-named-block-nodes")] in (
        ["hd1", "hd1-file"], ["hd1-file", "hd1"])
    check(disks, "hd1", 0, 0xa1, 0)
    reopen(disks, opts(1), "backing is missing for 'hd1'")
    reopen(disks, opts(1), "Cannot change the option 'backing.driver'", backing=inline)


def test_what_is_read_follows_the_backing_file(disks):
    for number in range(3):
        add(disks, opts(number), backing=None)
    check(disks, "hd0", 0xa0, 0, 0)
    reopen(disks, opts(0), backing="hd1")
    check(disks, "hd0", 0xa0, 0xa1, 0)
    reopen(disks, opts(2), backing="hd1")
    check(disks, "hd2", 0, 0xa1, 0xa2)
    reopen(disks, opts(0), backing="hd2")
    check(disks, "hd0", 0xa0, 0xa1, 0xa2)
    reopen(disks, opts(2), backing=None)
    check(disks, "hd0", 0xa0, 0, 0xa2)
    reopen(disks, opts(1), backing="hd2")
    reopen(disks, opts(0), backing="hd1")
    check(disks, "hd0", 0xa0, 0xa1, 0xa2)
    reopen(disks, opts(2), cycle("hd1", "hd2"), backing="hd1")
    reopen(disks, opts(2), cycle("hd0", "hd2"), backing="hd0")
    reopen(disks, opts(2), cycle("hd2", "hd2"), backing="hd2")
    assert disks.qmp.error("blockdev-del", node_name="hd2") == (
        "Node 'hd2' is busy: node is used as backing hd of 'hd1'")
    check(disks, "hd0", 0xa0, 0xa1, 0xa2)


def test_files_are_swapped_by_one_command_only(disks):
    add(disks, opts(0))
    add(disks, opts(2))
    conflict = ("Permission conflict on node '{0}-file': permissions 'write, resize' are both "
                "required by node '{0}' (uses node '{0}-file' as 'file' child) and unshared by "
                "node '{1}' (uses node '{0}-file' as 'file' child).")
    reopen(disks, opts(0), conflict.format("hd2", "hd0"), file="hd2-file")
    reopen(disks, opts(2), conflict.format("hd0", "hd2"), file="hd0-file")
    check(disks, "hd0", 0xa0, 0, 0)


def test_a_file_is_replaced(daemon):
    daemon.image("a.img", MIB, b"\xa0" * MIB)
    daemon.image("b.img", MIB, b"\xa1" * MIB)
    for name in "ab":
        add(daemon, {"driver": "file", "node-name": name, "filename": f"{name}.img"})
    options = {"driver": "raw", "node-name": "r", "file": "a"}
    add(daemon, options)
    daemon.serve_nbd()
    check(daemon, "r", 0xa0)
    reopen(daemon, options, file="b")
    check(daemon, "r", 0xa1)
    reopen(daemon, options, file="a")
    check(daemon, "r", 0xa0)


def test_a_reference_leaves_the_child_as_it_is(disks):
    chain = changed(opts(0), {"detect_zeroes": "on", "backing": changed(
        opts(2), {"detect_zeroes": "on", "backing": None})})
    add(disks, chain)
    reopen(disks, opts(0), file="hd0-file", backing="hd2")
    assert node(disks, "hd0")["detect_zeroes"] == "off"
    assert node(disks, "hd2")["detect_zeroes"] == "on"


def test_all_nodes_of_a_command_change_or_none(disks):
    add(disks, opts(0))
    add(disks, opts(2))
    reopen_all(disks, [changed(opts(0), {"detect_zeroes": "on"}),
                       changed(opts(2), {"file__locking": "off"})],
               "Cannot change the option 'locking'")
    assert node(disks, "hd0")["detect_zeroes"] == "off"
    reopen_all(disks, [changed(opts(n), {"detect_zeroes": "on"}) for n in (0, 2)])
    assert [node(disks, f"hd{n}")["detect_zeroes"] for n in (0, 2)] == ["on", "on"]


def test_drivers_that_take_nothing_new(daemon):
    null = {"driver": "null-co", "node-name": "n", "size": 1024}
    add(daemon, null)
    reopen(daemon, null)
    reopen(daemon, null, "Cannot change the option 'size'", size=2048)
    reopen(daemon, {"driver": "null-co", "node-name": "n"},
           "Option 'size' cannot be reset to its default value")
    filtered = {"driver": "copy-on-read", "node-name": "c", "file": "n"}
    add(daemon, filtered)
    reopen(daemon, filtered, "Block format 'copy-on-read' used by node 'c' does not support "
           "reopening files")


def test_bitmaps_are_stored_when_an_image_becomes_read_only(disks):
    add(disks, opts(0))
    disks.qmp.cmd("block-dirty-bitmap-add", node="hd0", name="b", persistent=True)
    uri = disks.export("hd0", ident="w", writable=True)
    qemu_io(uri, "write 2M 64k")
    disks.qmp.cmd("block-export-del", id="w", mode="hard")
    disks.qmp.event("BLOCK_EXPORT_DELETED")
    reopen(disks, opts(0), read_only=True)
    copied = disks.file("copy.img")
    run("cp", disks.file("hd0.img"), copied)
    info = run("qemu-img", "info", "-U", copied).stdout
    assert "name: b" in info and "in-use" not in info
    reopen(disks, opts(0))
    uri = disks.export("hd0", writable=True)
    qemu_io(uri, "write 1M 64k")
    (bitmap,) = node(disks, "hd0")["dirty-bitmaps"]
    assert bitmap["count"] == 2 * 65536
    disks.quit()
    assert "No errors" in run("qemu-img", "check", disks.file("hd0.img")).stdout


@pytest.mark.skipif(is_oracle(), reason="QEMU takes the image for sound")
def test_a_dirty_image_is_mended_before_it_is_written_to(disks):
    path = disks.file("hd0.img")
    run("qemu-img", "amend", "-f", "qcow2", "-o", "lazy_refcounts=on", path)
    run("qemu-io", "-f", "qcow2", "-c", "write 1M 64k", "-c", "abort", path, check=False)
    add(disks, opts(0), read_only=True)
    reopen(disks, opts(0))
    uri = disks.export("hd0", writable=True)
    qemu_io(uri, "write -P 9 2M 64k", "read -P 0xa0 0 1M")
    disks.quit()
    assert "No errors" in run("qemu-img", "check", path).stdout


def test_an_image_opened_read_only_is_written_to_later(disks):
    path = disks.file("hd0.img")
    add(disks, opts(0), read_only=True)
    reopen(disks, opts(0))
    uri = disks.export("hd0", writable=True)
    qemu_io(uri, "write -P 9 2M 64k", "write -z 0 64k", "read -P 9 2M 64k",
            "read -P 0xa0 64k 960k")
    disks.quit()
    assert "No errors" in run("qemu-img", "check", path).stdout
    qemu_io(path, "read -P 9 2M 64k", "read -P 0 0 64k", image_format="qcow2")
