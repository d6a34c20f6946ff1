# SPDX-License-Identifier: GPL-2.0-or-later
"""Images whose header lies are refused as QEMU refuses them, at once and in little memory."""

import os
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from support.measure import Run

BUILD = Path(os.environ.get("STRATA_BUILD", Path(__file__).resolve().parents[3] / "build"))
OURS = BUILD / "bin" / "compat" / "qemu-io"

pytestmark = pytest.mark.skipif(not OURS.exists() or shutil.which("qemu-io") is None,
                                reason="needs strata-io and QEMU")

BACKING_OFFSET, BACKING_SIZE, CLUSTER_BITS, SIZE, CRYPT = 8, 16, 20, 24, 32
L1_SIZE, L1_OFFSET, TABLE_OFFSET, TABLE_CLUSTERS = 36, 40, 48, 56
SNAPSHOTS, SNAPSHOTS_OFFSET = 60, 64
INCOMPATIBLE, COMPATIBLE, AUTOCLEAR, ORDER, LENGTH, COMPRESSION = 72, 80, 88, 96, 100, 104
EXTENSION = 112


def u32(value):
    return struct.pack(">I", value)


def u64(value):
    return struct.pack(">Q", value)


# A name, and what is poked where.
POKES = {
    "no magic": [(0, b"QFX\xfb")],
    "version 1": [(4, u32(1))],
    "version 4": [(4, u32(4))],
    "cluster of a byte": [(CLUSTER_BITS, u32(0))],
    "cluster of 256 bytes": [(CLUSTER_BITS, u32(8))],
    "cluster of 4 MiB": [(CLUSTER_BITS, u32(22))],
    "cluster beyond a word": [(CLUSTER_BITS, u32(0xffffffff))],
    "CVE-2014-0144 header length": [(LENGTH, u32(0xffffffff))],
    "header length, signed": [(LENGTH, u32(0x7fffffff))],
    "header too short": [(LENGTH, u32(72))],
    "backing name behind the cluster": [(BACKING_OFFSET, u64(0xffffffffffffffff))],
    "2ebafc854d extension length": [(EXTENSION, u32(0x12345678)), (EXTENSION + 4, u32(0x7fffffff))],
    "extension length that wraps": [(EXTENSION, u32(0x12345678)), (EXTENSION + 4, u32(0xffffffff))],
    "CVE-2014-0144 backing name length": [(BACKING_OFFSET, u64(0x1000)),
                                          (BACKING_SIZE, u32(0xffffffff))],
    "backing name of 1024 bytes": [(BACKING_OFFSET, u64(0x1000)), (BACKING_SIZE, u32(1024))],
    "backing format of 16 bytes": [(EXTENSION, u32(0xe2792aca)), (EXTENSION + 4, u32(16))],
    "CVE-2014-0144 refcount table size": [(TABLE_CLUSTERS, u32(0xffffffff))],
    "refcount table a cluster too large": [(TABLE_CLUSTERS, u32(0x81))],
    "no refcount table": [(TABLE_CLUSTERS, u32(0))],
    "refcount table unaligned": [(TABLE_OFFSET, u64(0x1234567890abcdef))],
    "refcount table beyond the end": [(TABLE_OFFSET, u64(0xffffffffffff0000)),
                                      (TABLE_CLUSTERS, u32(0x7f))],
    "CVE-2014-0144 snapshots": [(SNAPSHOTS, u32(0xffffffff))],
    "CVE-2014-0146 snapshots without a table": [(SNAPSHOTS, u32(1))],
    "snapshot table beyond the end": [(SNAPSHOTS_OFFSET, u64(0xffffffffffff0000)),
                                      (SNAPSHOTS, u32(0xffff))],
    "snapshot table unaligned": [(SNAPSHOTS_OFFSET, u64(0x1234567890abcdef))],
    "CVE-2014-0143 L1 size": [(L1_SIZE, u32(0xffffffff))],
    "L1 size, signed": [(L1_SIZE, u32(0x7fffffff))],
    "L1 table beyond the end": [(L1_OFFSET, u64(0x7fffffffffff0000)), (L1_SIZE, u32(0xffff))],
    "L1 table unaligned": [(L1_OFFSET, u64(0x1234567890abcdef)), (L1_SIZE, u32(1))],
    "L1 table too small": [(L1_SIZE, u32(0))],
    "size too large for the L1 table": [(SIZE, u64(1 << 62))],
    "largest L1 table, which is not there": [(L1_SIZE, u32(4 << 20))],
    "unknown encryption": [(CRYPT, u32(3))],
    "luks without its header": [(CRYPT, u32(2))],
    "refcounts of 128 bits": [(ORDER, u32(7))],
    "refcounts beyond a word": [(ORDER, u32(0xffffffff))],
    "unknown compression": [(COMPRESSION, b"\x02")],
    "compression without its bit": [(COMPRESSION, b"\x01")],
    "bit without its compression": [(INCOMPATIBLE, u64(8))],
    "unknown feature": [(INCOMPATIBLE, u64(1 << 63))],
    "unknown features": [(INCOMPATIBLE, u64(0x7ff0000000000000))],
    "corrupt": [(INCOMPATIBLE, u64(2))],
    "subclusters of 2 KiB hold": [(INCOMPATIBLE, u64(16))],
    "subclusters too small": [(INCOMPATIBLE, u64(16)), (CLUSTER_BITS, u32(13))],
    "data file without a name": [(INCOMPATIBLE, u64(4))],
    "unknown autoclear and compatible features": [(AUTOCLEAR, u64(1 << 40)),
                                                  (COMPATIBLE, u64(1 << 50))],
}


def make(path, pokes):
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(path), "64M"], check=True,
                   timeout=60)
    with open(path, "r+b") as image:
        for offset, data in pokes:
            image.seek(offset)
            image.write(data)


def read(program, path, *options):
    return Run([program, "-f", "qcow2", *options, "-c", "read 0 512", path.name], path.parent)


@pytest.mark.parametrize("options", [[], ["-r"]], ids=["read-write", "read-only"])
@pytest.mark.parametrize("name", POKES, ids=[name.replace(" ", "-") for name in POKES])
def test_header_is_judged_as_qemu_does(tmp_path, name, options):
    path = tmp_path / "disk.qcow2"
    make(path, POKES[name])
    before = path.read_bytes()
    ours = read(OURS, path, *options)
    ours.assert_modest()
    path.write_bytes(before)
    theirs = read(shutil.which("qemu-io"), path, *options)
    assert (ours.status, ours.err) == (theirs.status, theirs.err)


@pytest.mark.parametrize("stored", [b"raw\0", b"raw\0xyz", b"\0\0\0", b"\0w", b""])
def test_names_end_with_a_zero_byte(tmp_path, stored):
    """A format without a name is none: it is found out."""
    base, path = tmp_path / "base", tmp_path / "disk.qcow2"
    base.write_bytes(b"\1" * 65536)
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "raw", path],
                   check=True, timeout=60)
    data = bytearray(path.read_bytes())
    assert data[EXTENSION:EXTENSION + 4] == u32(0xe2792aca)
    data[EXTENSION + 4:EXTENSION + 16] = u32(len(stored)) + stored.ljust(8, b"\0")
    if not stored:  # what follows does so at once
        del data[EXTENSION + 8:EXTENSION + 16]
        data[4096:4096] = bytes(8)
        name = struct.unpack_from(">Q", data, BACKING_OFFSET)[0]
        struct.pack_into(">Q", data, BACKING_OFFSET, name - 8)
    path.write_bytes(data)
    for program in (OURS, shutil.which("qemu-io")):
        run = Run([program, "-f", "qcow2", "-r", "-c", "read -P 1 0 64k", path.name], tmp_path)
        assert (run.status, run.err) == (0, "")
        assert "verification failed" not in run.out


def test_a_version_2_image_of_which_a_snapshot_was_cut_short_is_mended(tmp_path):
    """The header says so in an extension, which is nothing to QEMU."""
    path = tmp_path / "disk.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-o", "compat=0.10", path, "64M"],
                   check=True, timeout=60)
    subprocess.run(["qemu-io", "-f", "qcow2", "-c", "write -P 1 0 64k", path], check=True,
                   timeout=60, stdout=subprocess.DEVNULL)
    data = bytearray(path.read_bytes())
    l1 = struct.unpack_from(">Q", data, L1_OFFSET)[0]
    l2 = struct.unpack_from(">Q", data, l1)[0] & ~(1 << 63)
    data[l2] ^= 0x80  # the flag that says that the cluster is nobody else's
    data[72:88] = u32(0x53645632) + bytes(12)
    path.write_bytes(data)

    def check(program):
        return subprocess.run([program, "check", path], check=False, timeout=60,
                              capture_output=True).returncode

    ours = OURS.parent / "qemu-img"
    assert check("qemu-img") == check(ours) == 2
    for program, status in (("qemu-io", 2), (OURS, 0)):
        subprocess.run([program, "-f", "qcow2", "-c", "read -P 1 0 64k", "-c", "write 1M 64k",
                        path], check=True, timeout=60, capture_output=True)
        assert check("qemu-img") == check(ours) == status
        assert (struct.unpack_from(">I", path.read_bytes(), 72)[0] == 0x53645632) == (status == 2)
