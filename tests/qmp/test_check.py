# SPDX-License-Identifier: GPL-2.0-or-later
"""x-strata-check: the metadata of an image in use."""

import shutil
import struct
import subprocess
import threading

import pytest

from support.nbd_wire import CMD_FLUSH, CMD_TRIM, NBD
from support.program import is_oracle

pytestmark = [
    pytest.mark.skipif(is_oracle(), reason="the command is Strata's own"),
    pytest.mark.skipif(shutil.which("qemu-img") is None, reason="needs QEMU's tools")]

MIB = 1 << 20


def qemu_img(*words, status=0):
    done = subprocess.run(["qemu-img", *map(str, words)], capture_output=True, text=True,
                          timeout=60, check=False)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "t.qcow2"
    qemu_img("create", "-f", "qcow2", path, "64M")
    return path


def add(daemon, path, **options):
    daemon.qmp.cmd("blockdev-add", {
        "driver": "qcow2", "node-name": "disk", "discard": "unmap",
        "file": {"driver": "file", "filename": str(path)}, **options})


def leak(path, cluster=40):
    """Counts a cluster that nothing refers to."""
    with path.open("r+b") as file:
        file.seek(48)
        (table,) = struct.unpack(">Q", file.read(8))
        file.seek(table)
        (block,) = struct.unpack(">Q", file.read(8))
        file.seek(block + 2 * cluster)
        file.write(struct.pack(">H", 1))
        file.truncate((cluster + 1) << 16)


def test_a_sound_image_has_figures_and_no_findings(daemon, image):
    add(daemon, image)
    answer = daemon.qmp.cmd("x-strata-check", {"node-name": "disk"})
    assert answer["findings"] == [] and answer["check-errors"] == 0
    assert answer["format"] == "qcow2" and answer["total-clusters"] == 1024
    assert "corruptions" not in answer and "leaks" not in answer


def test_leaks_are_told_and_mended(daemon, image):
    leak(image)
    add(daemon, image)
    answer = daemon.qmp.cmd("x-strata-check", {"node-name": "disk"})
    assert answer["leaks"] == 1
    assert answer["findings"] == ["Leaked cluster 40 refcount=1 reference=0"]
    answer = daemon.qmp.cmd("x-strata-check", {"node-name": "disk", "fix": "leaks"})
    assert answer["leaks-fixed"] == 1 and "leaks" not in answer
    assert "leaks" not in daemon.qmp.cmd("x-strata-check", {"node-name": "disk"})
    daemon.qmp.cmd("blockdev-del", {"node-name": "disk"})
    qemu_img("check", image)


def test_a_read_only_image_is_checked_but_not_mended(daemon, image):
    leak(image)
    add(daemon, image, **{"read-only": True})
    assert daemon.qmp.cmd("x-strata-check", {"node-name": "disk"})["leaks"] == 1
    assert daemon.qmp.error("x-strata-check", {"node-name": "disk", "fix": "leaks"}) == (
        "Node 'disk' is read-only: nothing can be mended")


@pytest.mark.parametrize("arguments,text", [
    ({"node-name": "nosuch"}, "Failed to find node with node-name='nosuch'"),
    ({"node-name": "null"}, "Block format 'null-co' does not support checks"),
    ({"node-name": "null", "fix": "all"}, "Parameter 'fix' does not accept value 'all'"),
])
def test_refused(daemon, arguments, text):
    daemon.add_null("null")
    assert daemon.qmp.error("x-strata-check", arguments) == text


def test_it_is_consistent_while_guests_write(daemon, image):
    leak(image)
    add(daemon, image)
    daemon.serve_nbd()
    daemon.export("disk", writable=True)
    stop = threading.Event()
    failures = []

    def write(start):
        try:
            with NBD(daemon.nbd_path) as client:
                client.open("disk")
                step = 0
                while not stop.is_set():
                    at = start + step * 7919 * 4096 % (16 * MIB)
                    client.write(at, bytes([step % 251 + 1]) * 4096)
                    if step % 5 == 0:
                        client.request(CMD_TRIM, at & ~0xffff, 1 << 16)
                    if step % 16 == 0:
                        client.request(CMD_FLUSH)
                    step += 1
        except Exception as failure:  # whatever it is, the test tells
            failures.append(failure)

    writers = [threading.Thread(target=write, args=(n * 16 * MIB,)) for n in range(3)]
    for writer in writers:
        writer.start()
    for turn in range(20):
        fix = "leaks" if turn == 10 else "none"
        answer = daemon.qmp.cmd("x-strata-check", {"node-name": "disk", "fix": fix})
        verbs = [["Leaked"], ["Leaked", "Repairing"], []][(turn >= 10) + (turn > 10)]
        expected = [f"{verb} cluster 40 refcount=1 reference=0" for verb in verbs]
        assert answer["findings"] == expected, turn
        assert "corruptions" not in answer
    stop.set()
    for writer in writers:
        writer.join()
    assert failures == []
    daemon.qmp.cmd("block-export-del", {"id": "exp0", "mode": "hard"})
    daemon.wait_for(lambda: not daemon.qmp.cmd("query-block-exports"), "the end of the export")
    daemon.qmp.cmd("blockdev-del", {"node-name": "disk"})
    qemu_img("check", image)
