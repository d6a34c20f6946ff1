# SPDX-License-Identifier: GPL-2.0-or-later
"""What -p shows is what qemu-img shows, byte for byte: the same steps, rounded alike.

All images are qcow2: the extents of a raw file are the file system's choice."""

import random
import re
import shutil
import subprocess

import pytest

import compare

pytestmark = pytest.mark.skipif(
    not compare.available("qemu-img") or not compare.available("qemu-io"),
    reason="needs both programs")

MiB = 1 << 20


def qemu(*arguments, cwd):
    subprocess.run(arguments, cwd=cwd, check=True, capture_output=True, timeout=60)


def fill(directory, name, chance, size):
    """Data, zeroes and holes at random places; whole clusters, so that the file has no holes."""
    commands = []
    for _ in range(6):
        offset = chance.randrange(size // 65536) * 65536
        length = chance.choice([65536, MiB, 3 * MiB, 9 * MiB + 65536])
        command = chance.choice(["write -P 7", "write -P 7", "write -z", "discard"])
        commands += ["-c", f"{command} {offset} {min(length, size - offset)}"]
    qemu("qemu-io", *commands, name, cwd=directory)


@pytest.fixture(scope="module", name="images")
def made_images(tmp_path_factory):
    directory = tmp_path_factory.mktemp("progress")
    chance = random.Random(7)
    for name, size, options in (
            ("a4k", 48 * MiB, "cluster_size=4k"), ("a64k", 40 * MiB + 512 * 33, "cluster_size=64k"),
            ("a2m", 64 * MiB, "cluster_size=2M,extended_l2=on"),
            ("large", 20 << 30, "cluster_size=64k"), ("absurd", 1 << 40, "cluster_size=2M"),
            ("odd", 3 * (1 << 30) + 4096000, "cluster_size=4k"),
            ("drifts", 123456789 * 512, "cluster_size=4k")):
        qemu("qemu-img", "create", "-f", "qcow2", "-o", options, name, str(size), cwd=directory)
        if name not in ("absurd", "odd", "drifts"):
            fill(directory, name, chance, size)
    for name, backing, size in (("over4k", "a4k", 48 * MiB), ("over64k", "a64k", 41 * MiB)):
        qemu("qemu-img", "create", "-f", "qcow2", "-b", backing, "-F", "qcow2", name, str(size),
             cwd=directory)
        fill(directory, name, chance, size)
    qemu("qemu-img", "convert", "-O", "qcow2", "a64k", "copy", cwd=directory)
    qemu("qemu-img", "resize", "copy", "50M", cwd=directory)
    return directory


def both(images, line, target=""):
    """Standard output of each program, ours first."""
    said = []
    for program in (compare.OURS / "qemu-img", shutil.which("qemu-img")):
        words = line.split() + ([target] if target else [])
        said.append(compare.run(program, words, images))
    return said


SOURCES = ["a4k", "a64k", "a2m", "over4k", "over64k", "a64k a4k", "over64k a2m"]
PLAIN = ["-O raw", "-O qcow2", "-W -O qcow2", "-W -m 16 -O raw", "-m 1 -O qcow2", "-S 0 -O qcow2",
         "-W -S 0 -O raw", "-C -W -O raw"]
PACKED = ["-c -O qcow2", "-c -W -O qcow2 -o cluster_size=4k", "-c -O qcow2 -o cluster_size=2M"]
# A packed cluster that has something of two images counts otherwise.
CONVERSIONS = [(how, source) for source in SOURCES for how in PLAIN + PACKED
               if how in PLAIN or " " not in source]


@pytest.mark.parametrize("how, source", CONVERSIONS)
def test_convert_shows_the_steps_of_qemu_img(images, tmp_path, how, source):
    ours, theirs = both(images, f"convert -p {how} {source}", str(tmp_path / "x"))
    assert ours == theirs and ours[1].count("/100%") > 2


def test_convert_with_a_backing_file_shows_the_steps_of_qemu_img(images):
    for name in ("over4k", "over64k"):
        line = f"convert -p -W -O qcow2 -B {name.replace('over', 'a')} -F qcow2 {name} x"
        ours, theirs = both(images, line)
        assert ours == theirs


@pytest.mark.parametrize("pair", [
    "a4k a4k", "a64k a64k", "a64k copy", "copy a64k", "over4k over4k", "over64k over64k",
    "over64k a64k", "a4k over4k", "large large", "absurd absurd", "odd odd", "odd absurd",
    "drifts drifts", "-s a64k copy", "-s a2m a2m",
])
def test_compare_shows_the_steps_of_qemu_img(images, pair):
    ours, theirs = both(images, f"compare -p {pair}")
    assert ours == theirs


@pytest.mark.parametrize("line", ["commit -p -d top", "commit -p top", "rebase -p -b '' top",
                                  "rebase -p -F qcow2 -b other top"])
def test_those_with_steps_of_their_own_show_how_far_they_are(images, tmp_path, line):
    """rebase of qemu-img counts a buffer for each step, however short it was."""
    shutil.copy(images / "a4k", tmp_path / "base")
    shutil.copy(images / "a64k", tmp_path / "other")
    qemu("qemu-img", "create", "-f", "qcow2", "-b", "base", "-F", "qcow2", "top", "48M",
         cwd=tmp_path)
    for n in range(0, 48, 4):
        qemu("qemu-io", "-c", f"write -P 5 {n}M 1M", "top", cwd=tmp_path)
    words = [word.strip("'") for word in line.split()]
    status, said, _ = compare.run(compare.OURS / "qemu-img", words, tmp_path)
    shown = [float(percent) for percent in re.findall(r"\(([\d.]+)/100%\)\r", said)]
    assert status == 0 and shown == sorted(shown) and shown[-1] == 100
    assert len({percent for percent in shown if 0 < percent < 100}) > 5
