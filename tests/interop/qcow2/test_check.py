# SPDX-License-Identifier: GPL-2.0-or-later
"""Damaged images: what strata-img check says and mends is what qemu-img says and mends."""

import os
import shutil
import subprocess
from pathlib import Path

import damage
import pytest

BUILD = Path(os.environ.get("STRATA_BUILD", Path(__file__).resolve().parents[3] / "build"))
OURS = BUILD / "bin/compat/qemu-img"

pytestmark = pytest.mark.skipif(not OURS.exists() or shutil.which("qemu-img") is None,
                                reason="needs strata-img and QEMU")

# What QEMU gives up, and does not mend: it marks the image corrupt.
GIVEN_UP = {("block_unaligned", "-r leaks"), ("block_unaligned", "-r all"),
            ("block_reserved_bits", "-r all"), ("l1_at_header", "-r all"),
            ("snapshot_many", "-r all")}
# Where a new refcount table lies, or what the host says of a size that it cannot have, differs.
DIFFERENT = {("block_outside", "-r all"), ("block_far_outside", "-r all")}
# QEMU reads what a compressed entry refers to, and gives it back nevertheless if the entry has a
# bitmap, too. Here it counts as referred to.
KEPT = {"subcluster_compressed"}
# Lines about what QEMU's driver does beside the check.
BESIDE = ("qcow2_free_clusters failed", "qcow2: Marking image as corrupt",
          "qemu-img: Lost persistent bitmaps")


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """The sound images, each made once."""
    directory = tmp_path_factory.mktemp("images")
    images = {}

    def get(make):
        if make not in images:
            images[make] = directory / f"{make.__name__}.qcow2"
            make(images[make])
        return images[make]
    return get


def check(program, directory, arguments):
    done = subprocess.run([program, "check", *arguments, "t.qcow2"], cwd=directory, timeout=120,
                          capture_output=True, text=True, check=False)
    errors = [line for line in done.stderr.splitlines() if not line.startswith(BESIDE)]
    return done.returncode, done.stdout, errors


def cases():
    for make, harm in damage.DAMAGES:
        ways = ["", "-r leaks", "-r all"]
        if make is damage.plain:
            ways.append("--output=json -r all")
        for way in ways:
            yield pytest.param(make, harm, way, id=f"{make.__name__}-{harm.__name__}-{way}")


@pytest.mark.parametrize("make,harm,arguments", cases())
def test_check_is_qemus(made, tmp_path, make, harm, arguments):
    case = harm.__name__, arguments.removeprefix("--output=json ")
    if case in GIVEN_UP:
        pytest.skip("QEMU does not mend this")
    image = damage.Image(made(make))
    harm(image)
    results = []
    for program in (shutil.which("qemu-img"), OURS):
        directory = tmp_path / Path(program).parent.name
        directory.mkdir()
        image.path = directory / "t.qcow2"
        image.save()
        results.append(check(program, directory, arguments.split()))
    qemu, ours = results
    if harm.__name__ in KEPT:
        assert ours[0] == qemu[0] == 2 and "leaked" not in ours[1] and "leaked" in qemu[1]
        assert any("with non-zero subcluster allocation bitmap" in line for line in ours[2])
    elif case in DIFFERENT:
        assert ours[0] == qemu[0] == 0
    else:
        assert ours == qemu


@pytest.mark.parametrize("harm", [damage.block_unaligned, damage.block_reserved_bits])
def test_what_qemu_gives_up_is_mended(made, tmp_path, harm):
    image = damage.Image(made(damage.plain))
    harm(image)
    image.path = tmp_path / "t.qcow2"
    image.save()
    status, _, errors = check(OURS, tmp_path, ["-r", "all"])
    assert status == 0 and "Rebuilding refcount structure" in errors
    assert check(shutil.which("qemu-img"), tmp_path, [])[0] == 0


def test_structures_over_one_another_are_mended_in_one_go(tmp_path):
    """Mending one of them changes another."""
    corpus = Path(__file__).resolve().parents[2] / "fuzz/corpus/qcow2-image"
    path = tmp_path / "t.qcow2"
    path.write_bytes((corpus / "structures-over-snapshots").read_bytes()[16:])
    assert check(OURS, tmp_path, ["-r", "all"])[0] == 0
    for program in (OURS, "qemu-img"):
        assert check(program, tmp_path, [])[0] == 0
    assert "found and repaired" not in check(OURS, tmp_path, ["-r", "all"])[1]
