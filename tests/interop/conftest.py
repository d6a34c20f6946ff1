# SPDX-License-Identifier: GPL-2.0-or-later
import os

import pytest

SIZE = 8 << 20


@pytest.fixture
def pattern():
    """SIZE bytes that do not repeat, with a hole of zeroes in the middle."""
    return os.urandom(SIZE // 2) + bytes(SIZE // 4) + os.urandom(SIZE // 4)


@pytest.fixture
def disk(daemon, pattern):
    """A writable raw file of that pattern, exported as 'disk'."""
    daemon.add_file("file", size=SIZE, data=pattern, discard="unmap")
    daemon.qmp.cmd("blockdev-add", {"driver": "raw", "node-name": "disk", "file": "file",
                                    "discard": "unmap"})
    daemon.serve_nbd()
    daemon.export("disk", writable=True)
    return daemon


@pytest.fixture
def null(daemon):
    """A writable null node of SIZE bytes, exported as 'disk'."""
    daemon.add_null(size=SIZE)
    daemon.serve_nbd()
    daemon.export("disk", writable=True)
    return daemon
