# SPDX-License-Identifier: GPL-2.0-or-later
"""The FUSE export: what a file's users can do with a node, and how it comes and goes."""

import mmap
import os
import signal
import stat
import threading
import time

import pytest

from support import fuse
from support.daemon import run_daemon
from support.fuse import (COLLAPSE, INSERT, KEEP_SIZE, PUNCH_HOLE, UNSHARE, ZERO_RANGE, Exported,
                          fallocate, outcome)

pytestmark = fuse.needed
MiB = 1 << 20
strata_only = pytest.mark.strata_only


@pytest.fixture
def exported(daemon):
    """Call it to export the file node 'disk' of 1 MiB of the letter d, with options."""
    made = []

    def export(ident="e0", **options):
        if not made:
            daemon.add_file(data=b"d" * MiB, discard="unmap")
        made.append(Exported(daemon, ident, **options).add())
        return made[-1]

    yield export
    for entry in made:
        entry.close()


def image(daemon):
    with open(daemon.file("disk.img"), "rb") as file:
        return file.read()


# What the file looks like.

@pytest.mark.parametrize("writable, mode", [(False, 0o400), (True, 0o600)])
def test_the_file_is_its_owners(exported, writable, mode):
    found = os.stat(exported(writable=writable).path)
    assert found.st_mode == stat.S_IFREG | mode
    assert (found.st_uid, found.st_gid) == (os.getuid(), os.getgid())
    assert (found.st_size, found.st_nlink) == (MiB, 1)
    assert found.st_blocks == MiB // 512


def test_an_image_without_data_has_blocks_all_the_same(daemon, exported):
    daemon.image(size=MiB)
    assert os.stat(exported().path).st_blocks == MiB // 512


def test_the_length_is_a_multiple_of_sectors(daemon, exported):
    daemon.image(size=MiB + 100)
    file = exported()
    assert file.size() == MiB + 512
    assert os.pread(file.open(os.O_RDONLY), 4096, MiB) == bytes(512)


@strata_only("QEMU knows of no time but now")
def test_the_file_was_modified_when_it_was_written_to(daemon, exported):
    file = exported(writable=True)
    before = os.stat(file.path).st_mtime_ns
    fd = file.open()
    os.pread(fd, 4096, 0)
    fuse.wait_until(lambda: time.time_ns() > before, "time going by")
    assert os.stat(file.path).st_mtime_ns == before
    os.pwrite(fd, b"x", 0)
    assert os.fstat(fd).st_mtime_ns > before


@strata_only("QEMU says nothing of the space there is")
def test_the_file_system_has_the_size_of_the_node(daemon, exported):
    daemon.image(size=MiB)
    space = os.statvfs(exported().path)
    assert space.f_blocks * space.f_frsize == MiB
    assert space.f_bfree == space.f_blocks


# Reading and writing.

@pytest.mark.parametrize("flags", [0, os.O_DIRECT], ids=["cached", "direct"])
def test_what_is_written_is_read(daemon, exported, flags):
    fd = exported(writable=True).open(os.O_RDWR | flags)
    buffer = mmap.mmap(-1, 64 << 10)  # aligned
    for i in range(16):
        buffer[:] = bytes([i]) * len(buffer)
        assert os.pwritev(fd, [buffer], i * len(buffer)) == len(buffer)
    for i in range(16):
        assert os.preadv(fd, [buffer], i * len(buffer)) == len(buffer)
        assert buffer[:] == bytes([i]) * len(buffer)
    os.fsync(fd)
    assert image(daemon) == b"".join(bytes([i]) * len(buffer) for i in range(16))


@pytest.mark.parametrize("size", [1, 511, 513, 4097, 32 << 10, (32 << 10) + 1, 1000000, MiB - 1])
def test_any_size_at_any_offset_is_transferred(daemon, exported, size):
    fd = exported(writable=True).open()
    data = bytes(i * 7 & 0xff for i in range(size))
    offset = MiB - size
    assert os.pwrite(fd, data, offset) == size
    assert os.pread(fd, size + 10, offset) == data
    assert image(daemon) == b"d" * offset + data


def test_reads_end_with_the_file(exported):
    fd = exported().open(os.O_RDONLY)
    assert os.pread(fd, 10, MiB - 5) == b"ddddd"
    for offset in (MiB, MiB + 5, 1 << 62):
        assert os.pread(fd, 10, offset) == b""


@pytest.mark.parametrize("flags", [
    pytest.param(0, id="cached"),
    pytest.param(os.O_DIRECT, id="direct", marks=strata_only("QEMU fails the whole write"))])
def test_a_file_that_may_not_grow_is_written_to_its_end(exported, flags):
    fd = exported(writable=True).open(os.O_RDWR | flags)
    buffer = mmap.mmap(-1, 8192)
    assert os.pwritev(fd, [buffer], MiB - 4096) == 4096
    for offset in (MiB, MiB + 4096, 1 << 62):
        assert outcome(os.pwritev, fd, [buffer], offset) == "EIO"
    assert os.fstat(fd).st_size == MiB


@pytest.mark.parametrize("flags", [0, os.O_DIRECT], ids=["cached", "direct"])
def test_a_growable_file_grows(daemon, exported, flags):
    fd = exported(writable=True, growable=True).open(os.O_RDWR | flags)
    buffer = mmap.mmap(-1, 8192)
    buffer[:] = b"g" * 8192
    for offset in (MiB - 4096, MiB + 4096, 3 * MiB):
        assert os.pwritev(fd, [buffer], offset) == 8192
        assert os.fstat(fd).st_size == len(image(daemon)) == offset + 8192
    assert image(daemon)[MiB + 12288:3 * MiB] == bytes(2 * MiB - 12288)
    assert outcome(os.pwritev, fd, [buffer], 1 << 62) == "EFBIG"


def test_appending_goes_to_the_end(daemon, exported):
    file = exported(writable=True, growable=True)
    fd = file.open(os.O_WRONLY | os.O_APPEND)
    for i in range(1, 20):
        os.write(fd, bytes([i]) * 512)
    assert image(daemon)[MiB:] == b"".join(bytes([i]) * 512 for i in range(1, 20))


def test_growable_alone_permits_nothing(exported):
    fd = exported(growable=True).open()
    assert outcome(os.pwrite, fd, b"x", MiB) == "EACCES"


def test_a_read_only_export_is_not_changed(daemon, exported):
    file = exported()
    fd = file.open()
    assert outcome(os.pwrite, fd, b"x", 0) == "EACCES"
    assert outcome(os.ftruncate, fd, 0) == "EACCES"
    for mode in (0, KEEP_SIZE, PUNCH_HOLE | KEEP_SIZE, ZERO_RANGE):
        assert outcome(fallocate, fd, mode, 0, 4096) == "EACCES"
    assert image(daemon) == b"d" * MiB


def test_opening_with_truncation_leaves_the_node_alone(daemon, exported):
    file = exported(writable=True)
    file.open(os.O_RDWR | os.O_TRUNC)
    assert file.size() == MiB
    assert image(daemon) == b"d" * MiB


def test_memory_can_be_mapped(daemon, exported):
    file = exported(writable=True)
    fd = file.open()
    with mmap.mmap(fd, 8192, mmap.MAP_SHARED) as shared:
        assert shared[:4] == b"dddd"
        shared[4096:4100] = b"mmap"
        shared.flush()
    assert image(daemon)[4096:4101] == b"mmapd"


def test_a_write_to_mapped_memory_outlives_the_export(daemon, exported):
    """Unmounting makes the kernel write what it has, which has to be served meanwhile."""
    file = exported(writable=True)
    fd = file.open()
    shared = mmap.mmap(fd, 65536, mmap.MAP_SHARED)
    shared[:] = b"m" * 65536
    os.sync()
    shared.close()
    file.close_files()
    daemon.qmp.cmd("block-export-del", {"id": "e0"})
    fuse.wait_until(lambda: not file.is_mounted(), "the unmount")
    assert image(daemon)[:65537] == b"m" * 65536 + b"d"


# Size.

@pytest.mark.parametrize("growable", [False, True], ids=["plain", "growable"])
def test_truncation_resizes_the_node(daemon, exported, growable):
    file = exported(writable=True, growable=growable)
    fd = file.open()
    for size in (2 * MiB, MiB, 0, MiB):
        os.ftruncate(fd, size)
        assert (file.size(), len(image(daemon))) == (size, size)
    assert outcome(os.truncate, file.path, 1 << 62) == "EFBIG"
    assert file.size() == MiB
    assert image(daemon) == bytes(MiB)


def test_a_node_that_cannot_be_resized_says_so(daemon, exported):
    daemon.add_null()
    file = Exported(daemon, node="disk", writable=True).add()
    try:
        fd = file.open()
        assert outcome(os.ftruncate, fd, 2 * MiB) == "ENOTSUP"
        assert outcome(fallocate, fd, 0, MiB, 4096) == "ENOTSUP"
    finally:
        file.close()


def test_users_see_that_the_node_was_resized(daemon, exported):
    file = exported()
    assert file.size() == MiB
    daemon.qmp.cmd("block_resize", {"node-name": "disk", "size": 3 * MiB})
    fuse.wait_until(lambda: file.size() == 3 * MiB, "the new size")


# Allocation and holes.

def test_holes_are_punched(daemon, exported):
    fd = exported(writable=True).open()
    fallocate(fd, PUNCH_HOLE | KEEP_SIZE, 65536, 65536)
    assert image(daemon) == b"d" * 65536 + bytes(65536) + b"d" * (MiB - 131072)
    assert os.stat(daemon.file("disk.img")).st_blocks == (MiB - 65536) // 512


@strata_only("QEMU leaves the data where discard is ignored")
def test_a_hole_reads_as_zeroes_where_discard_is_ignored(daemon):
    daemon.add_file(data=b"d" * MiB, discard="ignore")
    file = Exported(daemon, writable=True).add()
    try:
        fallocate(file.open(), PUNCH_HOLE | KEEP_SIZE, 0, 65536)
        assert image(daemon) == bytes(65536) + b"d" * (MiB - 65536)
    finally:
        file.close()


@pytest.mark.parametrize("mode", [PUNCH_HOLE | KEEP_SIZE, ZERO_RANGE | KEEP_SIZE, ZERO_RANGE],
                         ids=["hole", "zeroes", "zeroes-grow"])
@pytest.mark.parametrize("offset, size", [(0, 4096), (100, 200), (MiB - 4096, 4096),
                                          (12345, 500000), (0, MiB)])
def test_a_range_becomes_zeroes(daemon, exported, mode, offset, size):
    fallocate(exported(writable=True).open(), mode, offset, size)
    assert image(daemon) == b"d" * offset + bytes(size) + b"d" * (MiB - offset - size)


def test_zeroes_beyond_the_end_make_the_file_larger(daemon, exported):
    file = exported(writable=True)
    fd = file.open()
    fallocate(fd, ZERO_RANGE, MiB - 4096, 8192)
    assert image(daemon) == b"d" * (MiB - 4096) + bytes(8192)
    assert file.size() == MiB + 4096
    fallocate(fd, ZERO_RANGE, 2 * MiB, 4096)
    assert file.size() == 2 * MiB + 4096


def test_what_keeps_the_size_ends_with_the_file(daemon, exported):
    fd = exported(writable=True).open()
    for mode in (PUNCH_HOLE | KEEP_SIZE, ZERO_RANGE | KEEP_SIZE):
        for offset, size in ((MiB - 4096, 8192), (MiB, 4096), (MiB - 4096, 1 << 62),
                             (MiB - 4096, (1 << 63) - MiB)):
            fallocate(fd, mode, offset, size)
        for offset in (MiB + 4096, 1 << 61):
            assert outcome(fallocate, fd, mode, offset, 4096) == "EIO"
    assert image(daemon) == b"d" * (MiB - 4096) + bytes(4096)


def test_space_is_allocated_behind_the_end_only(daemon, exported):
    file = exported(writable=True)
    fd = file.open()
    for offset in (0, MiB - 4096):
        assert outcome(fallocate, fd, 0, offset, 8192) == "ENOTSUP"
    fallocate(fd, 0, MiB, 65536)
    assert file.size() == MiB + 65536
    assert os.stat(daemon.file("disk.img")).st_blocks >= (MiB + 65536) // 512
    fallocate(fd, 0, 4 * MiB, 65536)
    assert file.size() == 4 * MiB + 65536
    assert os.stat(daemon.file("disk.img")).st_blocks < 2 * MiB // 512
    assert outcome(fallocate, fd, 0, 1 << 62, 4096) == "EFBIG"


@pytest.mark.parametrize("mode", [KEEP_SIZE, COLLAPSE, INSERT, UNSHARE])
def test_other_modes_are_not_supported(exported, mode):
    fd = exported(writable=True).open()
    assert outcome(fallocate, fd, mode, 0, 4096) == "ENOTSUP"


def test_data_and_holes_are_found(exported):
    fd = exported(writable=True).open()
    fallocate(fd, PUNCH_HOLE | KEEP_SIZE, 0, 65536)
    fallocate(fd, PUNCH_HOLE | KEEP_SIZE, 131072, 65536)
    found = [os.lseek(fd, offset, os.SEEK_DATA) for offset in (0, 65535, 65536, 70000, 131072)]
    assert found == [65536, 65536, 65536, 70000, 196608]
    found = [os.lseek(fd, offset, os.SEEK_HOLE) for offset in (0, 65535, 65536, 131072, 196608)]
    assert found == [0, 65535, 131072, 131072, MiB]
    assert outcome(os.lseek, fd, MiB, os.SEEK_DATA) == "ENXIO"
    for whence in (os.SEEK_DATA, os.SEEK_HOLE):
        for offset in (MiB + 1, 1 << 62):
            assert outcome(os.lseek, fd, offset, whence) == "ENXIO"
    fallocate(fd, PUNCH_HOLE | KEEP_SIZE, 0, MiB)
    assert outcome(os.lseek, fd, 0, os.SEEK_DATA) == "ENXIO"
    assert os.lseek(fd, 4096, os.SEEK_HOLE) == 4096


# Mode and owner.

def test_other_users_are_let_in_by_the_mode(exported):
    file = exported(writable=True)
    for mode in (0o400, 0o600, 0o644, 0o777, 0):
        os.chmod(file.path, mode)
        assert stat.S_IMODE(os.stat(file.path).st_mode) == mode


def test_nobody_may_be_said_to_write_what_is_read_only(exported):
    file = exported()
    for mode in (0o444, 0o400, 0):
        os.chmod(file.path, mode)
    for mode in (0o600, 0o644, 0o020, 0o002):
        assert outcome(os.chmod, file.path, mode) == "EROFS"


def test_who_is_kept_out_is_given_no_rights(exported):
    file = exported(writable=True, allow_other="off")
    for mode in (0o640, 0o604, 0o777):
        assert outcome(os.chmod, file.path, mode) == "EPERM"
    os.chmod(file.path, 0o700)
    if os.getuid() == 0:
        assert outcome(os.chown, file.path, 1, 1) == "ENOTSUP"


@pytest.mark.skipif(os.getuid() != 0, reason="gives files away")
def test_the_file_is_given_away(exported):
    file = exported(writable=True, allow_other="on")
    os.chown(file.path, 1, 2)
    os.chown(file.path, -1, 3)
    found = os.stat(file.path)
    assert (found.st_uid, found.st_gid) == (1, 3)


def test_times_and_attributes_cannot_be_set(exported):
    file = exported(writable=True)
    assert outcome(os.utime, file.path, (5, 5)) == "ENOTSUP"
    assert outcome(os.setxattr, file.path, "user.x", b"y") == "ENOTSUP"
    assert outcome(os.listxattr, file.path) in ("ENOTSUP", [])


# Coming and going.

def gone(daemon, file):
    daemon.qmp.event("BLOCK_EXPORT_DELETED", timeout=30)
    assert not file.is_mounted()
    assert daemon.qmp.cmd("query-block-exports") == []


def test_a_removed_export_shows_the_file_below(daemon, exported):
    held = []
    for _ in range(2):
        file = exported(writable=True)
        daemon.qmp.cmd("block-export-del", {"id": "e0"})
        gone(daemon, file)
        assert os.stat(file.path).st_size == 0
        held.append(daemon.fds())
    assert held[0] == held[1]
    daemon.qmp.cmd("blockdev-del", {"node-name": "disk"})


def test_who_has_the_file_open_loses_it(daemon, exported):
    file = exported()
    fd = file.open(os.O_RDONLY)
    daemon.qmp.cmd("block-export-del", {"id": "e0"})
    gone(daemon, file)
    assert outcome(os.pread, fd, 4096, 0) == "ENOTCONN"


@strata_only("QEMU's export stays")
@pytest.mark.parametrize("iothread", [False, True], ids=["main", "iothread"])
def test_unmounting_ends_the_export(daemon, exported, iothread):
    if iothread:
        daemon.qmp.cmd("object-add", {"qom-type": "iothread", "id": "t0"})
    file = exported(**({"iothread": "t0"} if iothread else {}))
    fuse.unmount(file.path)
    gone(daemon, file)
    daemon.qmp.cmd("blockdev-del", {"node-name": "disk"})


@strata_only("QEMU's export stays")
def test_a_lazy_unmount_ends_the_export_when_the_last_user_has_gone(daemon, exported):
    file = exported()
    fd = file.open(os.O_RDONLY)
    fuse.unmount(file.path, "-l")
    assert os.pread(fd, 4, 0) == b"dddd"
    assert len(daemon.qmp.cmd("query-block-exports")) == 1
    os.close(fd)
    gone(daemon, file)


@strata_only("QEMU unmounts whatever is there")
def test_what_somebody_else_mounted_is_left_alone(daemon, start, exported):
    file = exported()
    fd = file.open(os.O_RDONLY)  # keeps it alive
    fuse.unmount(file.path, "-l")
    other = start()
    other.add_file(data=b"o" * MiB)
    second = Exported(other)
    second.path = second.options["mountpoint"] = file.path
    second.add()
    daemon.qmp.cmd("block-export-del", {"id": "e0"})
    assert daemon.qmp.cmd("query-block-exports") == []
    assert os.pread(second.open(os.O_RDONLY), 4, 0) == b"oooo"
    second.close()


@pytest.mark.parametrize("how", ["quit", "SIGTERM", "SIGINT", "SIGHUP"])
def test_the_end_of_the_daemon_unmounts(daemon, exported, how):
    file = exported(writable=True)
    os.pwrite(file.open(), b"last", 0)
    if how == "quit":
        assert daemon.quit() == 0
    else:
        daemon.signal(getattr(signal, how))
        assert daemon.wait() == 0
    assert not file.is_mounted()
    assert image(daemon)[:5] == b"lastd"


@strata_only("QEMU unmounts a relative path from wherever it is")
def test_a_relative_mountpoint_is_unmounted_from_the_background(tmp_path):
    (tmp_path / "mnt").touch()
    result = run_daemon("--daemonize", "--pidfile", str(tmp_path / "pid"), "--blockdev",
                        "null-co,node-name=disk,size=1048576", "--export",
                        "fuse,id=e0,node-name=disk,mountpoint=mnt", cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    path = str(tmp_path.resolve() / "mnt")
    assert fuse.is_mounted(path)
    os.kill(int((tmp_path / "pid").read_text()), signal.SIGTERM)
    fuse.wait_until(lambda: not fuse.is_mounted(path), "the unmount")


def test_an_image_is_exported_over_itself(daemon, exported):
    daemon.add_file(data=b"d" * MiB)
    file = Exported(daemon, name="disk.img", writable=True).add()
    try:
        os.pwrite(file.open(), b"self", 0)
        assert stat.S_IMODE(os.stat(file.path).st_mode) == 0o600
        file.close_files()
        daemon.qmp.cmd("block-export-del", {"id": "e0"})
        fuse.wait_until(lambda: not file.is_mounted(), "the unmount")
    finally:
        file.close()
    assert image(daemon)[:5] == b"selfd"


def test_exports_of_one_node_show_the_same(daemon, exported):
    first = exported(writable=True, name="one")
    second = exported("e1", name="two")
    os.pwrite(first.open(os.O_RDWR | os.O_DSYNC), b"both", 4096)
    assert os.pread(second.open(os.O_RDONLY), 5, 4096) == b"bothd"
    daemon.qmp.cmd("block-export-del", {"id": "e0"})
    assert os.pread(second.open(os.O_RDONLY), 5, 4096) == b"bothd"


# Refusals.

def refused(daemon, **options):
    return daemon.qmp.error("block-export-add", Exported(daemon, **options).options)


@pytest.mark.parametrize("mountpoint, text", [
    ("/nonexistent/x", "Failed to stat '/nonexistent/x': No such file or directory"),
    ("", "Failed to stat '': No such file or directory"),
    ("/tmp", "'/tmp' is not a regular file"),
    ("/dev/null", "'/dev/null' is not a regular file"),
    ("x" * 5000, f"Failed to stat '{'x' * 5000}': File name too long")],
    ids=["missing", "empty", "directory", "device", "long"])
def test_bad_mountpoints_are_refused(daemon, mountpoint, text):
    daemon.add_null()
    before = daemon.fds()
    assert refused(daemon, mountpoint=mountpoint) == text
    assert daemon.qmp.cmd("query-block-exports") == []
    daemon.wait_fds(before)
    daemon.qmp.cmd("blockdev-del", {"node-name": "disk"})


def test_one_place_holds_one_export(daemon, exported):
    file = exported()
    assert refused(daemon, ident="e1") == f"There already is a FUSE export on '{file.path}'"
    daemon.qmp.cmd("block-export-del", {"id": "e0"})
    exported("e1")


@strata_only("QEMU compares the words only")
def test_one_place_holds_one_export_by_any_name(daemon, exported):
    file = exported()
    link = daemon.file("link")
    os.symlink(file.path, link)
    text = refused(daemon, ident="e1", mountpoint=link)
    assert text == f"There already is a FUSE export on '{link}'"


def test_a_read_only_node_is_not_exported_writable(daemon):
    daemon.add_file(read_only=True)
    assert refused(daemon, writable=True) == "Cannot export read-only node as writable"


@pytest.mark.parametrize("options, text", [
    ({"allow-other": "maybe"}, "Parameter 'allow-other' does not accept value 'maybe'"),
    ({"growable": "on"}, "Invalid parameter type for 'growable', expected: boolean"),
    ({"bogus": 1}, "Parameter 'bogus' is unexpected")])
def test_bad_options_are_refused(daemon, options, text):
    daemon.add_null()
    assert refused(daemon, **options) == text


def test_a_mountpoint_is_needed(daemon):
    daemon.add_null()
    arguments = {"type": "fuse", "id": "e0", "node-name": "disk"}
    assert daemon.qmp.error("block-export-add", arguments) == "Parameter 'mountpoint' is missing"


def test_what_a_killed_daemon_left_is_named(daemon, exported):
    file = exported()
    daemon.signal(signal.SIGKILL)
    daemon.wait()
    assert file.is_mounted()
    result = run_daemon("--blockdev", "null-co,node-name=disk,size=1048576", "--export",
                        f"fuse,id=e0,node-name=disk,mountpoint={file.path}")
    assert result.returncode == 1
    assert (f"Failed to stat '{file.path}': Transport endpoint is not connected"
            in result.stderr)
    daemon.expected_status = -signal.SIGKILL


@strata_only("QEMU gives no hint")
def test_what_a_killed_daemon_left_is_named_with_a_remedy(daemon, exported):
    file = exported()
    daemon.signal(signal.SIGKILL)
    daemon.wait()
    result = run_daemon("--blockdev", "null-co,node-name=disk,size=1048576", "--export",
                        f"fuse,id=e0,node-name=disk,mountpoint={file.path}")
    assert f"fusermount3 -u '{file.path}'" in result.stderr
    daemon.expected_status = -signal.SIGKILL


@strata_only("QEMU's mount stays")
def test_a_start_that_fails_later_unmounts(tmp_path):
    (tmp_path / "mnt").touch()
    result = run_daemon("--blockdev", "null-co,node-name=disk,size=1048576", "--export",
                        f"fuse,id=e0,node-name=disk,mountpoint={tmp_path / 'mnt'}",
                        "--export", "nbd,id=e1,node-name=disk")
    assert result.returncode == 1
    assert not fuse.is_mounted(str(tmp_path.resolve() / "mnt"))


# Threads.

@strata_only("QEMU has one thread")
def test_several_iothreads_serve_one_file(daemon, exported):
    for i in range(3):
        daemon.qmp.cmd("object-add", {"qom-type": "iothread", "id": f"t{i}"})
    file = exported(writable=True, growable=True, iothread=["t0", "t1", "t2", "t0"])
    failures = []

    def work(number):
        fd = os.open(file.path, os.O_RDWR)
        try:
            for i in range(number, 256, 4):
                data = bytes([i]) * 8192
                os.pwrite(fd, data, i * 8192)
                if os.pread(fd, 8192, i * 8192) != data:
                    failures.append(i)
        except OSError as error:
            failures.append(error)
        finally:
            os.close(fd)

    workers = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert failures == []
    assert image(daemon) == b"".join(bytes([i]) * 8192 for i in range(256))
    daemon.qmp.cmd("block-export-del", {"id": "e0"})
    for i in range(3):
        daemon.qmp.cmd("object-del", {"id": f"t{i}"})


@strata_only("QEMU has one thread")
def test_the_export_goes_while_it_is_used_from_all_sides(daemon, exported):
    for i in range(2):
        daemon.qmp.cmd("object-add", {"qom-type": "iothread", "id": f"t{i}"})
    for round_ in range(5):
        file = exported(f"e{round_}", writable=True, iothread=["t0", "t1"])
        begun = threading.Barrier(4)
        ends = []

        def work(path):
            fd = os.open(path, os.O_RDWR)
            os.pread(fd, 4096, 0)
            begun.wait()
            try:
                while True:
                    os.pwrite(fd, b"x" * 4096, 4096)
                    os.pread(fd, 4096, 65536)
            except OSError as error:
                ends.append(error.strerror)
            finally:
                outcome(os.close, fd)

        workers = [threading.Thread(target=work, args=(file.path,)) for _ in range(3)]
        for worker in workers:
            worker.start()
        begun.wait()
        daemon.qmp.cmd("block-export-del", {"id": f"e{round_}"})
        for worker in workers:
            worker.join()
        assert set(ends) <= {"Transport endpoint is not connected",
                             "Software caused connection abort"}
        assert not file.is_mounted()
    assert daemon.qmp.cmd("query-block-exports") == []
