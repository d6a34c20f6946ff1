# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs of a program, with what they cost."""

import json
import subprocess
import sys

MOST_KIB = 64 * 1024
MOST_SECONDS = 10

# A process starts with the peak of the memory of whoever made it, so a small one makes it.
CHILD = """
import json, resource, subprocess, sys
resource.setrlimit(resource.RLIMIT_CPU, (30, 30))
done = subprocess.run(sys.argv[1:], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                      stderr=subprocess.PIPE)
usage = resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps([done.returncode, done.stdout.decode(errors="replace"),
                  done.stderr.decode(errors="replace"),
                  usage.ru_utime + usage.ru_stime, usage.ru_maxrss]))
"""


class Run:
    """A finished run: status, out, err; seconds of CPU, KiB of memory at its peak."""

    def __init__(self, command, cwd, timeout=120):
        done = subprocess.run([sys.executable, "-I", "-S", "-c", CHILD, *map(str, command)],
                              cwd=cwd, capture_output=True, text=True, check=True, timeout=timeout)
        self.status, self.out, self.err, self.seconds, self.kib = json.loads(done.stdout)

    def assert_modest(self):
        assert self.seconds < MOST_SECONDS, f"{self.seconds} s"
        assert self.kib < MOST_KIB, f"{self.kib} KiB"
