# SPDX-License-Identifier: GPL-2.0-or-later
"""FUSE exports: what it takes to mount one, and calls that Python's os module has not."""

import ctypes
import errno
import os
import shutil
import subprocess
import time

import pytest

from support.program import slow_factor

KEEP_SIZE, PUNCH_HOLE, COLLAPSE, ZERO_RANGE, INSERT, UNSHARE = 1, 2, 8, 16, 32, 64
CAP_SYS_ADMIN = 21

_libc = ctypes.CDLL("libc.so.6", use_errno=True)
_libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]


def why_impossible():
    """Why no FUSE file system can be mounted here; None where one can."""
    try:
        os.close(os.open("/dev/fuse", os.O_RDWR))
    except OSError as error:
        return f"/dev/fuse: {error.strerror}"
    with open("/proc/self/status", encoding="ascii") as status:
        effective = next(int(line.split()[1], 16) for line in status if line.startswith("CapEff"))
    may_mount = effective >> CAP_SYS_ADMIN & 1
    if not may_mount and (os.geteuid() == 0 or shutil.which("fusermount3") is None):
        return "mounting is not permitted"
    return None


needed = pytest.mark.skipif(why_impossible() is not None, reason=f"no FUSE: {why_impossible()}")


def fallocate(fd, mode, offset, length):
    if _libc.fallocate(fd, mode, offset, length) < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def outcome(function, *arguments):
    """What a call returned, or the name of the error it raised."""
    try:
        return function(*arguments)
    except OSError as error:
        return errno.errorcode[error.errno]


def is_mounted(path):
    with open("/proc/self/mountinfo", encoding="utf-8") as mounts:
        return any(line.split()[4] == path for line in mounts)


def unmount(path, *options):
    subprocess.run(["umount", *options, path], check=True, capture_output=True, timeout=30)


def wait_until(condition, what, timeout=30):
    deadline = time.monotonic() + timeout * slow_factor()
    while not condition():
        assert time.monotonic() < deadline, f"no sign of {what}"
        time.sleep(0.01)


class Exported:
    """A node of a daemon as a file. `path` is where; close() takes away what is left of it."""

    def __init__(self, daemon, ident="e0", node="disk", name="mnt", **options):
        self.daemon = daemon
        self.ident = ident
        self.path = os.path.realpath(daemon.path) + "/" + name
        open(self.path, "ab").close()
        self.options = dict({"type": "fuse", "id": ident, "node-name": node,
                             "mountpoint": self.path},
                            **{key.replace("_", "-"): value for key, value in options.items()})
        self.descriptors = []

    def add(self):
        self.daemon.qmp.cmd("block-export-add", self.options)
        return self

    def open(self, flags=os.O_RDWR):
        self.descriptors.append(os.open(self.path, flags))
        return self.descriptors[-1]

    def size(self):
        return os.stat(self.path).st_size

    def is_mounted(self):
        return is_mounted(self.path)

    def close_files(self):
        for descriptor in self.descriptors:
            outcome(os.close, descriptor)
        self.descriptors.clear()

    def close(self):
        self.close_files()
        if self.is_mounted():
            subprocess.run(["umount", "-l", self.path], check=False)
