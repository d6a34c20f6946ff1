# SPDX-License-Identifier: GPL-2.0-or-later
"""What strata-io prints, returns and leaves behind is what qemu-io does."""

import json
import subprocess

import pytest

import compare

pytestmark = pytest.mark.skipif(not compare.available("qemu-io"), reason="needs both programs")

COMMAND_LINES = compare.load("io_commands.json.txt")


def prepare(directory):
    """A megabyte with some data in it, an image that ends inside a sector, and odds and ends."""
    data = bytes(range(256)) * 256 + bytes(65536) + b"\x01" * 65536
    (directory / "a.img").write_bytes(data.ljust(1 << 20, b"\0"))
    (directory / "b.img").write_bytes(bytes(1 << 16))
    (directory / "odd.img").write_bytes(b"\x02" * 10000)
    (directory / "pattern").write_bytes(b"abc")
    (directory / "empty").write_bytes(b"")
    (directory / "qcow2.head").write_bytes(b"QFI\xfb\0\0\0\3" + bytes(504))


@pytest.mark.parametrize("line", COMMAND_LINES, ids=" ".join)
def test_it_does_as_qemu_io(tmp_path, line):
    ours, qemu = compare.both("qemu-io", [line], tmp_path, prepare)
    assert ours == qemu


SESSIONS = [
    b"read 0 512\nfoo\nquit\n",
    b"read 0 512",
    b"\n\n  \nlength\n",
    b"foo",
    b"",
    b"aio_write 0 1k\naio_flush\nlength\n",
    b"open b.img\nclose\nopen -r b.img\nlength\n",
    # What was begun before and has ended is told first, but not before what is wrong with the line.
    b"aio_read 16M 512\nread -v 0 16\naio_read 16M 512\nread -P 999 0 512\nwritev 0 512\n",
    b"aio_write 16M 512\ndiscard 0 64k\naio_read 16M 512\ntruncate 1M\nlength\n",
    b"truncate -m metadata 512\ntruncate -m metadata 1G\ntruncate -m full 512\n",
    b"close\nopen -s -U a.img\nopen -U a.img\nlength\n",
]


@pytest.mark.parametrize("typed", SESSIONS)
def test_a_session_on_standard_input_goes_as_with_qemu_io(tmp_path, typed):
    ours, qemu = compare.both("qemu-io", [["-f", "raw", "a.img"]], tmp_path, prepare, typed)
    assert ours == qemu


def prepare_overlay(directory):
    """An overlay over a base with data; rules for blkdebug."""
    for line in (["create", "-q", "-f", "qcow2", "base.qcow2", "1M"],
                 ["create", "-q", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", "o.qcow2"]):
        subprocess.run(["qemu-img", *line], cwd=directory, check=True)
        if line[-1] == "1M":
            subprocess.run(["qemu-io", "-c", "write -q -P 5 64k 128k", "base.qcow2"], cwd=directory,
                           check=True)
    (directory / "once.conf").write_text(
        '[inject-error]\nevent = "write_aio"\nerrno = "28"\nonce = "on"\n')
    (directory / "states.conf").write_text(
        '[set-state]\nevent = "pwritev"\nstate = "1"\nnew_state = "2"\n'
        '[inject-error]\nevent = "pwritev_done"\nstate = "2"\niotype = "read"\n')
    (directory / "cor.conf").write_text('[inject-error]\nevent = "cor_write"\nsector = "128"\n')
    (directory / "a.raw").write_bytes(bytes(1 << 20))


COMPRESS = "driver=compress,file.driver=qcow2,file.file.driver=file,file.file.filename="
LAYERED = [
    ["-C", "-c", "read -P 5 68k 4k", "-c", "map", "o.qcow2"],
    ["-C", "-c", "read -P 0 0 1M", "-c", "map", "o.qcow2"],
    ["-C", "-r", "-c", "map", "o.qcow2"],
    ["-s", "-c", "write -P 1 0 64k", "-c", "map", "-c", "read -P 5 64k 64k", "o.qcow2"],
    ["-c", "open -C o.qcow2", "-c", "read -P 5 64k 512", "-c", "map"],
    ["-c", "map", "--image-opts",
     "driver=copy-on-read,file.driver=qcow2,file.file.driver=file,file.file.filename=o.qcow2"],
    ["--image-opts", "-c", "truncate 2M", "-c", "length",
     "driver=copy-on-read,file.driver=qcow2,file.file.driver=file,file.file.filename=o.qcow2"],
    # What was copied, and what is there, is not read once more.
    ["--image-opts", "-c", "read -P 5 64k 64k", "-c", "read -P 5 64k 64k",
     "driver=copy-on-read,file.driver=blkdebug,file.config=cor.conf,file.image.driver=qcow2,"
     "file.image.file.driver=file,file.image.file.filename=o.qcow2"],
    ["--image-opts", "-c", "write -P 1 64k 64k", "-c", "read -P 1 64k 64k", "-c",
     "read -P 5 0 192k",
     "driver=copy-on-read,file.driver=blkdebug,file.config=cor.conf,file.image.driver=qcow2,"
     "file.image.file.driver=file,file.image.file.filename=o.qcow2"],
    ["--image-opts", "-c", "write -P 1 0 100k", "-c", "read -P 1 0 100k", "-c",
     "read -P 5 100k 92k",
     "-c", "write -z 512k 1k", "-c", "write -c 768k 64k", "-c", "discard 0 64k", "-c", "map",
     COMPRESS + "o.qcow2"],
    ["--image-opts", "-c", "write -P 1 0 64k", "-c", "truncate 3M", "-c", "length",
     COMPRESS + "base.qcow2"],
    ["--image-opts", "-c", "write 0 64k", "driver=compress,file.driver=raw,"
     "file.file.driver=file,file.file.filename=a.raw"],
    ["--image-opts", "-c", "write -c 0 64k",
     "driver=copy-on-read,file.driver=raw,file.file.driver=file,file.file.filename=a.raw"],
    ["-c", "write 0 64k", "-c", "write 0 64k", "-c", "read 0 64k", "blkdebug:once.conf:o.qcow2"],
    ["-f", "raw", "-c", "read 0 512", "-c", "write 0 512", "-c", "read 0 512", "-c", "read 0 512",
     "blkdebug:states.conf:a.raw"],
    ["-f", "raw", "-c", "read 0 512", "blkdebug:nosuch.conf:a.raw"],
    ["-f", "raw", "-c", "read 0 512", "blkdebug:a.raw"],
    ["-f", "raw", "-c", "break nosuch A", "-c", "remove_break A", "-c", "resume A",
     "blkdebug::a.raw"],
    ["-f", "raw", "-c", "break pwritev A", "-c", "aio_write 0 4k", "-c", "wait_break A", "-c",
     "resume A", "-c", "aio_flush", "blkdebug::a.raw"],
    ["-f", "raw", "-c", "break pwritev A", "-c", "resume A", "a.raw"],
    ["--image-opts", "-c", "write 1k 1k", "-c", "discard 0 64k", "-c", "write -z 4k 8k",
     "driver=raw,file.driver=blkdebug,file.image.filename=a.raw,file.align=4096,"
     "file.max-transfer=8192,file.opt-discard=32768,file.max-discard=32768"],
    ["--image-opts", "-c", "read 0 512", "-c", "read 1k 512",
     "driver=raw,file.driver=blkdebug,file.image.filename=a.raw,"
     "file.inject-error.0.event=none,file.inject-error.0.sector=2,file.inject-error.0.errno=28"],
]


VM_STATE = [
    ["-c", "write -b -P 3 0 64k", "-c", "read -b -P 3 0 64k", "-c", "read -b -P 0 64k 4k",
     "-c", "read -P 5 64k 128k", "-c", "map", "o.qcow2"],
    ["-c", "write -b -P 3 8k 1k", "-c", "read -b -P 3 8k 1k", "-c", "read -b -P 0 0 8k",
     "-c", "write -b -P 4 8k 512", "-c", "read -b -P 4 8k 512", "base.qcow2"],
    ["-c", "write -b -P 3 1G 1k", "-c", "read -b -P 3 1G 1k", "-c", "length", "base.qcow2"],
    ["-r", "-c", "read -b -P 0 0 1k", "-c", "write -b 0 1k", "base.qcow2"],
    ["-c", "read -b 8E 1k", "base.qcow2"],
]

REOPEN = [
    ["-c", "reopen -r", "-c", "write 0 512", "-c", "reopen -w", "-c", "write 0 512", "o.qcow2"],
    ["-r", "-c", "reopen -w", "-c", "write -P 1 0 512", "-c", "read -P 1 0 512", "o.qcow2"],
    ["-c", "reopen -o lazy-refcounts=on", "-c", "write 0 64k", "-c", "reopen -o lazy-refcounts=off",
     "-c", "map", "o.qcow2"],
    ["-c", "reopen -c none", "-c", "read -P 5 64k 512", "-c", "reopen -c unsafe",
     "-c", "write -P 1 0 512", "-c", "read -P 1 0 512", "o.qcow2"],
    ["-c", "reopen -o backing=x", "-c", "reopen -o file=x", "-c", "reopen -o file.filename=b",
     "-c", "reopen -o backing.file.filename=b", "-c", "reopen -o file.aio=native",
     "-c", "reopen -o backing.driver=raw", "-c", "reopen -o driver=raw",
     "-c", "reopen -o encryption=on", "-c", "read -P 5 64k 512", "o.qcow2"],
    ["-c", "reopen -o overlap-check=none,overlap-check.main-header=on",
     "-c", "reopen -o l2-cache-entry-size=1k",
     "-c", "read -P 5 64k 128k", "-c", "write -P 6 96k 1k", "-c", "read -P 6 96k 1k", "o.qcow2"],
    ["-f", "raw", "-c", "reopen -o offset=64k", "-c", "length", "-c", "reopen -o offset=2M",
     "-c", "reopen -o size=100", "-c", "length", "a.raw"],
]


@pytest.mark.parametrize("line", LAYERED + VM_STATE + REOPEN, ids=" ".join)
def test_filters_and_overlays_do_as_in_qemu_io(tmp_path, line):
    (ours, _), (qemu, _) = compare.both("qemu-io", [line], tmp_path, prepare_overlay)
    assert ours == qemu


@pytest.mark.parametrize("commands", [["write 0 4k"], ["discard 0 64k"], ["write 1M 4k"],
                                      ["write 0 4k", "flush"], ["read 0 64k"]], ids=" ".join)
def test_what_cannot_be_flushed_at_the_end_is_told(tmp_path, commands):
    """As with qemu-io, whose status is 0 where only that fails."""
    def prepare_rules(directory):
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "a", "64M"], cwd=directory,
                       check=True)
        subprocess.run(["qemu-io", "-c", "write 0 64k", "a"], cwd=directory, check=True,
                       capture_output=True)
        (directory / "rules").write_text(
            '[inject-error]\nevent = "flush_to_disk"\nerrno = "5"\nonce = "off"\n'
            'immediately = "off"\n')
    words = [word for command in commands for word in ("-c", command)]
    line = ["-t", "writeback", *words, "blkdebug:rules:a"]
    [[ours], _], [[qemu], _] = compare.both("qemu-io", [line], tmp_path, prepare_rules)
    assert ours[2:] == qemu[2:]
    assert ours[1] == (0 if commands == ["read 0 64k"] else 1)


def test_a_compressed_disk_may_end_inside_a_cluster(tmp_path):
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "c.qcow2", "100k"], cwd=tmp_path,
                   check=True)
    status, said, _ = compare.run(
        compare.OURS / "qemu-io",
        ["--image-opts", "-c", "write -P 1 90k 10k", "-c", "write -z 99k 1k", "-c",
         "read -P 1 90k 9k", "-c", "read -P 0 99k 1k", COMPRESS + "c.qcow2"], tmp_path)
    assert status == 0 and "failed" not in said
    checked = subprocess.run(["qemu-img", "check", "c.qcow2"], cwd=tmp_path, check=True,
                             capture_output=True, text=True)
    assert "100.00% compressed clusters" in checked.stdout
    subprocess.run(["qemu-io", "-f", "qcow2", "-c", "read -P 1 90k 9k", "-c", "read -P 0 0 90k",
                    "c.qcow2"], cwd=tmp_path, check=True)


def test_zoned_commands_are_refused_where_there_are_no_zones(tmp_path):
    prepare(tmp_path)
    for command, what in (("zone_report 0 1", "report"), ("zone_open 0 512", "open"),
                          ("zone_close 0 512", "close"), ("zone_finish 0 512", "finish"),
                          ("zone_reset 0 512", "reset"), ("zone_append 0 512 512", "append")):
        line = ["-f", "raw", "-c", command, "a.img"]
        status, said, _ = compare.run(compare.OURS / "qemu-io", line, tmp_path)
        assert (status, said) == (1, f"zone {what} failed: Operation not supported\n")


@pytest.mark.parametrize("options", ["cluster_size=64k", "cluster_size=512", "extended_l2=on"])
@pytest.mark.parametrize("size", ["0", "512", "512M", "513M"])
def test_info_says_where_the_state_of_a_machine_would_lie(tmp_path, size, options):
    def prepare_image(directory):
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-o", options, "i.qcow2", size],
                       cwd=directory, check=True)
    ours, qemu = compare.both("qemu-io", [["-f", "qcow2", "-c", "info", "i.qcow2"]], tmp_path,
                              prepare_image)
    assert ours == qemu


def test_the_state_of_a_machine_goes_with_snapshots(tmp_path):
    prepare_overlay(tmp_path)

    def run(program, *words):
        done = subprocess.run([program, *words], cwd=tmp_path, capture_output=True, text=True,
                              timeout=60, check=True)
        assert "failed" not in done.stdout
        return done.stdout

    ours = {name: str(compare.OURS / name) for name in ("qemu-io", "qemu-img")}
    run(ours["qemu-io"], "-c", "write -b -P 7 0 200k", "o.qcow2")
    run("qemu-io", "-c", "read -b -P 7 0 200k", "o.qcow2")
    run("qemu-img", "snapshot", "-c", "one", "o.qcow2")
    run(ours["qemu-io"], "-c", "write -b -P 8 10k 100k", "-c", "read -b -P 7 0 10k",
        "-c", "read -b -P 7 110k 90k", "o.qcow2")
    run(ours["qemu-img"], "snapshot", "-c", "two", "o.qcow2")
    run(ours["qemu-img"], "snapshot", "-a", "one", "o.qcow2")
    run(ours["qemu-io"], "-c", "read -b -P 7 0 200k", "-c", "write -P 1 0 1M", "o.qcow2")
    run("qemu-img", "snapshot", "-a", "two", "o.qcow2")
    run("qemu-io", "-c", "read -b -P 8 10k 100k", "-c", "read -b -P 7 110k 90k", "o.qcow2")
    run("qemu-img", "check", "o.qcow2")


def test_a_disk_that_grows_shows_nothing_of_the_state_of_a_machine(tmp_path):
    prepare_overlay(tmp_path)
    tool = [str(compare.OURS / "qemu-io"), "-c", "write -b -P 7 0 1M", "-c", "truncate 2G",
            "-c", "read -P 0 512M 1M", "base.qcow2"]
    done = subprocess.run(tool, cwd=tmp_path, capture_output=True, text=True, timeout=60,
                          check=True)
    assert "failed" not in done.stdout
    subprocess.run(["qemu-img", "check", "base.qcow2"], cwd=tmp_path, check=True)


@pytest.mark.parametrize("first, zeroes, write", [
    ("192k", "64k 64k", "0 192k"), ("192k", "0 64k", "0 192k"), ("192k", "128k 64k", "0 192k"),
    ("192k", "64k 128k", "0 100k"), ("192k", "64k 64k", "10k 150k"), ("192k", "0 192k", "1k 190k"),
    ("256k", "64k 64k", "64k 192k"), ("256k", "128k 64k", "10k 246k"),
    ("256k", "64k 64k", "10k 236k")])
def test_clusters_that_stay_are_written_with_reserved_ones_between(tmp_path, first, zeroes, write):
    """As far as QEMU does so, too: its first write of data passes, the second would fail."""
    image = {"driver": "qcow2", "file": {
        "driver": "blkdebug", "image.filename": "o.qcow2",
        "set-state": [{"event": "write_aio", "state": 1, "new_state": 2},
                      {"event": "write_aio", "state": 2, "new_state": 3}],
        "inject-error": [{"event": "write_aio", "state": 3}]}}

    def make(directory):
        for command in (["qemu-img", "create", "-q", "-f", "qcow2", "o.qcow2", "256k"],
                        ["qemu-io", "-c", f"write -P 1 0 {first}", "-c", f"write -z {zeroes}",
                         "o.qcow2"]):
            subprocess.run(command, cwd=directory, check=True, stdout=subprocess.DEVNULL)
    name = "json:" + json.dumps(image)
    ours, qemu = compare.both("qemu-io", [
        ["-c", f"write -P 2 {write}", name],
        ["-c", f"read -P 2 {write}", "-c", "map", "-r", "-f", "qcow2", "o.qcow2"]], tmp_path, make)
    assert ours == qemu


@pytest.mark.parametrize("extended", ["on", "off"])
@pytest.mark.parametrize("mode", ["metadata", "falloc", "full"])
def test_a_disk_that_grows_over_a_longer_backing_file_is_preallocated(tmp_path, mode, extended):
    def grown(program):
        path = tmp_path / "o.qcow2"
        path.unlink(missing_ok=True)
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-o", f"extended_l2={extended}",
                        "-b", "base.raw", "-F", "raw", path, "1M"], cwd=tmp_path, check=True)
        subprocess.run([program, "-f", "qcow2", "-c", f"truncate -m {mode} 4M",
                        "-c", "read -P 7 0 1M", "-c", "read -P 0 1M 3M", path], cwd=tmp_path,
                       check=True)
        said = [subprocess.run(["qemu-img", *words, "--output=json", path], cwd=tmp_path,
                               check=True, capture_output=True, text=True).stdout
                for words in (["check"], ["map"])]
        return *said, path.stat().st_blocks // 128
    (tmp_path / "base.raw").write_bytes(b"\7" * (8 << 20))
    assert grown(compare.OURS / "qemu-io") == grown("qemu-io")
