# SPDX-License-Identifier: GPL-2.0-or-later
"""The nbd driver's options, beside QEMU's: what both say of the same server."""

import contextlib
import os
import subprocess

import pytest

from support.program import ROOT, is_oracle
from support.tools import is_listening, qemu_io, run, wait_until

pytestmark = pytest.mark.skipif(is_oracle(), reason="tests our own tools")

TOOLS = ROOT / os.environ.get("STRATA_BUILD", "build") / "bin"


@pytest.fixture
def disk(tmp_path):
    """A qcow2 image of 1 MiB; its bitmap b0 has the clusters that were written last."""
    path = tmp_path / "disk.qcow2"
    run("qemu-img", "create", "-q", "-f", "qcow2", path, "1M")
    qemu_io(path, "write -P 1 0 256k", image_format="qcow2")
    run("qemu-img", "bitmap", "--add", path, "b0")
    qemu_io(path, "write -P 2 128k 64k", "write -P 2 512k 192k", image_format="qcow2")
    return path


@contextlib.contextmanager
def served(*command, sock):
    process = subprocess.Popen([str(word) for word in command], stdin=subprocess.DEVNULL)
    try:
        wait_until(lambda: is_listening(sock), sock)
        yield
    finally:
        process.kill()
        process.wait()


@pytest.fixture(params=["qemu-nbd", "strata-nbd"])
def server(request, disk):
    """Its socket."""
    program = "qemu-nbd" if request.param == "qemu-nbd" else TOOLS / "strata-nbd"
    sock = disk.parent / "sock"
    with served(program, "-r", "-t", "-k", sock, "-f", "qcow2", "-B", "b0", "-A", "-x", "disk",
                disk, sock=sock):
        yield sock


def both(name, *arguments):
    """Exit status and output, which QEMU's program and ours have in common but for what is new."""
    found = []
    for program in (f"qemu-{name}", TOOLS / f"strata-{name}"):
        done = run(program, *arguments, check=False)
        text = done.stdout.replace("strata-", "qemu-").replace(', "compressed": false', "")
        found.append((done.returncode, text.partition("Child node")[0]))
    assert found[0] == found[1]
    return found[1]


def options(sock, **more):
    words = {"driver": "nbd", "server.type": "unix", "server.path": sock, "export": "disk"}
    words.update({key.replace("_", "-"): value for key, value in more.items()})
    return ",".join(f"{key}={value}" for key, value in words.items())


@pytest.mark.parametrize("context", [
    "qemu:dirty-bitmap:b0", "qemu:allocation-depth", "base:allocation"])
@pytest.mark.parametrize("output", ["human", "json"])
def test_map_tells_of_the_context_that_is_asked_for(server, context, output):
    status, text = both("img", "map", f"--output={output}", "--image-opts",
                        options(server, x_dirty_bitmap=context))
    assert status == 0 and text.strip() not in ("", "[]")


def test_dirty_bits_are_told_as_what_is_not_data(server):
    _, text = both("img", "map", "--output=json", "--image-opts",
                   options(server, x_dirty_bitmap="qemu:dirty-bitmap:b0"))
    dirty = [line for line in text.splitlines() if '"data": false' in line]
    assert [line[line.index('"start"'):line.index(', "depth"')] for line in dirty] == [
        '"start": 131072, "length": 65536', '"start": 524288, "length": 196608']


@pytest.mark.parametrize("context", ["qemu:dirty-bitmap:none", "nobody:knows", "qemu:", "x" * 5000])
def test_contexts_that_are_not_there(server, context):
    done = run(TOOLS / "strata-img", "map", "--image-opts",
               options(server, x_dirty_bitmap=context), check=False)
    reason = ("x-dirty-bitmap query too long to send to server" if len(context) > 4096 else
              f"requested x-dirty-bitmap {context} not found")
    assert done.returncode == 1 and done.stdout.strip().endswith(reason)


@pytest.mark.parametrize("name", ["", "other", "disk/", "x" * 4097])
def test_exports_that_are_not_there(server, name):
    status, _ = both("img", "info", "--image-opts", options(server, export=name))
    assert status == 1


@pytest.mark.parametrize("changes", [
    {"server.path": "/nonexistent/sock"},
    {"server.type": "inet"},
    {"server.type": "inet", "server.host": "127.0.0.1", "server.port": "1"},
    {"server.type": "fd", "server.str": "nosuch"},
    {"server.type": "carrier-pigeon"},
    {"tls-creds": "nosuch"}, {"nosuch": "1"}, {"path": "twice"}, {"host": "twice"},
])
def test_options_that_cannot_be(server, changes):
    status, _ = both("img", "info", "--image-opts", options(server, **changes))
    assert status == 1


@pytest.mark.parametrize("changes", [
    {"reconnect-delay": "soon"}, {"reconnect-delay": "-1"}, {"reconnect-delay": "4294967296"},
    {"open-timeout": "-1"}])
def test_times_that_cannot_be(server, changes):
    """QEMU takes some of them for others."""
    done = run(TOOLS / "strata-img", "info", "--image-opts", options(server, **changes),
               check=False)
    assert done.returncode == 1 and f"Parameter '{next(iter(changes))}' expects" in done.stdout


@pytest.mark.parametrize("uri", [
    "nbd:unix:{sock}:exportname=disk", "nbd+unix:///disk?socket={sock}",
    "nbd+unix:///?socket={sock}", "nbd:unix:{sock}", "nbd+unix:///disk", "nbd+unix://?socket=",
    "nbd://127.0.0.1:1/disk", "nbd:127.0.0.1", "nbd:127.0.0.1:port", "nbd:127.0.0.1:1:disk",
    "nbd:", "nbd:unix:", "nbd+unix://host/disk?socket={sock}",
    "nbd+unix:///disk?socket={sock}&socket=x", "nbd+unix:///disk?other={sock}",
    "nbd://[::1]:1/x", "nbd:[::1]:1", "nbd://localhost:99999/x", "nbd+unix:///%64isk?socket={sock}",
    "nbd+unix:///disk?socket={sock}#part", "nbd:127.0.0.1:", "nbd://somebody@127.0.0.1:1/x",
    "nbd://127.0.0.1:/x", "nbd+unix:/disk?socket={sock}",
])
def test_uris(server, uri):
    both("img", "info", "-f", "raw", uri.format(sock=server))
