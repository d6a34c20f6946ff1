# SPDX-License-Identifier: GPL-2.0-or-later
"""qcow2 images of a MiB that claim what no MiB can hold: all entries of the L1 table refer to a few
L2 tables, whose entries refer to the same few clusters."""

import struct
import zlib

MIB = 1 << 20
COPIED = 1 << 63
COMPRESSED = 1 << 62
ZERO = 1
# How an encrypted image is named, with its secret.
SECRET = ["--object", "secret,id=s,data=x", "--image-opts"]
OPTIONS = "driver=qcow2,file.filename=a,encrypt.key-secret=s"


def zstd_of_one_byte(size):
    """A frame in which four bytes stand for 128 KiB."""
    frame = b"\x28\xb5\x2f\xfd\x00\x58"
    while size:
        length = min(size, 128 << 10)
        size -= length
        frame += struct.pack("<I", length << 3 | 1 << 1 | (size == 0))[:3] + b"\x55"
    return frame


def deflate(data):
    packer = zlib.compressobj(9, zlib.DEFLATED, -12)
    return packer.compress(data) + packer.flush()


def noise(size):
    """Bytes that a packer has some work with."""
    state, out = 1, bytearray()
    while len(out) < size:
        state = (state * 6364136223846793005 + 1442695040888963407) % (1 << 64)
        out += bytes(byte & 0x3f for byte in struct.pack(">Q", state))
    return bytes(out[:size])


class Claim:
    """An image in the making: a header, refcounts that count everything once, and then what is
    placed, cluster by cluster. The file has a MiB, or what is placed if that is more."""

    def __init__(self, bits=16, version=3, extended=False, zstd=False):
        self.bits = bits
        self.cluster = 1 << bits
        self.entry = 16 if extended else 8
        self.per_table = self.cluster // self.entry
        self.bytes = bytearray(MIB)
        self.used = 1
        self.poke(0, ">4sI", b"QFI\xfb", version)
        self.poke(20, ">I", bits)
        if version > 2:
            self.poke(72, ">Q", (8 if zstd else 0) | (16 if extended else 0))
            self.poke(96, ">II", 4, 112)
            self.bytes[104] = zstd
        table = self.place(b"", 1)
        in_block = self.cluster // 2
        blocks = [self.place(b"\0\1" * in_block) for _ in range(-(-(MIB >> bits) // in_block))]
        self.poke(table, f">{len(blocks)}Q", *blocks)
        self.poke(48, ">QI", table, 1)

    def place(self, data, clusters=0):
        at = self.used * self.cluster
        clusters = clusters or -(-len(data) // self.cluster)
        self.used += clusters
        self.bytes.extend(bytes(max(0, self.used * self.cluster - len(self.bytes))))
        self.bytes[at:at + len(data)] = data
        return at

    def poke(self, offset, kind, *values):
        struct.pack_into(kind, self.bytes, offset, *values)

    def table(self, *entries):
        """An L2 table of these by turns; an entry is a number, or two where it is extended."""
        words = [word for entry in entries
                 for word in (entry if isinstance(entry, tuple) else (entry,))]
        times = self.cluster // (8 * len(words)) + 1
        return self.place((struct.pack(f">{len(words)}Q", *words) * times)[:self.cluster])

    def packed(self, data):
        """An entry for a compressed cluster."""
        at = self.place(data)
        return COMPRESSED | (len(data) - 1) // 512 << 62 - (self.bits - 8) | at

    def disk(self, *tables, entries=0):
        """An L1 table that refers to these by turns, as long as the rest of the MiB, or told."""
        left = (len(self.bytes) >> self.bits) - self.used
        entries = entries or max(left, 1) * self.cluster // 8
        entries = min(entries, (1 << 62) // (self.per_table * self.cluster))
        places = [COPIED | tables[n % len(tables)] for n in range(entries)]
        self.l1 = self.place(struct.pack(f">{entries}Q", *places))
        self.poke(36, ">IQ", entries, self.l1)
        self.size = entries * self.per_table * self.cluster
        self.poke(24, ">Q", self.size)
        return self

    def backed_by(self, name):
        """By a qcow2 image."""
        words = name.encode()
        length = 112 if self.bytes[7] > 2 else 72
        self.poke(length, ">II8s", 0xe2792aca, 5, b"qcow2")
        self.bytes[256:256 + len(words)] = words
        self.poke(8, ">QI", 256, len(words))
        return self

    def save(self, path):
        path.write_bytes(self.bytes)
        return path


def alternating(bits=16, version=3, extended=False):
    """Each cluster, or subcluster, is something else than the one before it."""
    claim = Claim(bits, version, extended)
    table = claim.table((0, 0x55555555 << 32)) if extended else claim.table(ZERO, 0)
    return claim.disk(table)


def one_cluster(bits=16, version=3):
    """The same cluster all over the disk."""
    claim = Claim(bits, version)
    return claim.disk(claim.table(COPIED | claim.place(b"\x55" * claim.cluster)))


def claim_one_cluster(path):
    """Makes that of an image which is there and has clusters of 64 KiB."""
    cluster = 65536
    data = bytearray(path.read_bytes())
    data.extend(bytes(-len(data) % cluster))
    table, l1, entries = len(data), len(data) + 2 * cluster, cluster // 8
    data.extend(struct.pack(">Q", COPIED | table + cluster) * entries)
    data.extend(b"\x55" * cluster)
    data.extend(struct.pack(">Q", COPIED | table) * entries)
    struct.pack_into(">Q", data, 24, entries * entries * cluster)
    struct.pack_into(">IQ", data, 36, entries, l1)
    path.write_bytes(data)


def every_other(bits=9):
    claim = Claim(bits)
    return claim.disk(claim.table(COPIED | claim.place(b"\x55" * claim.cluster), ZERO))


def every_other_subcluster():
    claim = Claim(16, extended=True)
    return claim.disk(claim.table((COPIED | claim.place(b"\x55" * claim.cluster), 0x55555555)))


def packed(data, bits=16, zstd=False, version=3):
    claim = Claim(bits, version, zstd=zstd)
    return claim.disk(claim.table(claim.packed(data)))


def many_tables():
    """More tables than fit into a cache of their number, each of one cluster."""
    claim = Claim(9)
    cluster = COPIED | claim.place(b"\x55" * 512)
    tables = [claim.table(cluster, ZERO) for _ in range(1000)]
    return claim.disk(*tables)


def zeroes():
    claim = Claim()
    return claim.disk(claim.table(ZERO))


# Those of which nothing, or little, has to be copied before it is too much.
LIGHT = {
    "zeroes": zeroes,
    "every-other-zero": alternating,
    "every-other-zero-of-512": lambda: alternating(9),
    "every-other-zero-subcluster": lambda: alternating(extended=True),
    "data-of-512": lambda: one_cluster(9),
    "every-other-of-512": lambda: every_other(9),
    "deflate-of-512": lambda: packed(deflate(b"\x55" * 512), 9),
    "many-tables": many_tables,
}
IMAGES = LIGHT | {
    "data": one_cluster,
    "data-version-2": lambda: one_cluster(version=2),
    "every-other-subcluster": every_other_subcluster,
    "deflate": lambda: packed(deflate(b"\x55" * 65536)),
    "deflate-noise": lambda: packed(deflate(noise(65536))),
    "zstd": lambda: packed(zstd_of_one_byte(65536), zstd=True),
    "zstd-of-128k": lambda: packed(zstd_of_one_byte(128 << 10), 17, zstd=True),
}
