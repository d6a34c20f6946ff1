# SPDX-License-Identifier: GPL-2.0-or-later
"""Locks that exclude QEMU's programs and ours; block devices."""

import os
import subprocess

import pytest

from support.nbd_wire import NBD
from support.program import ROOT
from support.tools import nbdmap, qemu_io, run

IMG = str(ROOT / os.environ.get("STRATA_BUILD", "build") / "bin/strata-img")
SIZE = 8 << 20


def guest_command(path):
    """QEMU with a disk that it does not share, stopped before its first instruction."""
    return ["qemu-system-x86_64", "-M", "q35,accel=tcg", "-m", "64", "-nodefaults", "-display",
            "none", "-S", "-qmp", "stdio",
            "-blockdev", f"driver=file,node-name=f,filename={path}",
            "-blockdev", "driver=raw,node-name=d,file=f", "-device", "virtio-blk-pci,drive=d"]


def test_qemu_refuses_a_guest_the_file_that_is_exported_for_writing(disk):
    done = run(*guest_command(disk.file("disk.img")), check=False)
    assert done.returncode != 0
    assert 'Failed to get "write" lock' in done.stdout or \
        'Failed to get shared "write" lock' in done.stdout


def test_qemu_img_refuses_to_resize_what_is_exported(disk):
    done = run("qemu-img", "resize", "-f", "raw", disk.file("disk.img"), "16M", check=False)
    assert done.returncode != 0
    assert 'Failed to get "resize" lock' in done.stdout
    assert os.path.getsize(disk.file("disk.img")) == SIZE


def test_qemu_img_reads_by_force(disk):
    run("qemu-img", "info", "-U", "-f", "raw", disk.file("disk.img"))


def test_qemu_img_reads_what_is_exported_read_only(daemon):
    daemon.add_file("disk", read_only=True)
    daemon.serve_nbd()
    daemon.export("disk")
    run("qemu-img", "info", "-f", "raw", daemon.file("disk.img"))


def test_qemu_may_use_the_file_once_the_node_is_gone(disk):
    disk.qmp.cmd("block-export-del", id="exp0")
    disk.qmp.event("BLOCK_EXPORT_DELETED")
    disk.qmp.cmd("blockdev-del", {"node-name": "disk"})
    disk.qmp.cmd("blockdev-del", {"node-name": "file"})
    qemu_io(disk.file("disk.img"), "write 0 512")


def test_unlocked_node_excludes_nobody(daemon):
    daemon.add_file("disk", locking="off")
    daemon.serve_nbd()
    daemon.export("disk", writable=True)
    qemu_io(daemon.file("disk.img"), "write 0 512")


@pytest.fixture
def held(daemon):
    """An image that a guest of QEMU's holds and does not share."""
    holder = subprocess.Popen(guest_command(daemon.image(size=SIZE)), stdin=subprocess.PIPE,
                              stdout=subprocess.PIPE, text=True, bufsize=1)
    assert "QMP" in holder.stdout.readline()
    holder.stdin.write('{"execute": "qmp_capabilities"}\n')
    assert "return" in holder.stdout.readline()  # all its devices are there
    yield daemon
    holder.stdin.write('{"execute": "quit"}\n')
    holder.communicate(timeout=30)


def refusal(daemon, **options):
    """How the daemon is refused the image, by the node or by its export."""
    reply = daemon.qmp.reply("blockdev-add", dict(
        {"driver": "file", "node-name": "disk", "filename": daemon.file("disk.img")}, **options))
    if "return" in reply:
        daemon.serve_nbd()
        reply = daemon.qmp.reply("block-export-add", {
            "type": "nbd", "id": "e", "node-name": "disk", "writable": not options})
    return reply["error"]["desc"]


def test_export_of_what_a_guest_writes_is_refused(held):
    assert refusal(held).startswith('Failed to get "write" lock')


def test_reading_export_of_what_a_guest_writes_is_allowed(held):
    """A raw disk is not read consistently by anybody; so does QEMU."""
    held.qmp.cmd("blockdev-add", {"driver": "file", "node-name": "disk", "read-only": True,
                                  "filename": held.file("disk.img")})


@pytest.mark.strata_only("QEMU does not say who")
def test_lock_error_names_the_holder(held):
    text = refusal(held) + held.stderr
    assert "qemu-system" in text


def test_resize_of_what_qemus_daemon_exports_is_refused(daemon):
    path = daemon.image(size=SIZE)
    holder = subprocess.Popen(
        ["qemu-storage-daemon", "--blockdev", f"file,node-name=f,filename={path}",
         "--nbd-server", f"addr.type=unix,addr.path={daemon.file('other.sock')}",
         "--export", "nbd,id=e,node-name=f,writable=on", "--pidfile", daemon.file("other.pid")])
    daemon.wait_for(lambda: os.path.exists(daemon.file("other.pid")), "QEMU's daemon")
    daemon.add_file("disk")
    assert daemon.qmp.error("block_resize", {"node-name": "disk", "size": 4096}).startswith(
        'Failed to get "resize" lock')
    holder.terminate()
    assert holder.wait(10) == 0
    daemon.qmp.cmd("block_resize", {"node-name": "disk", "size": 4096})


def test_node_by_force_beside_qemu(held):
    held.qmp.cmd("blockdev-add", {"driver": "file", "node-name": "disk", "read-only": True,
                                  "filename": held.file("disk.img"), "force-share": True})


def test_two_daemons_may_read_one_file(daemon, start):
    other = start()
    daemon.add_file("disk", read_only=True)
    daemon.serve_nbd()
    daemon.export("disk")
    other.qmp.cmd("blockdev-add", {"driver": "file", "node-name": "disk", "read-only": True,
                                   "filename": daemon.file("disk.img")})
    other.serve_nbd()
    other.export("disk")


def test_an_image_in_use_can_get_an_overlay(daemon):
    image = daemon.file("a.qcow2")
    run("qemu-img", "create", "-f", "qcow2", image, "1M")
    with subprocess.Popen(["qemu-io", "-f", "qcow2", image], stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE, bufsize=0) as writer:
        writer.stdin.write(b"read 0 512\n")
        while b"512 bytes" not in writer.stdout.readline():
            pass
        made = run(IMG, "create", "-f", "qcow2", "-b", image, "-F", "qcow2", daemon.file("o.qcow2"))
        assert "size=1048576" in made.stdout
        refused = run(IMG, "info", image, check=False)
        assert 'Failed to get shared "write" lock' in refused.stdout
        assert "qemu-io" in refused.stdout  # who it is


def test_a_lock_of_ones_own_names_nobody(daemon):
    image = daemon.file("a.qcow2")
    run("qemu-img", "create", "-f", "qcow2", image, "1M")
    refused = run(IMG, "convert", "-n", "-f", "qcow2", "-O", "qcow2", image, image, check=False)
    assert refused.stdout == (f"strata-img: Could not open '{image}': "
                              'Failed to get "write" lock\n'
                              f"Is another process using the image [{image}]?\n")


# Block devices.

@pytest.fixture
def loop(tmp_path):
    """A loop device over a file of SIZE bytes."""
    image = tmp_path / "backing"
    image.write_bytes(os.urandom(SIZE))
    done = subprocess.run(["losetup", "--find", "--show", str(image)], capture_output=True,
                          text=True)
    if done.returncode != 0:
        pytest.skip(f"no loop device: {done.stderr.strip()}")
    device = done.stdout.strip()
    yield device, image
    subprocess.run(["losetup", "--detach", device], check=False)


def export_loop(daemon, device, **options):
    daemon.qmp.cmd("blockdev-add", dict({"driver": "host_device", "node-name": "disk",
                                         "filename": device}, **options))
    daemon.serve_nbd()
    return daemon.export("disk", writable=True)


def test_size_of_a_block_device(daemon, loop):
    export_loop(daemon, loop[0])
    assert daemon.qmp.cmd("query-named-block-nodes")[0]["image"]["virtual-size"] == SIZE


@pytest.mark.parametrize("direct", [False, True])
def test_block_device_is_read_and_written(daemon, loop, direct):
    device, image = loop
    export_loop(daemon, device, cache={"direct": direct})
    data = os.urandom(5000)
    with NBD(daemon.nbd_path) as client:
        client.open("disk")
        assert client.read(0, 65536) == image.read_bytes()[:65536]
        assert client.write(1234, data) == 0
        assert client.request(3)[0] == 0
        assert client.read(1000, 6000)[234:5234] == data


def test_block_device_is_zeroed_and_discarded(daemon, loop):
    uri = export_loop(daemon, loop[0], discard="unmap")
    qemu_io(uri, "write -z 1M 1M", "read -P 0 1M 1M", "discard 3M 1M", "flush")
    assert sum(length for _, length, _ in nbdmap(uri)) == SIZE


def test_block_device_cannot_grow(daemon, loop):
    export_loop(daemon, loop[0])
    daemon.qmp.cmd("block-export-del", id="exp0")
    daemon.qmp.event("BLOCK_EXPORT_DELETED")
    assert daemon.qmp.error("block_resize", {"node-name": "disk", "size": SIZE * 2})


def test_regular_file_driver_refuses_a_block_device(daemon, loop):
    assert daemon.qmp.error("blockdev-add", {
        "driver": "file", "node-name": "disk", "filename": loop[0]}) == (
        f"'file' driver requires '{loop[0]}' to be a regular file")
