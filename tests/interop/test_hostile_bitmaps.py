# SPDX-License-Identifier: GPL-2.0-or-later
"""Bitmaps that somebody made up: an error, little memory and little time."""

import os
import struct
import subprocess

import pytest

from support.measure import Run
from support.program import ROOT

IMG = str(ROOT / os.environ.get("STRATA_BUILD", "build") / "bin/strata-img")
CLUSTER = 65536
BITMAPS = 0x23852875


class Image:
    """A qcow2 image with one bitmap, b0, to be poked."""

    def __init__(self, directory, size="64M"):
        self.path = str(directory / "a.qcow2")
        for words in (["create", "-q", "-f", "qcow2", self.path, size],
                      ["bitmap", "--add", self.path, "b0"]):
            subprocess.run(["qemu-img", *words], check=True, timeout=60)
        with open(self.path, "rb") as file:
            self.data = bytearray(file.read())
        at = struct.unpack_from(">I", self.data, 100)[0]
        while struct.unpack_from(">I", self.data, at)[0] != BITMAPS:
            at += 8 + (struct.unpack_from(">I", self.data, at + 4)[0] + 7) // 8 * 8
        self.extension = at + 8
        self.directory = self.get(self.extension + 16, "Q")
        self.table = self.get(self.directory, "Q")

    def get(self, at, form):
        return struct.unpack_from(">" + form, self.data, at)[0]

    def put(self, at, form, value):
        end = at + struct.calcsize(">" + form)
        if end > len(self.data):
            self.data.extend(bytes(end - len(self.data)))
        struct.pack_into(">" + form, self.data, at, value)

    def append_cluster(self, content):
        self.data.extend(bytes(-len(self.data) % CLUSTER))
        at = len(self.data)
        self.data.extend(content)
        return at

    def info(self):
        """What strata-img info says of it, if that takes neither long nor much memory."""
        with open(self.path, "wb") as file:
            file.write(self.data)
        done = Run([IMG, "info", "-f", "qcow2", self.path], os.path.dirname(self.path))
        assert done.status in (0, 1), done.err
        done.assert_modest()
        return done.out + done.err


@pytest.fixture
def image(tmp_path):
    return Image(tmp_path)


@pytest.mark.parametrize("at, form, value, text", [
    (0, "I", 0, "found bitmaps extension with zero bitmaps"),
    (0, "I", 65536, "bitmaps_ext: Image has 65536 bitmaps, exceeding the QEMU supported maximum"),
    (4, "I", 1, "bitmaps_ext: Reserved field is not zero"),
    (8, "Q", 0, "Requested bitmap directory size is zero"),
    (8, "Q", 1 << 62, "bitmaps_ext: bitmap directory size"),
    (8, "Q", 65535 * 1024, "Failed to read bitmap directory"),
    (16, "Q", 512, "bitmaps_ext: invalid bitmap directory offset"),
    (0, "I", 2, "Less bitmaps found than specified in header extension"),
])
def test_a_broken_extension_is_refused(image, at, form, value, text):
    image.put(image.extension + at, form, value)
    assert text in image.info()


@pytest.mark.parametrize("at, form, value", [
    (0, "Q", 512), (0, "Q", 0), (8, "I", 0), (8, "I", 0x7fffffff), (8, "I", 2), (12, "I", 1 << 5),
    (16, "B", 2), (17, "B", 8), (17, "B", 63), (18, "H", 0),
])
def test_a_broken_entry_is_refused(image, at, form, value):
    image.put(image.directory + at, form, value)
    text = image.info()
    assert "doesn't satisfy the constraints" in text or "Broken bitmap directory" in text


def test_extra_data_is_refused(image):
    image.put(image.directory + 20, "I", 0xffffffff)
    assert "Broken bitmap directory" in image.info()


@pytest.mark.parametrize("entry", [1 << 63, 1 << 5, 512, CLUSTER | 1])
def test_a_broken_table_is_refused(image, entry):
    image.put(image.table, "Q", entry)
    assert ("Could not read bitmap_table table from image for bitmap 'b0': Invalid argument"
            in image.info())


def test_bits_behind_the_end_are_refused(image):
    image.put(image.table, "Q", image.append_cluster(bytes(128) + b"\x01" + bytes(CLUSTER - 129)))
    image.info()  # behind the bits of the disk nobody looks
    image.put(image.table, "Q", image.append_cluster(b"\xff" * CLUSTER))
    assert "granularity" in image.info()


@pytest.mark.parametrize("size, table_size", [("2T", 8192), ("64G", 256), ("256M", 1)])
def test_many_bitmaps_that_share_a_table_cost_no_memory(tmp_path, size, table_size):
    # All ones, which takes no room in the image: up to 512 MiB each.
    image = Image(tmp_path, size)
    count = 8000
    table = image.append_cluster(struct.pack(">Q", 1) * table_size)
    entries = b"".join(
        struct.pack(">QIIBBHI", table, table_size, 2, 1, 9, 5, 0) + b"%05d" % n + bytes(3)
        for n in range(count))
    place = image.append_cluster(entries)
    image.put(image.extension, "I", count)
    image.put(image.extension + 8, "Q", len(entries))
    image.put(image.extension + 16, "Q", place)
    assert "Could not read bitmap" in image.info()


def test_many_bitmaps_that_share_their_bits_are_refused(tmp_path):
    image = Image(tmp_path, "64G")
    count = 2000
    bits = image.append_cluster(b"\xff" * CLUSTER)
    table = image.append_cluster(struct.pack(">Q", bits) * 256)
    entries = b"".join(
        struct.pack(">QIIBBHI", table, 256, 2, 1, 9, 5, 0) + b"%05d" % n + bytes(3)
        for n in range(count))
    place = image.append_cluster(entries)
    image.put(image.extension, "I", count)
    image.put(image.extension + 8, "Q", len(entries))
    image.put(image.extension + 16, "Q", place)
    assert "Could not read bitmap" in image.info()


def test_two_bitmaps_of_one_name_are_refused(image):
    entry = bytes(image.data[image.directory:image.directory + 32])
    image.data[image.directory + 32:image.directory + 64] = entry
    image.put(image.extension, "I", 2)
    image.put(image.extension + 8, "Q", 64)
    assert "Bitmap already exists: b0" in image.info()


def test_bitmaps_of_somebody_who_knew_none_are_forgotten_with_a_word(image):
    image.put(88, "Q", 0)
    text = image.info()
    assert "a program lacking bitmap support modified this file" in text
    assert "name: b0" not in text
