# SPDX-License-Identifier: GPL-2.0-or-later
"""Snapshot tables that are too large, or have too much in them: refused and mended as QEMU does."""

import hashlib
import os
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

BUILD = Path(os.environ.get("STRATA_BUILD", Path(__file__).resolve().parents[3] / "build"))
OURS = BUILD / "bin/compat/qemu-img"
CLUSTER = 65536
TABLE = 1 << 20
L1, L2 = TABLE - 2 * CLUSTER, TABLE - CLUSTER  # of the last snapshot
LONG = 65535  # bytes of an id, or a name
LONG_ENTRY = 40 + 1024 + 2 * LONG + 2

pytestmark = pytest.mark.skipif(not OURS.exists() or shutil.which("qemu-img") is None,
                                reason="needs strata-img and QEMU")


def run(program, *arguments, cwd):
    done = subprocess.run([program, *arguments], cwd=cwd, timeout=120, capture_output=True,
                          check=False)
    return done.returncode, done.stdout, done.stderr


def entry(ident=b"", name=b"", extra=b"", l1=0):
    return struct.pack(">QIHHIIQII", l1, 1 if l1 else 0, len(ident), len(name), 0, 0, 0, 0,
                       len(extra)) + extra + ident + name


def known(rest=b""):
    return struct.pack(">QQQ", 0, 64 << 20, 0) + rest


def long_entries(count, more=0):
    """With ids and names of zeroes; the last but two has `more` bytes of extra data."""
    sizes = [1024] * count
    sizes[-3] += more
    return b"".join(
        (entry(l1=L1 if i == count - 1 else 0)[:12] + struct.pack(">HH", LONG, LONG) +
         bytes(20) + struct.pack(">I", size)).ljust(LONG_ENTRY - 1024 + size, b"\0")
        for i, size in enumerate(sizes))


def padded(*entries):
    return b"".join(one + bytes(-len(one) % 8) for one in entries)


LIMIT = 64 << 20
FULL = LIMIT // LONG_ENTRY + 1
# name: version, table, entries
TABLES = {
    "too-much-extra-data": ("1.1", padded(
        entry(b"1", b"one", known()), entry(b"2", b"two", known(b"kept")),
        entry(b"3", b"three", known(bytes(1001)), L1)), 3),
    "as-much-as-there-may-be": ("1.1", padded(
        entry(b"1", b"one", known()), entry(b"3", b"three", known(bytes(1000)), L1)), 2),
    "too-big": ("1.1", long_entries(FULL), FULL),
    "too-big-and-too-much": ("1.1", long_entries(FULL, LIMIT % LONG_ENTRY + 8), FULL),
    "names-that-end-early": ("1.1", padded(
        entry(b"1\0x", b"one\0more", known()), entry(b"\0\0", b"\0", known(), L1)), 2),
}


def make(path, version, table, entries):
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-o", f"compat={version}", path,
                    "64M"], check=True, timeout=60)
    end = TABLE + len(table)
    with path.open("r+b") as file:
        file.seek(48)
        file.seek(struct.unpack(">Q", file.read(8))[0])
        block = struct.unpack(">Q", file.read(8))[0]
        file.seek(block + 2 * (L1 // CLUSTER))
        file.write(b"\0\1" * (-(-end // CLUSTER) - L1 // CLUSTER))
        file.seek(60)
        file.write(struct.pack(">IQ", entries, TABLE))
        file.seek(L1)
        file.write(struct.pack(">Q", 1 << 63 | L2))
        file.seek(TABLE)
        file.write(table)
        file.truncate(end)


def read_table(path):
    """How many entries there are, where, and what is in them."""
    with path.open("rb") as file:
        file.seek(60)
        count, at = struct.unpack(">IQ", file.read(12))
        digest = hashlib.sha256()
        for _ in range(count):
            file.seek(at)
            head = file.read(40)
            sizes = struct.unpack_from(">HH", head, 12) + struct.unpack_from(">I", head, 36)
            rest = file.read(sum(sizes))
            digest.update(head + rest)
            at = file.tell() + -file.tell() % 8
    return count, at, digest.hexdigest()


@pytest.mark.parametrize("name", TABLES)
def test_a_table_is_refused_and_mended_as_by_qemu(tmp_path, name):
    made = tmp_path / "made.qcow2"
    make(made, *TABLES[name])
    results = []
    for program in ("qemu-img", OURS):
        shutil.copy(made, tmp_path / "t.qcow2")
        said = [run(program, "check", *way, "t.qcow2", cwd=tmp_path)
                for way in ([], ["-r", "leaks"], ["-r", "all"])]
        results.append((said, read_table(tmp_path / "t.qcow2")))
    assert results[0] == results[1]
    # What QEMU's prints of them is laid out by its version.
    status, listed, _ = run(OURS, "snapshot", "-l", "t.qcow2", cwd=tmp_path)
    assert status == 0 and len(listed.splitlines()) == 2 + results[1][1][0]
    assert run(OURS, "check", "t.qcow2", cwd=tmp_path)[0] == 0


def test_an_image_with_too_much_is_not_opened(tmp_path):
    make(tmp_path / "t.qcow2", *TABLES["too-much-extra-data"])
    theirs, ours = (run(program, "info", "t.qcow2", cwd=tmp_path)
                    for program in ("qemu-img", OURS))
    assert ours == theirs
    assert b"Too much extra metadata in snapshot table entry 2" in ours[2] and ours[0] == 1


def test_names_end_where_they_do_for_qemu(tmp_path):
    make(tmp_path / "t.qcow2", *TABLES["names-that-end-early"])
    status, listed, _ = run(OURS, "snapshot", "-l", "t.qcow2", cwd=tmp_path)
    assert status == 0 and b"\0" not in listed and b"more" not in listed
    assert run(OURS, "snapshot", "-d", "one", "t.qcow2", cwd=tmp_path)[0] == 0
    assert run("qemu-img", "check", "t.qcow2", cwd=tmp_path)[0] == 0


def test_of_too_many_snapshots_65536_stay(tmp_path):
    """QEMU takes its time to look at them: what it says is written down here."""
    more = 8192
    make(tmp_path / "t.qcow2", "0.10", bytes(40 * 65536) + entry(l1=L1) + bytes(40 * (more - 1)),
         65536 + more)
    status, _, said = run(OURS, "check", "t.qcow2", cwd=tmp_path)
    assert status == 1 and said.decode().splitlines() == [
        "qemu-img: ERROR snapshot table too large",
        f"You can force-remove all {more} overhanging snapshots with qemu-img check -r all",
        "qemu-img: Check failed: File too large"]
    status, said, lines = run(OURS, "check", "-r", "all", "t.qcow2", cwd=tmp_path)
    leaks = [L1 // CLUSTER, L2 // CLUSTER,
             *range((TABLE + 65536 * 40) // CLUSTER, (TABLE + (65536 + more) * 40) // CLUSTER)]
    assert lines.decode().splitlines() == [
        f"Discarding {more} overhanging snapshots",
        *(f"{word} cluster {leak} refcount=1 reference=0"
          for word in ("Leaked", "Repairing") for leak in leaks)]
    assert status == 0 and f"{len(leaks)} leaked clusters\n    {more} corruptions" in said.decode()
    count, at, _ = read_table(tmp_path / "t.qcow2")
    assert (count, at) == (65536, TABLE + 40 * 65536)  # where it was
