# SPDX-License-Identifier: GPL-2.0-or-later
"""Whoever goes through all of a disk ends in 10 seconds of processor time and 64 MiB of memory, if
the image has no more than a MiB: it is told that it says more than can be. See claims.py.

CVE-2015-5162: qemu-img could be kept busy for ever.
"""

import json
import os
import struct
import subprocess
from pathlib import Path

import claims
import pytest
from support.measure import Run

BUILD = Path(os.environ.get("STRATA_BUILD", Path(__file__).resolve().parents[3] / "build"))
IMG, IO = BUILD / "bin/strata-img", BUILD / "bin/strata-io"
ENDLESS = f"driver=null-co,size={1 << 62}"
REFUSAL = "says that more is in it than its "

pytestmark = pytest.mark.skipif(not IMG.exists(), reason="needs our tools")

COMMANDS = {
    "map": [IMG, "map", "a"],
    "compare": [IMG, "compare", "a", "a"],
    "compare-progress": [IMG, "compare", "-p", "a", "a"],
    "measure": [IMG, "measure", "-O", "qcow2", "a"],
    "convert": [IMG, "convert", "-n", "--target-image-opts", "a", ENDLESS],
    "pack": [IMG, "convert", "-c", "-O", "qcow2", "-o", "cluster_size=2M,compression_type=zstd",
             "a", "out"],
    "io-map": [IO, "-r", "-f", "qcow2", "-c", "map", "a"],
    "io-alloc": [IO, "-r", "-f", "qcow2", "-c", "alloc 0 4E", "a"],
}
COPIES = {
    "map-json": [IMG, "map", "--output=json", "a"],
    "convert-qcow2": [IMG, "convert", "-O", "qcow2", "-o", "cluster_size=2M", "a", "out"],
    "convert-progress": [IMG, "convert", "-p", "-O", "qcow2", "-o", "cluster_size=2M", "a", "out"],
    "salvage": [IMG, "convert", "--salvage", "-O", "qcow2", "-o", "cluster_size=2M", "a",
                "out"],
    "dd": [IMG, "dd", "-O", "qcow2", "if=a", "of=out"],
    "rebase": [IMG, "rebase", "-b", "", "over"],
    "commit": [IMG, "commit", "a"],
}


def img(*words, cwd):
    return subprocess.run([IMG, *map(str, words)], cwd=cwd, capture_output=True, text=True,
                          timeout=120, check=True)


def io(*commands, image, cwd):
    words = [word for command in commands for word in ("-c", command)]
    subprocess.run([IO, *image, *words], cwd=cwd, capture_output=True, timeout=120, check=True)


def refuse(run):
    """Some of it may be no more than what can be: then it was done."""
    run.assert_modest()
    assert 0 <= run.status <= 3, run.err
    assert run.status == 0 or REFUSAL in run.err, run.err


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("name", claims.IMAGES)
def test_an_image_that_says_too_much_is_refused_soon(tmp_path, name, command):
    claims.IMAGES[name]().save(tmp_path / "a")
    refuse(Run(COMMANDS[command], tmp_path))


@pytest.mark.parametrize("command", COPIES)
@pytest.mark.parametrize("name", claims.LIGHT)
def test_what_an_image_that_says_too_much_has_is_not_copied_for_ever(tmp_path, name, command):
    image = claims.LIGHT[name]()
    if command == "commit":
        image.backed_by("base")
        img("create", "-q", "-f", "qcow2", "-o", "cluster_size=2M", "base", image.size,
            cwd=tmp_path)
    image.save(tmp_path / "a")
    if command == "rebase":
        img("create", "-q", "-u", "-f", "qcow2", "-b", "a", "-F", "qcow2", "-o", "cluster_size=2M",
            "over", image.size, cwd=tmp_path)
    refuse(Run(COPIES[command], tmp_path))


def test_a_snapshot_that_says_too_much_is_refused_soon(tmp_path):
    image = claims.one_cluster()
    entry = struct.pack(">QIHHIIQIIQQQ", image.l1, image.size // (image.per_table * image.cluster),
                        1, 1, 0, 0, 0, 0, 24, 0, image.size, 0) + b"1s"
    image.poke(60, ">IQ", 1, image.place(entry))
    image.save(tmp_path / "a")
    run = Run([IMG, "convert", "-l", "s", "-n", "--target-image-opts", "a",
               ENDLESS], tmp_path)
    refuse(run)
    assert run.status == 1


CIPHERS = {
    "cast5": "cipher-alg=cast5-128,encrypt.cipher-mode=cbc,encrypt.ivgen-alg=plain64",
    "serpent": "cipher-alg=serpent-256,encrypt.cipher-mode=xts",
    "twofish": "cipher-alg=twofish-128,encrypt.cipher-mode=xts",
}
ENCRYPTED = {
    "compare": ["compare", *claims.SECRET, claims.OPTIONS, claims.OPTIONS],
    "convert": ["convert", *claims.SECRET, "-n", "--target-image-opts", claims.OPTIONS, ENDLESS],
    "copy": ["convert", *claims.SECRET, "-O", "qcow2", claims.OPTIONS, "out"],
    "map": ["map", *claims.SECRET, claims.OPTIONS],
    "measure": ["measure", *claims.SECRET, "-O", "qcow2", claims.OPTIONS],
    "dd": ["dd", *claims.SECRET, "-O", "qcow2", f"if={claims.OPTIONS}", "of=out"],
    "commit": ["commit", *claims.SECRET, claims.OPTIONS],
    "rebase": ["rebase", *claims.SECRET, "-b", "", claims.OPTIONS],
}


@pytest.mark.parametrize("command", ENCRYPTED)
@pytest.mark.parametrize("cipher", CIPHERS)
def test_what_is_encrypted_slowly_is_not_decrypted_for_ever(tmp_path, cipher, command):
    img("create", "-q", "-f", "qcow2", "base", "1M", cwd=tmp_path)
    img("create", "-q", "-f", "qcow2", "--object", "secret,id=s,data=x", "-o",
        "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10,encrypt." + CIPHERS[cipher],
        *(["-b", "base", "-F", "qcow2"] if command == "commit" else []), "a", "64M", cwd=tmp_path)
    claims.claim_one_cluster(tmp_path / "a")
    refuse(Run([IMG, *ENCRYPTED[command]], tmp_path))


def test_the_hole_behind_what_is_counted_is_not_gone_through(tmp_path):
    img("create", "-q", "-f", "qcow2", "-o", "cluster_size=512,refcount_bits=64", "a", "64M",
        cwd=tmp_path)
    io("write 0 1M", image=["-f", "qcow2", "a"], cwd=tmp_path)
    os.truncate(tmp_path / "a", 15 << 40)
    run = Run(COMMANDS["map"], tmp_path)
    run.assert_modest()
    assert run.status == 0


def test_an_image_inside_an_image_may_be_packed(tmp_path):
    img("create", "-q", "-f", "qcow2", "-o", "compression_type=zstd", "a", "3G", cwd=tmp_path)
    io("write -c -P 0x55 0 2000M", image=["-f", "qcow2", "a"], cwd=tmp_path)
    assert (tmp_path / "a").stat().st_size < 3 << 20
    inner = "driver=raw,file.driver=qcow2,file.file.filename=a"
    img("compare", "--image-opts", inner, "driver=qcow2,file.filename=a", cwd=tmp_path)


def test_each_of_a_chain_may_claim_no_more_than_alone(tmp_path):
    """The chain was allowed what one byte may stand for, for all of its bytes but a MiB."""
    for n in range(3):
        claims.alternating().backed_by(f"a{n + 1}").save(tmp_path / (f"a{n}" if n else "a"))
    claims.one_cluster().save(tmp_path / "a3")
    run = Run([IMG, "compare", "a", "a"], tmp_path)
    run.assert_modest()
    assert REFUSAL in run.err


def test_an_encrypted_disk_may_be_full(tmp_path):
    img("create", "-q", "-f", "qcow2", "--object", "secret,id=s,data=x", "-o",
        "encrypt.format=aes,encrypt.key-secret=s", "a", "160M", cwd=tmp_path)
    io("write -P 7 0 160M", image=[*claims.SECRET, claims.OPTIONS], cwd=tmp_path)
    for command in ("compare", "measure"):
        img(*ENCRYPTED[command], cwd=tmp_path)
    img("convert", *claims.SECRET, "-O", "raw", claims.OPTIONS, "out", cwd=tmp_path)
    assert (tmp_path / "out").read_bytes() == b"\7" * (160 << 20)


@pytest.mark.parametrize("version,command", [
    (2, ["resize", "--shrink", "a", "1M"]), (3, ["resize", "--shrink", "a", "1M"]),
    (2, ["commit", "a"]),  # with version 3 the image starts over
], ids=["shrink-2", "shrink-3", "commit-2"])
def test_more_tables_than_clusters_are_not_gone_through(tmp_path, version, command):
    image = claims.Claim(version=version)
    image.disk(image.table(0)).backed_by("base")
    image.save(tmp_path / "a")
    img("create", "-q", "-f", "qcow2", "base", image.size, cwd=tmp_path)
    run = Run([IMG, *command], tmp_path)
    run.assert_modest()
    assert run.status == 1


def test_a_disk_that_is_one_byte_all_over_may_be_packed_as_densely_as_can_be(tmp_path):
    img("create", "-q", "-f", "qcow2", "-o", "compression_type=zstd", "a", "1G", cwd=tmp_path)
    io("write -c -P 0x55 0 256M", image=["-f", "qcow2", "a"], cwd=tmp_path)
    assert (tmp_path / "a").stat().st_size < 1 << 20
    img("map", "--output=json", "a", cwd=tmp_path)
    img("compare", "a", "a", cwd=tmp_path)
    img("convert", "-c", "-O", "qcow2", "a", "b", cwd=tmp_path)
    assert img("compare", "a", "b", cwd=tmp_path).stdout == "Images are identical.\n"


def test_a_table_may_be_full_of_what_alternates(tmp_path):
    """Every other cluster of a disk is zeroes, over one that is full."""
    img("create", "-q", "-f", "raw", "base", "32M", cwd=tmp_path)
    io("write -P 3 0 32M", image=["-f", "raw", "base"], cwd=tmp_path)
    img("create", "-q", "-f", "qcow2", "-b", "base", "-F", "raw", "-o", "cluster_size=512", "a",
        cwd=tmp_path)
    image = bytearray((tmp_path / "a").read_bytes())
    l1 = struct.unpack_from(">Q", image, 40)[0]
    end = (len(image) + 511) // 512 * 512
    image.extend(bytes(end - len(image)))
    table = struct.pack(">QQ", claims.ZERO, 0) * 32
    for n in range(1024):
        struct.pack_into(">Q", image, l1 + 8 * n, claims.COPIED | end + 512 * n)
    (tmp_path / "a").write_bytes(image + table * 1024)
    img("rebase", "-q", "-u", "-b", "base", "-F", "raw", "a", cwd=tmp_path)
    for command in (["map"], ["convert", "-O", "raw", "a", "out"], ["dd", "if=a", "of=out"]):
        img(*command, *(["a"] if command == ["map"] else []), cwd=tmp_path)
    assert (tmp_path / "out").read_bytes() == (bytes(512) + b"\3" * 512) * (32 << 10)


@pytest.mark.parametrize("block", [512, 1000, 65536, 4 << 20])
def test_dd_copies_data_and_leaves_holes_where_nothing_is(tmp_path, block):
    img("create", "-q", "-f", "qcow2", "a", "64M", cwd=tmp_path)
    io("write -P 1 100k 70k", "write -P 2 5M 3M", "write -P 3 60M 4M",
       image=["-f", "qcow2", "a"], cwd=tmp_path)
    img("convert", "-O", "raw", "a", "expected", cwd=tmp_path)
    img("dd", f"bs={block}", "if=a", "of=out", cwd=tmp_path)
    expected = (tmp_path / "expected").read_bytes()
    assert (tmp_path / "out").read_bytes() == expected
    assert (tmp_path / "out").stat().st_blocks * 512 < 16 << 20
    img("dd", f"bs={block}", "skip=3", "count=5", "-O", "qcow2", "if=a", "of=part", cwd=tmp_path)
    img("convert", "-O", "raw", "part", "part.raw", cwd=tmp_path)
    part = (tmp_path / "part.raw").read_bytes()
    assert part.rstrip(b"\0") == expected[3 * block:8 * block].rstrip(b"\0")


@pytest.mark.parametrize("cluster", [512, 4096, 65536])
def test_commit_copies_what_lies_in_many_pieces(tmp_path, cluster):
    """And zeroes among them, and leaves alone what is not there."""
    img("create", "-q", "-f", "qcow2", "base", "32M", cwd=tmp_path)
    io("write -P 9 0 32M", image=["-f", "qcow2", "base"], cwd=tmp_path)
    img("create", "-q", "-f", "qcow2", "-b", "base", "-F", "qcow2", "-o",
        f"cluster_size={cluster}", "a", cwd=tmp_path)
    few = [f"write -P {n % 7 + 1} {2 * n * cluster} {cluster}" for n in range(40, 0, -1)]
    zeroes = [f"write -z {(4 * n + 1) * cluster} {cluster}" for n in range(15)]
    large = ["write -z 16M 3M", "write -P 5 20M 5M", "write -z 24M 1M", "write -P 6 31M 1M"]
    io(*few, *zeroes, *large, image=["-f", "qcow2", "a"], cwd=tmp_path)
    img("convert", "-O", "raw", "a", "expected", cwd=tmp_path)
    img("commit", "-q", "a", cwd=tmp_path)
    img("convert", "-O", "raw", "base", "found", cwd=tmp_path)
    assert (tmp_path / "found").read_bytes() == (tmp_path / "expected").read_bytes()
    holes = [run for run in json.loads(img("map", "--output=json", "base", cwd=tmp_path).stdout)
             if run["zero"] and run["length"] >= 1 << 20]
    assert [run["length"] >> 20 for run in holes] == [3, 1]


def test_dd_copies_the_blocks_before_one_that_cannot_be_read(tmp_path):
    (tmp_path / "a").write_bytes(b"\7" * (1 << 20))
    (tmp_path / "rules").write_text(
        '[inject-error]\nevent = "none"\nerrno = "5"\nsector = "1000"\niotype = "read"\n'
        'immediately = "on"\nonce = "off"\n')
    run = Run([IMG, "dd", "bs=4096", "if=blkdebug:rules:a", "of=out"], tmp_path)
    assert run.status == 1
    assert "error while reading from input image file: Input/output error" in run.err
    good = 1000 * 512 // 4096 * 4096
    assert (tmp_path / "out").read_bytes()[:good] == b"\7" * good
