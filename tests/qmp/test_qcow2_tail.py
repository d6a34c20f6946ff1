# SPDX-License-Identifier: GPL-2.0-or-later
"""Where the file below a qcow2 image ends: ahead of what is written, and only so long as it is."""

import os
import resource
import signal

import pytest

from support.nbd_wire import CMD_FLUSH, NBD
from support.program import is_oracle
from support.tools import qemu_io, run, wait_until

pytestmark = pytest.mark.skipif(is_oracle(), reason="of no interest there")

CLUSTER = 65536
MIB = 1 << 20


@pytest.fixture
def image(daemon):
    path = daemon.file("disk.qcow2")
    run("qemu-img", "create", "-q", "-f", "qcow2", path, "1G")
    daemon.serve_nbd()
    daemon.qmp.cmd("blockdev-add", {
        "driver": "qcow2", "node-name": "disk",
        "file": {"driver": "file", "node-name": "file", "filename": path}})
    daemon.export("disk", writable=True)
    return path


def scatter(daemon, count):
    """4 KiB in each third cluster."""
    with NBD(daemon.nbd_path) as client:
        client.open("disk")
        for i in range(count):
            assert client.write(i * 3 * CLUSTER, bytes([i % 255 + 1]) * 4096) == 0
        assert client.request(CMD_FLUSH)[0] == 0


def verify(path, count):
    run("qemu-img", "check", "-q", "-U", path)
    qemu_io(path, *(f"read -P {i % 255 + 1} {i * 3 * CLUSTER} 4k" for i in range(count)),
            *(f"read -P 0 {i * 3 * CLUSTER + 4096} 60k" for i in range(count)),
            image_format="qcow2", shared=True)


def test_ahead_while_it_is_written_and_not_afterwards(daemon, image):
    scatter(daemon, 40)
    assert os.path.getsize(image) > 41 * CLUSTER + MIB // 2
    daemon.qmp.cmd("block-export-del", id="exp0", mode="hard")
    daemon.qmp.event("BLOCK_EXPORT_DELETED")
    daemon.qmp.cmd("blockdev-del", {"node-name": "disk"})
    end = os.path.getsize(image)
    assert 40 * CLUSTER < end <= 48 * CLUSTER and end % CLUSTER == 0
    verify(image, 40)


def test_what_a_killed_daemon_leaves_is_sound(daemon, image):
    scatter(daemon, 40)
    daemon.signal(signal.SIGKILL)
    daemon.wait()
    daemon.expected_status = -signal.SIGKILL
    verify(image, 40)
    # The kernel may hold the locks of a ring for a moment more.
    wait_until(lambda: "failed" not in qemu_io(image, "write -P 0xee 500M 1M", check=False,
                                               image_format="qcow2").lower(), "the locks")
    verify(image, 40)


def test_becoming_read_only_gives_the_rest_back(daemon, image):
    scatter(daemon, 10)
    daemon.qmp.cmd("block-export-del", id="exp0", mode="hard")
    daemon.qmp.event("BLOCK_EXPORT_DELETED")
    daemon.qmp.cmd("blockdev-reopen", options=[{
        "driver": "qcow2", "node-name": "disk", "file": "file", "read-only": True}])
    assert os.path.getsize(image) <= 18 * CLUSTER
    verify(image, 10)


def test_a_limit_of_files_ends_no_daemon(daemon, image):
    """What lies under the limit is written though there is no room ahead of it."""
    unlimited = resource.RLIM_INFINITY
    resource.prlimit(daemon.pid, resource.RLIMIT_FSIZE, (32 * CLUSTER, unlimited))
    scatter(daemon, 20)
    with NBD(daemon.nbd_path) as client:
        client.open("disk")
        assert client.write(512 * MIB, b"x" * 64 * CLUSTER) != 0
        assert client.read(0, 512) == b"\1" * 512
    assert daemon.alive()
    resource.prlimit(daemon.pid, resource.RLIMIT_FSIZE, (unlimited, unlimited))
    scatter(daemon, 40)
    assert daemon.quit() == 0
    verify(image, 40)
