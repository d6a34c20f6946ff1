# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs a command line with our program and with QEMU's, each in a directory of its own, and tells
what differs once times and rates are masked."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

BUILD = Path(os.environ.get("STRATA_BUILD", Path(__file__).parents[3] / "build"))
OURS = BUILD / "bin" / "compat"

MASKS = [
    (re.compile(rb"\d+ ops; .* \(.*/sec and .* ops/sec\)"), b"OPS"),
    (re.compile(rb"(?m)^(\d+,\d+),[\d:.]+,[\d.]+,[\d.]+$"), rb"\1,TIME"),
    (re.compile(rb"#block\d+"), b"#blockNNN"),
]


def load(name):
    """A corpus of command lines, each a JSON list of its arguments, one after the other."""
    text = Path(__file__).with_name(name).read_text(encoding="utf-8")
    decoder = json.JSONDecoder()
    lines = []
    while text.strip():
        line, end = decoder.raw_decode(text)
        lines.append(line)
        text = text[end:].lstrip()
    return lines


def available(name):
    """Whether both programs are there."""
    return shutil.which(name) is not None and (OURS / name).exists()


def run(program, arguments, directory, stdin=b""):
    """(status, stdout, stderr) of one program, masked. QEMU cannot always measure how fast a
    processor that has other work derives keys, and is asked again then."""
    for _ in range(10):
        done = subprocess.run([program, *arguments], cwd=directory, input=stdin, timeout=30,
                              capture_output=True, check=False,
                              env={**os.environ, "LC_ALL": "C"}, executable=None)
        if b"Unable to get accurate CPU usage" not in done.stderr:
            break
    streams = []
    for text in (done.stdout, done.stderr):
        for pattern, mask in MASKS:
            text = pattern.sub(mask, text)
        text = text.replace(str(program).encode(), Path(program).name.encode())
        streams.append(text.decode(errors="replace"))
    return done.returncode, streams[0], streams[1]


def both(name, command_lines, directory, prepare, stdin=b""):
    """Runs a series of command lines in a fresh directory for each program; returns both logs and
    the files that are left."""
    results = []
    for side, program in (("ours", OURS / name), ("qemu", shutil.which(name))):
        place = directory / side
        place.mkdir()
        prepare(place)
        log = [(line, *run(program, line, place, stdin)) for line in command_lines]
        files = {path.name: path.read_bytes() for path in sorted(place.iterdir()) if path.is_file()}
        results.append((log, files))
    return results
