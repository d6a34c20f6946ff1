# SPDX-License-Identifier: GPL-2.0-or-later
"""What everyday programs make of a node that is a file."""

import os
import shutil
import subprocess

import pytest

from support import fuse
from support.fuse import Exported

pytestmark = fuse.needed
MiB = 1 << 20


def run(*command, check=True, timeout=120, **options):
    result = subprocess.run([str(part) for part in command], capture_output=True, text=True,
                            stdin=subprocess.DEVNULL, timeout=timeout, check=False, **options)
    assert not check or result.returncode == 0, (command, result.stderr)
    return result


@pytest.fixture
def exported(daemon):
    """Call it to export an image of 8 MiB as a file, with options."""
    made = []

    def export(data=b"", size=8 * MiB, driver="raw", **options):
        if driver == "raw":
            daemon.add_file("disk", size=size, data=data, discard="unmap")
        else:
            run("qemu-img", "create", "-q", "-f", driver, daemon.file("disk.img"), size)
            daemon.qmp.cmd("blockdev-add", {
                "driver": driver, "node-name": "disk", "discard": "unmap",
                "file": {"driver": "file", "filename": daemon.file("disk.img"),
                         "discard": "unmap"}})
        options.setdefault("writable", True)
        made.append(Exported(daemon, **options).add())
        return made[-1]

    yield export
    for entry in made:
        entry.close()


def contents(path):
    with open(path, "rb") as file:
        return file.read()


@pytest.mark.parametrize("flags", [[], ["iflag=direct"], ["iflag=fullblock"]])
@pytest.mark.parametrize("block", ["512", "4K", "1M", "3M"])
def test_dd_reads(exported, tmp_path, flags, block):
    data = os.urandom(8 * MiB)
    file = exported(data=data)
    run("dd", f"if={file.path}", f"of={tmp_path / 'copy'}", f"bs={block}", *flags)
    assert contents(tmp_path / "copy") == data


@pytest.mark.parametrize("flags", [["conv=notrunc,fsync"], ["conv=notrunc", "oflag=direct"],
                                   ["conv=notrunc", "oflag=dsync"], ["conv=notrunc,sparse"]])
def test_dd_writes(daemon, exported, tmp_path, flags):
    data = os.urandom(MiB) + bytes(2 * MiB) + os.urandom(MiB)
    (tmp_path / "source").write_bytes(data)
    file = exported()
    run("dd", f"if={tmp_path / 'source'}", f"of={file.path}", "bs=256K", "seek=4", *flags)
    run("sync", file.path)
    assert contents(daemon.file("disk.img"))[MiB:5 * MiB] == data


def test_dd_is_stopped_at_the_end_of_what_may_not_grow(exported):
    file = exported()
    result = run("dd", "if=/dev/zero", f"of={file.path}", "bs=1M", "count=20", "conv=notrunc",
                 check=False)
    assert result.returncode == 1
    assert "Input/output error" in result.stderr
    assert file.size() == 8 * MiB


def test_dd_makes_a_growable_file_larger(daemon, exported):
    file = exported(growable=True)
    run("dd", "if=/dev/zero", f"of={file.path}", "bs=1M", "count=20", "conv=notrunc,fsync")
    assert file.size() == 20 * MiB
    assert os.path.getsize(daemon.file("disk.img")) == 20 * MiB


def test_cat_appends_to_a_growable_file(daemon, exported):
    file = exported(growable=True)
    run("sh", "-c", f"printf '%512s' end >> {file.path}")
    assert contents(daemon.file("disk.img")).endswith(b"end")
    assert file.size() == 8 * MiB + 512


@pytest.mark.parametrize("driver", ["raw", "qcow2"])
@pytest.mark.parametrize("mode", ["always", "auto", "never"])
def test_cp_keeps_what_there_is_and_its_holes(exported, tmp_path, driver, mode):
    file = exported(driver=driver, size=64 * MiB)
    with open(file.path, "r+b") as out:
        for place in (0, 20 * MiB, 63 * MiB):
            out.seek(place)
            out.write(os.urandom(MiB))
        out.flush()
        os.fsync(out.fileno())
    run("cp", f"--sparse={mode}", file.path, tmp_path / "copy")
    assert run("cmp", file.path, tmp_path / "copy").stdout == ""
    if mode != "never":
        assert os.stat(tmp_path / "copy").st_blocks * 512 < 8 * MiB


@pytest.mark.parametrize("mode, status", [("auto", 0), ("always", 1)])
def test_cp_cannot_share_blocks(exported, tmp_path, mode, status):
    data = os.urandom(8 * MiB)
    file = exported(data=data)
    result = run("cp", f"--reflink={mode}", file.path, tmp_path / "copy", check=False)
    assert result.returncode == status
    if status == 0:
        assert contents(tmp_path / "copy") == data


def test_cp_into_the_file(daemon, exported, tmp_path):
    data = os.urandom(8 * MiB)
    (tmp_path / "source").write_bytes(data)
    file = exported()
    run("cp", tmp_path / "source", file.path)
    run("sync", file.path)
    assert contents(daemon.file("disk.img")) == data


def test_fallocate_punches_holes(daemon, exported):
    file = exported(data=b"x" * (8 * MiB))
    run("fallocate", "--punch-hole", "--offset", MiB, "--length", 2 * MiB, file.path)
    found = contents(daemon.file("disk.img"))
    assert found == b"x" * MiB + bytes(2 * MiB) + b"x" * (5 * MiB)
    assert os.stat(daemon.file("disk.img")).st_blocks * 512 < 7 * MiB


def test_fallocate_zeroes(daemon, exported):
    file = exported(data=b"x" * (8 * MiB))
    run("fallocate", "--zero-range", "--offset", 1000, "--length", 5000, file.path)
    assert contents(daemon.file("disk.img")) == (
        b"x" * 1000 + bytes(5000) + b"x" * (8 * MiB - 6000))


def test_fallocate_digs_holes(daemon, exported):
    file = exported(data=b"x" * MiB + bytes(6 * MiB) + b"y" * MiB)
    run("fallocate", "--dig-holes", file.path)
    assert contents(file.path) == b"x" * MiB + bytes(6 * MiB) + b"y" * MiB


def test_fallocate_makes_the_file_longer(daemon, exported):
    file = exported(growable=True)
    run("fallocate", "--offset", 8 * MiB, "--length", 4 * MiB, file.path)
    assert file.size() == os.path.getsize(daemon.file("disk.img")) == 12 * MiB


@pytest.mark.parametrize("option", ["--collapse-range", "--insert-range"])
def test_fallocate_cannot_move_what_there_is(exported, option):
    file = exported()
    result = run("fallocate", option, "--offset", MiB, "--length", MiB, file.path, check=False)
    assert result.returncode == 1
    assert "not supported" in result.stderr


@pytest.mark.parametrize("size", [16 * MiB, 4 * MiB, 512])
def test_truncate_resizes(daemon, exported, size):
    file = exported()
    run("truncate", "--size", size, file.path)
    assert file.size() == os.path.getsize(daemon.file("disk.img")) == size


def test_truncate_may_not_resize_what_is_read_only(exported):
    file = exported(writable=False)
    os.chmod(file.path, 0o400)
    result = run("truncate", "--size", 0, file.path, check=False)
    assert result.returncode == 1
    assert file.size() == 8 * MiB


@pytest.mark.parametrize("options", [
    ["--ioengine=psync", "--direct=0"],
    ["--ioengine=psync", "--direct=1"],
    ["--ioengine=libaio", "--direct=1", "--iodepth=16"],
    ["--ioengine=mmap"],
])
def test_fio_verifies(exported, tmp_path, options):
    file = exported()
    result = run("fio", "--name=verify", f"--filename={file.path}", "--rw=randwrite", "--bs=4k-64k",
                 "--blockalign=4k", "--size=8M", "--verify=crc32c", "--randrepeat=1",
                 "--allow_file_create=0", *options, cwd=tmp_path)
    assert "err= 0" in result.stdout


def test_several_fio_jobs_share_the_file(daemon, exported, tmp_path):
    for thread in ("t0", "t1"):
        daemon.qmp.cmd("object-add", {"qom-type": "iothread", "id": thread})
    file = exported(iothread=["t0", "t1"])
    result = run("fio", "--name=verify", f"--filename={file.path}", "--rw=randwrite", "--bs=16k",
                 "--size=2M", "--offset_increment=2M", "--numjobs=4", "--verify=crc32c",
                 "--ioengine=libaio", "--direct=1", "--iodepth=8", "--group_reporting",
                 "--allow_file_create=0", cwd=tmp_path)
    assert "err= 0" in result.stdout


def test_images_inside_are_looked_at_and_compared(daemon, exported, tmp_path):
    file = exported(driver="qcow2", data=b"")
    with open(file.path, "r+b") as out:
        out.write(os.urandom(MiB))
    run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", file.path, tmp_path / "copy.qcow2")
    assert "identical" in run("qemu-img", "compare", "-f", "raw", "-F", "qcow2", file.path,
                              tmp_path / "copy.qcow2").stdout
    assert "virtual size: 8 MiB" in run("qemu-img", "info", "-f", "raw", file.path).stdout


def loop_devices_work():
    if os.geteuid() != 0 or shutil.which("losetup") is None:
        return False
    return subprocess.run(["losetup", "--find"], capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(not loop_devices_work(), reason="no loop devices")
@pytest.mark.parametrize("direct", ["on", "off"])
def test_a_loop_device_holds_a_file_system(daemon, exported, tmp_path, direct):
    file = exported(size=32 * MiB)
    attached = run("losetup", "--find", "--show", f"--direct-io={direct}", file.path, check=False)
    if attached.returncode != 0:
        pytest.skip(f"no loop device: {attached.stderr}")
    device = attached.stdout.strip()
    try:
        run("mkfs.ext4", "-q", "-E", "nodiscard", device)
        run("e2fsck", "-f", "-n", device)
        written = os.urandom(MiB)
        (tmp_path / "source").write_bytes(written)
        run("debugfs", "-w", "-R", f"write {tmp_path / 'source'} inside", device)
        run("blkdiscard", "--offset", 24 * MiB, "--length", 4 * MiB, device, check=False)
        run("sync", device)
    finally:
        run("losetup", "--detach", device)
    run("sync", file.path)
    run("e2fsck", "-f", "-n", daemon.file("disk.img"))
    run("debugfs", "-R", f"dump inside {tmp_path / 'copy'}", daemon.file("disk.img"))
    assert contents(tmp_path / "copy") == written
