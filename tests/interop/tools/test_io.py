# SPDX-License-Identifier: GPL-2.0-or-later
"""What strata-io prints, returns and leaves behind is what qemu-io does."""

import pytest

import compare

pytestmark = pytest.mark.skipif(not compare.available("qemu-io"), reason="needs both programs")

COMMAND_LINES = compare.load("io_commands.json.txt")


def prepare(directory):
    """A megabyte with some data in it, an image that ends inside a sector, and odds and ends."""
    data = bytes(range(256)) * 256 + bytes(65536) + b"\x01" * 65536
    (directory / "a.img").write_bytes(data.ljust(1 << 20, b"\0"))
    (directory / "b.img").write_bytes(bytes(1 << 16))
    (directory / "odd.img").write_bytes(b"\x02" * 10000)
    (directory / "pattern").write_bytes(b"abc")
    (directory / "empty").write_bytes(b"")
    (directory / "qcow2.head").write_bytes(b"QFI\xfb\0\0\0\3" + bytes(504))


@pytest.mark.parametrize("line", COMMAND_LINES, ids=" ".join)
def test_it_does_as_qemu_io(tmp_path, line):
    ours, qemu = compare.both("qemu-io", [line], tmp_path, prepare)
    assert ours == qemu


SESSIONS = [
    b"read 0 512\nfoo\nquit\n",
    b"read 0 512",
    b"\n\n  \nlength\n",
    b"foo",
    b"",
    b"aio_write 0 1k\naio_flush\nlength\n",
    b"open b.img\nclose\nopen -r b.img\nlength\n",
]


@pytest.mark.parametrize("typed", SESSIONS)
def test_a_session_on_standard_input_goes_as_with_qemu_io(tmp_path, typed):
    ours, qemu = compare.both("qemu-io", [["-f", "raw", "a.img"]], tmp_path, prepare, typed)
    assert ours == qemu
