# SPDX-License-Identifier: GPL-2.0-or-later
"""What strata-img convert, compare, measure and map say and do is what qemu-img's do."""

import json
import os
import re
import shutil
import signal
import subprocess
import time

import pytest

import compare

pytestmark = pytest.mark.skipif(
    not compare.available("qemu-img") or not compare.available("qemu-io"),
    reason="needs both programs")


def qemu(*arguments, cwd):
    subprocess.run(arguments, cwd=cwd, check=True, capture_output=True, timeout=60)


def prepare(directory):
    """Raw and qcow2 images with data, zeroes and holes; a snapshot; an overlay; hostile rules."""
    data = os.urandom(65536) + bytes(65536) + b"\x01" * 262144
    (directory / "a.raw").write_bytes(data)
    qemu("truncate", "-s", "2M", "a.raw", cwd=directory)
    qemu("qemu-img", "create", "-f", "qcow2", "b.qcow2", "2M", cwd=directory)
    qemu("qemu-io", "-c", "write -P 1 0 256k", "b.qcow2", cwd=directory)
    qemu("qemu-img", "snapshot", "-c", "one", "b.qcow2", cwd=directory)
    qemu("qemu-io", "-c", "write -P 7 0 128k", "-c", "write -z 192k 64k", "b.qcow2", cwd=directory)
    qemu("qemu-img", "create", "-f", "qcow2", "-b", "b.qcow2", "-F", "qcow2", "o.qcow2",
         cwd=directory)
    qemu("qemu-io", "-c", "write -P 9 512k 64k", "o.qcow2", cwd=directory)
    qemu("qemu-img", "convert", "-c", "-O", "qcow2", "a.raw", "packed.qcow2", cwd=directory)
    for name, kind in (("read", "read"), ("status", "block-status"), ("write", "write")):
        (directory / f"{name}.conf").write_text(
            f'[inject-error]\nevent = "none"\niotype = "{kind}"\nsector = "8"\n')


CONVERSIONS = [
    "-O qcow2 a.raw x", "-O raw b.qcow2 x", "-O raw o.qcow2 x", "-O qcow2 o.qcow2 x",
    "-c -O qcow2 a.raw x", "-c -O qcow2 -o compression_type=zstd a.raw x",
    "-c -O qcow2 -o cluster_size=4k a.raw x", "-O raw packed.qcow2 x", "-c -O qcow2 packed.qcow2 x",
    "-S 0 -O qcow2 a.raw x", "-S 64k -O qcow2 a.raw x", "-W -m 16 -O qcow2 a.raw x",
    "-O raw a.raw b.qcow2 a.raw x", "-c -O qcow2 a.raw b.qcow2 a.raw x",
    "-O qcow2 -o size=1M a.raw x", "-r 100M -O qcow2 a.raw x",
    "-l one b.qcow2 x", "-l 1 b.qcow2 x", "-l snapshot.id=1 b.qcow2 x",
    "-l snapshot.name=one b.qcow2 x", "-l snapshot.id=1,snapshot.name=one b.qcow2 x",
    "-l snapshot.id=2 b.qcow2 x", "-l nope b.qcow2 x", "-l one a.raw x",
    "-l one b.qcow2 b.qcow2 x", "-l snapshot.foo=2 b.qcow2 x",
    "-O qcow2 -B b.qcow2 -F qcow2 o.qcow2 x", "-O qcow2 -B b.qcow2 o.qcow2 x",
    "-O qcow2 -F qcow2 o.qcow2 x", "-O raw -B b.qcow2 -F qcow2 o.qcow2 x",
    "-O raw -F qcow2 o.qcow2 x", "-O qcow2 -B b.qcow2 -F qcow2 o.qcow2 o.qcow2 x",
    "-O qcow2 -o backing_file=b.qcow2,backing_fmt=qcow2 o.qcow2 x",
    "-c -O raw a.raw x", "-c -O qcow2 -o preallocation=full a.raw x",
    "-c -O qcow2 -o encryption=on a.raw x", "-O foo a.raw x", "-f foo a.raw x",
    "-n -O qcow2 a.raw nope", "-O qcow2 --target-is-zero a.raw x", "-C -c -O qcow2 a.raw x",
    "-C -O raw a.raw x", "-C -W -f raw -O raw a.raw a.raw x", "-C -O qcow2 a.raw x",
    "-C -O raw o.qcow2 x", "-C -t none -T none -O raw a.raw x",
    "-C -S 4k -O qcow2 a.raw x", "-C --salvage -O qcow2 a.raw x", "-m 0 a.raw x", "-m 17 a.raw x",
    "--bitmaps a.raw x", "--skip-broken-bitmaps -O qcow2 a.raw x", "-O qcow2 -o foo=1 a.raw x",
    "nope x", "-T foo a.raw x", "a.raw", "--target-image-opts a.raw x",
    "-f raw -O qcow2 blkdebug:read.conf:a.raw x", "-f raw -O qcow2 blkdebug:status.conf:a.raw x",
    "-f raw -O qcow2 --salvage blkdebug:read.conf:a.raw x",
    "-f raw -O qcow2 --salvage -q blkdebug:read.conf:a.raw x",
]


def outcome(directory):
    """What the new image shows of itself, without the places in its file."""
    if not (directory / "x").exists():
        return None
    info = json.loads(subprocess.run(["qemu-img", "info", "--output=json", "x"], cwd=directory,
                                     check=True, capture_output=True, timeout=60).stdout)
    info.pop("actual-size", None)
    extents = json.loads(subprocess.run(["qemu-img", "map", "--output=json", "x"], cwd=directory,
                                        check=True, capture_output=True, timeout=60).stdout)
    runs = []
    for extent in extents:
        kind = (extent["depth"], extent["zero"], extent["data"])
        if runs and runs[-1][0] == kind:
            runs[-1][1] += extent["length"]
        else:
            runs.append([kind, extent["length"]])
    qemu("qemu-img", "convert", "-O", "raw", "x", "content", cwd=directory)
    if info["format"] == "qcow2":
        qemu("qemu-img", "check", "x", cwd=directory)
    return info, runs, (directory / "content").read_bytes()


@pytest.fixture(scope="module", name="images")
def made_images(tmp_path_factory):
    directory = tmp_path_factory.mktemp("images")
    prepare(directory)
    return directory


def copies(images, tmp_path):
    for side, program in (("ours", compare.OURS / "qemu-img"), ("qemu", shutil.which("qemu-img"))):
        place = tmp_path / side
        shutil.copytree(images, place)
        yield program, place


@pytest.mark.parametrize("line", CONVERSIONS)
def test_a_conversion_goes_as_with_qemu_img(images, tmp_path, line):
    results = []
    for program, place in copies(images, tmp_path):
        said = compare.run(program, ["convert", *line.split()], place)
        results.append((said, outcome(place) if said[0] == 0 else None))
    assert results[0] == results[1]


SAYINGS = [
    "compare a.raw a.raw", "compare a.raw b.qcow2", "compare packed.qcow2 a.raw",
    "compare -s packed.qcow2 a.raw", "compare -s a.raw a.raw", "compare -q a.raw b.qcow2",
    "compare -p a.raw packed.qcow2", "compare a.raw nope", "compare -f raw -F raw a.raw b.qcow2",
    "compare -f raw -F raw blkdebug:read.conf:a.raw a.raw",
    "compare -f raw -F raw a.raw blkdebug:status.conf:a.raw", "compare -T foo a.raw a.raw",
    "measure -O qcow2 --size 10G", "measure -O qcow2 --size 10G --output json",
    "measure -O qcow2 a.raw", "measure -O qcow2 b.qcow2", "measure -O qcow2 o.qcow2",
    "measure -O qcow2 -o cluster_size=4k,refcount_bits=64 --size 1T",
    "measure -O qcow2 -o extended_l2=on --size 1T", "measure -O qcow2 -o compat=0.10 b.qcow2",
    "measure -O qcow2 -o preallocation=full a.raw", "measure -O qcow2 -l one b.qcow2",
    "measure -O qcow2 --size 2E", "measure -O raw b.qcow2",
    "measure -O qcow2 --output=json b.qcow2",
    "map b.qcow2", "map o.qcow2", "map a.raw", "map packed.qcow2",
    "map --start-offset 65536 --max-length 131072 b.qcow2", "convert -p -q a.raw x",
    "dd if=a.raw of=x", "dd if=a.raw of=x bs=64k skip=1 count=2",
    "dd -O qcow2 if=o.qcow2 of=x bs=1M",
    "dd if=a.raw", "dd if=a.raw of=x bs=0", "dd if=a.raw of=x skip=100000", "dd foo=1",
]


@pytest.mark.parametrize("line", SAYINGS)
def test_a_command_says_what_qemu_img_does(images, tmp_path, line):
    ours, theirs = (compare.run(program, line.split(), place)
                    for program, place in copies(images, tmp_path))
    assert ours == theirs


def test_of_several_differences_the_first_is_told(tmp_path):
    """Whichever of the threads comes upon one first."""
    size = 32 << 20
    data = bytearray(os.urandom(1 << 20) * 32)
    (tmp_path / "a").write_bytes(data)
    places = [19 << 20, (21 << 20) + 512, (25 << 20) + 1024, size - 512]
    for number, place in enumerate(places):
        for each in places[number:]:
            data[each + 5] ^= 1
        (tmp_path / "b").write_bytes(data + (b"x" if number == 2 else b""))
        lines = [f"compare -f raw -F raw {pair}" for pair in ("a b", "b a")]
        for line in lines * 3:
            ours, theirs = (compare.run(program, line.split(), tmp_path)
                            for program in (compare.OURS / "qemu-img", shutil.which("qemu-img")))
            assert ours == theirs and str(place) in ours[1]
        for each in places[number:]:
            data[each + 5] ^= 1


def test_what_only_the_longer_image_has_is_told(tmp_path):
    data = bytes(1 << 20)
    (tmp_path / "a").write_bytes(data)
    for tail in (bytes(9 << 20), bytes(6 << 20) + b"1" + bytes(1 << 20) + b"2"):
        (tmp_path / "b").write_bytes(data + tail)
        for line in ("compare a b", "compare b a", "compare -s a b"):
            ours, theirs = (compare.run(program, line.split(), tmp_path)
                            for program in (compare.OURS / "qemu-img", shutil.which("qemu-img")))
            assert ours == theirs


def test_a_map_as_json_has_what_qemu_img_tells(images, tmp_path):
    """Newer members come on top. Where zeroes are preallocated is told by one of them only."""
    for name in ("a.raw", "b.qcow2", "o.qcow2", "packed.qcow2"):
        maps = []
        for program in (compare.OURS / "qemu-img", shutil.which("qemu-img")):
            text = subprocess.run([program, "map", "--output=json", name], cwd=images, check=True,
                                  capture_output=True, timeout=60).stdout
            maps.append(json.loads(text))
        for entry in maps[0]:
            assert entry.pop("compressed") in (True, False)
        for entry in maps[0] + maps[1]:
            if entry["zero"]:
                entry.pop("offset", None)
        assert maps[0] == maps[1]


def test_compression_has_levels(images, tmp_path):
    sizes = []
    for level in ([], ["--compression-level", "1"], ["--compression-level", "9"]):
        subprocess.run([compare.OURS / "qemu-img", "convert", "-c", "-O", "qcow2", *level,
                        images / "a.raw", tmp_path / "x"], check=True, timeout=60)
        qemu("qemu-img", "compare", str(images / "a.raw"), str(tmp_path / "x"), cwd=tmp_path)
        sizes.append((tmp_path / "x").stat().st_size)
    assert sizes[2] <= sizes[1]


def test_compressing_twice_gives_the_same_bytes(images, tmp_path):
    for name in ("x", "y"):
        subprocess.run([compare.OURS / "qemu-img", "convert", "-c", "-O", "qcow2",
                        images / "a.raw", images / "b.qcow2", tmp_path / name], check=True,
                       timeout=60)
    assert (tmp_path / "x").read_bytes() == (tmp_path / "y").read_bytes()


def test_a_read_error_gives_a_failure_status(images, tmp_path):
    """CVE-2022-0485 of a kindred program: it reported success."""
    done = subprocess.run([compare.OURS / "qemu-img", "convert", "-O", "raw", "-f", "raw",
                           "blkdebug:read.conf:a.raw", tmp_path / "x"], cwd=images,
                          capture_output=True, check=False, timeout=60)
    assert done.returncode == 1
    assert b"error while reading at byte 0: Input/output error" in done.stderr


def test_a_snapshot_with_a_larger_l1_table_than_the_active_one_is_read(tmp_path):
    """CVE-2014-0145: its table was read into memory of the active one's size."""
    image = tmp_path / "x.qcow2"
    qemu("qemu-img", "create", "-f", "qcow2", "-o", "cluster_size=512", str(image), "4M",
         cwd=tmp_path)
    qemu("qemu-io", "-c", "write -P 5 0 4M", str(image), cwd=tmp_path)
    qemu("qemu-img", "snapshot", "-c", "large", str(image), cwd=tmp_path)
    qemu("qemu-img", "resize", "--shrink", str(image), "64k", cwd=tmp_path)
    qemu(str(compare.OURS / "qemu-img"), "convert", "-l", "large", "-O", "raw", str(image), "out",
         cwd=tmp_path)
    assert (tmp_path / "out").read_bytes() == b"\x05" * (4 << 20)


def test_a_signal_asks_for_the_progress(images, tmp_path):
    """As with dd: one line for each SIGUSR1, without -p."""
    process = subprocess.Popen([compare.OURS / "qemu-img", "convert", "-r", "64k", "-O", "raw",
                                images / "a.raw", tmp_path / "x"], stdout=subprocess.PIPE)
    try:
        deadline = time.monotonic() + 30
        while not (tmp_path / "x").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        os.set_blocking(process.stdout.fileno(), False)
        said = b""
        while b"/100%)" not in said and time.monotonic() < deadline:
            process.send_signal(signal.SIGUSR1)
            time.sleep(0.05)
            said += process.stdout.read() or b""
        assert b"/100%)" in said
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
@pytest.mark.parametrize("source, target, in_host", [
    (["a.raw"], ["-O", "raw", "x"], True), (["a.raw"], ["-O", "qcow2", "x"], False),
    (["--image-opts", "driver=raw,offset=512,file.filename=a.raw"], ["-O", "raw", "x"], False)])
def test_the_host_copies_where_both_are_files(tmp_path, source, target, in_host):
    prepare(tmp_path)
    command = ["strace", "-f", "-e", "trace=copy_file_range", "-o", "trace",
               compare.OURS / "qemu-img", "convert", "-C", *source, *target]
    subprocess.run(command, cwd=tmp_path, check=True, timeout=120, stdin=subprocess.DEVNULL,
                   stderr=subprocess.DEVNULL)
    assert ("copy_file_range(" in (tmp_path / "trace").read_text()) == in_host
    expected = (tmp_path / "a.raw").read_bytes()[512 if "--image-opts" in source else 0:]
    if target[1] == "raw":
        assert (tmp_path / "x").read_bytes() == expected


@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
@pytest.mark.parametrize("line, directly", [
    ("convert -T none -f raw -O raw a.raw x", {"a.raw"}),
    ("convert -t none -f raw -O raw a.raw x", {"x"}), ("convert -f raw -O raw a.raw x", set()),
    ("compare -T none b.qcow2 packed.qcow2", {"b.qcow2", "packed.qcow2"}),
    ("check -T none b.qcow2", {"b.qcow2"}),
    ("rebase -T none -F qcow2 -b packed.qcow2 o.qcow2", {"packed.qcow2"})])
def test_the_cache_mode_of_a_source_is_how_it_is_opened(tmp_path, line, directly):
    prepare(tmp_path)
    command = ["strace", "-f", "-e", "trace=openat", "-o", "trace", compare.OURS / "qemu-img"]
    subprocess.run([*command, *line.split()], cwd=tmp_path, check=False, timeout=120,
                   capture_output=True)
    opened = re.findall(r'"([a-z0-9.]+)", (O_RD[^)]*)\)', (tmp_path / "trace").read_text())
    assert {name for name, how in opened if "O_DIRECT" in how} == directly
