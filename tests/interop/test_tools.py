# SPDX-License-Identifier: GPL-2.0-or-later
"""QEMU's tools, libnbd and fio as clients."""

import filecmp
import os
import re

import nbd
import pytest

from support import nbd_wire as wire
from support.nbd_wire import NBD
from support.program import is_oracle
from support.tools import fio, nbdinfo, nbdmap, qemu_io, run

SIZE = 8 << 20


# libnbd.

def test_nbdinfo(disk):
    info = nbdinfo(disk.uri("disk"))
    assert info["protocol"] == "newstyle-fixed" and info["TLS"] is False
    (export,) = info["exports"]
    assert export["export-size"] == SIZE
    assert export["is_read_only"] is False
    for feature in ("can_flush", "can_fua", "can_trim", "can_zero", "can_df", "can_cache",
                    "can_multi_conn"):
        assert export[feature] is True, feature
    assert export["contexts"] == ["base:allocation"]
    assert export["block_size_minimum"] in (1, 512)
    assert export["block_size_maximum"] == 32 << 20


def test_nbdinfo_lists_exports(disk):
    disk.add_null("second")
    disk.export("second", ident="e2", description="the second")
    exports = nbdinfo(disk.uri(), "--list")["exports"]
    assert {e["export-name"] for e in exports} == {"disk", "second"}
    assert [e.get("description") for e in exports if e["export-name"] == "second"] == [
        "the second"]


def test_nbdinfo_of_nothing_fails(disk):
    assert run("nbdinfo", disk.uri("nosuch"), check=False).returncode != 0


def test_map_shows_the_hole(daemon, pattern):
    daemon.image(size=SIZE, data=pattern[:1 << 20])
    daemon.add_file("disk")
    daemon.serve_nbd()
    assert nbdmap(daemon.export("disk")) == [(0, 1 << 20, 0), (1 << 20, SIZE - (1 << 20), 3)]


def test_map_after_a_discard(disk):
    qemu_io(disk.uri("disk"), "discard 1M 1M")
    assert (1 << 20, 1 << 20, 3) in nbdmap(disk.uri("disk"))


def test_allocation_depth(disk):
    disk.export("disk", name="deep", ident="deep", allocation_depth=True)
    text = run("nbdinfo", "--map=qemu:allocation-depth", disk.uri("deep")).stdout
    assert re.match(r"\s+0\s+\d+\s+1", text)


def test_nbdcopy_from(disk, pattern, tmp_path):
    run("nbdcopy", disk.uri("disk"), tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == pattern


def test_nbdcopy_to(disk, tmp_path):
    data = os.urandom(SIZE)
    (tmp_path / "source").write_bytes(data)
    run("nbdcopy", "--flush", tmp_path / "source", disk.uri("disk"))
    with open(disk.file("disk.img"), "rb") as image:
        assert image.read() == data


def test_nbdcopy_between_two_exports(disk, pattern):
    disk.add_file("target", "target.img", SIZE)
    target = disk.export("target", ident="e2", writable=True)
    run("nbdcopy", "--connections=4", disk.uri("disk"), target)
    assert filecmp.cmp(disk.file("disk.img"), disk.file("target.img"), shallow=False)


def test_nbdcopy_of_an_empty_disk(daemon, tmp_path):
    daemon.add_file("disk", size=0)
    daemon.serve_nbd()
    run("nbdcopy", daemon.export("disk"), tmp_path / "copy")
    assert (tmp_path / "copy").stat().st_size == 0


def test_libnbd_extents_and_zeroes(disk):
    client = nbd.NBD()
    client.add_meta_context("base:allocation")
    client.connect_uri(disk.uri("disk"))
    client.zero(65536, 0, 0)
    client.zero(65536, 65536, nbd.CMD_FLAG_NO_HOLE)
    client.trim(65536, 1 << 20)
    client.flush()
    found = []
    client.block_status(SIZE, 0, lambda name, offset, entries, error: found.extend(entries) or 0)
    assert sum(found[0::2]) <= SIZE and found
    assert client.pread(131072, 0) == bytes(131072)
    client.shutdown()


def test_libnbd_many_requests_in_flight(disk, pattern):
    client = nbd.NBD()
    client.connect_uri(disk.uri("disk"))
    buffers = []
    for i in range(64):
        buffer = nbd.Buffer(65536)
        buffers.append((i * 65536, buffer, client.aio_pread(buffer, i * 65536)))
    while client.aio_in_flight() > 0:
        client.poll(-1)
    for offset, buffer, cookie in buffers:
        assert client.aio_command_completed(cookie)
        assert buffer.to_bytearray() == pattern[offset:offset + 65536]
    client.shutdown()


@pytest.mark.parametrize("offset, length", [(0, 1), (1, 511), (511, 2), (4095, 4098),
                                            (SIZE - 1, 1), (1000001, 77777)])
def test_unaligned_reads_and_writes(disk, pattern, offset, length):
    data = bytearray(pattern)
    with NBD(disk.nbd_path) as client:
        client.open("disk")
        assert client.read(offset, length) == pattern[offset:offset + length]
        fresh = os.urandom(length)
        assert client.write(offset, fresh, wire.F_FUA) == 0
        data[offset:offset + length] = fresh
        start = max(0, offset - 4096)
        assert client.read(start, min(SIZE - start, length + 8192)) == data[start:start + min(
            SIZE - start, length + 8192)]
    with open(disk.file("disk.img"), "rb") as image:
        assert image.read() == data


def test_largest_request(daemon):
    daemon.add_file("disk", size=64 << 20)
    daemon.serve_nbd()
    daemon.export("disk", writable=True)
    data = os.urandom(1 << 20) * 32
    with NBD(daemon.nbd_path) as client:
        client.open("disk")
        assert client.write(0, data) == 0
        assert client.read(0, 32 << 20) == data


def test_reads_of_holes_are_sent_as_holes(daemon):
    daemon.add_file("disk", size=SIZE)
    daemon.serve_nbd()
    daemon.export("disk")
    with NBD(daemon.nbd_path) as client:
        client.open("disk")
        error, chunks = client.request(wire.CMD_READ, 0, 1 << 20)
        assert error == 0
        assert wire.T_HOLE in [kind for kind, _ in chunks]


def test_read_that_must_not_be_split(disk, pattern):
    with NBD(disk.nbd_path) as client:
        client.open("disk")
        error, chunks = client.request(wire.CMD_READ, 0, SIZE, wire.F_DF)
        assert error in (0, wire.EOVERFLOW)
        assert len([kind for kind, _ in chunks if kind in (wire.T_DATA, wire.T_HOLE)]) <= 1


def test_fast_zero_is_fast_or_refused(disk):
    with NBD(disk.nbd_path) as client:
        client.open("disk")
        assert client.flags & wire.FLAG_FAST_ZERO
        error, _ = client.request(wire.CMD_WRITE_ZEROES, 0, 65536, wire.F_FAST_ZERO)
        assert error in (0, wire.ENOTSUP)


def test_block_size_is_told(disk):
    with NBD(disk.nbd_path) as client:
        client.hello()
        info = client.info("disk", [wire.INFO_BLOCK_SIZE])
        assert len(info[wire.INFO_BLOCK_SIZE]) == 12


def test_name_and_description_are_told(disk):
    with NBD(disk.nbd_path) as client:
        client.hello()
        info = client.info("disk", [wire.INFO_NAME])
        assert info[wire.INFO_NAME] == b"disk"


def test_list_of_meta_contexts(disk):
    with NBD(disk.nbd_path) as client:
        client.hello()
        client.negotiate_structured()
        assert "base:allocation" in client.meta("disk", [], wire.OPT_LIST_META)
        assert list(client.meta("disk", ["base:"], wire.OPT_LIST_META)) == ["base:allocation"]


@pytest.mark.strata_only("7.2 has no extended headers")
def test_extended_headers(disk, pattern):
    with NBD(disk.nbd_path) as client:
        client.hello()
        client.negotiate_extended()
        client.meta("disk", ["base:allocation"])
        client.go("disk")
        assert client.read(4096, 8192) == pattern[4096:12288]
        assert client.write(0, b"y" * 512) == 0
        (extents,) = client.status(0, SIZE).values()
        assert sum(length for length, _ in extents) <= SIZE
        assert client.request(wire.CMD_FLUSH)[0] == 0


@pytest.mark.strata_only("7.2 has no extended headers")
def test_extended_requests_beyond_4_gib(daemon):
    daemon.add_file("disk", size=6 << 30)
    daemon.serve_nbd()
    daemon.export("disk", writable=True)
    with NBD(daemon.nbd_path) as client:
        client.hello()
        client.negotiate_extended()
        client.meta("disk", ["base:allocation"])
        client.go("disk")
        assert client.request(wire.CMD_WRITE_ZEROES, 0, 6 << 30)[0] == 0
        (extents,) = client.status(0, 6 << 30).values()
        assert sum(length for length, _ in extents) <= 6 << 30
        assert client.request(wire.CMD_READ, 0, 5 << 30)[0] in (wire.EINVAL, wire.EOVERFLOW)


@pytest.mark.strata_only("7.2 has no extended headers")
def test_structured_after_extended_is_refused_or_redundant(disk):
    with NBD(disk.nbd_path) as client:
        client.hello()
        client.negotiate_extended()
        assert client.option(wire.OPT_STRUCTURED_REPLY)[-1][0] in (
            wire.REP_ACK, wire.REP_ERR_INVALID, 0x8000000A)
        assert isinstance(client.go("disk"), dict)


# QEMU's tools.

def test_qemu_img_info(disk):
    text = run("qemu-img", "info", disk.uri("disk")).stdout
    assert "file format: raw" in text and f"({SIZE} bytes)" in text


def test_qemu_img_compare(disk):
    text = run("qemu-img", "compare", "-f", "raw", "-F", "raw", "-U", disk.file("disk.img"),
               disk.uri("disk")).stdout
    assert "Images are identical." in text


def test_qemu_img_compare_tells_a_difference(disk, pattern, tmp_path):
    (tmp_path / "other").write_bytes(pattern[:-1] + bytes([pattern[-1] ^ 1]))
    done = run("qemu-img", "compare", "-f", "raw", "-F", "raw", tmp_path / "other",
               disk.uri("disk"), check=False)
    assert done.returncode == 1 and "Content mismatch" in done.stdout


@pytest.mark.parametrize("out", ["raw", "qcow2"])
def test_qemu_img_convert_from(disk, tmp_path, out):
    run("qemu-img", "convert", "-f", "raw", "-O", out, disk.uri("disk"), tmp_path / "copy")
    run("qemu-img", "compare", "-f", out, "-F", "raw", tmp_path / "copy", disk.uri("disk"))


def test_qemu_img_convert_to(disk, tmp_path):
    data = os.urandom(SIZE)
    (tmp_path / "source").write_bytes(data)
    run("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", tmp_path / "source",
        disk.uri("disk"))
    with open(disk.file("disk.img"), "rb") as image:
        assert image.read() == data


@pytest.mark.parametrize("options", [["-d", "16"], ["-w", "-d", "8"], ["-w", "--flush-interval=10",
                                                                      "-d", "4"]])
def test_qemu_img_bench(disk, options):
    text = run("qemu-img", "bench", "-f", "raw", "-c", "500", *options, disk.uri("disk")).stdout
    assert "Run completed" in text


def test_qemu_img_map(disk):
    assert "nbd" in run("qemu-img", "map", "-f", "raw", disk.uri("disk")).stdout


@pytest.mark.parametrize("write, read", [
    ("write -P 0xab 0 64k", "read -P 0xab 0 64k"),
    ("write -P 0xcd 1 1000", "read -P 0xcd 1 1000"),
    ("write -z 128k 128k", "read -P 0 128k 128k"),
    ("write -zu 256k 128k", "read -P 0 256k 128k"),
    ("write -f -P 7 4M 512", "read -P 7 4M 512"),
    ("writev -P 3 1M 4k 8k 512", "read -P 3 1M 12800"),
    ("discard 2M 64k", "read 2M 64k"),
    ("aio_write -P 9 3M 64k", "read -P 9 3M 64k"),
])
def test_qemu_io_pattern(disk, write, read):
    qemu_io(disk.uri("disk"), write, "aio_flush", "flush")
    qemu_io(disk.uri("disk"), read)


def test_qemu_io_past_the_end_fails(disk):
    assert "Input/output error" in qemu_io(disk.uri("disk"), "read 8M 512", check=False) or \
        "Invalid argument" in qemu_io(disk.uri("disk"), "read 8M 512", check=False)


# fio.

@pytest.mark.parametrize("pattern_of_io, block, depth", [
    ("randrw", "4k", 16), ("write", "64k", 4), ("randwrite", "1k", 8), ("write", "1M", 4)])
def test_fio_verify(disk, tmp_path, pattern_of_io, block, depth):
    job = fio(disk.uri("disk"), tmp_path, f"--rw={pattern_of_io}", f"--bs={block}",
              f"--iodepth={depth}", "--size=8M", "--verify=crc32c", "--do_verify=1",
              "--verify_state_save=0", "--number_ios=2000")
    assert job["error"] == 0


def test_fio_with_fsync(disk, tmp_path):
    fio(disk.uri("disk"), tmp_path, "--rw=randwrite", "--bs=4k", "--size=1M", "--fsync=8")


# Several clients, exports, threads.

def test_two_clients_see_each_other(disk):
    with NBD(disk.nbd_path) as one, NBD(disk.nbd_path) as two:
        one.open("disk")
        two.open("disk")
        for i in range(50):
            data = os.urandom(4096)
            assert one.write(i * 4096, data) == 0
            assert two.read(i * 4096, 4096) == data


def test_flush_of_one_connection_covers_another(disk):
    with NBD(disk.nbd_path) as one, NBD(disk.nbd_path) as two:
        one.open("disk")
        two.open("disk")
        assert one.flags & wire.FLAG_MULTI_CONN
        assert one.write(0, b"z" * 4096) == 0
        assert two.request(wire.CMD_FLUSH)[0] == 0


def test_several_exports_of_several_disks(disk):
    for i in range(4):
        disk.add_file(f"d{i}", f"d{i}.img", SIZE, data=bytes([i]) * 4096)
        disk.export(f"d{i}", ident=f"e{i}")
    clients = [NBD(disk.nbd_path) for _ in range(4)]
    for i, client in enumerate(clients):
        client.open(f"d{i}")
    for i, client in enumerate(clients):
        assert client.read(0, 4096) == bytes([i]) * 4096
        client.close()


@pytest.mark.parametrize("driver", ["file", "null"])
def test_iothreads(daemon, tmp_path, driver):
    if is_oracle():
        pytest.skip("7.2 fails an assertion when the client leaves")
    daemon.serve_nbd()
    for i in range(2):
        daemon.qmp.cmd("object-add", {"qom-type": "iothread", "id": f"t{i}"})
        if driver == "file":
            daemon.add_file(f"d{i}", f"d{i}.img", SIZE)
        else:
            daemon.add_null(f"d{i}", SIZE)
        daemon.export(f"d{i}", ident=f"e{i}", iothread=f"t{i}", writable=True)
    if driver == "file":
        fio(daemon.uri("d0"), tmp_path, "--rw=randwrite", "--bs=4k", "--size=8M", "--iodepth=16",
            "--verify=crc32c", "--number_ios=1000")
    for i in range(2):
        run("qemu-img", "bench", "-f", "raw", "-c", "1000", "-d", "32", daemon.uri(f"d{i}"))


@pytest.mark.parametrize("aio", ["threads", "native", "io_uring"])
def test_disk_engines(daemon, tmp_path, aio):
    reply = daemon.qmp.reply("blockdev-add", {
        "driver": "file", "node-name": "disk", "filename": daemon.image(size=SIZE), "aio": aio,
        "cache": {"direct": True}})
    if "error" in reply:
        pytest.skip(reply["error"]["desc"])
    daemon.serve_nbd()
    uri = daemon.export("disk", writable=True)
    fio(uri, tmp_path, "--rw=randrw", "--bs=4k", "--size=8M", "--iodepth=16", "--verify=crc32c",
        "--number_ios=1000")
    qemu_io(uri, "write -P 5 1000 3000", "read -P 5 1000 3000")


@pytest.mark.strata_only("7.2 waits for the client to read")
def test_hard_deletion_under_load(disk):
    with NBD(disk.nbd_path) as client:
        client.open("disk")
        for _ in range(64):
            client.send_request(wire.CMD_READ, 0, 65536)
        disk.qmp.cmd("block-export-del", id="exp0", mode="hard")
        disk.qmp.event("BLOCK_EXPORT_DELETED")
        client.expect_closed()
    disk.qmp.cmd("blockdev-del", {"node-name": "disk"})
    disk.qmp.cmd("blockdev-del", {"node-name": "file"})
