# SPDX-License-Identifier: GPL-2.0-or-later
"""What qcow2's runtime options do, seen from outside: blocks, entries, events, errors."""

import json
import os
import struct

import pytest

from support.nbd_wire import CMD_FLUSH, CMD_TRIM, NBD
from support.program import is_oracle, slow_factor
from support.tools import qemu_io, run, wait_until

MIB = 1 << 20
CLUSTER = 65536


@pytest.fixture
def image(daemon):
    """A file of 4 MiB, the first MiB written, as QEMU makes it."""
    path = daemon.file("disk.qcow2")
    run("qemu-img", "create", "-q", "-f", "qcow2", path, "4M")
    qemu_io(path, "write -P 0x5a 0 1M", image_format="qcow2")
    daemon.serve_nbd()
    return path


def options_of(path, **options):
    changes = {key.replace("_", "-"): value for key, value in options.items()}
    return {"driver": "qcow2", "node-name": "disk", "discard": "unmap", **changes,
            "file": {"driver": "file", "node-name": "file", "filename": path, "discard": "unmap"}}


def serve(daemon, path, **options):
    daemon.qmp.cmd("blockdev-add", options_of(path, **options))
    daemon.export("disk", writable=True)
    client = NBD(daemon.nbd_path)
    client.open("disk")
    return client


def refused(daemon, path, **options):
    return daemon.qmp.error("blockdev-add", options_of(path, **options))


def blocks(path):
    """Of the host, of 512 bytes."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        return os.fstat(descriptor).st_blocks
    finally:
        os.close(descriptor)


def host_offsets(path):
    """{guest offset: host offset or None} of what the image says of itself, cluster by cluster."""
    with open(path, "rb") as file:
        head = file.read(104)
        l1_entries, l1_offset = struct.unpack_from(">I", head, 36)[0], struct.unpack_from(
            ">Q", head, 40)[0]
        file.seek(l1_offset)
        l2_offset = struct.unpack(">Q", file.read(8))[0] & 0x00fffffffffffe00
        assert l1_entries == 1 and l2_offset
        file.seek(l2_offset)
        entries = struct.unpack(">64Q", file.read(512))
    return {i * CLUSTER: (e & 0x00fffffffffffe00, e & 1) for i, e in enumerate(entries)}


def end(daemon):
    daemon.qmp.cmd("block-export-del", id="exp0", mode="hard")
    daemon.qmp.event("BLOCK_EXPORT_DELETED")
    daemon.qmp.cmd("blockdev-del", {"node-name": "disk"})


# Discards.

@pytest.mark.parametrize("passed", [None, True, False])
def test_pass_discard_request(daemon, image, passed):
    before = blocks(image)
    options = {} if passed is None else {"pass_discard_request": passed}
    with serve(daemon, image, **options) as client:
        assert client.request(CMD_TRIM, 0, MIB)[0] == 0
        assert client.request(CMD_FLUSH)[0] == 0
        assert client.read(0, MIB) == bytes(MIB)
    end(daemon)
    freed = (before - blocks(image)) * 512
    assert freed > MIB - CLUSTER if passed is not False else freed < CLUSTER
    assert all(entry == (0, 1) for at, entry in host_offsets(image).items() if at < MIB)
    run("qemu-img", "check", "-q", image)


def test_discard_ignored_by_the_node(daemon, image):
    before = host_offsets(image)
    with serve(daemon, image, discard="ignore") as client:
        assert client.request(CMD_TRIM, 0, MIB)[0] == 0
        assert client.read(0, MIB) == b"\x5a" * MIB
    end(daemon)
    assert host_offsets(image) == before


@pytest.mark.skipif(is_oracle(), reason="since QEMU 8.1")
def test_discard_no_unref(daemon, image):
    before, at = blocks(image), host_offsets(image)
    with serve(daemon, image, discard_no_unref=True) as client:
        assert client.request(CMD_TRIM, 0, MIB)[0] == 0
        assert client.request(CMD_FLUSH)[0] == 0
        assert client.read(0, MIB) == bytes(MIB)
        middle = host_offsets(image)
        assert all(middle[guest] == (at[guest][0], 1) for guest in range(0, MIB, CLUSTER))
        # The host's blocks are free all the same.
        assert (before - blocks(image)) * 512 > MIB - CLUSTER
        assert client.write(CLUSTER, b"\xa5" * CLUSTER) == 0
        assert client.read(0, 3 * CLUSTER) == bytes(CLUSTER) + b"\xa5" * CLUSTER + bytes(CLUSTER)
    end(daemon)
    assert host_offsets(image)[CLUSTER] == at[CLUSTER]
    run("qemu-img", "check", "-q", image)


@pytest.mark.skipif(is_oracle(), reason="since QEMU 8.1")
def test_discard_no_unref_needs_version_3(daemon):
    path = daemon.file("old.qcow2")
    run("qemu-img", "create", "-q", "-f", "qcow2", "-o", "compat=0.10", path, "1M")
    assert refused(daemon, path, discard_no_unref=True) == (
        "discard-no-unref is only supported since qcow2 version 3")


# Caches.

BIG = 1 << 62


@pytest.mark.parametrize("options, error", [
    ({"cache_size": MIB, "l2_cache_size": MIB, "refcount_cache_size": MIB},
     "cache-size, l2-cache-size and refcount-cache-size may not be set at the same time"),
    ({"cache_size": MIB, "l2_cache_size": 2 * MIB}, "l2-cache-size may not exceed cache-size"),
    ({"cache_size": MIB, "refcount_cache_size": 2 * MIB},
     "refcount-cache-size may not exceed cache-size"),
    ({"l2_cache_entry_size": 1000},
     "L2 cache entry size must be a power of two between 512 and the cluster size (65536)"),
    ({"l2_cache_entry_size": 131072},
     "L2 cache entry size must be a power of two between 512 and the cluster size (65536)"),
    ({"l2_cache_entry_size": 256},
     "L2 cache entry size must be a power of two between 512 and the cluster size (65536)"),
    ({"refcount_cache_size": BIG}, "Refcount cache size too big"),
    ({"cache_clean_interval": 1 << 33}, "Cache clean interval too big"),
])
def test_caches_that_cannot_be(daemon, image, options, error):
    assert refused(daemon, image, **options) == error


@pytest.mark.parametrize("options", [
    {"cache_size": 0}, {"cache_size": 2 * MIB, "l2_cache_size": MIB}, {"l2_cache_size": 1},
    {"cache_size": MIB, "refcount_cache_size": MIB}, {"l2_cache_entry_size": 512},
    {"l2_cache_size": 4096, "l2_cache_entry_size": 512, "refcount_cache_size": 1},
    {"cache_clean_interval": 0}, {"lazy_refcounts": True}, {"l2_cache_size": BIG},
])
def test_caches_of_any_size_serve(daemon, image, options):
    with serve(daemon, image, **options) as client:
        for at in range(0, 4 * MIB, 3 * CLUSTER // 2):
            size = min(CLUSTER, 4 * MIB - at)
            assert client.write(at, bytes([at // 4096 % 251]) * size) == 0
        for at in range(0, 4 * MIB, 3 * CLUSTER // 2):
            size = min(CLUSTER, 4 * MIB - at)
            assert client.read(at, size) == bytes([at // 4096 % 251]) * size
    end(daemon)
    run("qemu-img", "check", "-q", image)


@pytest.mark.skipif(is_oracle(), reason="its memory goes up and down otherwise")
@pytest.mark.skipif(slow_factor() > 1, reason="a sanitizer keeps memory that was given back")
def test_clean_caches_are_given_back(daemon):
    """After a second without a use, the memory of 16 MiB of L2 tables is the host's again."""
    path = daemon.file("large.qcow2")
    run("qemu-img", "create", "-q", "-f", "qcow2", "-o", "preallocation=metadata", path, "128G")
    daemon.serve_nbd()
    with serve(daemon, path, cache_clean_interval=1) as client:
        def resident():
            return daemon.status("RssAnon")
        low = resident()
        for at in range(0, 128 << 30, 512 * MIB):
            client.read(at, 512)
        high = resident()
        assert high - low > 8 * 1024
        wait_until(lambda: resident() - low < (high - low) // 2, "memory given back")
        assert client.read(64 << 30, 512) == bytes(512)
    end(daemon)


# Lazy refcounts.

def test_lazy_refcounts_keep_the_image_dirty_while_it_is_written(daemon, image):
    def dirty():
        with open(image, "rb") as file:
            return struct.unpack(">Q", file.read(80)[72:])[0] & 1
    with serve(daemon, image, lazy_refcounts=True) as client:
        assert client.write(2 * MIB, b"\x11" * CLUSTER) == 0
        assert client.request(CMD_FLUSH)[0] == 0
        assert dirty()
    end(daemon)
    assert not dirty()
    run("qemu-img", "check", "-q", image)


def test_lazy_refcounts_need_version_3(daemon):
    path = daemon.file("old.qcow2")
    run("qemu-img", "create", "-q", "-f", "qcow2", "-o", "compat=0.10", path, "1M")
    assert refused(daemon, path, lazy_refcounts=True) == (
        "Lazy refcounts require a qcow2 image with at least qemu 1.1 compatibility level")


# Corruption.

def set_entry(path, guest, entry):
    """The L2 entry of that guest cluster; where it stands."""
    with open(path, "r+b") as file:
        l1_offset = struct.unpack_from(">Q", file.read(104), 40)[0]
        file.seek(l1_offset)
        l2_offset = struct.unpack(">Q", file.read(8))[0] & 0x00fffffffffffe00
        file.seek(l2_offset + guest // CLUSTER * 8)
        file.write(struct.pack(">Q", entry))
    return l2_offset


COPIED = 1 << 63
EINVAL = 22  # as NBD says ENOMEDIUM


def test_write_over_metadata_is_told_and_ends_all_use(daemon, image):
    l2 = set_entry(image, 0, 0)
    set_entry(image, 0, COPIED | l2)
    with serve(daemon, image) as client:
        assert client.write(0, b"\x66" * 512) == 5
        event = daemon.qmp.event("BLOCK_IMAGE_CORRUPTED")
        assert event["data"] == {
            "device": "", "node-name": "disk", "fatal": True, "offset": l2, "size": 512,
            "msg": "Preventing invalid write on metadata (overlaps with active L2 table)"}
        # Nothing more is read or written through it, and it says so only once.
        assert client.write(2 * MIB, b"\x66" * 512) == EINVAL
        with pytest.raises(OSError):
            client.read(MIB // 2, 512)
        daemon.qmp.no_event("BLOCK_IMAGE_CORRUPTED")
    end(daemon)
    assert json.loads(run("qemu-img", "info", "--output=json", image).stdout)[
        "format-specific"]["data"]["corrupt"] is True
    assert refused(daemon, image) == "qcow2: Image is corrupt; cannot be opened read/write"
    daemon.qmp.cmd("blockdev-add", options_of(image, read_only=True))


@pytest.mark.parametrize("flags", [COPIED, COPIED | 1, 0, 1])
def test_entry_that_is_unaligned(daemon, image, flags):
    """Not fatal where the image is only read, and told once."""
    l2 = set_entry(image, 0, flags | CLUSTER * 5 + 512)
    daemon.qmp.cmd("blockdev-add", options_of(image, read_only=True))
    daemon.export("disk")
    with NBD(daemon.nbd_path) as client:
        client.open("disk")
        for _ in range(2):
            with pytest.raises(OSError):
                client.read(0, 512)
        event = daemon.qmp.event("BLOCK_IMAGE_CORRUPTED")
        assert event["data"] == {
            "device": "", "node-name": "disk", "fatal": False,
            "msg": f"Cluster allocation offset 0x50200 unaligned (L2 offset: {l2:#x}, L2 index: 0)"}
        daemon.qmp.no_event("BLOCK_IMAGE_CORRUPTED")
        assert client.read(CLUSTER, 512) == b"\x5a" * 512


@pytest.mark.parametrize("options, told", [
    ({}, True), ({"overlap_check": "none"}, False), ({"overlap_check": "constant"}, False),
    ({"overlap_check": "cached"}, True), ({"overlap_check": "all"}, True),
    ({"overlap_check": {"template": "none", "active-l2": True}}, True),
    ({"overlap_check": {"template": "all", "active-l2": False}}, False),
    ({"overlap_check": {"active-l2": False, "refcount-block": True}}, False),
])
def test_overlap_check_guards_what_it_is_told(daemon, image, options, told):
    l2 = set_entry(image, 0, 0)
    set_entry(image, 0, COPIED | l2)
    with serve(daemon, image, **options) as client:
        assert client.write(0, b"\x00" * 8) == (5 if told else 0)
    if told:
        assert daemon.qmp.event("BLOCK_IMAGE_CORRUPTED")["data"]["offset"] == l2
    else:
        daemon.qmp.no_event("BLOCK_IMAGE_CORRUPTED")
