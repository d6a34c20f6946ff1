# SPDX-License-Identifier: GPL-2.0-or-later
"""Dirty bitmaps of nodes, over QMP."""

import subprocess

import pytest

from support.qmp import QMPError

ADD = "block-dirty-bitmap-add"


def error(daemon, command, **arguments):
    with pytest.raises(QMPError) as caught:
        daemon.qmp.cmd(command, {key.replace("_", "-"): value for key, value in arguments.items()})
    return caught.value.desc


def run(daemon, command, **arguments):
    return daemon.qmp.cmd(command, arguments)


def bitmaps(daemon, node="disk"):
    nodes = daemon.qmp.cmd("query-named-block-nodes")
    return next(n for n in nodes if n["node-name"] == node).get("dirty-bitmaps", [])


def write(uri, *commands):
    words = [word for command in commands for word in ("-c", command)]
    subprocess.run(["qemu-io", "-f", "raw", *words, uri], check=True, capture_output=True,
                   timeout=60)


def test_a_bitmap_records_what_clients_write(daemon):
    daemon.add_file("disk", size=1 << 20, discard="unmap")
    run(daemon, ADD, node="disk", name="b0", granularity=4096)
    daemon.serve_nbd()
    uri = daemon.export("disk", writable=True)
    write(uri, "write 0 4k", "write -z 64k 4k", "discard 128k 4k", "write 255k 2k")
    assert bitmaps(daemon) == [{"name": "b0", "count": 5 * 4096, "granularity": 4096,
                                "recording": True, "busy": False, "persistent": False}]
    run(daemon, "block-dirty-bitmap-disable", node="disk", name="b0")
    write(uri, "write 512k 4k")
    assert bitmaps(daemon)[0]["count"] == 5 * 4096
    assert bitmaps(daemon)[0]["recording"] is False
    run(daemon, "block-dirty-bitmap-clear", node="disk", name="b0")
    run(daemon, "block-dirty-bitmap-enable", node="disk", name="b0")
    write(uri, "write 512k 4k")
    assert bitmaps(daemon)[0]["count"] == 4096
    run(daemon, "block-dirty-bitmap-remove", node="disk", name="b0")
    assert bitmaps(daemon) == []


def test_granularity_is_64k_without_clusters_and_the_latest_bitmap_comes_first(daemon):
    daemon.add_null("disk")
    for name in ("a", "b"):
        run(daemon, ADD, node="disk", name=name)
    assert [(b["name"], b["granularity"]) for b in bitmaps(daemon)] == [("b", 65536), ("a", 65536)]


def test_merging_is_all_or_nothing(daemon):
    daemon.add_file("disk", size=1 << 20)
    daemon.add_null("small", size=1 << 16)
    for name in ("a", "b", "sum"):
        run(daemon, ADD, node="disk", name=name, granularity=512)
    run(daemon, ADD, node="small", name="other")
    daemon.serve_nbd()
    write(daemon.export("disk", writable=True), "write 0 8k")
    run(daemon, "block-dirty-bitmap-clear", node="disk", name="sum")
    assert error(daemon, "block-dirty-bitmap-merge", node="disk", target="sum",
                 bitmaps=["a", {"node": "small", "name": "other"}]) == (
        "Bitmaps are of different sizes (destination size is 1048576, source size is 65536) and "
        "can't be merged")
    assert bitmaps(daemon)[0]["count"] == 0
    run(daemon, "block-dirty-bitmap-merge", node="disk", target="sum",
        bitmaps=["a", {"node": "disk", "name": "b"}])
    assert bitmaps(daemon)[0]["count"] == 8192


def test_errors_are_qemus(daemon):
    daemon.add_null("disk")
    run(daemon, ADD, node="disk", name="b0")
    assert error(daemon, ADD, node="disk", name="") == "Bitmap name cannot be empty"
    assert error(daemon, ADD, node="no", name="b") == (
        "Cannot find device='no' nor node-name='no'")
    assert error(daemon, ADD, node="disk", name="b0") == "Bitmap already exists: b0"
    assert error(daemon, ADD, node="disk", name="x" * 1024) == "Bitmap name too long"
    for granularity in (0, 256, 513):
        assert error(daemon, ADD, node="disk", name="b", granularity=granularity) == (
            "Granularity must be power of 2 and at least 512")
    assert error(daemon, ADD, node="disk", name="b", persistent=True) == (
        "Can't store persistent bitmaps to disk: Operation not supported")
    for command in ("remove", "clear", "enable", "disable"):
        assert error(daemon, f"block-dirty-bitmap-{command}", node="disk", name="b") == (
            "Dirty bitmap 'b' not found")
    assert error(daemon, "block-dirty-bitmap-merge", node="disk", target="b0", bitmaps=["c"]) == (
        "Dirty bitmap 'c' not found")
    assert error(daemon, "block-dirty-bitmap-clear", node="no", name="b0") == "Node 'no' not found"


def test_the_hash_is_that_of_the_bits(daemon):
    daemon.add_null("disk")
    run(daemon, ADD, node="disk", name="b0")
    empty = run(daemon, "x-debug-block-dirty-bitmap-sha256", node="disk", name="b0")["sha256"]
    assert empty == "af5570f5a1810b7af78caf4bc70a660f0df51e42baf91d4de5b2328de0e83dfc"


def test_a_resized_node_has_resized_bitmaps(daemon):
    daemon.add_file("disk", size=1 << 20)
    run(daemon, ADD, node="disk", name="b0", granularity=65536)
    daemon.serve_nbd()
    write(daemon.export("disk", writable=True), "write 0 1M")
    daemon.qmp.cmd("block-export-del", {"id": "exp0", "mode": "hard"})
    daemon.qmp.event("BLOCK_EXPORT_DELETED")
    daemon.qmp.cmd("block_resize", {"node-name": "disk", "size": 1 << 17})
    assert bitmaps(daemon)[0]["count"] == 1 << 17
    daemon.qmp.cmd("block_resize", {"node-name": "disk", "size": 1 << 20})
    assert bitmaps(daemon)[0]["count"] == 1 << 17
