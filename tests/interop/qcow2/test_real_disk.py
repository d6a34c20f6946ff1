# SPDX-License-Identifier: GPL-2.0-or-later
"""A file system in a qcow2 image survives the death of the daemon that serves it."""

import os
import random
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest

from support.nbd_wire import CMD_FLUSH, NBD

BUILD = Path(os.environ.get("STRATA_BUILD", Path(__file__).resolve().parents[3] / "build"))
OURS = BUILD / "bin/compat/qemu-img"
BLOCK = 4096
FILE_BLOCKS = 4096

pytestmark = pytest.mark.skipif(
    not OURS.exists() or not all(map(shutil.which, ("qemu-img", "mke2fs", "debugfs", "e2fsck"))),
    reason="needs strata-img, QEMU and e2fsprogs")


def run(*words, status=(0,)):
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True,
                          timeout=120, check=False,
                          env={**os.environ, "PATH": os.environ["PATH"] + ":/usr/sbin:/sbin"})
    assert done.returncode in status, f"{words}\n{done.stdout}{done.stderr}"
    return done.stdout


def wait_for_release(image):
    """The kernel ends the requests of a killed process, and its locks, a moment after it."""
    deadline = time.monotonic() + 30
    while subprocess.run([OURS, "info", str(image)], capture_output=True, timeout=60,
                         check=False).returncode != 0:
        assert time.monotonic() < deadline, "the image stays locked"
        time.sleep(0.05)


def make_file_system(tmp_path):
    """An ext4 of 64 MiB with a file of 16 MiB; the numbers of the file's blocks."""
    content = tmp_path / "content"
    content.mkdir()
    (content / "load").write_bytes(os.urandom(FILE_BLOCKS * BLOCK))
    for number in range(200):
        (content / f"small{number}").write_bytes(os.urandom(number * 37))
    raw = tmp_path / "disk.raw"
    run("mke2fs", "-q", "-t", "ext4", "-b", BLOCK, "-d", content, raw, "64M")
    blocks = [int(word) for word in run("debugfs", "-R", "blocks /load", raw).split()]
    assert len(blocks) == FILE_BLOCKS
    return raw, blocks


class Writer(threading.Thread):
    """Writes over its blocks, and knows for each what it may hold if the power fails."""

    def __init__(self, path, blocks, seed):
        super().__init__()
        self.client = NBD(path)
        self.client.open("disk")
        self.blocks = blocks
        self.random = random.Random(seed)
        self.allowed = {}
        self.flushes = 0
        self.failure = None

    def run(self):
        try:
            serial = 0
            while True:
                written = {}
                for _ in range(self.random.randrange(1, 40)):
                    serial += 1
                    block = self.random.choice(self.blocks)
                    data = (f"{block}:{serial};" * BLOCK)[:BLOCK].encode()
                    self.allowed.setdefault(block, [None]).append(data)
                    self.client.write(block * BLOCK, data)
                    written[block] = data
                self.client.request(CMD_FLUSH)
                self.allowed.update({block: [data] for block, data in written.items()})
                self.flushes += 1
        except Exception as failure:  # the daemon is gone
            self.failure = failure


@pytest.mark.parametrize("options", ["", "cluster_size=4k", "extended_l2=on,cluster_size=64k"])
def test_fsck_passes_after_kill_9_under_load(start, tmp_path, options):
    raw, blocks = make_file_system(tmp_path)
    image = tmp_path / "disk.qcow2"
    words = ["-o", options] if options else []
    run(OURS, "convert", "-f", "raw", "-O", "qcow2", *words, raw, image)
    daemon = start()
    daemon.expected_status = -signal.SIGKILL
    daemon.qmp.cmd("blockdev-add", {"driver": "qcow2", "node-name": "disk",
                                    "file": {"driver": "file", "filename": str(image)}})
    daemon.serve_nbd()
    daemon.export("disk", writable=True)
    writers = [Writer(daemon.nbd_path, blocks[n::3], n) for n in range(3)]
    for writer in writers:
        writer.start()
    daemon.wait_for(lambda: all(writer.flushes >= 20 for writer in writers), "flushes", 40)
    daemon.signal(signal.SIGKILL)
    daemon.wait()
    for writer in writers:
        writer.join()

    wait_for_release(image)
    run(OURS, "check", image, status=(0, 3))
    run("qemu-img", "check", image, status=(0, 3))
    run(OURS, "check", "-r", "leaks", image)
    after = tmp_path / "after.raw"
    run(OURS, "convert", "-f", "qcow2", "-O", "raw", image, after)
    run("e2fsck", "-fn", after)
    before, now = raw.read_bytes(), after.read_bytes()
    for writer in writers:
        for block, allowed in writer.allowed.items():
            found = now[block * BLOCK:(block + 1) * BLOCK]
            old = before[block * BLOCK:(block + 1) * BLOCK]
            assert found in [old if data is None else data for data in allowed], block
