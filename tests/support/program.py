# SPDX-License-Identifier: GPL-2.0-or-later
"""Which programs the tests run.

STRATA_DAEMON chooses the storage daemon; the default is the one in build/bin. Tests written from
QEMU's documents can so be run on QEMU's own daemon, which they must pass too.
"""

import functools
import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def daemon_program():
    return os.environ.get("STRATA_DAEMON") or str(
        ROOT / os.environ.get("STRATA_BUILD", "build") / "bin/strata-storage-daemon")


@functools.lru_cache(maxsize=None)
def is_oracle():
    """Whether the daemon under test is QEMU's own."""
    run = subprocess.run([daemon_program(), "--version"], capture_output=True, text=True)
    return run.stdout.startswith("qemu-storage-daemon version") and "Strata" not in run.stdout


def program_name():
    """What the daemon calls itself in its error messages."""
    return os.path.basename(daemon_program())


def slow_factor():
    """By how much sanitizers slow the daemon down; scales time limits."""
    return float(os.environ.get("STRATA_SLOW", "1"))
