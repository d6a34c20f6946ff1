# SPDX-License-Identifier: GPL-2.0-or-later
"""Meta contexts of exports: dirty bitmaps and allocation depth, and what an export does to the
bitmaps it shows."""

import struct
import subprocess

import pytest

from support import nbd_wire as wire
from support.nbd_wire import NBD
from support.tools import nbdinfo, qemu_io

K = 1024
M = 1 << 20
DIRTY = "qemu:dirty-bitmap:"
DEPTH = "qemu:allocation-depth"


def add_bitmap(daemon, node, name, **more):
    daemon.qmp.cmd("block-dirty-bitmap-add", dict({"node": node, "name": name}, **more))


def nbd(node="top", ident="e0", **more):
    return dict({"type": "nbd", "id": ident, "node-name": node},
                **{key.replace("_", "-"): value for key, value in more.items()})


def qcow2(daemon, name, *options):
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *options, daemon.file(name), "64M"],
                   check=True, timeout=60, cwd=daemon.path)
    return daemon.file(name)


@pytest.fixture
def chain(daemon):
    """base <- top, both of 64 MiB, with bitmaps 'low' and 'both', 'high' and 'both'."""
    base = qcow2(daemon, "base.qcow2")
    qemu_io(base, "write 0 1M", "write 3M 64k", image_format="qcow2")
    top = qcow2(daemon, "top.qcow2", "-b", base, "-F", "qcow2")
    qemu_io(top, "write 2M 1M", image_format="qcow2")
    for node, path, more in (("base", base, {}), ("top", top, {"backing": "base"})):
        daemon.qmp.cmd("blockdev-add", {"driver": "qcow2", "node-name": node, **more,
                                        "read-only": False,
                                        "file": {"driver": "file", "filename": path}})
    for node, own in (("base", "low"), ("top", "high")):
        for name in (own, "both"):
            add_bitmap(daemon, node, name, granularity=64 * K)
    daemon.serve_nbd()
    return daemon


def error(daemon, **arguments):
    return daemon.qmp.error("block-export-add", nbd(**arguments))


def busy(daemon, node, name):
    nodes = daemon.qmp.cmd("query-named-block-nodes")
    found = next(n for n in nodes if n["node-name"] == node)
    return next(b for b in found["dirty-bitmaps"] if b["name"] == name)["busy"]


def dirty(client, context, offset=0, length=64 * M, flags=0):
    """The dirty ranges that the client is told of."""
    ranges = []
    while length:
        extents = client.status(offset, length, flags)[context]
        for size, state in extents:
            assert state in (0, 1)
            if state:
                ranges.append((offset, size))
            offset += size
            length -= size
    return ranges


@pytest.mark.parametrize("mode", [
    "structured", pytest.param("extended", marks=pytest.mark.strata_only("7.2 has no such"))])
def test_a_client_sees_what_the_bitmap_holds(chain, mode):
    chain.export("top", writable=True, bitmaps=["high"])
    with NBD(chain.nbd_path) as client:
        client.hello()
        client.negotiate_extended() if mode == "extended" else client.negotiate_structured()
        ids = client.meta("top", [DIRTY + "high"])
        client.go("top")
        context = ids[DIRTY + "high"]
        assert client.status(0, 64 * M) == {context: [(64 * M, 0)]}
        assert client.write(10 * M, bytes(100 * K)) == 0
        assert client.write(20 * M, bytes(K)) == 0
        assert dirty(client, context) == [(10 * M, 128 * K), (20 * M, 64 * K)]
        assert client.status(10 * M, 4 * M, wire.F_REQ_ONE)[context] == [(128 * K, 1)]
        assert client.status(10 * M + 5, 7) == {context: [(7, 1)]}


@pytest.mark.strata_only("7.2 has no extended headers")
def test_a_client_chooses_contexts_request_by_request(chain):
    chain.export("top", writable=True, bitmaps=["high", "low"], allocation_depth=True)
    with NBD(chain.nbd_path) as client:
        client.hello()
        client.negotiate_extended()
        names = [DIRTY + "high", DIRTY + "low", DEPTH, "base:allocation"]
        ids = client.meta("top", names)
        assert set(ids) == set(names) and len(set(ids.values())) == 4
        client.go("top")
        assert set(client.status(0, M)) == set(ids.values())
        wanted = [ids[DIRTY + "low"], ids[DEPTH]]
        payload = struct.pack(">QII", 64 * M, *wanted)
        fault, chunks = client.request(wire.CMD_BLOCK_STATUS, 0, len(payload),
                                       wire.F_PAYLOAD_LEN, payload)
        found = [struct.unpack(">I", data[:4])[0] for _, data in chunks]
        assert fault == 0 and sorted(found) == sorted(wanted)


def test_many_changes_take_several_requests(chain):
    """An answer has bounds; what was not answered is asked again."""
    add_bitmap(chain, "top", "fine", granularity=512)
    chain.export("top", writable=True, bitmaps=["fine"])
    spots = range(0, 12 * M, 2 * K)
    with NBD(chain.nbd_path) as client:
        context = client.open("top", contexts=[DIRTY + "fine"])[DIRTY + "fine"]
        for start in range(0, len(spots), 64):
            for spot in spots[start:start + 64]:
                client.send_request(wire.CMD_WRITE, spot, 512, payload=bytes(512))
            for _ in spots[start:start + 64]:
                assert client.read_reply()[1] == 0
        first = client.status(0, 64 * M)[context]
        assert 1 < len(first) <= 2 * len(spots)
        assert dirty(client, context) == [(spot, 512) for spot in spots]


def test_a_bitmap_of_the_backing_file_is_found(chain):
    # The base is written to by nobody.
    qemu_io(chain.export("base", writable=True), "write 5M 64k")
    chain.qmp.cmd("block-export-del", id="exp0", mode="hard")
    chain.qmp.event("BLOCK_EXPORT_DELETED")
    chain.qmp.cmd("block-dirty-bitmap-disable", node="base", name="low")
    chain.export("top", bitmaps=["low"])
    with NBD(chain.nbd_path) as client:
        context = client.open("top", contexts=[DIRTY + "low"])[DIRTY + "low"]
        assert dirty(client, context) == [(5 * M, 64 * K)]
    assert busy(chain, "base", "low")


def test_of_two_bitmaps_of_one_name_the_upper_is_meant(chain):
    chain.export("top", bitmaps=["both"], writable=True)
    assert busy(chain, "top", "both") and not busy(chain, "base", "both")


def test_a_bitmap_of_any_node_can_be_named(chain):
    chain.add_null("other", size=M)
    add_bitmap(chain, "other", "short", granularity=64 * K)
    chain.qmp.cmd("block-export-add", nbd("other", "o", writable=True))
    qemu_io(chain.uri("other"), "write 960k 64k")
    chain.qmp.cmd("block-export-add",
                  nbd(bitmaps=[{"node": "other", "name": "short"},
                               {"node": "base", "name": "both"}]))
    assert busy(chain, "other", "short") and busy(chain, "base", "both")
    with NBD(chain.nbd_path) as client:
        context = client.open("top", contexts=[DIRTY + "short"])[DIRTY + "short"]
        # What lies behind the end of the other node is clean.
        assert client.status(0, 64 * M) == {context: [(960 * K, 0), (64 * K, 1), (63 * M, 0)]}
        assert client.status(32 * M, K) == {context: [(K, 0)]}


REFUSED = [
    ({"bitmaps": ["nosuch"]}, "Bitmap 'nosuch' is not found"),
    ({"bitmaps": [""]}, "Bitmap '' is not found"),
    ({"bitmaps": ["high", "nosuch"], "writable": True}, "Bitmap 'nosuch' is not found"),
    ({"bitmaps": ["high"]}, "Enabled bitmap 'high' incompatible with readonly export"),
    ({"bitmaps": ["low"]}, "Enabled bitmap 'low' incompatible with readonly export"),
    ({"bitmaps": [{"node": "top", "name": "low"}]}, "Dirty bitmap 'low' not found"),
    ({"bitmaps": [{"node": "nosuch", "name": "low"}]}, "Node 'nosuch' not found"),
    ({"bitmaps": [{"node": "base"}]}, "Parameter 'bitmaps[0].name' is missing"),
    ({"bitmaps": [1]}, "Invalid parameter type for 'null', expected: BlockDirtyBitmapOrStr"),
]


@pytest.mark.parametrize("arguments, text", REFUSED)
def test_what_cannot_be_shown_is_refused(chain, arguments, text):
    if arguments["bitmaps"] == ["low"]:
        # A backing file is read-only as long as nobody writes to it: here somebody does.
        chain.qmp.cmd("block-export-add", nbd("base", "writer", writable=True))
    assert error(chain, **arguments) == text
    assert not busy(chain, "top", "high")


def test_an_exported_bitmap_belongs_to_the_export(chain):
    chain.export("top", writable=True, bitmaps=["high"])
    used = "Bitmap 'high' is currently in use by another operation and cannot be used"
    for command in ("clear", "enable", "disable", "remove"):
        assert chain.qmp.error(f"block-dirty-bitmap-{command}", node="top", name="high") == used
    assert chain.qmp.error("block-dirty-bitmap-merge", node="top", target="both",
                           bitmaps=["high"]) == used
    assert error(chain, ident="e1", name="again", writable=True, bitmaps=["high"]) == used
    chain.qmp.cmd("block-export-del", id="exp0")
    chain.qmp.event("BLOCK_EXPORT_DELETED")
    chain.qmp.cmd("block-dirty-bitmap-remove", node="top", name="high")


def test_a_client_in_the_handshake_does_not_keep_the_bitmap(chain):
    chain.export("top", writable=True, bitmaps=["high"])
    with NBD(chain.nbd_path) as client:
        client.hello()
        client.negotiate_structured()
        client.meta("top", [DIRTY + "high"])
        chain.qmp.cmd("block-export-del", id="exp0")
        chain.qmp.event("BLOCK_EXPORT_DELETED")
        chain.qmp.cmd("block-dirty-bitmap-remove", node="top", name="high")


def test_a_bitmap_named_twice_is_shown_twice(chain):
    chain.export("top", writable=True, bitmaps=["high", "high"])
    contexts = nbdinfo(chain.uri("top"))["exports"][0]["contexts"]
    assert contexts == ["base:allocation", DIRTY + "high", DIRTY + "high"]


def test_wildcards_list_and_do_not_select(chain):
    chain.export("top", writable=True, bitmaps=["high", "low"], allocation_depth=True)
    bitmaps = {DIRTY + "high", DIRTY + "low"}
    with NBD(chain.nbd_path) as client:
        client.hello()
        client.negotiate_structured()
        for query, names in [("qemu:", bitmaps | {DEPTH}), (DIRTY, bitmaps), ("base:",
                             {"base:allocation"}), (DIRTY + "nosuch", set()), (DEPTH, {DEPTH})]:
            assert set(client.meta("top", [query], wire.OPT_LIST_META)) == names
        assert set(client.meta("top", [], wire.OPT_LIST_META)) == (
            bitmaps | {DEPTH, "base:allocation"})
        assert client.meta("top", ["qemu:", DIRTY]) == {}


def test_the_longest_name_of_a_bitmap_is_a_context(chain):
    name = "n" * 1023
    add_bitmap(chain, "top", name, disabled=True)
    chain.export("top", bitmaps=[name])
    with NBD(chain.nbd_path) as client:
        assert list(client.open("top", contexts=[DIRTY + name])) == [DIRTY + name]


def test_allocation_depth_counts_the_layers(chain):
    chain.export("top", allocation_depth=True)
    with NBD(chain.nbd_path) as client:
        context = client.open("top", contexts=[DEPTH])[DEPTH]
        assert client.status(0, 4 * M)[context] == [
            (M, 2), (M, 0), (M, 1), (64 * K, 2), (M - 64 * K, 0)]


def test_the_older_command_takes_a_bitmap(chain):
    assert chain.qmp.error("nbd-server-add", device="top", bitmap="high") == (
        "Enabled bitmap 'high' incompatible with readonly export")
    chain.qmp.cmd("nbd-server-add", device="top", bitmap="high", writable=True)
    assert DIRTY + "high" in nbdinfo(chain.uri("top"))["exports"][0]["contexts"]
