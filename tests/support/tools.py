# SPDX-License-Identifier: GPL-2.0-or-later
"""The peers from Debian's packages: QEMU's tools, libnbd's tools, fio."""

import json
import os
import subprocess
import time

from support.program import slow_factor


def run(*command, check=True, timeout=60, **options):
    """Runs a tool; its output in .stdout, errors included. Fails when the tool fails."""
    done = subprocess.run([str(c) for c in command], stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, timeout=timeout * slow_factor(),
                          stdin=subprocess.DEVNULL, **options)
    if check and done.returncode != 0:
        raise AssertionError(f"{' '.join(map(str, command))}: {done.returncode}\n{done.stdout}")
    return done


def wait_until(condition, what, seconds=30):
    deadline = time.monotonic() + seconds * slow_factor()
    while not condition():
        assert time.monotonic() < deadline, f"no sign of {what}"
        time.sleep(0.01)


def is_listening(path):
    """Whether somebody listens on a Unix socket; its file is there a moment before."""
    with open("/proc/net/unix") as sockets:
        return any(fields[3] == "00010000" and fields[-1] == str(path)
                   for fields in map(str.split, sockets) if len(fields) == 8)


def nbdinfo(uri, *options):
    """What nbdinfo --json says, with its list of exports."""
    return json.loads(run("nbdinfo", "--json", *options, uri).stdout)


def nbdmap(uri):
    """[(offset, length, type), ...] of base:allocation."""
    extents = json.loads(run("nbdinfo", "--map", "--json", uri).stdout)
    return [(e["offset"], e["length"], e["type"]) for e in extents]


def qemu_io(uri, *commands, check=True, image_format="raw", shared=False):
    """Runs qemu-io commands over an NBD URI or a file, which others may have open; its output."""
    words = []
    for command in commands:
        words += ["-c", command]
    flags = ["-U", "-r"] if shared else []
    done = run("qemu-io", *flags, "-f", image_format, *words, uri, check=False)
    if check:
        assert done.returncode == 0 and "failed" not in done.stdout, done.stdout
    return done.stdout


def fio(uri, directory, *options, check=True):
    """One fio job of the nbd engine; fio's JSON of the job."""
    report = os.path.join(directory, "fio.json")
    done = run("fio", "--name=job", "--ioengine=nbd", f"--uri={uri}", "--output-format=json",
               f"--output={report}", *options, check=False, timeout=90, cwd=directory)
    with open(report) as text:
        content = text.read()
    if check:
        assert done.returncode == 0, done.stdout + content
    job = json.loads(content[content.index("{"):])["jobs"][0]
    if check:
        assert job["error"] == 0, content
    return job
