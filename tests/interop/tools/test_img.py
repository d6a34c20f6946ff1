# SPDX-License-Identifier: GPL-2.0-or-later
"""What strata-img prints, returns and leaves behind is what qemu-img does."""

import hashlib
import re
import shutil
import subprocess
from pathlib import Path

import pytest

import compare

pytestmark = pytest.mark.skipif(
    not (compare.available("qemu-img") and compare.available("qemu-io")),
    reason="needs both programs")

SHORT = {
    "@s": "--object secret,id=s,data=hunter0",
    "@t": "--object secret,id=t,data=hunter1",
    "@luks=": "--image-opts driver=luks,file.filename=l,key-secret=",
    "@json": '"encrypt.key-secret":"t","file.filename":"q"',
    "@enc=": "encrypt.format=luks,encrypt.key-secret=",
    "@qcow2=": "--image-opts driver=qcow2,file.filename=q,encrypt.key-secret=",
}


def words(line):
    for short, long in SHORT.items():
        line = line.replace(short, long)
    return line.split(" ")


SESSIONS = [[words(line) for line in session.split("\n") if not line.startswith("#")]
            for session in Path(__file__).with_name("img_sessions.txt")
            .read_text(encoding="utf-8").strip().split("\n\n")]

# Where these programs speak as QEMU 10 does, or look at a name earlier, and Debian's is older.
NEWER = [
    # a command's own help is pointed to
    (r"Try 'qemu-img( \w+)? --help' for more information", "Try --help"),
    # info tells of the file below
    (r"(?m)^( *)Child node '/.*\n(\1    .*\n)*", ""),
    (r"(?m)^ *disk size: .*\n", ""),
    (r"qemu-img: --output expects 'human' or 'json', not '.*'\nTry --help",
     "qemu-img: --output must be used with human or json as argument."),
    (r"qemu-img: Value '.*' is out of range for parameter 'size'\n",
     "qemu-img: Parameter 'size' expects a non-negative number below 2^64\n"
     "Optional suffix k, M, G, T, P or E means kilo-, mega-, giga-, tera-, peta-\n"
     "and exabytes, respectively.\n"),
]


def qemu(*arguments, cwd):
    return subprocess.run(arguments, cwd=cwd, check=True, capture_output=True, timeout=60)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A chain of three, an image beside it and a raw disk."""
    place = tmp_path_factory.mktemp("images")
    (place / "a.raw").write_bytes(bytes(range(256)) * 4096)
    qemu("qemu-img", "create", "-f", "qcow2", "base.qcow2", "1M", cwd=place)
    for overlay, below in (("mid", "base"), ("top", "mid")):
        qemu("qemu-img", "create", "-f", "qcow2", "-b", below + ".qcow2", "-F", "qcow2",
             overlay + ".qcow2", cwd=place)
    qemu("qemu-img", "create", "-f", "qcow2", "-o", "cluster_size=4k", "other.qcow2", "1536k",
         cwd=place)
    for image, commands in {
            "base": ["write -P 1 0 512k", "write -z 192k 64k", "write -z -u 256k 64k"],
            "mid": ["write -P 2 64k 64k", "write -z 512k 64k"],
            "top": ["write -P 3 128k 64k", "write -P 4 320k 1k", "write -z 700k 8k"],
            "other": ["write -P 1 0 300k", "write -P 9 600k 64k"]}.items():
        words = [word for command in commands for word in ("-c", command)]
        qemu("qemu-io", *words, image + ".qcow2", cwd=place)
    return place


def newer(text):
    for pattern, replacement in NEWER:
        text = re.sub(pattern, replacement, text)
    return text


def contents(place):
    """What a guest would read from each image as QEMU reads it, and whether that is sound."""
    found = {}
    for path in sorted(place.iterdir()):
        done = subprocess.run(["qemu-img", "convert", "-O", "raw", path.name, "raw.tmp"], cwd=place,
                              capture_output=True, check=False, timeout=60)
        checked = subprocess.run(["qemu-img", "check", path.name], cwd=place, capture_output=True,
                                 check=False, timeout=60)
        data = (place / "raw.tmp").read_bytes() if done.returncode == 0 else b""
        found[path.name] = (done.returncode, len(data), hashlib.sha256(data).hexdigest(),
                            checked.returncode)
        (place / "raw.tmp").unlink(missing_ok=True)
    return found


@pytest.mark.parametrize("session", SESSIONS, ids=lambda session: " ".join(session[0]))
def test_it_does_as_qemu_img(tmp_path, images, session):
    sides = []
    for name, program in (("ours", compare.OURS / "qemu-img"), ("qemu", shutil.which("qemu-img"))):
        place = tmp_path / name
        shutil.copytree(images, place)
        log = []
        for line in session:
            status, out, err = compare.run(program, line, place)
            log.append((" ".join(line), status, newer(out), newer(err)))
        sides.append((log, contents(place)))
    (ours, left_by_us), (theirs, left_by_qemu) = sides
    assert ours == theirs
    assert left_by_us == left_by_qemu
