# SPDX-License-Identifier: GPL-2.0-or-later
"""Guests that make their raw disks look like images of other formats, so that whoever opens them
next and guesses, opens something else: CVE-2008-2004, CVE-2008-1945, CVE-2026-27211,
CVE-2026-24708. And requests that lie outside of a disk: CVE-2008-0928."""

import struct
import subprocess

import pytest

import compare

IMG, IO = compare.OURS / "qemu-img", compare.OURS / "qemu-io"
pytestmark = pytest.mark.skipif(not IO.exists(), reason="needs the programs")

MIB = 1 << 20
# What the first bytes of a disk of each format are.
HEADERS = {
    "qcow2": b"QFI\xfb\0\0\0\3", "qcow": b"QFI\xfb\0\0\0\1", "vmdk": b"KDMV\1\0\0\0",
    "vmdk-text": b"# Disk DescriptorFile\nversion=1\n", "vpc": b"conectix", "vhdx": b"vhdxfile",
    "qed": b"QED\0", "luks": b"LUKS\xba\xbe\0\1", "parallels": b"WithoutFreeSpace\2\0\0\0",
    "vdi": bytes(64) + b"\x7f\x10\xda\xbe\1\0\1\0",
}


def run(program, *words, cwd, status=0):
    done = subprocess.run([program, *words], cwd=cwd, capture_output=True, text=True, timeout=60,
                          check=False)
    assert status is None or done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


def io(*commands, cwd, options=(), status=0):
    words = [word for command in commands for word in ("-c", command)]
    return run(IO, *options, *words, "disk", cwd=cwd, status=status)


@pytest.fixture
def disk(tmp_path):
    path = tmp_path / "disk"
    path.write_bytes(b"\x55" * 4096 + bytes(MIB - 4096))
    return path


@pytest.mark.parametrize("name", HEADERS)
def test_cve_2008_2004_a_guessed_raw_disk_takes_no_header(disk, name):
    """At once, in parts, or together with what lies around it."""
    before = disk.read_bytes()
    header = HEADERS[name].ljust(512, b"\0")
    (disk.parent / "header").write_bytes(header)
    (disk.parent / "around").write_bytes(header + b"\1" * 65536)
    for command in ("write -s header 0 512", "write -s around 0 64k", "write -f -s header 0 512"):
        output = io(command, cwd=disk.parent, status=None)
        assert "Operation not permitted" in output, command
        assert disk.read_bytes() == before


def test_cve_2008_2004_a_header_is_not_put_together(disk):
    """Each half is nothing by itself."""
    (disk.parent / "a").write_bytes(b"QF")
    (disk.parent / "b").write_bytes(b"I\xfb\0\0\0\3")
    io("write -s a 0 2", cwd=disk.parent)
    output = io("write -s b 2 6", cwd=disk.parent, status=None)
    assert "Operation not permitted" in output
    assert disk.read_bytes()[:4] == b"QF\x55\x55"


def test_cve_2008_2004_what_is_named_raw_may_hold_anything(disk):
    (disk.parent / "header").write_bytes(HEADERS["qcow2"].ljust(512, b"\0"))
    io("write -s header 0 512", cwd=disk.parent, options=["-f", "raw"])
    assert disk.read_bytes()[:8] == HEADERS["qcow2"]


@pytest.mark.parametrize("command", ["write -z 0 64", "write -z 0 512", "discard 0 512",
                                     "write -z -u 0 4k"])
def test_cve_2026_27211_zeroes_uncover_no_header(disk, command):
    """Of a guessed raw disk they leave nothing else; what is not guessed raw takes none."""
    output = io(command, cwd=disk.parent)
    assert "failed" not in output
    assert "file format: raw" in run(IMG, "info", "disk", cwd=disk.parent)
    before = HEADERS["vdi"] + bytes(MIB - len(HEADERS["vdi"]))  # its first 64 bytes are any text
    disk.write_bytes(b"X" + before[1:])
    output = io(command, cwd=disk.parent, status=1)
    assert "Image is in vdi format, which is not built" in output
    assert disk.read_bytes() == b"X" + before[1:]


def evil_disk(path, backing):
    """What a guest that was given `path` as a raw disk may leave in it."""
    run(IMG, "create", "-q", "-u", "-f", "qcow2", "-F", "raw", "-b", backing, path.name, "8M",
        cwd=path.parent)


def test_cve_2026_27211_a_raw_disk_that_became_an_image_leads_nowhere_else(tmp_path):
    """Named raw, as a cloud must name it, it stays raw; and no copy of it holds the secret."""
    (tmp_path / "secret").write_bytes(b"hidden" * 1000)
    disk = tmp_path / "disk"
    evil_disk(disk, "secret")
    run(IMG, "convert", "-f", "raw", "-O", "raw", "disk", "copy", cwd=tmp_path)
    assert b"hidden" not in (tmp_path / "copy").read_bytes()
    assert "file format: raw" in run(IMG, "info", "-f", "raw", "disk", cwd=tmp_path)


@pytest.mark.parametrize("command", ["resize disk 16M", "resize --shrink disk 1M",
                                     "snapshot -c s disk", "check -r all disk"])
def test_cve_2026_24708_a_guessed_image_brings_nothing_in(tmp_path, command):
    """What is done to an image without naming its format changes no other file, nor reads one
    into it."""
    secret = tmp_path / "secret"
    secret.write_bytes(b"hidden" * 1000)
    disk = tmp_path / "disk"
    evil_disk(disk, "secret")
    run(IMG, *command.split(), cwd=tmp_path, status=None)
    assert secret.read_bytes() == b"hidden" * 1000
    assert b"hidden" not in disk.read_bytes()


# Requests outside of the disk.

@pytest.mark.parametrize("image_format", ["raw", "qcow2"])
@pytest.mark.parametrize("offset", [MIB - 511, MIB, (1 << 63) - 512])
@pytest.mark.parametrize("command", ["read", "write", "write -z", "discard", "aio_read",
                                     "aio_write", "write -c"])
def test_cve_2008_0928_requests_outside_fail_and_nothing_grows(tmp_path, image_format, offset,
                                                               command):
    disk = tmp_path / "disk"
    run(IMG, "create", "-q", "-f", image_format, "disk", "1M", cwd=tmp_path)
    size, blocks = disk.stat().st_size, disk.stat().st_blocks
    output = io(f"{command} {offset} 512", "aio_flush", cwd=tmp_path,
                options=["-f", image_format], status=None)
    assert "failed: " in output or "not supported" in output or "aligned" in output, output
    assert (disk.stat().st_size, disk.stat().st_blocks) == (size, blocks)


@pytest.mark.parametrize("length", ["3G", "5G"])
def test_cve_2014_0143_requests_beyond_int_max_are_done_whole(tmp_path, length):
    run(IMG, "create", "-q", "-f", "qcow2", "disk", "8G", cwd=tmp_path)
    io("write -P 7 0 64k", "write -P 7 2G 64k", "write -P 7 6G 64k", cwd=tmp_path,
       options=["-f", "qcow2"])
    output = io(f"write -z 0 {length}", cwd=tmp_path, options=["-f", "qcow2"], status=None)
    assert output.strip() == f"length cannot exceed 2147483136 without -n, given {length}"
    output = io(f"write -z -n 0 {length}", cwd=tmp_path, options=["-f", "qcow2"])
    assert f"wrote {int(length[0]) << 30}/{int(length[0]) << 30} bytes at offset 0" in output
    output = io("read -P 0 0 64k", "read -P 0 2G 64k", "read -P 7 6G 64k", cwd=tmp_path,
                options=["-f", "qcow2"])
    assert "Pattern verification failed" not in output


# Temporary overlays.

@pytest.mark.skipif(not compare.shutil.which("strace"), reason="needs strace")
def test_cve_2012_2652_a_temporary_overlay_follows_no_link(disk):
    """It is a new file of an unguessable name that nobody else may open."""
    place = disk.parent / "tmp"
    place.mkdir()
    done = subprocess.run(
        ["strace", "-f", "-e", "trace=open,openat", "-o", "trace", IO, "-s", "-f", "raw", "-c",
         "write -P 9 0 4k", "disk"], cwd=disk.parent, env={"TMPDIR": str(place), "PATH": "/bin"},
        capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    made = [line for line in (disk.parent / "trace").read_text().splitlines()
            if str(place) in line and "O_CREAT" in line or "O_TMPFILE" in line]
    assert made
    assert all("O_EXCL" in line and "0600" in line or "O_TMPFILE" in line for line in made), made
    assert disk.read_bytes()[:4] == b"\x55" * 4
    assert not list(place.iterdir())


@pytest.mark.parametrize("name", ["http://localhost/x", "https://localhost/x", "ftp://localhost/x",
                                  "tftp://localhost/x", "file:http://localhost/x", "gluster://h/x",
                                  "ssh://localhost/x", "iscsi://localhost/x/1", "rbd:x/y"])
def test_cve_2013_0249_there_are_no_other_protocols(tmp_path, name):
    done = subprocess.run([IMG, "info", name], cwd=tmp_path, capture_output=True, text=True,
                          timeout=60, check=False)
    assert done.returncode == 1
    assert "Unknown protocol" in done.stderr or "No such file" in done.stderr, done.stderr


# Formats that are recognised, and no more: none of their fields is read.

@pytest.mark.parametrize("value", [0, 513, 0xffffffff])
@pytest.mark.parametrize("name", ["vpc", "parallels", "vhdx", "vmdk", "vdi", "qcow", "qed"])
def test_cve_2014_0142_other_formats_divide_by_nothing(tmp_path, name, value):
    (tmp_path / "disk").write_bytes(HEADERS[name] + struct.pack("<I", value) * 1024)
    for command in (["info"], ["check"], ["map"], ["convert", "-O", "raw"]):
        done = subprocess.run([IMG, *command, "disk", *(["out"] if len(command) > 1 else [])],
                              cwd=tmp_path, capture_output=True, text=True, timeout=60,
                              check=False)
        assert done.returncode in (1, 63), (command, done.stdout + done.stderr)
