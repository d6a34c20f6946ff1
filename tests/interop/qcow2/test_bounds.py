# SPDX-License-Identifier: GPL-2.0-or-later
"""Any image of a MiB, whatever it claims, is opened, read, written, snapshotted, checked and mended
in 64 MiB of memory and 10 seconds. For who goes through all of the disk (convert, compare, map) see
test_claims.py.

CVE-2014-0144, CVE-2014-0147, CVE-2015-5162, qemu a5fff8d4b4, 0c2ada8136, d2b1d1ec73, 5dae6e30c5:
tables as large as their fields can say, tables that refer to one cluster over and over, so that
walking them takes squares and cubes of their size, and files that are nearly all hole.
"""

import os
import struct
from pathlib import Path

import damage
import pytest
from damage import COMPRESSED, COPIED, MIB, Image
from support.measure import Run

BUILD = Path(os.environ.get("STRATA_BUILD", Path(__file__).resolve().parents[3] / "build"))
IMG, IO = BUILD / "bin/strata-img", BUILD / "bin/strata-io"

pytestmark = pytest.mark.skipif(not IMG.exists(), reason="needs our tools")

COMMANDS = {
    "info": [IMG, "info", "-f", "qcow2"],
    "check": [IMG, "check", "-f", "qcow2"],
    "mend": [IMG, "check", "-f", "qcow2", "-r", "all"],
    "mend-leaks": [IMG, "check", "-f", "qcow2", "-r", "leaks"],
    "info-json": [IMG, "info", "-f", "qcow2", "--output=json"],
    "width": [IMG, "amend", "-f", "qcow2", "-o", "refcount_bits=32"],
    "rebase": [IMG, "rebase", "-u", "-f", "qcow2", "-b", "x", "-F", "raw"],
    "list": [IMG, "snapshot", "-l"],
    "snapshot": [IMG, "snapshot", "-c", "new"],
    "apply": [IMG, "snapshot", "-a", "1"],
    "delete": [IMG, "snapshot", "-d", "1"],
    "amend": [IMG, "amend", "-f", "qcow2", "-o", "compat=0.10"],
    "shrink": [IMG, "resize", "-f", "qcow2", "--shrink"],
    "use": [IO, "-f", "qcow2", "-c", "read 0 1M", "-c", "write 64k 128k", "-c", "discard 0 1M",
            "-c", "write -z 512k 64k", "-c", "write -c 0 64k", "-c", "flush"],
}


def empty(path, options="", size="64M"):
    """An image of a MiB."""
    damage.create(path, options, size)
    image = Image(path)
    image.grow(MIB)
    return image


def put_table(image, at, entries):
    struct.pack_into(f">{len(entries)}Q", image.bytes, at, *entries)


def largest_tables(path):
    """Each table as large as may be, and not in the file."""
    image = empty(path, "cluster_size=2M", "1G")
    image.poke(36, 4 << 20, "I")
    image.poke(40, 1 << 40)
    image.poke(24, (1 << 61) - (1 << 21))
    return image


def largest_refcount_table(path):
    image = empty(path)
    image.poke(48, 1 << 40)
    image.poke(56, 0x80, "I")
    return image


def refcount_table_of_one_block(path):
    """Half a MiB of it."""
    image = empty(path)
    table = 0x80000
    put_table(image, table, [image.block()] * 0x10000)
    image.poke(48, table)
    image.poke(56, 8, "I")
    return image


def refcount_blocks_far_away(path):
    image = empty(path)
    table = 0x80000
    put_table(image, table, [(n + 1) << 40 for n in range(0x10000)])
    image.poke(48, table)
    image.poke(56, 8, "I")
    return image


def most_snapshots(path):
    """65536 of them, none of which is in the file."""
    image = empty(path)
    image.poke(60, 65536, "I")
    image.poke(64, 1 << 40)
    return image


def snapshot_entry(number, l1, l1_size, extra=24):
    name = str(number).encode()
    fixed = struct.pack(">QIHHIIQII", l1, l1_size, len(name), len(name), 0, 0, 0, 0, extra)
    data = fixed + struct.pack(">QQQ", 0, 64 << 20, 0) + bytes(extra - 24) + name + name
    return data.ljust((len(data) + 7) // 8 * 8, b"\0")


def put_snapshots(image, at, entries):
    table = b"".join(entries)
    assert at + len(table) <= len(image.bytes)
    image.bytes[at:at + len(table)] = table
    image.poke(60, len(entries), "I")
    image.poke(64, at)


def snapshots_of_one_table(path):
    """All L1 entries of 6000 snapshots are one L2 table, all of whose entries are one cluster."""
    image = empty(path, size="4T")
    l1, l2 = 0x50000, 0x60000
    put_table(image, l2, [COPIED | 0x70000] * 8192)
    put_table(image, l1, [COPIED | l2] * 8192)
    image.poke(40, l1)
    put_snapshots(image, 0x80000, [snapshot_entry(n + 1, l1, 8192) for n in range(6000)])
    return image


def snapshots_whose_tables_overlap(path):
    """Each L1 table begins a cluster further on, where the last still goes on."""
    image = empty(path, "cluster_size=512", "4M")
    tables = 0x40000
    for at in range(tables, tables + 0x40000, 8):
        image.poke(at, COPIED | tables + at % 0x20000 // 512 * 512)
    put_snapshots(image, 0x80000,
                  [snapshot_entry(n + 1, tables + n % 256 * 512, 32768) for n in range(6000)])
    return image


def snapshots_with_large_tables(path):
    """CVE-2014-0145: far larger than the active one, and not in the file."""
    image = empty(path)
    put_snapshots(image, 0x80000,
                  [snapshot_entry(n + 1, (n + 1) << 40, 4 << 20) for n in range(3000)])
    return image


def snapshots_with_long_names(path):
    image = empty(path)
    entry = bytearray(snapshot_entry(1, 0x30000, 1))
    struct.pack_into(">HH", entry, 12, 65535, 65535)
    put_snapshots(image, 0x40000, [bytes(entry) + bytes(2 * 65536)] * 5)
    image.poke(60, 65536, "I")
    return image


def snapshots_with_extra_data(path):
    image = empty(path)
    put_snapshots(image, 0x40000, [snapshot_entry(n + 1, 0x30000, 1, 1024) for n in range(600)])
    return image


def many_tables(path):
    """As many L2 tables as fit, each of which refers to all of them."""
    image = empty(path, "cluster_size=512", "16M")
    count = 1500
    first = 0x40000
    assert first + count * 512 <= MIB
    for at in range(first, first + count * 512, 8):
        image.poke(at, COPIED | first + at // 8 % count * 512)
    image.poke(40, first)
    image.poke(36, 1024, "I")
    return image


def tables_behind_the_end(path):
    """Very many entries behind what the disk needs, all of one table, which is full."""
    image = empty(path)
    l1, l2 = 0x40000, 0xf0000
    put_table(image, l1, [COPIED | l2] * 80000)
    put_table(image, l2, [COPIED | 0xe0000] * 8192)
    image.poke(40, l1)
    image.poke(36, 80000, "I")
    return image


def deep_refcounts(path):
    """One cluster that is referred to as often as the tables can say."""
    image = empty(path, "cluster_size=2M", "8T")
    image.grow(0xa00000)
    l1, l2 = 0x600000, 0x800000
    for n in range(16):
        image.poke(l1 + 8 * n, l2)
    for n in range(1024):
        image.poke(l2 + 8 * n, 0x800000)
    image.poke(40, l1)
    return image


def compressed_everywhere(path):
    """Each cluster is the same bytes, which are nothing that was ever compressed."""
    image = empty(path, size="64M")
    l2 = 0x50000
    put_table(image, l2, [COMPRESSED | 0xff << 54 | 0x60000 + n for n in range(1024)])
    image.poke(image.l1, COPIED | l2)
    image.bytes[0x60000:0x80000] = os.urandom(0x20000)
    return image


def hole_of_a_tebibyte(path):
    """The file is all hole behind its first MiB, and says that it is in use to the end."""
    image = empty(path, "cluster_size=512", "16M")
    image.hole = 1 << 40
    for n in range(64):
        image.poke(image.l1 + 8 * n, COPIED | (1 << 40) - 512 * (n + 1))
    return image


def hole_with_counts(path):
    image = empty(path, size="64M")
    image.hole = 1 << 36
    table = 0x80000
    put_table(image, table, [(n + 16) << 26 for n in range(1000)])
    image.poke(48, table)
    image.poke(56, 8, "I")
    return image


def bitmaps_of_one_table(path):
    damage.bitmaps(path)
    image = Image(path)
    image.grow(MIB)
    directory, extension = 0x80000, image.extension(0x23852875)
    entries = b"".join(
        struct.pack(">QIIBBHI", 0x90000 + n % 4 * 0x10000, 1, 0, 1, 16, 8, 0)
        + f"{n:08}".encode() for n in range(2000))
    image.bytes[directory:directory + len(entries)] = entries
    put_table(image, 0x90000, [0x70000] * 8192)
    struct.pack_into(">I4xQQ", image.bytes, extension, 2000, len(entries), directory)
    return image


HOSTILE = [largest_tables, largest_refcount_table, refcount_table_of_one_block,
           refcount_blocks_far_away, most_snapshots, snapshots_of_one_table,
           snapshots_whose_tables_overlap, snapshots_with_large_tables, snapshots_with_extra_data,
           snapshots_with_long_names, many_tables, tables_behind_the_end, deep_refcounts,
           compressed_everywhere, hole_of_a_tebibyte, hole_with_counts, bitmaps_of_one_table]


def save(image, path):
    path.write_bytes(image.bytes)
    hole = getattr(image, "hole", None)
    if hole:
        os.truncate(path, hole)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("make", HOSTILE, ids=lambda make: make.__name__)
def test_a_hostile_image_costs_little(tmp_path, make, command):
    path = tmp_path / "t.qcow2"
    image = make(path)
    save(image, path)
    words = [*COMMANDS[command], path.name] + (["1M"] if command == "shrink" else [])
    run = Run(words, tmp_path)
    run.assert_modest()
    assert 0 <= run.status < 128, run.err
    if command == "mend" and run.status == 0:
        again = Run([*COMMANDS["check"], path.name], tmp_path)
        again.assert_modest()
        assert again.status in (0, 3), again.out + again.err


@pytest.mark.parametrize("words", [["map"], ["map", "--output=json"], ["measure", "-O", "raw"],
                                   ["compare", "t.qcow2"], ["rebase", "-b", "x", "-F", "raw"]],
                         ids=lambda words: "-".join(words[:2]))
def test_a_disk_of_exbibytes_that_are_nothing_is_gone_through_at_once(tmp_path, words):
    path = tmp_path / "t.qcow2"
    save(largest_tables(path), path)
    (tmp_path / "x").touch()
    run = Run([IMG, *words, path.name], tmp_path)
    run.assert_modest()
    assert run.status == 0, run.err


@pytest.mark.parametrize("command", ["info", "check", "mend", "use", "snapshot"])
@pytest.mark.parametrize("make", list(dict.fromkeys(make for make, _ in damage.DAMAGES)),
                         ids=lambda make: make.__name__)
def test_damaged_images_cost_little(tmp_path, make, command):
    """All the damages of one image."""
    path = tmp_path / "t.qcow2"
    make(path)
    sound = path.read_bytes()
    for _, harm in filter(lambda pair: pair[0] is make, damage.DAMAGES):
        path.write_bytes(sound)
        image = Image(path)
        harm(image)
        image.save()
        run = Run([*COMMANDS[command], path.name], tmp_path)
        run.assert_modest()
        assert 0 <= run.status < 128, f"{harm.__name__}: {run.err}"


def test_coarse_bits_of_an_image_do_not_fill_the_memory_as_fine_ones(tmp_path):
    path = tmp_path / "t.qcow2"
    damage.create(path, "", "1T")
    for name, granularity in (("coarse", "2G"), ("fine", "512")):
        added = Run([IMG, "bitmap", "--add", "-g", granularity, path.name, name], tmp_path)
        assert added.status == 0
    image = Image(path)
    directory = struct.unpack_from(">Q", image.bytes, image.extension(0x23852875) + 16)[0]
    put_table(image, struct.unpack_from(">Q", image.bytes, directory)[0], [1])  # all ones
    save(image, path)
    run = Run([IMG, "bitmap", "--merge", "coarse", path.name, "fine"], tmp_path)
    run.assert_modest()
    assert run.status == 1 and "too much recorded for a granularity of 512" in run.err
