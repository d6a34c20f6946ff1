# SPDX-License-Identifier: GPL-2.0-or-later
"""--trace of the tools: what QEMU's programs say of the same mistakes, and that points speak."""

import shutil

import pytest

import compare

pytestmark = pytest.mark.skipif(
    not (compare.available("qemu-img") and compare.available("qemu-io")),
    reason="needs the programs of both")

COMMANDS = {"qemu-img": ["info", "-f", "raw", "image"],
            "qemu-io": ["-f", "raw", "-c", "length", "image"]}


@pytest.fixture(name="place")
def place_with_files(tmp_path):
    (tmp_path / "image").write_bytes(bytes(1 << 20))
    (tmp_path / "patterns").write_text("# a comment\nnosuch\n\n-nosuch2\n", encoding="ascii")
    return tmp_path


def run(name, argument, place, program=None):
    words = ["--trace", argument, *COMMANDS[name]]
    return compare.run(program or compare.OURS / name, words, place)


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("argument", [
    "nosuch", "enable=nosuch", "-nosuch", "nosuch*", "foo=bar", "events=patterns",
    "file=nosuch/file", "enable=nosuch,events=patterns", "events=patterns,enable=nosuch3",
    "nosuch,file=log", "events=nosuch", "events=nosuch,foo=bar", "events=nosuch,events=patterns"])
def test_mistakes_are_told_as_qemu_does(place, name, argument):
    ours = run(name, argument, place)
    qemu = run(name, argument, place, shutil.which(name))
    assert (ours[0], ours[2]) == (qemu[0], qemu[2])


@pytest.mark.parametrize("name", COMMANDS)
def test_points_are_listed_and_speak(place, name):
    status, out, _ = run(name, "help", place)
    assert status == 0 and "bdrv_open_common\n" in out
    assert "bdrv_open_common " in run(name, "bdrv_open_*", place)[2]
    status, _, err = run(name, "bdrv_open_*,file=log", place)
    assert status == 0 and "bdrv_open_common" not in err
    assert "bdrv_open_common " in (place / "log").read_text(encoding="utf-8")
