# SPDX-License-Identifier: GPL-2.0-or-later
"""What becomes of an image whose disk gets smaller: as with QEMU its file ends where what is used
does, and where the refcounts cannot be read the disk stays as large as it was."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from damage import Image

BUILD = Path(os.environ.get("STRATA_BUILD", Path(__file__).resolve().parents[3] / "build"))
OURS = BUILD / "bin/compat/qemu-img"

pytestmark = pytest.mark.skipif(not OURS.exists() or shutil.which("qemu-img") is None,
                                reason="needs strata-img and QEMU")

MIB = 1 << 20


def run(*words):
    done = subprocess.run([str(word) for word in words], timeout=120, capture_output=True,
                          text=True, check=False)
    return done.returncode, done.stdout, done.stderr.splitlines()


def make(path, options, size, *commands):
    assert run("qemu-img", "create", "-q", "-f", "qcow2", "-o", options, path, size)[0] == 0
    words = [word for command in commands for word in ("-c", command)]
    assert run("qemu-io", *words, path)[0] == 0


def shrink_both(tmp_path, image, size):
    """What QEMU said and did, and we; and both images."""
    said = []
    images = []
    for name, program in (("qemu", "qemu-img"), ("strata", OURS)):
        images.append(tmp_path / name)
        shutil.copy(image, images[-1])
        said.append(run(program, "resize", "-f", "qcow2", "--shrink", images[-1], size))
    return said, images


LAYOUTS = {
    "default": ("cluster_size=64k", "64M", ["write 0 64M"], "512k"),
    "holes": ("cluster_size=64k", "64M", ["write 63M 1M", "write 0 3M"], "2M"),
    "small_clusters": ("cluster_size=512", "2M", ["write 0 2M"], "512k"),
    "wide_refcounts": ("cluster_size=4k,refcount_bits=64", "32M", ["write 0 32M"], "100k"),
    "narrow_refcounts": ("cluster_size=4k,refcount_bits=1", "32M", ["write 0 32M"], "3M"),
    "subclusters": ("cluster_size=16k,extended_l2=on", "32M", ["write 0 32M"], "3M"),
    "zeroes": ("cluster_size=4k", "32M", ["write 0 32M", "write -z 1M 20M"], "3M"),
    "version_2": ("cluster_size=4k,compat=0.10", "32M", ["write 0 32M"], "3M"),
    "inside_a_cluster": ("cluster_size=64k", "8M", ["write -P 3 0 8M"], "1050112"),
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_the_file_ends_where_what_is_used_does(tmp_path, layout):
    options, size, commands, smaller = layout
    make(tmp_path / "image", options, size, *commands)
    (theirs, ours), (qemu, strata) = shrink_both(tmp_path, tmp_path / "image", smaller)
    assert ours == theirs and ours[0] == 0
    assert strata.stat().st_size <= qemu.stat().st_size
    for path in (qemu, strata):
        assert run("qemu-img", "check", path)[0] == 0
    assert run("qemu-img", "compare", qemu, strata)[0] == 0
    # What comes back is zeroes.
    assert run(OURS, "resize", "-q", strata, size)[0] == 0
    status, text, _ = run("qemu-img", "map", "--output=json", strata)
    end = max(entry["start"] + entry["length"] for entry in json.loads(text) if entry["data"])
    assert status == 0 and end <= 3 * MIB + 65536


@pytest.mark.parametrize("options",
                         ["compat=0.10", "compat=1.1", "data_file=data", "extended_l2=on"])
def test_what_is_cut_over_a_backing_file_becomes_nothing(tmp_path, options):
    """Nor does it show what is below when the disk gets larger again."""
    sizes = []
    for name, program in (("qemu", "qemu-img"), ("strata", OURS)):
        base, image = tmp_path / f"{name}.base", tmp_path / name
        assert run("qemu-img", "create", "-q", base, "64M")[0] == 0
        assert run("qemu-io", "-f", "raw", "-c", "write -P 7 0 64M", base)[0] == 0
        make(image, options.replace("=data", f"={tmp_path / name}.data") +
             f",backing_file={base},backing_fmt=raw", "64M", "write -P 3 0 1M", "write -P 5 9M 1M",
             "write -z 20M 1M")
        done = run(program, "resize", "-q", "-f", "qcow2", "--shrink", image, "512k")
        assert done == (0, "", [])
        assert run("qemu-img", "check", image)[0] == 0
        sizes.append(image.stat().st_size)
        run("qemu-img", "rebase", "-q", "-f", "qcow2", "-u", "-F", "raw", "-b", "", image)
        mapped = json.loads(run("qemu-img", "map", "--output=json", image)[1])
        assert max(entry["start"] + entry["length"] for entry in mapped) == 512 << 10
        run("qemu-img", "rebase", "-q", "-f", "qcow2", "-u", "-F", "raw", "-b", base, image)
        assert run(OURS, "resize", "-q", image, "64M") == (0, "", [])
        for command in ("read -P 3 0 512k", "read -P 0 512k 65024k"):
            assert run("qemu-io", "-c", command, image)[1].startswith("read ")
    assert sizes[1] <= sizes[0]


def test_a_disk_that_claims_very_much_over_a_backing_file_shrinks_at_once(tmp_path):
    """It became zeroes first, in version 2 as bytes in the file."""
    assert run("qemu-img", "create", "-q", tmp_path / "base", "1M")[0] == 0
    make(tmp_path / "a", f"compat=0.10,backing_file={tmp_path / 'base'},backing_fmt=raw", "16T",
         "write 0 64k")
    before = (tmp_path / "a").stat().st_size
    assert run(OURS, "resize", "-q", "--shrink", tmp_path / "a", "1M") == (0, "", [])
    assert (tmp_path / "a").stat().st_size <= before


def test_tables_behind_the_end_go_and_those_of_snapshots_stay(tmp_path):
    make(tmp_path / "image", "cluster_size=512", "4M", "write -P 1 0 4M")
    assert run("qemu-img", "snapshot", "-c", "large", tmp_path / "image")[0] == 0
    assert run("qemu-io", "-c", "write -P 2 2M 1M", tmp_path / "image")[0] == 0
    said, images = shrink_both(tmp_path, tmp_path / "image", "64k")
    assert said[0] == said[1]
    for path in images:
        assert run("qemu-img", "check", path)[0] == 0
        assert run("qemu-img", "snapshot", "-a", "large", path)[0] == 0
        assert run("qemu-io", "-c", "read -P 1 0 4M", path)[1].startswith("read 4194304/4194304")


def unaligned(image):
    image.poke(image.refcount_table, image.block() | 0x200)


def missing(image):
    image.poke(image.refcount_table, 0)


def far_away(image):
    image.poke(image.refcount_table, 1 << 40)


@pytest.mark.parametrize("damage", [unaligned, missing, far_away])
def test_where_refcounts_cannot_be_read_it_fails(tmp_path, damage):
    make(tmp_path / "image", "cluster_size=64k", "64M", "write 0 64M")
    broken = Image(tmp_path / "image")
    damage(broken)
    broken.save()
    (theirs, ours), images = shrink_both(tmp_path, tmp_path / "image", "512k")
    assert ours[:2] == theirs[:2] == (1, "")
    assert ours[2][-1] == theirs[2][-1]
    for path in images:
        info = json.loads(run("qemu-img", "info", "--output=json", path)[1])
        assert info["virtual-size"] == 64 * MIB


def test_where_refcounts_are_too_low_nothing_of_the_file_is_cut(tmp_path):
    make(tmp_path / "image", "cluster_size=64k", "64M", "write -P 5 0 64M")
    broken = Image(tmp_path / "image")
    block = broken.block()
    for cluster in range(8, 1029):
        broken.poke(block + 2 * cluster, 0, "H")
    broken.save()
    image = tmp_path / "image"
    status, said, errors = run(OURS, "resize", "--shrink", image, "32M")
    assert (status, said) == (0, "Image resized.\n")
    assert errors == ["qcow2_free_clusters failed: Invalid argument"]
    assert run("qemu-io", "-r", "-c", "read -P 5 0 32M", image)[1].startswith("read 33554432/")
