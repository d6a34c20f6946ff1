#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Fails when an #include climbs: a room may open only the doors listed here.

    scripts/check_layers.py [TREE]

Silent when all is well; otherwise one line an offending include, and exit status 1.
"""

import re
import sys
from pathlib import Path

# From the ground up. A room may include from every room on a lower row, and from itself.
ROWS = [
    ["block/base"],
    ["block/coro"],
    ["block/aio"],
    ["block/bitmap"],
    ["block/graph"],
    ["block/io"],
    ["block/names"],
    ["block/drivers", "block/qcow2", "block/crypto"],
    ["block/jobs"],
    ["block/export"],
    ["storage-daemon", "tools"],
]

# Rooms that stand beside the rows, and all that each may include.
BESIDE = {
    "qapi/runtime": {"block/base"},
    "qapi/types": {"block/base", "qapi/runtime"},
    "qapi/commands": {"block/base", "block/coro", "qapi/runtime", "qapi/types"},
    "block/nbd": {"block/base"},
    "block/virtio": {"block/base"},
}

# Doors besides the rows: a path that starts with the first may include from the second.
EXTRA = [
    ("block/graph", {"qapi/runtime", "qapi/types"}),
    ("block/io", {"qapi/runtime", "qapi/types"}),
    ("block/names", {"qapi/runtime", "qapi/types"}),
    ("block/drivers", {"qapi/runtime", "qapi/types"}),
    ("block/qcow2", {"qapi/runtime", "qapi/types", "block/crypto"}),
    ("block/crypto", {"qapi/runtime", "qapi/types"}),
    ("block/jobs", {"qapi/runtime", "qapi/types"}),
    ("block/export", {"qapi/runtime", "qapi/types"}),
    ("storage-daemon", {"qapi/runtime", "qapi/types", "qapi/commands"}),
    ("tools", {"qapi/runtime", "qapi/types"}),
    # The one table that lists the drivers.
    ("block/drivers/builtin.cc", {"block/qcow2", "block/crypto"}),
    ("block/drivers/nbd", {"block/nbd"}),
    ("block/export/nbd", {"block/nbd"}),
    # It goes into the background as the daemon does.
    ("tools/nbd", {"block/nbd", "storage-daemon"}),
    ("block/export/vhost_user", {"block/virtio"}),
    ("block/export/vduse", {"block/virtio"}),
    ("block/export/virtio_blk", {"block/virtio"}),
]

# Pure rooms of pure code inside a room: nothing but these.
PURE = {"block/qcow2/format": {"block/base", "block/qcow2/format"}}

INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*([<"])([^>"]+)[>"]', re.MULTILINE)
SKIP = {".git", ".cache", "subprojects"}
TOP = ("block/", "qapi/", "storage-daemon/", "tools/", "tests/")


def room_of(path):
    """The room a path (from the source root) lies in, or None when it is in none."""
    parts = path.split("/")
    if parts[0] in ("storage-daemon", "tools", "tests"):
        return parts[0]
    if parts[0] == "block" and len(parts) > 2:
        return "block/" + parts[1]
    if parts[0] == "qapi" and len(parts) > 1:
        if parts[1] == "runtime":
            return "qapi/runtime"
        # Generated: what defines commands is the storage daemon's, the rest is everybody's.
        return "qapi/commands" if re.search(r"command|introspect", path) else "qapi/types"
    return None


def allowed_from(path, room):
    if room in BESIDE:
        return BESIDE[room] | {room}
    allowed = {room}
    for row in ROWS:
        if room in row:
            break
        allowed.update(row)
    for prefix, rooms in EXTRA:
        if path.startswith(prefix):
            allowed |= rooms
    return allowed


def check_file(path, text, exists):
    """The complaints about one file; `exists` says whether a path lies in the tree."""
    room = room_of(path)
    if room is None or room == "tests":
        return []
    pure = next((p for p in PURE if path.startswith(p + "/")), None)
    known = room in BESIDE or any(room in row for row in ROWS)
    if not known:
        return [f"{path}: room '{room}' has no place in the order (scripts/check_layers.py)"]
    allowed = allowed_from(path, room)
    complaints = []
    for match in INCLUDE.finditer(text):
        bracket, target = match.groups()
        where = f"{path}:{text.count(chr(10), 0, match.start()) + 1}"
        if target.startswith("boost/asio") and path.endswith(".h"):
            complaints.append(f"{where}: <{target}> in a header; Asio stays in .cc files")
        if not target.startswith(TOP):
            beside = path.rsplit("/", 1)[0] + "/" + target
            if bracket == '"' and exists(beside):
                complaints.append(f'{where}: "{target}" is not named from the source root')
            continue
        other = room_of(target)
        if other is None:
            complaints.append(f'{where}: "{target}" is in no room')
        elif pure and not any(target.startswith(p + "/") for p in PURE[pure]):
            complaints.append(f'{where}: {pure} is pure and may not include "{target}"')
        elif other not in allowed:
            complaints.append(f'{where}: {room} may not include "{target}" of {other}')
    return complaints


def check_tree(tree):
    complaints = []
    for top in TOP:
        for file in sorted((tree / top).rglob("*")):
            if file.suffix not in (".h", ".cc") or SKIP & set(file.parts):
                continue
            path = file.relative_to(tree).as_posix()
            text = file.read_text(errors="replace")
            complaints += check_file(path, text, lambda p: (tree / p).exists())
    return complaints


def main():
    tree = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parent.parent
    complaints = check_tree(tree)
    for complaint in complaints:
        print(complaint)
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
