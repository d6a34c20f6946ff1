# SPDX-License-Identifier: GPL-2.0-or-later
"""Where clusters come to lie, and what injected errors make of an operation: as in QEMU."""

import json
import os
import re
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from damage import Image

BUILD = Path(os.environ.get("STRATA_BUILD", Path(__file__).resolve().parents[3] / "build"))
OURS = BUILD / "bin/compat"
BOTH = {"qemu": Path(shutil.which("qemu-img") or "/").parent, "strata": OURS}

THERE = (OURS / "qemu-img").exists() and shutil.which("qemu-img") is not None
pytestmark = pytest.mark.skipif(not THERE, reason="needs strata-img and QEMU")


def run(*words):
    done = subprocess.run([str(word) for word in words], timeout=120, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, check=False)
    return done.returncode, done.stdout


def create(program, image, *options):
    assert run(program / "qemu-img", "create", "-q", "-f", "qcow2", *options) == (0, ""), image


def io_words(commands):
    return [word for command in commands for word in ("-c", command)]


def structure(image):
    """The refcount table's place and entries, and the places of L1 and L2 tables."""
    data = image.read_bytes()
    l1_entries, l1_offset, table_offset, clusters = struct.unpack_from(">IQQI", data, 36)
    cluster = 1 << struct.unpack_from(">I", data, 20)[0]
    table = struct.unpack_from(f">{clusters * cluster // 8}Q", data, table_offset)
    l1_table = struct.unpack_from(f">{l1_entries}Q", data, l1_offset)
    return table_offset, clusters, [entry for entry in table if entry], l1_offset, l1_table


LAYOUTS = {
    "a_block_for_each_128_KiB": ("cluster_size=512", "1M", ["write 0 400k"]),
    "blocks_between_small_writes": ("cluster_size=512", "1M",
                                    [f"write {at} 1024" for at in range(0, 204800, 1024)]),
    "a_table_that_grows_twice": ("cluster_size=512", "16M", ["write 0 16M"]),
    "a_block_that_is_counted_by_another": ("cluster_size=512,refcount_bits=64", "16M",
                                           ["write 0 2M"]),
    "several_blocks_for_a_new_table": ("cluster_size=512,refcount_bits=64", "16M", ["write 0 8M"]),
    "behind_what_the_request_has": ("cluster_size=64k", "8M",
                                    ["write -z 0 4M", "write 0 64k", "write 1M 256k",
                                     "write 64k 512k"]),
    "where_was_discarded": ("cluster_size=1M,preallocation=metadata", "600M",
                            ["discard 0 10M", "discard 590M 10M", "write 590M 10M",
                             "write 0 10M"]),
}


@pytest.mark.parametrize("case", LAYOUTS)
def test_clusters_lie_where_qemu_puts_them(tmp_path, case):
    options, size, commands = LAYOUTS[case]
    found = {}
    for name, program in BOTH.items():
        image = tmp_path / f"{name}.qcow2"
        create(program, image, "-o", options, image, size)
        assert run(program / "qemu-io", "-f", "qcow2", *io_words(commands), image)[0] == 0
        assert run("qemu-img", "check", "-q", image) == (0, "")
        entries = json.loads(run("qemu-img", "map", "--output=json", image)[1])
        found[name] = structure(image), [(e["start"], e.get("offset")) for e in entries]
    assert found["strata"] == found["qemu"]


# What is done to the image, after it was prepared.
SMALL = ("cluster_size=1024", "64M")
OPERATIONS = {
    "write": (*SMALL, [], ["qemu-io", "-t", "writethrough", "-c", "write 0 128k"]),
    "write to a vm state": (*SMALL, [], ["qemu-io", "-t", "writethrough", "-c", "write -b 0 128k"]),
    "grow refcounts": ("cluster_size=512", "64M", [],
                       ["qemu-io", "-t", "writethrough", "-c", "write 0 12M"]),
    "write part": ("backing", "1M", [], ["qemu-io", "-t", "writethrough", "-c", "write 4k 4k"]),
    "write compressed": ("cluster_size=64k", "1M", [],
                         ["qemu-io", "-t", "writethrough", "-c", "write -c 0 64k"]),
    "commit": ("backing", "1M", ["write 0 64k"], ["qemu-img", "commit"]),
}
MEETINGS = [
    *[("write", event) for event in (
        "l1_update", "l2_alloc_write", "refblock_load", "refblock_update_part", "refblock_alloc",
        "cluster_alloc", "reftable_load", "write_aio")],
    *[("write to a vm state", event) for event in ("l1_grow_alloc_table", "refblock_alloc")],
    *[("grow refcounts", event) for event in (
        "refblock_alloc_hookup", "refblock_alloc_write", "refblock_alloc_write_blocks",
        "refblock_alloc_write_table", "refblock_alloc_switch_table")],
    *[("write part", event) for event in ("cow_read", "cow_write", "write_aio")],
    *[("write compressed", event) for event in (
        "cluster_alloc_bytes", "l2_update_compressed", "write_compressed")],
    *[("commit", event) for event in (
        "l1_update", "empty_image_prepare", "reftable_update", "refblock_alloc")],
]


def harm(program, place, operation, event, once):
    """What an operation that meets an error says, and what QEMU then finds in the image."""
    options, size, before, command = OPERATIONS[operation]
    place.mkdir()
    base, image, config = place / "base.qcow2", place / "t.qcow2", place / "blkdebug.conf"
    words = ["-o", options]
    if options == "backing":
        create(BOTH["qemu"], base, base, size)
        run("qemu-io", "-c", f"write 0 {size}", base)
        words = ["-b", base, "-F", "qcow2"]
    create(BOTH["qemu"], image, *words, image, size)
    if before:
        assert run("qemu-io", *io_words(before), image)[0] == 0
    config.write_text(f'[inject-error]\nevent = "{event}"\nerrno = "5"\nonce = "{once}"\n')
    result, output = run(program / command[0], *command[1:], f"blkdebug:{config}:{image}")
    output = re.sub(r" ops; .*", " ops", output.replace(str(place), "PLACE"))
    checked, said = run("qemu-img", "check", image)
    return result, output, {0: "sound", 3: "sound", 2: "corrupt"}.get(checked, said)


@pytest.mark.parametrize("once", ["on", "off"])
@pytest.mark.parametrize("operation,event", MEETINGS)
def test_an_error_is_met_where_the_event_says(tmp_path, operation, event, once):
    ours, qemus = (harm(BOTH[name], tmp_path / name, operation, event, once)
                   for name in ("strata", "qemu"))
    assert ours[:2] == qemus[:2]
    # Never worse than what QEMU leaves.
    assert ours[2] in ("sound", qemus[2])


def test_an_emptied_image_is_as_short_as_a_new_one(tmp_path):
    base, image = tmp_path / "base.qcow2", tmp_path / "t.qcow2"
    create(BOTH["qemu"], base, base, "64M")
    create(OURS, image, "-b", base, "-F", "qcow2", image)
    assert run(OURS / "qemu-io", "-c", "write -P 7 1M 16M", image)[0] == 0
    assert run(OURS / "qemu-img", "commit", image) == (0, "Image committed.\n")
    assert image.stat().st_size == 4 * 65536
    assert run("qemu-img", "check", "-q", image) == (0, "")
    assert run("qemu-io", "-r", "-c", "read -P 7 1M 16M", image)[0] == 0
    entries = json.loads(run("qemu-img", "map", "--output=json", image)[1])
    assert all(entry["depth"] == 1 for entry in entries)


def test_an_image_whose_emptying_failed_is_mended_when_it_is_opened(tmp_path):
    base, image = tmp_path / "base.qcow2", tmp_path / "t.qcow2"
    config = tmp_path / "blkdebug.conf"
    config.write_text('[inject-error]\nevent = "reftable_update"\n')
    create(BOTH["qemu"], base, base, "64M")
    create(OURS, image, "-b", base, "-F", "qcow2", image)
    assert run(OURS / "qemu-io", "-c", "write -P 7 1M 1M", image)[0] == 0
    result, output = run(OURS / "qemu-img", "commit", f"blkdebug:{config}:{image}")
    assert result == 1 and output.endswith(": Input/output error\n")
    assert run(OURS / "qemu-io", "-c", "read -P 7 1M 1M", image)[0] == 0
    assert run("qemu-img", "check", "-q", image) == (0, "")


@pytest.mark.parametrize("bits", [1, 8, 64])
def test_refcounts_in_an_unaligned_block_get_no_other_width(tmp_path, bits):
    image = tmp_path / "image"
    create(BOTH["qemu"], image, "-o", "cluster_size=4k", image, "8M")
    run(BOTH["qemu"] / "qemu-io", "-c", "write 0 4M", image)
    broken = Image(image)
    broken.poke(broken.refcount_table, broken.block() | 0x200)
    broken.save()
    said = {}
    for name, program in BOTH.items():
        copy = tmp_path / name
        shutil.copy(image, copy)
        said[name] = run(program / "qemu-img", "amend", "-f", "qcow2", "-o",
                         f"refcount_bits={bits}", copy)
        info = json.loads(run("qemu-img", "info", "--output=json", copy)[1])
        said[name] += (info["format-specific"]["data"]["corrupt"],)
    assert said["strata"] == said["qemu"] and said["qemu"][0] == 1


@pytest.mark.parametrize("what", ["l1", "refcount_table"])
def test_bitmaps_that_would_overwrite_metadata_are_lost_and_it_says_so(tmp_path, what):
    image = tmp_path / "image"
    create(BOTH["qemu"], image, "-o", "cluster_size=64k", image, "8M")
    assert run("qemu-img", "bitmap", "--add", image, "b")[0] == 0
    broken = Image(image)
    broken.poke(broken.block() + 2 * (getattr(broken, what) // broken.cluster), 0, "H")
    broken.save()
    said = {}
    for name, program in BOTH.items():
        copy = tmp_path / name
        shutil.copy(image, copy)
        status, output = run(program / "qemu-img", "bitmap", "--disable", copy, "b")
        said[name] = status, re.sub("#block[0-9]+", "#block", output)
    assert said["strata"] == said["qemu"] and "Qcow2 overlap check failed" in said["qemu"][1]


def mapped(program, image):
    entries = json.loads(run(program / "qemu-img", "map", "--output=json", image)[1])
    return [{key: value for key, value in e.items() if key != "compressed"} for e in entries]


@pytest.mark.parametrize("options", ["", "data_file=d.raw", "preallocation=metadata",
                                     "preallocation=metadata,data_file=d.raw"])
def test_zeroes_of_the_file_are_told_where_qemu_tells_them(tmp_path, monkeypatch, options):
    """Data that takes no room on the host is zeroes, but the file is only asked where clearly more
    of it is in use than is there."""
    monkeypatch.chdir(tmp_path)
    for name, program in BOTH.items():
        image = tmp_path / f"{name}.qcow2"
        create(program, image, *(["-o", options] if options else []), image, "8M")
        for count in (1, 3, 40):
            run(program / "qemu-io", *io_words(f"write {i * 131072} 1000" for i in range(count)),
                image)
            assert mapped(OURS, image) == mapped(BOTH["qemu"], image), (name, count)
        run("qemu-io", "-c", "write 0 8M", image)
        for i in range(18):
            run("fallocate", "--punch-hole", "--offset", 327680 + i * 65536, "--length", 65536,
                image)
            if 8 <= i:
                assert mapped(OURS, image) == mapped(BOTH["qemu"], image), (name, i)
