# SPDX-License-Identifier: GPL-2.0-or-later
"""Images made to hurt whoever opens them, and tools that hurt images: what others were caught by,
under its name. Headers are in test_headers.py, time and memory in test_bounds.py."""

import os
import shutil
import subprocess
from pathlib import Path

import damage
import pytest
from damage import COPIED, MIB, Image
from support.measure import Run

BUILD = Path(os.environ.get("STRATA_BUILD", Path(__file__).resolve().parents[3] / "build"))
IMG, IO = BUILD / "bin/compat/qemu-img", BUILD / "bin/compat/qemu-io"

pytestmark = pytest.mark.skipif(not IO.exists() or not shutil.which("qemu-img"),
                                reason="needs our tools and QEMU's")


def run(*words, status=0, **options):
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True,
                          timeout=120, check=False, **options)
    assert status is None or done.returncode == status, f"{words}\n{done.stdout}{done.stderr}"
    return done.stdout + done.stderr


def is_killed(run_):
    """By a signal, or an assertion, or a sanitizer."""
    return not 0 <= run_.status < 99


# CVE-2014-0146: what has been set up so far is taken apart wherever opening ends.

@pytest.fixture
def rich(tmp_path):
    """Snapshots, bitmaps, a backing file."""
    path = tmp_path / "t.qcow2"
    run("qemu-img", "create", "-q", "-f", "raw", tmp_path / "base", "1M")
    damage.create(path, f"cluster_size=512,backing_file={tmp_path / 'base'},backing_fmt=raw", "1M",
                  ["write -P 1 0 40k"])
    run("qemu-img", "bitmap", "--add", path, "b")
    run("qemu-img", "snapshot", "-c", "s", path)
    return path


def test_cve_2014_0146_opening_fails_at_each_step(rich):
    image = Image(rich)
    tables = {0: "header", image.l1: "L1", image.refcount_table: "refcounts",
              image.snapshots: "snapshots",
              image.number(image.extension(0x23852875) + 16): "bitmaps"}
    for offset, name in tables.items():
        done = Run([IO, "--image-opts", "-c", "read 0 1k",
                    f"driver=qcow2,file.driver=blkdebug,file.image.driver=file,"
                    f"file.image.filename={rich},file.inject-error.0.event=none,"
                    f"file.inject-error.0.iotype=read,file.inject-error.0.sector={offset // 512}"],
                   rich.parent)
        assert not is_killed(done), f"{name}: {done.err}"
        assert "Input/output error" in done.err + done.out, f"{name}: {done.err}"
    run(IMG, "check", rich)


def test_cve_2014_0146_opening_ends_well_wherever_the_file_does(rich):
    whole = rich.read_bytes()
    for size in range(0, len(whole), 1536):
        rich.write_bytes(whole[:size])
        for command in ([IO, "-r", "-f", "qcow2", "-c", "read 0 1k", rich],
                        [IMG, "info", "-f", "qcow2", rich]):
            done = Run(command, rich.parent)
            assert not is_killed(done), f"{size}: {done.err}"


# CVE-2014-0147: references to where no refcount is, nor can be.

FAR = [0xbfffffffffff0000, COPIED | 0x00ffffffffff0000, COPIED | 1 << 55,
       1 << 62 | 0x3fffffffffffffff]


@pytest.mark.parametrize("entry", FAR, ids=hex)
@pytest.mark.parametrize("where", ["l1", "l2"])
@pytest.mark.parametrize("command", [
    [IMG, "snapshot", "-c", "x"], [IMG, "check", "-r", "all"], [IMG, "resize", "--shrink"],
    [IO, "-f", "qcow2", "-c", "write 0 128k", "-c", "discard 0 1M", "-c", "write -z 0 64k"],
    [IMG, "amend", "-f", "qcow2", "-o", "refcount_bits=1"]],
    ids=["snapshot", "mend", "shrink", "write", "amend"])
def test_cve_2014_0147_references_to_nowhere(tmp_path, entry, where, command):
    path = tmp_path / "t.qcow2"
    damage.create(path, writes=["write -P 1 0 300k"])
    image = Image(path)
    image.poke(image.l1 if where == "l1" else image.l2() + 8, entry)
    image.save()
    size = ["512k"] if "--shrink" in command else []
    done = Run([*command, path, *size], tmp_path)
    done.assert_modest()
    assert not is_killed(done), done.err
    assert path.stat().st_size < 16 * MIB
    # What refers to nowhere cannot be mended; there is nothing else to be found.
    run(IMG, "check", "-r", "all", path, status=None)
    ours = Run([IMG, "check", path], tmp_path)
    theirs = Run(["qemu-img", "check", path], tmp_path)
    assert (ours.status, ours.out, ours.err) == (theirs.status, theirs.out, theirs.err)


@pytest.mark.parametrize("size", [1 << 48, 1 << 56, 1 << 62, (1 << 64) - 512, 77])
def test_a_snapshot_of_a_disk_of_any_size_is_shown_or_refused(rich, tmp_path, size):
    image = Image(rich)
    image.poke(image.snapshots + 48, size)
    image.save()
    done = Run([IMG, "convert", "-l", "s", "-O", "raw", rich, tmp_path / "out"], tmp_path)
    assert done.status in (0, 1), done.err
    assert done.status == 0 or "Snapshot is too large" in done.err or "Failed to" in done.err
    done.assert_modest()


# What a header ends with is written even where it begins a sector of its own.

def test_a_header_that_becomes_shorter_ends_where_it_ends(tmp_path):
    path = tmp_path / "t.qcow2"
    damage.create(path)
    image = Image(path)
    end = 112
    while image.number(end, "I") != 0:
        end += 8 + (image.number(end + 4, "I") + 7) // 8 * 8
    length = 1024 - 8 - end
    image.poke(end, 0x12345678, "I")
    image.poke(end + 4, length, "I")
    image.bytes[end + 8:1024] = b"\xff" * length
    image.save()
    run(IMG, "bitmap", "--add", path, "b")
    run(IMG, "bitmap", "--remove", path, "b")
    run(IMG, "check", path)
    run("qemu-img", "check", path)


# 909852ba6b: a cluster of the overlay is larger than the buffer, or than what the chain has.

@pytest.mark.parametrize("top, middle", [("4k", "2M"), ("2M", "4k"), ("2M", "64k"), ("512", "2M")])
@pytest.mark.parametrize("options", [[], ["-c"], ["-t", "none"]], ids=["", "-c", "-t"])
def test_909852ba6b_rebase_keeps_all_bytes(tmp_path, top, middle, options):
    """Three layers, no size of which is a multiple of a cluster."""
    sizes = {"base": "5000k", "middle": "6001k", "top": "7003k", "other": "3001k"}
    clusters = {"base": "64k", "middle": middle, "top": top, "other": "4k"}
    below = {"middle": "base", "top": "middle"}
    for number, name in enumerate(("base", "middle", "top", "other")):
        backing = ["-b", below[name], "-F", "qcow2"] if name in below else []
        run("qemu-img", "create", "-q", "-f", "qcow2", "-o", f"cluster_size={clusters[name]}",
            *backing, name, sizes[name], cwd=tmp_path)
        at = [number * 700, 2048 + number * 300, int(sizes[name][:-1]) - 40]
        words = [word for start in at for word in ("-c", f"write -P {number + 1} {start}k 37k")]
        run("qemu-io", "-f", "qcow2", *words, name, cwd=tmp_path)
    run("qemu-img", "convert", "-O", "raw", "top", "before", cwd=tmp_path)
    run(IMG, "rebase", *options, "-b", "other", "-F", "qcow2", "top", cwd=tmp_path)
    run("qemu-img", "compare", "-f", "raw", "-F", "qcow2", "before", "top", cwd=tmp_path)
    run("qemu-img", "check", "top", cwd=tmp_path)
    run(IMG, "rebase", *options, "-b", "", "top", cwd=tmp_path)
    run("qemu-img", "compare", "-f", "raw", "-F", "qcow2", "before", "top", cwd=tmp_path)
    run("qemu-img", "check", "top", cwd=tmp_path)


# 2e909d7ca9: a data file with a protocol of its own.

@pytest.mark.parametrize("name", ["nbd://localhost/x", "nbd:unix:/nowhere", "json:{}", "",
                                  'json:{"driver":"null-co"}'])
def test_2e909d7ca9_a_data_file_is_a_file_or_an_error(tmp_path, name):
    output = run(IMG, "create", "-f", "qcow2", "-o", f"data_file={name}", "t.qcow2", "1M",
                 cwd=tmp_path, status=None)
    if not (tmp_path / "t.qcow2").exists():
        assert output.splitlines()[-1].startswith("qemu-img: "), output
        return
    info = run(IMG, "info", "t.qcow2", cwd=tmp_path, status=None)
    assert f"data file: {name}" in info and "data file: \n" not in info, output + info


# CVE-2015-5162: sizes that no machine has.

@pytest.mark.parametrize("size", [(1 << 62) - (1 << 21), 1 << 61, (1 << 63) - 512])
@pytest.mark.parametrize("command", [["info"], ["check"], ["measure", "-O", "qcow2"],
                                     ["snapshot", "-l"]], ids=lambda words: words[0])
def test_cve_2015_5162_disks_of_any_size_cost_little(tmp_path, size, command):
    path = tmp_path / "t.qcow2"
    damage.create(path, "cluster_size=2M", "1G")
    image = Image(path)
    image.poke(24, size)
    image.poke(36, min(size >> 39, 4 << 20), "I")
    image.save()
    done = Run([IMG, *command, path], tmp_path)
    done.assert_modest()
    assert not is_killed(done), done.err
