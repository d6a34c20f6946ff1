# SPDX-License-Identifier: GPL-2.0-or-later
"""LUKS hardening (2022): headers that lie are refused as QEMU refuses them, in a volume of their
own and inside a qcow2 image, before any of it is believed."""

import resource
import shutil
import struct
import subprocess

import pytest

import compare

pytestmark = pytest.mark.skipif(
    not (compare.available("qemu-img") and compare.available("qemu-io")),
    reason="needs the programs of both")

SECRET = ["--object", "secret,id=s,data=abc"]
SLOT = 208
IMAGES = {"luks": "driver=luks,key-secret=s,file.filename=x",
          "qcow2": "driver=qcow2,encrypt.key-secret=s,file.filename=x"}


def u32(value):
    return struct.pack(">I", value)


# A name, and what is poked where. QEMU 7.2 divides by a key of 0 bytes.
POKES = {
    "no magic": (0, b"LUKX"),
    "version 0": (6, b"\0\0"),
    "version 2": (6, b"\0\2"),
    "cipher without an end": (8, b"a" * 32),
    "mode without an end": (40, b"a" * 32),
    "hash without an end": (72, b"a" * 32),
    "cipher that is not known": (8, b"rot13\0"),
    "mode without a dash": (40, b"xtsplain64\0"),
    "mode that is not known": (40, b"ecc-plain64\0"),
    "generator that is not known": (40, b"xts-random\0"),
    "essiv without a hash": (40, b"cbc-essiv\0"),
    "hash that is not known": (72, b"md4\0"),
    "payload at the front": (104, u32(0)),
    "payload in the header": (104, u32(1)),
    "payload in the key material": (104, u32(100)),
    "key of a byte": (108, u32(1)),
    "key of 2 GiB": (108, u32(0x7fffffff)),
    "key that wraps": (108, u32(0xffffffff)),
    "digest of no iterations": (164, u32(0)),
    "slot without a state": (SLOT, u32(7)),
    "slot of no iterations": (SLOT + 4, u32(0)),
    "slot in the header": (SLOT + 40, u32(0)),
    "slot in the payload": (SLOT + 40, u32(0xfffffff)),
    "slot that wraps": (SLOT + 40, u32(0xffffffff)),
    "slot over another": (SLOT + 48 + 40, u32(9)),
    "slot of one stripe": (SLOT + 44, u32(1)),
    "slot of no stripes": (SLOT + 44, u32(0)),
    "idle slot of 2^32 - 1 stripes": (SLOT + 7 * 48 + 44, u32(0xffffffff)),
}


# What is refused before QEMU would have got that far.
DIFFERENT = {"key of 2 GiB", "key that wraps", "slot that wraps"}


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    directory = tmp_path_factory.mktemp("luks")
    made = {}
    for name, options in (("luks", "key-secret=s,iter-time=1"),
                          ("qcow2", "encrypt.format=luks,encrypt.key-secret=s,"
                                    "encrypt.iter-time=1")):
        subprocess.run([compare.OURS / "qemu-img", "create", "-q", *SECRET, "-f", name, "-o",
                        options, directory / name, "1M"], check=True, timeout=60)
        made[name] = (directory / name).read_bytes()
    return made


@pytest.mark.parametrize("name", POKES)
@pytest.mark.parametrize("kind", IMAGES)
def test_luks_hardening_a_header_is_judged_as_qemu_does(images, tmp_path, kind, name):
    image = bytearray(images[kind])
    start = image.index(b"LUKS\xba\xbe")
    offset, data = POKES[name]
    image[start + offset:start + offset + len(data)] = data
    results = []
    for program in (compare.OURS / "qemu-io", shutil.which("qemu-io")):
        (tmp_path / "x").write_bytes(image)
        done = subprocess.run([program, *SECRET, "-c", "read 0 512", "--image-opts", IMAGES[kind]],
                              cwd=tmp_path, capture_output=True, text=True, timeout=60,
                              check=False)
        results.append((done.returncode, done.stderr))
    ours, qemu = results
    assert ours[0] == 1 and ours[1].startswith("qemu-io: can't open: ")
    assert ours == qemu or name in DIFFERENT


def read(place, kind, options="", secret=SECRET):
    return subprocess.run([compare.OURS / "qemu-io", *secret, "-c", "read 0 512", "--image-opts",
                           IMAGES[kind] + options], cwd=place, capture_output=True, text=True,
                          timeout=55, check=False)


def with_iterations(image, *places):
    """2^32 - 1 of them, which would be an hour."""
    changed = bytearray(image)
    start = changed.index(b"LUKS\xba\xbe")
    for place in places:
        struct.pack_into(">I", changed, start + place, 0xffffffff)
    return changed


def with_every_slot_in_use(image):
    changed = bytearray(image)
    start = changed.index(b"LUKS\xba\xbe") + SLOT
    for slot in range(8):
        struct.pack_into(">I", changed, start + slot * 48, 0x00ac71f3)
    return changed


def test_luks_hardening_eight_slots_share_ten_seconds(images, tmp_path):
    image = with_iterations(with_every_slot_in_use(images["luks"]),
                            *(SLOT + 4 + slot * 48 for slot in range(8)))
    (tmp_path / "x").write_bytes(image)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = read(tmp_path, "luks")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    slots = ", ".join(f"{slot} (4294967295 iterations)" for slot in range(8))
    assert (done.returncode, done.stdout) == (1, "")
    assert f"Keyslots not tried, as it takes more than 10 seconds: {slots}; " in done.stderr
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 12


@pytest.mark.parametrize("kind,option", [("luks", ",unlock-time=1"),
                                         ("qcow2", ",encrypt.unlock-time=1")])
def test_luks_hardening_iterations_of_the_digest_end_with_the_time(images, tmp_path, kind, option):
    (tmp_path / "x").write_bytes(with_iterations(images[kind], 164))
    done = read(tmp_path, kind, option)
    assert done.returncode == 1
    assert "takes more than 1 seconds: 0 (" in done.stderr
    assert "the master key digest has 4294967295 iterations" in done.stderr


def test_a_slot_that_takes_too_long_leaves_time_for_the_others(images, tmp_path):
    (tmp_path / "x").write_bytes(images["luks"])
    new = ["--object", "secret,id=n,data=def"]
    subprocess.run([compare.OURS / "qemu-img", "amend", *SECRET, *new, "--image-opts",
                    IMAGES["luks"], "-o", "state=active,new-secret=n,iter-time=1"], cwd=tmp_path,
                   check=True, timeout=60)
    (tmp_path / "x").write_bytes(with_iterations((tmp_path / "x").read_bytes(), SLOT + 4))
    done = read(tmp_path, "luks", secret=["--object", "secret,id=s,data=def"])
    assert (done.returncode, done.stderr) == (0, "")
    done = read(tmp_path, "luks", ",unlock-time=1", ["--object", "secret,id=s,data=ghi"])
    assert done.returncode == 1
    assert "takes more than 1 seconds: 0 (4294967295 iterations); " in done.stderr


def test_a_costly_slot_opens_where_its_time_is_allowed(tmp_path):
    subprocess.run([compare.OURS / "qemu-img", "create", "-q", *SECRET, "-f", "luks", "-o",
                    "key-secret=s,hash-alg=sha512,iter-time=2500", "x", "1M"], cwd=tmp_path,
                   check=True, timeout=60)
    assert "takes more than 1 seconds" in read(tmp_path, "luks", ",unlock-time=1").stderr
    for allowed in ("", ",unlock-time=0", ",unlock-time=1000"):
        done = read(tmp_path, "luks", allowed)
        assert (done.returncode, done.stderr) == (0, "")
