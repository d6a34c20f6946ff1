#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Makes the inputs that the fuzzers of qcow2, LUKS and the text formats start from, with the tools
of a build:

    tests/fuzz/make_corpus.py [BUILD]

What is in corpus/ beside them was found by fuzzing, and stays.
"""

import struct
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CORPUS = Path(__file__).resolve().parent / "corpus"
BIN = ROOT / (sys.argv[1] if len(sys.argv) > 1 else "build") / "bin"

WRITABLE, CHECK_FIRST, MEND, WITH_BACKING, BITMAPS_AHEAD = 1, 2, 4, 8, 16
STEPS = ("read map write write_compressed zero zero_and_unmap discard flush create_snapshot "
         "apply_snapshot delete_snapshot grow shrink change_bitmaps amend make_empty").split()

BASE = ["write -P 1 0 3k", "write -P 2 40k 1k", "write -z 24k 1k"]
# Name: options of creation, commands of strata-io, commands of strata-img, steps.
IMAGES = {
    "plain": ("cluster_size=512", BASE, [], "write map read discard zero write flush"),
    "v2": ("cluster_size=512,compat=0.10", BASE, [], "read write map discard grow write"),
    "narrow": ("cluster_size=512,refcount_bits=1", BASE, [],
               "write zero_and_unmap write map create_snapshot amend write"),
    "wide": ("cluster_size=512,refcount_bits=64", BASE, [],
             "create_snapshot write map delete_snapshot amend flush"),
    "snapshots": ("cluster_size=512", BASE,
                  ["snapshot -c one", "snapshot -c two"],
                  "read apply_snapshot write delete_snapshot map create_snapshot shrink grow"),
    "compressed": ("cluster_size=4k", ["write -c -P 3 0 4k", "write -c -P 4 4k 4k",
                                       "write -P 5 16k 4k"], [],
                   "read map write_compressed write discard write_compressed create_snapshot"),
    "zstd": ("cluster_size=4k,compression_type=zstd", ["write -c -P 3 0 4k", "write -P 5 16k 4k"],
             [], "read write_compressed map write zero"),
    "subclusters": ("cluster_size=16k,extended_l2=on",
                    ["write -P 1 0 1k", "write -P 2 16k 9k", "write -z 20k 2k"], [],
                    "read map write zero discard write zero_and_unmap"),
    "bitmap": ("cluster_size=512", BASE, ["bitmap --add -g 512 b", "bitmap --add other"],
               "write change_bitmaps write flush grow change_bitmaps"),
    "lazy": ("cluster_size=512,lazy_refcounts=on", BASE, [],
             "write flush write create_snapshot write make_empty write"),
    "backing": ("cluster_size=512", BASE, ["rebase -u -b disk -F raw"],
                "read map write zero discard read"),
    "data-file": ("cluster_size=512,data_file=data,data_file_raw=on", BASE, [],
                  "read map write discard write_compressed grow"),
    "metadata": ("cluster_size=512,preallocation=metadata", BASE, [],
                 "write zero_and_unmap shrink write grow map"),
}


def tool(name, *words, cwd):
    subprocess.run([BIN / name, *words], cwd=cwd, check=True, capture_output=True, timeout=60)


def put(target, name, data):
    (CORPUS / target).mkdir(parents=True, exist_ok=True)
    (CORPUS / target / name).write_bytes(data)


def number(image, at, kind="Q"):
    return struct.unpack_from(">" + kind, image, at)[0]


def make_image(directory, name):
    options, writes, commands, _ = IMAGES[name]
    tool("strata-img", "create", "-q", "-f", "qcow2", "-o", options, name, "64k", cwd=directory)
    words = [word for write in writes for word in ("-c", write)]
    tool("strata-io", "-f", "qcow2", *words, name, cwd=directory)
    for command in commands:
        verb, *rest = command.split()
        if verb == "bitmap":
            rest.insert(len(rest) - 1, name)
        else:
            rest.append(name)
        tool("strata-img", verb, *rest, cwd=directory)
    return (directory / name).read_bytes()


def steps(words):
    row = bytes(STEPS.index(word) | place % 16 << 4 for place, word in enumerate(words.split()))
    return row.ljust(15, b"\0")


def put_image(name, image):
    flags = WRITABLE | CHECK_FIRST | MEND
    if name in ("plain", "bitmap"):
        flags |= BITMAPS_AHEAD
    if name == "backing":
        flags |= WITH_BACKING
    put("qcow2-image", name, bytes([flags]) + steps(IMAGES[name][3]) + image)
    if name == "snapshots":
        put("qcow2-image", "readonly", bytes([CHECK_FIRST]) + steps("read map apply_snapshot read")
            + image)


def put_parts(name, image):
    """The tables of an image, each for the fuzzer of its codec."""
    bits, version = number(image, 20, "I"), number(image, 4, "I")
    cluster = 1 << bits
    put("qcow2-header", name, b"\1" + image[:min(cluster, 1024)])
    extended = version >= 3 and number(image, 72) & 16 != 0
    l2 = number(image, number(image, 40)) & 0x00fffffffffffe00
    shape = bytes([bits - 9, extended | (version == 2) << 1 | (name == "data-file") << 2])
    put("qcow2-l2", name, shape + struct.pack("<I", 512) + image[l2:l2 + min(cluster, 512)])
    order = number(image, 96, "I") if version >= 3 else 4
    block = number(image, number(image, 48))
    put("qcow2-refcounts", f"order-{order}", bytes([order]) + image[block:block + 512])
    if name == "snapshots":
        table = number(image, 64)
        put("qcow2-snapshots", name, struct.pack("<Q", 65536) + image[table:table + cluster])
    if name == "bitmap":
        at = image.index(struct.pack(">I", 0x23852875)) + 8
        count, size, directory = struct.unpack_from(">I4xQQ", image, at)
        put("qcow2-bitmaps", name, bytes([count, bits - 9]) + struct.pack("<Q", 65536 << 1)
            + image[directory:directory + size])


def put_luks(directory):
    """The header has no key that opens it: the key material is cut off."""
    for name, cipher in (("xts", "aes-256"), ("small", "aes-128")):
        tool("strata-img", "create", "-q", "-f", "luks", "--object", "secret,id=s,data=x", "-o",
             f"key-secret=s,iter-time=1,cipher-alg={cipher}", "luks", "1M", cwd=directory)
        header = (directory / "luks").read_bytes()[:592]
        put("luks", name, b"\2" + header)
    put("luks", "essiv", b"\2" + header.replace(b"xts-plain64".ljust(32, b"\0"),
                                                b"cbc-essiv:sha256".ljust(32, b"\0")))


def put_texts():
    put("json", "command", b'\7{"execute": "blockdev-add", "arguments": {"driver": "qcow2", '
        b'"file": {"driver": "file", "filename": "a"}, "read-only": true}}\n')
    put("json", "values", b'\3[1, -2, 3.5e7, "a\\u00e9\\n", null, true, {}, []]\n')
    put("json", "broken", b'\5{"a": [1, 2\xff, "\n{"b": 1}\n')
    put("keyval", "blockdev", b"driver=qcow2,file.driver=file,file.filename=a,,b,read-only=on")
    put("keyval", "object", b"throttle-group,id=t,x-iops-total=7,limits.bps-read=9")
    put("keyval", "json", b'{"driver": "null-co", "size": 7}')
    put("nbd-codec", "go", b"\0" + struct.pack(">I", 4) + b"disk" + struct.pack(">HHH", 2, 3, 1))
    put("nbd-codec", "meta", b"\1" + struct.pack(">I", 4) + b"disk" + struct.pack(">I", 2)
        + struct.pack(">I", 15) + b"base:allocation" + struct.pack(">I", 5) + b"qemu:")
    put("nbd-codec", "request", b"\2" + struct.pack(">IHHQQQ", 0x21e41c71, 0, 0, 7, 512, 4096))
    put("nbd-codec", "status", b"\1" + struct.pack(">IIIII", 1, 65536, 3, 65536, 0))


def main():
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        for name in IMAGES:
            image = make_image(place, name)
            put_image(name, image)
            put_parts(name, image)
        put_luks(place)
    put_texts()


if __name__ == "__main__":
    main()
