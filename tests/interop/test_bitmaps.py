# SPDX-License-Identifier: GPL-2.0-or-later
"""Persistent bitmaps of qcow2: stored and loaded by QEMU and by us, and kept over kill -9."""

import json
import os
import random
import signal
import subprocess
import time

import pytest

from support.program import ROOT

MIB = 1 << 20


def run(*words, **more):
    return subprocess.run([str(word) for word in words], check=True, capture_output=True,
                          text=True, timeout=60, **more).stdout


def qemu_bitmaps(path):
    """{name: flags} as QEMU lists them."""
    info = json.loads(run("qemu-img", "info", "-U", "--output=json", path))
    listed = info["format-specific"]["data"].get("bitmaps", [])
    return {entry["name"]: sorted(entry["flags"]) for entry in listed}


def qemu_dirty(path, name):
    """The dirty areas, as QEMU's server tells them."""
    out = run("nbdinfo", "--map=qemu:dirty-bitmap:" + name, "--json", "--", "[", "qemu-nbd", "-r",
              "-f", "qcow2", "-B", name, path, "]")
    return [(e["offset"], e["length"]) for e in json.loads(out) if e["type"] == 1]


def check(path):
    run("qemu-img", "check", path)


def check_but_leaks(path):
    """All that a kill may leave behind."""
    report = subprocess.run(["qemu-img", "check", path], capture_output=True, text=True,
                            timeout=60, check=False)
    assert report.returncode in (0, 3), report.stdout


def start(daemon, path, node="disk"):
    daemon.qmp.cmd("blockdev-add", {"driver": "qcow2", "node-name": node, "discard": "unmap",
                                    "file": {"driver": "file", "filename": path}})
    daemon.serve_nbd()
    return daemon.export(node, writable=True)


def write(uri, *commands):
    words = [word for command in commands for word in ("-c", command)]
    run("qemu-io", "-f", "raw", *words, uri)


def kill(daemon, path):
    daemon.signal(signal.SIGKILL)
    daemon.wait()
    daemon.process = None  # its status is no failure
    # The kernel lets go of the rings, and with them of the locks on files, a moment later.
    deadline = time.monotonic() + 30
    while subprocess.run(["qemu-img", "info", path], capture_output=True, timeout=60,
                         check=False).returncode != 0:
        assert time.monotonic() < deadline, "the image stays locked"
        time.sleep(0.02)


def bitmaps(daemon, node="disk"):
    nodes = daemon.qmp.cmd("query-named-block-nodes")
    found = next(n for n in nodes if n["node-name"] == node).get("dirty-bitmaps", [])
    return {entry["name"]: entry for entry in found}


def add(daemon, name, **more):
    daemon.qmp.cmd("block-dirty-bitmap-add",
                   {"node": "disk", "name": name, "persistent": True, **more})


@pytest.fixture
def image(daemon):
    path = daemon.file("a.qcow2")
    run("qemu-img", "create", "-f", "qcow2", path, "64M")
    return path


def test_what_we_store_qemu_loads(daemon, image):
    uri = start(daemon, image)
    add(daemon, "b0")
    add(daemon, "b1", granularity=512, disabled=True)
    write(uri, "write 0 64k", "write 1M 100", "write -z 2M 64k", "discard 3M 64k")
    daemon.quit()
    check(image)
    assert qemu_bitmaps(image) == {"b0": ["auto"], "b1": []}
    assert qemu_dirty(image, "b0") == [(n * MIB, 65536) for n in range(4)]
    assert qemu_dirty(image, "b1") == []


def test_what_qemu_stores_we_load(daemon, image):
    run("qemu-img", "bitmap", "--add", "-g", "4k", image, "b0")
    run("qemu-img", "bitmap", "--add", image, "off")
    run("qemu-img", "bitmap", "--disable", image, "off")
    run("qemu-io", "-f", "qcow2", "-c", "write 5M 8k", "-c", "write 9M 1", image)
    start(daemon, image)
    found = bitmaps(daemon)
    assert found["b0"] == {"name": "b0", "count": 3 * 4096, "granularity": 4096,
                           "recording": True, "busy": False, "persistent": True}
    assert found["off"]["recording"] is False
    daemon.quit()
    check(image)
    assert qemu_dirty(image, "b0") == [(5 * MIB, 8192), (9 * MIB, 4096)]


@pytest.mark.parametrize("seed", range(4))
def test_kill_loses_no_bit_and_no_bitmap(daemon, image, seed):
    chance = random.Random(seed)
    run("qemu-img", "bitmap", "--add", "-g", "64k", image, "old")
    uri = start(daemon, image)
    add(daemon, "new", granularity=512)
    written = []
    for _ in range(30):
        offset = chance.randrange(0, 64 * MIB // 512 - 200) * 512
        length = chance.choice([512, 4096, 65536])
        written.append((offset, length))
    write(uri, *[f"write {offset} {length}" for offset, length in written])
    kill(daemon, image)
    assert qemu_bitmaps(image) == {"old": ["auto"], "new": ["auto"]}
    for name in ("old", "new"):
        dirty = qemu_dirty(image, name)
        for offset, length in written:
            assert any(start <= offset and offset + length <= start + size
                       for start, size in dirty), (name, offset, dirty)
    check_but_leaks(image)


def test_what_a_command_did_is_there_after_a_kill(daemon, image):
    uri = start(daemon, image)
    for name in ("clear", "remove", "disable", "merge"):
        add(daemon, name)
    write(uri, "write 1M 64k")
    daemon.qmp.cmd("block-dirty-bitmap-clear", {"node": "disk", "name": "clear"})
    daemon.qmp.cmd("block-dirty-bitmap-clear", {"node": "disk", "name": "merge"})
    daemon.qmp.cmd("block-dirty-bitmap-merge",
                   {"node": "disk", "target": "merge", "bitmaps": ["remove"]})
    daemon.qmp.cmd("block-dirty-bitmap-remove", {"node": "disk", "name": "remove"})
    daemon.qmp.cmd("block-dirty-bitmap-disable", {"node": "disk", "name": "disable"})
    kill(daemon, image)
    assert qemu_bitmaps(image) == {"clear": ["auto"], "merge": ["auto"], "disable": []}
    assert qemu_dirty(image, "clear") == []
    assert qemu_dirty(image, "merge") == [(MIB, 65536)]
    check_but_leaks(image)


def test_inconsistent_bitmaps_stay_and_can_be_removed(daemon, image):
    run("qemu-img", "bitmap", "--add", image, "b0")
    subprocess.run(["qemu-io", "-f", "qcow2", "-c", "abort", image], capture_output=True,
                   timeout=60, check=False)
    assert qemu_bitmaps(image) == {"b0": ["auto", "in-use"]}
    start(daemon, image)
    found = bitmaps(daemon)["b0"]
    assert found["inconsistent"] is True and found["recording"] is False and found["count"] == 0
    assert daemon.qmp.error("block-dirty-bitmap-clear", {"node": "disk", "name": "b0"}) == (
        "Bitmap 'b0' is inconsistent and cannot be used")
    add(daemon, "b1")
    daemon.qmp.cmd("block-dirty-bitmap-remove", {"node": "disk", "name": "b0"})
    daemon.quit()
    assert qemu_bitmaps(image) == {"b1": ["auto"]}
    check(image)


def test_bitmaps_of_an_image_that_is_only_read_cannot_be_changed(daemon, image):
    run("qemu-img", "bitmap", "--add", image, "b0")
    before = open(image, "rb").read()
    daemon.qmp.cmd("blockdev-add", {"driver": "qcow2", "node-name": "disk", "read-only": True,
                                    "file": {"driver": "file", "filename": image}})
    assert list(bitmaps(daemon)) == ["b0"]
    assert daemon.qmp.error("block-dirty-bitmap-clear", {"node": "disk", "name": "b0"}) == (
        "Bitmap 'b0' is readonly and cannot be modified")
    daemon.quit()
    assert open(image, "rb").read() == before


def test_a_resized_image_keeps_its_bitmaps(daemon, image):
    uri = start(daemon, image)
    add(daemon, "b0", granularity=512)
    write(uri, "write 1M 4k")
    daemon.qmp.cmd("block-export-del", {"id": "exp0", "mode": "hard"})
    daemon.qmp.event("BLOCK_EXPORT_DELETED")
    for size in (1 << 40, 32 * MIB):
        daemon.qmp.cmd("block_resize", {"node-name": "disk", "size": size})
    kill(daemon, image)
    assert qemu_bitmaps(image) == {"b0": ["auto"]}
    assert qemu_dirty(image, "b0")[0][0] <= MIB
    check_but_leaks(image)


def test_bitmaps_go_and_come_with_the_activity_of_the_image(daemon, image):
    uri = start(daemon, image)
    add(daemon, "b0")
    write(uri, "write 1M 4k")
    daemon.qmp.cmd("block-export-del", {"id": "exp0", "mode": "hard"})
    daemon.qmp.event("BLOCK_EXPORT_DELETED")
    daemon.qmp.cmd("blockdev-set-active", {"node-name": "disk", "active": False})
    assert bitmaps(daemon) == {}
    assert qemu_dirty(image, "b0") == [(MIB, 65536)]
    daemon.qmp.cmd("blockdev-set-active", {"node-name": "disk", "active": True})
    assert bitmaps(daemon)["b0"]["count"] == 65536
    assert os.path.exists(image)


def convert(source, target, *options):
    tool = str(ROOT / os.environ.get("STRATA_BUILD", "build") / "bin/strata-img")
    return subprocess.run([tool, "convert", "--bitmaps", *options, "-f", "qcow2", "-O", "qcow2",
                           source, target], capture_output=True, text=True, timeout=60,
                          check=False)


def test_convert_copies_bitmaps_and_leaves_out_broken_ones_when_told_to(daemon, image):
    run("qemu-img", "bitmap", "--add", image, "broken")
    subprocess.run(["qemu-io", "-f", "qcow2", "-c", "abort", image], capture_output=True,
                   timeout=60, check=False)
    run("qemu-img", "bitmap", "--add", "-g", "512", image, "good")
    run("qemu-io", "-f", "qcow2", "-c", "write 1M 512", image)
    target = daemon.file("b.qcow2")
    done = convert(image, target)
    assert done.returncode == 1
    assert done.stderr == ("strata-img: Cannot copy inconsistent bitmap 'broken'\n"
                           "Try --skip-broken-bitmaps, or use 'qemu-img bitmap --remove' to "
                           "delete it\n")
    done = convert(image, target, "--skip-broken-bitmaps")
    assert (done.returncode, done.stderr) == (
        0, "strata-img: warning: Skipping inconsistent bitmap 'broken'\n")
    assert qemu_bitmaps(target) == {"good": ["auto"]}
    assert qemu_dirty(target, "good") == [(MIB, 512)]
    check(target)
