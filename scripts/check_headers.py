#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Fails when a header does not compile alone.

    scripts/check_headers.py [--build DIR] [TREE]

A header is compiled again only when it, a file it includes, or the flags have changed since it
last passed; what passed is kept in the build directory. The flags are those of the build. A header
that deliberately leaves an include to its users says so in a line of its own:

    // Include first: "block/coro/task.h"
"""

import argparse
import hashlib
import json
import os
import re
import shlex
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOMS = ("block", "qapi", "storage-daemon", "tools", "tests")


def flags_of(tree, build):
    """The compiler and the flags (include directories, definitions, standard) of the build."""
    commands = json.loads((build / "compile_commands.json").read_text())
    flags = []
    compiler = None
    for entry in commands:
        words = shlex.split(entry["command"])
        if compiler is None:
            compiler = [w for w in words[:2] if not w.startswith("-") and "ccache" not in w]
        for word in words:
            if not re.match(r"-(I|D|isystem|std=)", word):
                continue
            if word.startswith("-I"):
                # Relative to the directory in which the build compiles.
                word = "-I" + os.path.normpath(os.path.join(entry["directory"], word[2:]))
                if not word[2:].startswith("/usr") and Path(word[2:]) not in (tree, build):
                    continue  # the root is the one include directory
            if word not in flags and not word.startswith("-D_GLIBCXX"):
                flags.append(word)
    return compiler or ["clang++-19"], flags


def digest(paths, salt):
    total = hashlib.sha256(salt.encode())
    for path in paths:
        try:
            total.update(Path(path).read_bytes())
        except OSError:
            total.update(b"absent")
    return total.hexdigest()


def compile_alone(compiler, flags, header):
    """(complaint or None, files it depends on)."""
    first = re.findall(r'^// Include first: "(.+)"$', header.read_text(), re.MULTILINE)
    before = [word for name in first for word in ("-include", name)]
    run = subprocess.run(
        compiler + flags + before + ["-fsyntax-only", "-x", "c++",
                                     "-Wno-pragma-once-outside-header", "-MD", "-MF",
                                     "/dev/stdout", str(header)],
        capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=120)
    names = run.stdout.split(":", 1)[-1].replace("\\\n", " ").split()
    # System headers change only with their packages.
    return (run.stderr if run.returncode else None), [n for n in names if not n.startswith("/usr/")]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--build", type=Path)
    parser.add_argument("tree", nargs="?", type=Path,
                        default=Path(__file__).resolve().parent.parent)
    options = parser.parse_args()
    tree = options.tree.resolve()
    build = (options.build or tree / "build").resolve()
    if not (build / "compile_commands.json").exists():
        print(f"check_headers: {build} is not configured; run scripts/build first")
        return 1
    compiler, flags = flags_of(tree, build)
    salt = " ".join(compiler + flags)
    store = build / "header-check.json"
    try:
        passed = json.loads(store.read_text())
    except (OSError, ValueError):
        passed = {}

    headers = sorted(h for room in ROOMS for h in (tree / room).rglob("*.h"))

    def check(header):
        name = header.relative_to(tree).as_posix()
        known = passed.get(name)
        if known and digest(known["files"], salt) == known["digest"]:
            return name, None, known
        complaint, files = compile_alone(compiler, flags, header)
        return name, complaint, {"files": files, "digest": digest(files, salt)}

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = list(pool.map(check, headers))
    bad = [(name, complaint) for name, complaint, _ in results if complaint]
    store.write_text(json.dumps({n: entry for n, complaint, entry in results if not complaint}))
    for name, complaint in bad:
        print(f"{name}: does not compile alone\n{complaint}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
