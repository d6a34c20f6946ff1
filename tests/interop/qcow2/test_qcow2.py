# SPDX-License-Identifier: GPL-2.0-or-later
"""Images that QEMU wrote are read, and images that Strata wrote pass QEMU's check and compare."""

import itertools
import json
import os
import random
import shutil
import subprocess
from pathlib import Path

import pytest

BUILD = Path(os.environ.get("STRATA_BUILD", Path(__file__).resolve().parents[3] / "build"))
HARNESS = BUILD / "tests/interop/qcow2/qcow2-harness"
TOOLS = BUILD / "bin" / "compat"
MIB = 1 << 20
SIZE = 8 * MIB

pytestmark = pytest.mark.skipif(
    not HARNESS.exists() or shutil.which("qemu-img") is None, reason="needs the harness and QEMU")

# cluster size, refcount bits, compat, extended_l2, compression
IMAGES = [
    combination for combination in itertools.product(
        (512, 4096, 16384, 65536, 2 * MIB), (1, 2, 16, 64), ("0.10", "1.1"), (False, True),
        ("zlib", "zstd"))
    if (combination[2] == "1.1" or combination[1:] == (16, "0.10", False, "zlib"))
    and not (combination[3] and combination[0] < 16384)
]


def run(*command, check=True):
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True,
                          timeout=120, check=False)
    if check:
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done


def harness(options, *commands, check=True):
    return run(HARNESS, json.dumps(options), *commands, check=check)


def image(path, **more):
    return {"driver": "qcow2", "discard": "unmap",
            "file": {"driver": "file", "filename": str(path)}, **more}


def qemu_options(combination):
    cluster, refcount, compat, extended, compression = combination
    words = [f"cluster_size={cluster}", f"compat={compat}"]
    if compat != "0.10":
        words += [f"refcount_bits={refcount}", f"extended_l2={'on' if extended else 'off'}",
                  f"compression_type={compression}"]
    return ",".join(words)


def create_options(path, combination, **more):
    cluster, refcount, compat, extended, compression = combination
    options = {"file": {"driver": "file", "filename": str(path)}, "size": SIZE,
               "cluster-size": cluster, **more}
    if compat == "0.10":
        return options | {"version": "v2"}
    return options | {"refcount-bits": refcount, "extended-l2": extended,
                      "compression-type": compression}


def name_of(combination):
    return "-".join(str(word) for word in combination)


def make_plan(seed):
    """Operations on the disk, each (kind, offset, bytes, value)."""
    chosen = random.Random(seed)
    plan = []
    for number in range(30):
        kind = chosen.choice(["write", "write", "write", "zero", "unmap", "discard"])
        offset = chosen.randrange(0, SIZE, 512)
        length = min(SIZE - offset, chosen.choice([512, 4096, 65536, 300 * 512, 3 * MIB]))
        if kind == "discard":  # only whole clusters have a known outcome
            offset, length = offset // (2 * MIB) * 2 * MIB, 2 * MIB
        plan.append((kind, offset, length, number % 250 + 1))
    return plan


def expected(plan, base=None):
    data = bytearray(base or bytes(SIZE))
    for kind, offset, length, value in plan:
        data[offset:offset + length] = bytes([value if kind == "write" else 0]) * length
    return bytes(data)


def usable(plan, combination, backing):
    """Version 2 cannot say zero over a backing file when it discards."""
    if combination[2] == "0.10" and backing:
        return [step for step in plan if step[0] != "discard"]
    return plan


@pytest.mark.parametrize("backing", [False, True], ids=["alone", "overlay"])
@pytest.mark.parametrize("combination", IMAGES, ids=name_of)
def test_what_strata_wrote_is_sound_for_qemu(tmp_path, combination, backing):
    disk = tmp_path / "disk.qcow2"
    disk.touch()
    base = None
    more = {}
    if backing:
        base = random.Random(7).randbytes(SIZE)
        (tmp_path / "base.raw").write_bytes(base)
        more = {"backing-file": "base.raw", "backing-fmt": "raw"}
        if combination[0] == 512:
            more = {"backing-file": "base.raw"}  # the header has no room for both
            pytest.skip("QEMU wants the format, and the header has no room for it")
    harness(create_options(disk, combination, **more), "create")
    plan = usable(make_plan(str(combination)), combination, backing)
    commands = []
    for kind, offset, length, value in plan:
        commands += (["pattern", offset, length, value] if kind == "write"
                     else [kind, offset, length])
    commands += ["check"]
    done = harness(image(disk), *commands)
    assert "corruptions 0 leaks 0 errors 0" in done.stdout
    run("qemu-img", "check", disk)
    data = tmp_path / "data.raw"
    data.write_bytes(expected(plan, base))
    run("qemu-img", "compare", "-f", "raw", "-F", "qcow2", data, disk)


@pytest.mark.parametrize("combination", IMAGES, ids=name_of)
def test_what_qemu_wrote_is_read_and_changed(tmp_path, combination):
    disk = tmp_path / "disk.qcow2"
    run("qemu-img", "create", "-q", "-f", "qcow2", "-o", qemu_options(combination), disk, SIZE)
    plan = make_plan(name_of(combination))
    commands = []
    for kind, offset, length, value in plan:
        verb = {"write": f"write -P {value}", "zero": "write -z", "unmap": "write -z -u",
                "discard": "discard"}[kind]
        commands += ["-c", f"{verb} {offset} {length}"]
    run("qemu-io", "-d", "unmap", "-f", "qcow2", *commands, disk)
    out = tmp_path / "out.raw"
    harness(image(disk, **{"read-only": True}), "read", 0, SIZE, out)
    assert out.read_bytes() == expected(plan)
    more = make_plan("more")
    commands = []
    for kind, offset, length, value in more:
        commands += (["pattern", offset, length, value] if kind == "write"
                     else [kind, offset, length])
    done = harness(image(disk), *commands, "check")
    assert "corruptions 0 leaks 0 errors 0" in done.stdout
    run("qemu-img", "check", disk)
    out.write_bytes(expected(more, expected(plan)))
    run("qemu-img", "compare", "-f", "raw", "-F", "qcow2", out, disk)


@pytest.mark.parametrize("compression", ["zlib", "zstd"])
@pytest.mark.parametrize("cluster", [4096, 65536, 2 * MIB])
def test_compressed_clusters_go_both_ways(tmp_path, cluster, compression):
    text = b"".join(b"line %d of a text that packs well\n" % i for i in range(200000))[:4 * MIB]
    source = tmp_path / "source.raw"
    source.write_bytes(text + random.Random(1).randbytes(MIB) + bytes(SIZE - 5 * MIB))
    theirs = tmp_path / "theirs.qcow2"
    options = f"cluster_size={cluster},compression_type={compression}"
    run("qemu-img", "convert", "-c", "-f", "raw", "-O", "qcow2", "-o", options, source, theirs)
    out = tmp_path / "out.raw"
    harness(image(theirs, **{"read-only": True}), "read", 0, SIZE, out)
    assert out.read_bytes() == source.read_bytes()
    harness(image(theirs), "pattern", 4096, 8192, 77, "check")
    run("qemu-img", "check", theirs)
    ours = tmp_path / "ours.qcow2"
    ours.touch()
    combination = (cluster, 16, "1.1", False, compression)
    harness(create_options(ours, combination), "create")
    harness(image(ours), "compressed", 0, source, "check")
    run("qemu-img", "check", ours)
    run("qemu-img", "compare", "-f", "raw", "-F", "qcow2", source, ours)
    assert ours.stat().st_size < 3 * MIB + 6 * cluster


@pytest.mark.parametrize("mode", ["metadata", "falloc", "full"])
def test_preallocated_images_are_sound(tmp_path, mode):
    disk = tmp_path / "disk.qcow2"
    disk.touch()
    harness(create_options(disk, (65536, 16, "1.1", False, "zlib"), preallocation=mode), "create")
    run("qemu-img", "check", disk)
    entries = json.loads(run("qemu-img", "map", "--output=json", disk).stdout)
    assert sum(entry["length"] for entry in entries if "offset" in entry) == SIZE
    out = tmp_path / "out.raw"
    harness(image(disk), "pattern", 12345 * 512, 512, 9, "read", 0, SIZE, out)
    run("qemu-img", "compare", "-f", "raw", "-F", "qcow2", out, disk)


@pytest.mark.parametrize("mode", ["falloc", "full"])
def test_preallocated_images_have_all_their_room(tmp_path, mode):
    rooms = []
    for program in (TOOLS / "qemu-img", "qemu-img"):
        disk = tmp_path / "disk.qcow2"
        run(program, "create", "-q", "-f", "qcow2", "-o", f"preallocation={mode}", disk, "64M")
        rooms.append(disk.stat().st_blocks)
        run(program, "create", "-q", "-f", "qcow2", "-o", "cluster_size=4k", disk, "1M")
        run(program, "resize", "-q", f"--preallocation={mode}", disk, "16M")
        rooms.append(disk.stat().st_blocks)
    assert rooms[0] == pytest.approx(rooms[2], abs=512)
    assert rooms[1] == pytest.approx(rooms[3], abs=512)


def test_holes_of_a_backing_file_let_a_whole_cluster_become_zero(tmp_path):
    run("qemu-img", "create", "-q", "-f", "raw", tmp_path / "base.raw", "4M")
    run("qemu-io", "-f", "raw", "-c", "write -q -P 11 0 1M", tmp_path / "base.raw")
    disk = tmp_path / "disk.qcow2"
    run("qemu-img", "create", "-q", "-f", "qcow2", "-b", "base.raw", "-F", "raw", disk)
    run(TOOLS / "qemu-io", "-c", "write -q -z -n 3000000 512", disk)
    entries = json.loads(run("qemu-img", "map", "--output=json", disk).stdout)
    assert [(e["length"], e["zero"]) for e in entries if e["depth"] == 0] == [(65536, True)]


def test_a_backing_file_shows_through_preallocated_clusters(tmp_path):
    run("qemu-img", "create", "-q", "-f", "raw", tmp_path / "base.raw", "4M")
    run("qemu-io", "-f", "raw", "-c", "write -q -P 11 1M 1M", tmp_path / "base.raw")
    disk = tmp_path / "disk.qcow2"
    run(TOOLS / "qemu-img", "create", "-q", "-f", "qcow2", "-o",
        "extended_l2=on,preallocation=metadata", "-b", "base.raw", "-F", "raw", disk)
    run("qemu-img", "compare", tmp_path / "base.raw", disk)
    maps = [json.loads(run(program, "map", "--output=json", disk).stdout)
            for program in (TOOLS / "qemu-img", "qemu-img")]
    for entry in maps[0]:
        del entry["compressed"]
    assert maps[0] == maps[1]


@pytest.mark.parametrize("base_size, size", [("1M", "3M"), ("3M", "1M"), ("0", "1M"), ("1M", "0")])
def test_maps_of_files_over_shorter_ones_are_those_of_qemu(tmp_path, base_size, size):
    base, disk = tmp_path / "base.qcow2", tmp_path / "disk.qcow2"
    run("qemu-img", "create", "-q", "-f", "qcow2", base, base_size)
    run("qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "qcow2", disk, size)
    maps = [json.loads(run(program, "map", "--output=json", disk).stdout)
            for program in (TOOLS / "qemu-img", "qemu-img")]
    for entry in maps[0]:
        del entry["compressed"]
    assert maps[0] == maps[1]


def test_an_external_data_file_is_shared_with_qemu(tmp_path):
    disk, data = tmp_path / "disk.qcow2", tmp_path / "data.raw"
    run("qemu-img", "create", "-q", "-f", "qcow2", "-o", f"data_file={data},data_file_raw=on",
        disk, SIZE)
    harness(image(disk), "pattern", 4096, 70000 // 512 * 512, 5, "zero", 8192, 4096,
            "pattern", 4 * MIB, MIB, 6)
    run("qemu-img", "check", disk)
    run("qemu-img", "compare", "-f", "raw", "-F", "qcow2", data, disk)


def test_snapshots_are_shared_with_qemu(tmp_path):
    disk = tmp_path / "disk.qcow2"
    disk.touch()
    harness(create_options(disk, (65536, 16, "1.1", False, "zlib")), "create")
    harness(image(disk), "pattern", 0, MIB, 1, "snapshot", "one", "pattern", 0, MIB // 2, 2,
            "snapshot", "two", "pattern", MIB, MIB, 3, "check")
    run("qemu-img", "check", disk)
    names = run("qemu-img", "snapshot", "-l", disk).stdout
    assert "one" in names and "two" in names
    one = tmp_path / "one.raw"
    run("qemu-img", "convert", "-l", "snapshot.name=one", "-f", "qcow2", "-O", "raw", disk, one)
    assert one.read_bytes() == bytes([1]) * MIB + bytes(SIZE - MIB)
    run("qemu-img", "snapshot", "-c", "three", disk)
    done = harness(image(disk), "apply", "one", "check", "delete", "two", "check")
    assert done.stdout.count("corruptions 0 leaks 0 errors 0") == 2
    run("qemu-img", "check", disk)
    run("qemu-img", "compare", "-f", "raw", "-F", "qcow2", one, disk)


@pytest.mark.parametrize("below", ["100k", "70k", "300k"])
@pytest.mark.parametrize("mode", ["metadata", "falloc", "full"])
@pytest.mark.parametrize("options", ["cluster_size=64k", "cluster_size=64k,extended_l2=on",
                                     "cluster_size=2M", "cluster_size=64k,compat=0.10"])
def test_the_last_cluster_keeps_what_is_below_when_preallocation_grows(tmp_path, mode, below,
                                                                       options):
    """What only the backing file has is copied, as far as the disk went."""
    base, disk = tmp_path / "base", tmp_path / "disk"
    size = int(below[:-1]) * 1024
    base.write_bytes(bytes([5]) * size)
    run(TOOLS / "qemu-img", "create", "-q", "-f", "qcow2", "-o", options, "-b", base, "-F", "raw",
        disk, "100k")
    run(TOOLS / "qemu-img", "resize", "-q", "-f", "qcow2", f"--preallocation={mode}", disk, "4M")
    run("qemu-img", "check", disk)
    wanted = tmp_path / "wanted"
    wanted.write_bytes(bytes([5]) * min(size, 100 * 1024))
    os.truncate(wanted, 4 * MIB)
    for program in ("qemu-img", TOOLS / "qemu-img"):
        run(program, "compare", "-f", "raw", "-F", "qcow2", wanted, disk)


@pytest.mark.parametrize("mode", ["metadata", "falloc", "full"])
def test_what_a_data_file_had_is_gone_when_the_disk_grows_again(tmp_path, mode):
    disk, data = tmp_path / "disk", tmp_path / "data"
    run(TOOLS / "qemu-img", "create", "-q", "-f", "qcow2", "-o", f"data_file={data}", disk, "2M")
    run(TOOLS / "qemu-io", "-f", "qcow2", "-c", "write -q -P 5 0 2M", disk)
    run(TOOLS / "qemu-img", "resize", "-q", "-f", "qcow2", "--shrink", disk, "1000k")
    run(TOOLS / "qemu-img", "resize", "-q", "-f", "qcow2", f"--preallocation={mode}", disk, "3M")
    wanted = tmp_path / "wanted"
    wanted.write_bytes(bytes([5]) * 1000 * 1024)
    os.truncate(wanted, 3 * MIB)
    for program in ("qemu-img", TOOLS / "qemu-img"):
        run(program, "compare", "-f", "raw", "-F", "qcow2", wanted, disk)


def test_growing_and_shrinking_keeps_the_image_sound(tmp_path):
    disk = tmp_path / "disk.qcow2"
    disk.touch()
    harness(create_options(disk, (512, 16, "1.1", False, "zlib")), "create")
    harness(image(disk), "pattern", 0, SIZE, 1, "resize", SIZE * 4, "pattern", SIZE * 3, MIB, 2,
            "check")
    run("qemu-img", "check", disk)
    harness(image(disk), "resize", MIB - 512, "resize", SIZE, "check")
    run("qemu-img", "check", disk)
    out = tmp_path / "out.raw"
    out.write_bytes(bytes([1]) * (MIB - 512) + bytes(SIZE - MIB + 512))
    run("qemu-img", "compare", "-f", "raw", "-F", "qcow2", out, disk)


def states(path):
    """What a map says but for places and compression."""
    extents = json.loads(run("qemu-img", "map", "--output=json", path).stdout)
    return [{key: extent[key] for key in ("start", "length", "depth", "present", "zero", "data")}
            for extent in extents]


def overlay(tmp_path, name, size, *options):
    (tmp_path / "hole").touch()
    os.truncate(tmp_path / "hole", MIB)
    run("qemu-img", "create", "-q", "-f", "qcow2", *options, tmp_path / name, size)
    return tmp_path / name


@pytest.mark.parametrize("below", [[], ["-b", "hole", "-F", "raw"]], ids=["alone", "overlay"])
def test_a_cut_cluster_that_is_nothing_stays_nothing(tmp_path, below):
    disks = []
    for program in ("qemu-img", TOOLS / "qemu-img"):
        disks.append(overlay(tmp_path, f"disk{len(disks)}", "1M", *below))
        run(program, "resize", "-q", "-f", "qcow2", "--shrink", disks[-1], "100k")
    assert states(disks[0]) == states(disks[1])


@pytest.mark.parametrize("mode", ["metadata", "falloc", "full"])
def test_the_rest_of_the_last_cluster_is_preallocated_over_a_hole(tmp_path, mode):
    disks = []
    for program in ("qemu-img", TOOLS / "qemu-img"):
        disks.append(overlay(tmp_path, f"disk{len(disks)}", "100k", "-b", "hole", "-F", "raw"))
        run(program, "resize", "-q", "-f", "qcow2", f"--preallocation={mode}", disks[-1], "200k")
        run("qemu-img", "check", disks[-1])
    for disk in disks:
        assert any(extent["start"] == 65536 and extent["data"] for extent in states(disk))
    run("qemu-img", "compare", *disks)
