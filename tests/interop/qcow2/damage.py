# SPDX-License-Identifier: GPL-2.0-or-later
"""qcow2 images, made by QEMU's tools, and ways to break them by writing over a few bytes."""

import struct
import subprocess
from pathlib import Path

MIB = 1 << 20
COPIED = 1 << 63
COMPRESSED = 1 << 62


def run(*command):
    subprocess.run([str(word) for word in command], check=True, capture_output=True, timeout=120)


class Image:
    """The bytes of an image, with names for its parts."""

    def __init__(self, path):
        self.path = Path(path)
        self.bytes = bytearray(self.path.read_bytes())
        self.cluster = 1 << self.number(20, "I")
        self.l1_size = self.number(36, "I")
        self.l1 = self.number(40)
        self.refcount_table = self.number(48)
        self.snapshots = self.number(64)

    def save(self):
        self.path.write_bytes(self.bytes)

    def number(self, offset, kind="Q"):
        return struct.unpack_from(">" + kind, self.bytes, offset)[0]

    def poke(self, offset, value, kind="Q"):
        self.grow(offset + struct.calcsize(kind))
        struct.pack_into(">" + kind, self.bytes, offset, value & ((1 << 8 * struct.calcsize(kind))
                                                                  - 1))

    def grow(self, size):
        self.bytes.extend(bytes(max(0, size - len(self.bytes))))

    def l2(self, index=0):
        return self.number(self.l1 + 8 * index) & 0x00fffffffffffe00

    def block(self, index=0):
        return self.number(self.refcount_table + 8 * index)

    def flip(self, offset, bits):
        self.poke(offset, self.number(offset) ^ bits)

    def extension(self, wanted):
        """Where the data of a header extension is."""
        at = self.number(100, "I")
        while True:
            kind, length = self.number(at, "I"), self.number(at + 4, "I")
            if kind == wanted:
                return at + 8
            assert kind != 0
            at += 8 + (length + 7) // 8 * 8


def create(path, options="", size="64M", writes=()):
    words = ["-o", options] if options else []
    run("qemu-img", "create", "-f", "qcow2", *words, path, size)
    if writes:
        commands = [word for write in writes for word in ("-c", write)]
        run("qemu-io", "-f", "qcow2", *commands, path)


def plain(path):
    create(path, writes=["write -P 1 0 300k", "write -P 2 1M 64k", "write -z 2M 128k"])


def two_tables(path):
    create(path, "cluster_size=4k", writes=["write -P 1 0 64k", "write -P 2 4M 8k"])


def small_clusters(path):
    create(path, "cluster_size=512", size="4M", writes=["write -P 1 0 100k"])


def version_2(path):
    create(path, "compat=0.10", writes=["write -P 1 0 200k"])


def narrow(path):
    create(path, "refcount_bits=1", writes=["write -P 1 0 200k"])


def wide(path):
    create(path, "refcount_bits=64", writes=["write -P 1 0 200k"])


def subclusters(path):
    create(path, "extended_l2=on", writes=["write -P 1 0 6k", "write -P 1 256k 128k",
                                           "write -z 512k 8k"])


def compressed(path):
    create(path, writes=["write -c -P 1 0 64k", "write -c -P 2 64k 64k", "write -P 3 128k 64k"])


def prealloc(path):
    create(path, "preallocation=metadata", size="4M", writes=["write -P 1 0 64k"])


def data_file(path):
    create(path, f"data_file={path}.data", writes=["write -P 1 0 200k"])


def snapshots(path):
    create(path, writes=["write -P 1 0 200k"])
    run("qemu-img", "snapshot", "-c", "one", path)
    run("qemu-io", "-f", "qcow2", "-c", "write -P 2 64k 64k", path)
    run("qemu-img", "snapshot", "-c", "two", path)
    run("qemu-io", "-f", "qcow2", "-c", "write -P 3 1M 64k", path)


def bitmaps(path):
    create(path, writes=["write -P 1 0 64k"])
    run("qemu-img", "bitmap", "--add", path, "b0")
    run("qemu-io", "-f", "qcow2", "-c", "write -P 1 0 1M", path)
    run("qemu-img", "bitmap", "--add", "-g", "4k", path, "b1")


# --- Damages: a name, the image, and what is done to it ---

def leak(image):
    image.grow(len(image.bytes) + 2 * image.cluster)
    first = len(image.bytes) // image.cluster - 2
    image.poke(image.block() + 2 * first, 1, "H")
    image.poke(image.block() + 2 * first + 2, 7, "H")


def leak_between(image):
    image.poke(image.block() + 2 * 6, 3, "H")


def count_too_low(image):
    """Counted, but less often than it is referred to."""
    image.poke(image.block() + 2 * 5, 1, "H")
    image.poke(image.l2() + 8, image.number(image.l2()))


def not_counted(image):
    image.poke(image.block() + 2 * 5, 0, "H")


def header_not_counted(image):
    image.poke(image.block(), 0, "H")


def nothing_counted(image):
    image.bytes[image.block():image.block() + image.cluster] = bytes(image.cluster)


def no_refcount_blocks(image):
    image.poke(image.refcount_table, 0)


def block_outside(image):
    image.poke(image.refcount_table + 8, 1 << 30)


def block_far_outside(image):
    image.poke(image.refcount_table + 8, 0x7ffffffffffe0000)


def block_unaligned(image):
    image.poke(image.refcount_table, image.block() + 512)


def second_block_unaligned(image):
    image.poke(image.refcount_table + 8, 0x12345600)


def block_reserved_bits(image):
    image.poke(image.refcount_table, image.block() | 1)


def block_twice(image):
    image.poke(image.refcount_table + 8, image.block())


def block_is_data(image):
    image.poke(image.refcount_table + 8, image.number(image.l2()) & 0x00fffffffffffe00)


def l1_reserved(image):
    image.flip(image.l1, 1 << 60)


def l1_unaligned(image):
    image.flip(image.l1, 512)


def l1_outside(image):
    image.poke(image.l1, COPIED | 1 << 40)


def l1_twice(image):
    image.poke(image.l1 + 8, image.number(image.l1))


def l1_not_copied(image):
    image.flip(image.l1, COPIED)


def l1_at_header(image):
    image.poke(image.l1, COPIED)


def l2_reserved(image):
    image.flip(image.l2(), 1 << 57)


def l2_low_reserved(image):
    image.flip(image.l2(), 2)


def l2_unaligned(image):
    image.flip(image.l2(), 512)


def l2_unaligned_zero(image):
    image.flip(image.l2() + 8, 512 | 1)


def l2_unaligned_and_more(image):
    image.flip(image.l2() + 8, 512 | 1)
    image.flip(image.l2() + 16, 512)
    image.poke(image.block() + 2 * 7, 2, "H")


def l2_outside(image):
    image.poke(image.l2() + 8, COPIED | 1 << 40)


def l2_just_outside(image):
    end = (len(image.bytes) + image.cluster - 1) // image.cluster * image.cluster
    image.poke(image.l2() + 8, COPIED | end)


def l2_two_outside(image):
    end = (len(image.bytes) + image.cluster - 1) // image.cluster * image.cluster
    image.poke(image.l2() + 8, COPIED | end)
    image.poke(image.l2() + 16, COPIED | end + image.cluster)


def data_twice(image):
    image.poke(image.l2() + 8, image.number(image.l2()))


def data_not_copied(image):
    image.flip(image.l2(), COPIED)
    image.flip(image.l2() + 8, COPIED)


def data_is_table(image):
    image.poke(image.l2() + 8, COPIED | image.l2())


def data_is_header(image):
    image.poke(image.l2(), COPIED | 0)
    image.poke(image.l2() + 8, COPIED | image.refcount_table)


def zero_in_version_2(image):
    image.flip(image.l2(), 1)


def compressed_copied(image):
    image.flip(image.l2(), COPIED)


def compressed_outside(image):
    image.poke(image.l2() + 8, COMPRESSED | 1 << 40)


def compressed_long(image):
    image.poke(image.l2() + 8, image.number(image.l2() + 8) | 0xff << 54)


def now_compressed(image):
    image.flip(image.l2(), COMPRESSED)


def subcluster_both(image):
    image.poke(image.l2() + 8, image.number(image.l2() + 8) | 1 << 32 | 1)


def subcluster_unallocated(image):
    image.poke(image.l2() + 16 * 7 + 8, 1)


def subcluster_compressed(image):
    image.flip(image.l2(), COMPRESSED | COPIED)


def subcluster_zero_bit(image):
    image.flip(image.l2(), 1)


def subcluster_unaligned(image):
    image.flip(image.l2(), 1024)


def subcluster_unaligned_zero(image):
    image.flip(image.l2(), 1024)
    image.poke(image.l2() + 8, 0xffffffff << 32)


def dirty_bit(image):
    image.poke(72, image.number(72) | 1)


def corrupt_bit(image):
    image.poke(72, image.number(72) | 2)


def corrupt_and_leak(image):
    corrupt_bit(image)
    leak(image)


def dirty_and_uncounted(image):
    dirty_bit(image)
    not_counted(image)


def snapshot_l1_unaligned(image):
    image.flip(image.snapshots, 512)


def snapshot_l1_outside(image):
    image.poke(image.snapshots, 1 << 40)


def snapshot_l1_huge(image):
    image.poke(image.snapshots + 8, 0x10000000, "I")


def snapshot_table_outside(image):
    image.poke(64, 1 << 40)


def snapshot_table_unaligned(image):
    image.poke(64, image.snapshots + 512)


def snapshot_table_cut(image):
    image.poke(60, 3, "I")


def snapshot_many(image):
    image.poke(60, 70000, "I")


def snapshot_extra_data(image):
    image.poke(image.snapshots + 36, 2000, "I")


def snapshot_incomplete(image):
    """An entry of the old kind, without a size of its own, in a new image."""
    entry = bytes(image.bytes[image.snapshots:image.snapshots + 40])
    extra = image.number(image.snapshots + 36, "I")
    names = image.snapshots + 40 + extra
    image.poke(image.snapshots + 36, 0, "I")
    assert extra == 24 and entry
    image.bytes[image.snapshots + 40:image.snapshots + 48] = image.bytes[names:names + 8]
    del image.bytes[image.snapshots + 48:image.snapshots + 72]
    image.bytes[image.snapshots + 120:image.snapshots + 120] = bytes(24)


def snapshot_data_not_counted(image):
    image.poke(image.block() + 2 * 5, 1, "H")


def snapshot_l2_unaligned(image):
    table = image.number(image.number(image.snapshots)) & 0x00fffffffffffe00
    image.flip(table, 512)


def snapshot_l2_unaligned_zero(image):
    table = image.number(image.number(image.snapshots)) & 0x00fffffffffffe00
    image.flip(table, 512 | 1)


def bitmap_directory(image):
    return image.number(image.extension(0x23852875) + 16)


def bitmap_table_outside(image):
    image.poke(bitmap_directory(image), 1 << 40)


def bitmap_table_unaligned(image):
    image.poke(bitmap_directory(image), image.number(bitmap_directory(image)) + 512)


def bitmap_directory_outside(image):
    image.poke(image.extension(0x23852875) + 16, 1 << 40)


def bitmap_directory_twice(image):
    image.poke(image.extension(0x23852875) + 16, image.l1)


def bitmap_data_outside(image):
    table = image.number(bitmap_directory(image))
    image.poke(table, 1 << 40)


def bitmap_data_twice(image):
    table = image.number(bitmap_directory(image))
    image.poke(table, image.l2())


def truncated(image):
    del image.bytes[len(image.bytes) // 2:]


def cut_in_cluster(image):
    del image.bytes[len(image.bytes) - image.cluster // 2:]


def sound(image):
    del image


ANY = [sound, leak, leak_between, count_too_low, not_counted, header_not_counted, nothing_counted,
       no_refcount_blocks, block_outside, block_far_outside, block_unaligned,
       second_block_unaligned, block_reserved_bits, block_twice, block_is_data, l1_reserved,
       l1_unaligned, l1_outside, l1_twice, l1_not_copied, l1_at_header, l2_reserved,
       l2_low_reserved, l2_unaligned, l2_unaligned_zero, l2_unaligned_and_more, l2_outside,
       l2_just_outside, l2_two_outside, data_twice, data_not_copied, data_is_table, data_is_header,
       dirty_bit, corrupt_bit, corrupt_and_leak, dirty_and_uncounted, truncated, cut_in_cluster,
       now_compressed]

DAMAGES = [(plain, damage) for damage in ANY] + [
    (two_tables, damage) for damage in (
        sound, l1_twice, data_twice, not_counted, nothing_counted, l1_unaligned, l2_unaligned_zero,
        truncated)] + [
    (small_clusters, damage) for damage in (
        sound, nothing_counted, no_refcount_blocks, l2_unaligned, block_outside)] + [
    (version_2, damage) for damage in (sound, zero_in_version_2, data_twice, nothing_counted)] + [
    (narrow, damage) for damage in (sound, data_twice, nothing_counted, no_refcount_blocks)] + [
    (wide, damage) for damage in (sound, data_twice, nothing_counted, no_refcount_blocks)] + [
    (compressed, damage) for damage in (
        sound, compressed_copied, compressed_outside, compressed_long, nothing_counted,
        data_twice)] + [
    (prealloc, damage) for damage in (sound, data_not_copied, l2_unaligned, nothing_counted)] + [
    (data_file, damage) for damage in (
        sound, now_compressed, data_not_copied, l2_unaligned, nothing_counted, data_twice)] + [
    (subclusters, damage) for damage in (
        sound, subcluster_both, subcluster_unallocated, subcluster_compressed,
        subcluster_zero_bit, subcluster_unaligned, subcluster_unaligned_zero, nothing_counted)] + [
    (snapshots, damage) for damage in (
        sound, snapshot_l1_unaligned, snapshot_l1_outside, snapshot_l1_huge,
        snapshot_table_outside, snapshot_table_unaligned, snapshot_table_cut, snapshot_many,
        snapshot_extra_data, snapshot_incomplete, snapshot_data_not_counted,
        snapshot_l2_unaligned, snapshot_l2_unaligned_zero, nothing_counted, no_refcount_blocks,
        data_not_copied, leak)] + [
    (bitmaps, damage) for damage in (
        sound, bitmap_table_outside, bitmap_table_unaligned,
        bitmap_directory_outside, bitmap_directory_twice, bitmap_data_outside, bitmap_data_twice,
        nothing_counted, leak)]
