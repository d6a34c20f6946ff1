# SPDX-License-Identifier: GPL-2.0-or-later
"""Ways in which others have lost data, or lied about it (the catalogue's numbers in the names).
What needs a fault at every step, or a late discard, is in tests/sim."""

import os
import random
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from support.nbd_wire import CMD_FLUSH, CMD_WRITE_ZEROES, NBD

BUILD = Path(os.environ.get("STRATA_BUILD", Path(__file__).resolve().parents[3] / "build"))
OURS = BUILD / "bin/compat"
MIB = 1 << 20

pytestmark = pytest.mark.skipif(not (OURS / "qemu-io").exists() or not shutil.which("qemu-img"),
                                reason="needs our tools and QEMU's")


def run(*words, status=0, **options):
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True,
                          timeout=120, check=False, **options)
    assert done.returncode == status, f"{words}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "t.qcow2"
    run("qemu-img", "create", "-f", "qcow2", path, "256M")
    return path


def serve(daemon, path):
    daemon.qmp.cmd("blockdev-add", {"driver": "qcow2", "node-name": "disk",
                                    "file": {"driver": "file", "filename": str(path)}})
    daemon.serve_nbd()
    daemon.export("disk", writable=True)
    client = NBD(daemon.nbd_path)
    client.open("disk")
    return client


def test_s4_flushes_do_not_make_the_file_grow(daemon, image):
    with serve(daemon, image) as client:
        client.write(0, b"x" * MIB)
        client.request(CMD_FLUSH)
        size = image.stat().st_size
        for turn in range(3000):
            client.write(turn % 256 * 4096, bytes([turn % 256]) * 4096)
            client.request(CMD_FLUSH)
    assert image.stat().st_size == size


def test_s5_an_inactive_node_has_written_all_it_cached(daemon, image):
    with serve(daemon, image) as client:
        for turn in range(64):
            client.write(turn * 3 * MIB, bytes([turn + 1]) * 4096)
    daemon.qmp.cmd("block-export-del", {"id": "exp0", "mode": "hard"})
    daemon.wait_for(lambda: not daemon.qmp.cmd("query-block-exports"), "the end of the export")
    daemon.qmp.cmd("blockdev-set-active", {"node-name": "disk", "active": False})
    commands = [word for turn in range(64)
                for word in ("-c", f"read -P {turn + 1} {turn * 3 * MIB} 4k")]
    output = run("qemu-io", "-r", "-f", "qcow2", *commands, image)
    assert "failed" not in output and output.count("read 4096/4096") == 64
    run("qemu-img", "check", image)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 12 MiB."""
    place = tmp_path / "small"
    place.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(place)],
                          capture_output=True, check=False)
    if done.returncode != 0:
        pytest.skip("needs to mount a file system")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_s9_no_space_on_closing_is_a_failure(small_disk):
    """The refcount block that changed is written when the image is closed, and needs room again:
    the host's storage is thin, and has given up what it had for it."""
    image = small_disk / "t.qcow2"
    run("qemu-img", "create", "-f", "qcow2", "-o", "cluster_size=4k", image, "64M")
    tool = subprocess.Popen([OURS / "qemu-io", "-t", "writeback", "-f", "qcow2", image],
                            stdin=subprocess.PIPE,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    tool.stdin.write("write 0 8800k\n")
    tool.stdin.flush()
    output = ""
    while "wrote 9011200/9011200" not in output:
        line = tool.stdout.readline()
        assert line, output
        output += line
    run("fallocate", "--punch-hole", "--offset", "8192", "--length", "4096", image)
    with (small_disk / "filler").open("wb", buffering=0) as filler:
        try:
            while filler.write(bytes(4096)) == 4096:
                pass
        except OSError:
            pass
    output, _ = tool.communicate(timeout=60)
    assert tool.returncode != 0, output
    (small_disk / "filler").unlink()
    run(OURS / "qemu-img", "check", "-r", "all", image)


@pytest.mark.parametrize("aio", ["threads", "io_uring"])
@pytest.mark.parametrize("cluster", ["4k", "64k"])
def test_s8_zeroes_behind_the_end_of_a_file_that_grows(start, tmp_path, aio, cluster):
    """Each connection has every fourth cluster, so that all of them are at the end of the file at
    once, and zeroes some of what it writes."""
    path = tmp_path / "t.qcow2"
    run("qemu-img", "create", "-f", "qcow2", "-o", f"cluster_size={cluster}", path, "64M")
    daemon = start()
    daemon.qmp.cmd("blockdev-add", {
        "driver": "qcow2", "node-name": "disk", "discard": "unmap", "detect-zeroes": "unmap",
        "file": {"driver": "file", "filename": str(path), "aio": aio, "discard": "unmap"}})
    daemon.serve_nbd()
    daemon.export("disk", writable=True)
    step = 32768
    model = bytearray(64 * MIB)

    def work(number):
        chance = random.Random(number)
        with NBD(daemon.nbd_path) as client:
            client.open("disk")
            for turn in range(number, len(model) // step // 2, 4):
                data = chance.randbytes(step - 512 * chance.randrange(3))
                at = turn * step + 512 * chance.randrange(2)
                data = data[:(turn + 1) * step - at]
                assert client.write(at, data) == 0
                model[at:at + len(data)] = data
                if chance.randrange(3) == 0:
                    hole = 4096 * chance.randrange(1, 7)
                    assert client.request(CMD_WRITE_ZEROES, turn * step, hole)[0] == 0
                    model[turn * step:turn * step + hole] = bytes(hole)

    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(work, number) for number in range(4)]:
            done.result()
    with NBD(daemon.nbd_path) as client:
        client.open("disk")
        assert client.request(CMD_FLUSH)[0] == 0
        for at in range(0, len(model), MIB):
            assert client.read(at, MIB) == model[at:at + MIB], at
    daemon.qmp.cmd("block-export-del", {"id": "exp0", "mode": "hard"})
    daemon.wait_for(lambda: not daemon.qmp.cmd("query-block-exports"), "the end of the export")
    daemon.qmp.cmd("blockdev-del", {"node-name": "disk"})
    raw = tmp_path / "t.raw"
    run("qemu-img", "check", path)
    run("qemu-img", "convert", "-O", "raw", path, raw)
    assert raw.read_bytes() == model


def test_what_a_deleted_snapshot_cannot_free_is_told_and_leaks(image):
    run("qemu-io", "-f", "qcow2", "-c", "write -P 7 0 64k", image)
    run("qemu-img", "snapshot", "-c", "foo", image)
    rules = image.with_suffix(".conf")
    rules.write_text('[inject-error]\nevent = "cluster_free"\nerrno = "5"\n', encoding="ascii")
    done = subprocess.run([str(OURS / "qemu-img"), "snapshot", "-d", "foo",
                           f"blkdebug:{rules}:{image}"], capture_output=True, text=True,
                          timeout=120, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith(
        "qcow2_free_clusters failed: Input/output error\n"
        "qemu-img: Could not delete snapshot 'foo': "
        "Failed to free the cluster and L1 table: Input/output error\n")
    assert run(OURS / "qemu-img", "snapshot", "-l", image) == ""
    assert "4 leaked clusters" in run("qemu-img", "check", image, status=3)
    run(OURS / "qemu-img", "check", "-r", "leaks", image)
    output = run("qemu-io", "-r", "-f", "qcow2", "-c", "read -P 7 0 64k", image)
    assert "failed" not in output
    run("qemu-img", "check", image)


def test_a_write_into_a_table_of_a_snapshot_is_caught_where_the_user_guards_them(image):
    """The refcounts lie: what they call free is the L2 table of a snapshot."""
    run("qemu-io", "-f", "qcow2", "-c", "write -P 7 0 64k", image)
    run("qemu-img", "snapshot", "-c", "foo", image)
    run("qemu-io", "-f", "qcow2", "-c", "write -P 8 0 64k", image)  # an L2 table of its own
    with image.open("r+b") as file:
        file.seek(4 * 65536)  # the snapshot's
        assert file.read(8) != bytes(8)
        file.seek(2 * 65536 + 4 * 2)
        file.write(b"\0\0")
    done = subprocess.run([str(OURS / "qemu-io"), "-c",
                           f"open -o overlap-check.inactive-l2=on {image}", "-c",
                           "write -P 9 128k 64k"], capture_output=True, text=True, timeout=60,
                          check=False)
    assert done.returncode == 1
    assert "overlaps with inactive L2 table" in done.stderr
    output = run("qemu-img", "convert", "-l", "foo", "-O", "raw", image, image.with_suffix(".raw"))
    with image.with_suffix(".raw").open("rb") as file:
        assert file.read(65536) == b"\7" * 65536, output


def test_an_unreadable_snapshot_fails_a_write_that_its_tables_are_guarded_from(image):
    run("qemu-io", "-f", "qcow2", "-c", "write 0 512", image)
    run("qemu-img", "snapshot", "-c", "test", image)
    with image.open("r+b") as file:
        file.seek(64)
        table = int.from_bytes(file.read(8), "big")
        file.seek(table)
        file.write(bytes.fromhex("0000000000400200"))
    done = subprocess.run([str(OURS / "qemu-io"), "-c",
                           f"open -o overlap-check.inactive-l2=on {image}", "-c", "write 0 4k"],
                          capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "write failed: Invalid argument" in done.stderr + done.stdout


def test_the_file_ends_where_a_cluster_does(tmp_path):
    for program in ("qemu-io", OURS / "qemu-io"):
        path = tmp_path / "t.qcow2"
        run("qemu-img", "create", "-f", "qcow2", path, "1M")
        run(program, "-f", "qcow2", "-c", "write 64k 1k", path)
        assert path.stat().st_size == 6 * 65536
        run("qemu-img", "check", path)


def test_v2_snapshots_are_completed_when_the_image_becomes_version_3(tmp_path):
    path = tmp_path / "t.qcow2"
    run("qemu-img", "create", "-f", "qcow2", "-o", "compat=0.10", path, "1M")
    run("qemu-img", "snapshot", "-c", "s", path)
    with path.open("r+b") as file:
        file.seek(64)
        table = int.from_bytes(file.read(8), "big")
        file.seek(table)
        entry = file.read(128)
        names = entry[64:64 + 2]
        file.seek(table)
        file.write(entry[:36] + bytes(4) + names + bytes(86))  # no extra data at all
    assert " s " in run("qemu-img", "snapshot", "-l", path)
    run(OURS / "qemu-img", "amend", "-o", "compat=1.1", path)
    assert " s " in run("qemu-img", "snapshot", "-l", path)
    run("qemu-img", "check", path)
    with path.open("rb") as file:
        file.seek(64)
        file.seek(int.from_bytes(file.read(8), "big") + 36)
        assert int.from_bytes(file.read(4), "big") == 24
