# SPDX-License-Identifier: GPL-2.0-or-later
"""strata-nbd beside qemu-nbd: the same words, the same exit codes, the same service."""

import functools
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

from support.program import ROOT, is_oracle, slow_factor
from support.tools import is_listening, nbdinfo, qemu_io, run, wait_until

pytestmark = pytest.mark.skipif(is_oracle(), reason="tests our own tools")

OURS = str(ROOT / os.environ.get("STRATA_BUILD", "build") / "bin/compat/qemu-nbd")
SIZE = 1 << 20

def refused():
    """The command lines of nbd_refused.txt."""
    text = Path(__file__).with_name("nbd_refused.txt").read_text(encoding="utf-8")
    return [line for line in text.splitlines() if not line.startswith("#")]


def words_of(line, place):
    words = [word.replace("{place}", str(place)).replace("LONG4097", "x" * 4097)
             for word in shlex.split(line if line != "(nothing)" else "")]
    # Nothing listens at the port that others may be at, too, where it does not matter.
    where = re.compile("-[kpbLcdhVZ]|--(nosuch|socket|port|bind|connect|list)")
    if not words or any(where.match(word) for word in words):
        return words
    return ["-k", str(place / "sock"), *words]


@pytest.fixture
def place(tmp_path):
    (tmp_path / "a.img").write_bytes(b"\x07" * SIZE)
    return tmp_path


@pytest.fixture
def images(place):
    (place / "dir").mkdir()
    for words in ("create -q -f qcow2 q.qcow2 1M", "snapshot -c s1 q.qcow2",
                  "bitmap --add q.qcow2 b"):
        run("qemu-img", *words.split(), cwd=place)
    return place


@pytest.fixture
def serve_in():
    """Starts servers on DIRECTORY/sock; each must be gone, or is ended, after the test."""
    running = []

    def start(directory, *arguments, program=OURS):
        process = subprocess.Popen([program, "-k", str(directory / "sock"), *map(str, arguments)],
                                   cwd=directory, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
        running.append(process)
        wait_until(lambda: is_listening(directory / "sock") or process.poll() is not None,
                   "a socket")
        assert process.poll() is None
        return process

    yield start
    for process in running:
        process.kill()
        process.wait()


@pytest.fixture
def serve(place, serve_in):
    return functools.partial(serve_in, place)


def uri(place, name=""):
    return f"nbd+unix:///{name}?socket={place}/sock"


@pytest.mark.parametrize("line", refused(), ids=lambda line: line[:60])
def test_is_refused_in_the_same_words(images, line):
    words = words_of(line, images)
    ours, theirs = (run(program, *words, check=False, cwd=images, timeout=20)
                    for program in (OURS, "qemu-nbd"))
    assert (ours.returncode, ours.stdout.replace(OURS, "qemu-nbd")) == (
        theirs.returncode, theirs.stdout)


@pytest.mark.parametrize("offset, taken", [("-1", "-1"),
                                           ("9223372036854775808", "-9223372036854775808")])
def test_an_offset_that_wraps_is_out_of_range(images, offset, taken):
    """In the words of QEMU 10.2."""
    done = run(OURS, "-f", "raw", "-o", offset, "a.img", check=False, cwd=images, timeout=20)
    assert done.returncode == 1
    assert done.stdout.endswith(f"Value '{taken}' is out of range for parameter 'offset'\n")


def test_help_and_version():
    ours, theirs = (run(program, "--help").stdout for program in (OURS, "qemu-nbd"))
    options = re.compile(r"--[a-z-]+")
    assert set(options.findall(theirs)) <= set(options.findall(ours))
    assert run(OURS, "--version").stdout.startswith("qemu-nbd 10.2.")


SERVED = [
    "-f raw a.img", "-r -f raw a.img", "-A -f raw a.img", "-x n -D 'some text' -f raw a.img",
    "-o 65536 -f raw a.img", "-o 0x200 -f raw a.img", "-o 0x100000 -f raw a.img", "-o 512 q.qcow2",
    "-s -f raw a.img", "-s -f qcow2 q.qcow2", "-r -s -f raw a.img", "-e 0 -f raw a.img",
    "-e 5 -f raw a.img", "-e 1 -f raw a.img", "-f qcow2 q.qcow2", "-r -B b -f qcow2 q.qcow2",
    "-B b -f qcow2 q.qcow2", "-A -B b -B c -r -f qcow2 q.qcow2", "-l s1 q.qcow2", "-l 1 q.qcow2",
    "-l snapshot.id=1 q.qcow2", "-l snapshot.name=s1 -f qcow2 q.qcow2",
    "-l snapshot.id=1,snapshot.name=s1 q.qcow2", "-l s1 -A q.qcow2", "--cache=none -f raw a.img",
    "--cache=writeback -f raw a.img", "--cache=writethrough -f raw a.img",
    "--cache=directsync -f raw a.img", "-n -f raw a.img", "--aio=threads -f raw a.img",
    "--aio=native -n -f raw a.img", "--aio=io_uring -f raw a.img", "--discard=unmap -f raw a.img",
    "--discard=off -f raw a.img", "--detect-zeroes=on -f raw a.img",
    "--discard=unmap --detect-zeroes=unmap -f raw a.img",
    "--discard=unmap --detect-zeroes=unmap -f qcow2 q.qcow2",
    "--image-opts driver=qcow2,file.filename=q.qcow2",
    "--image-opts driver=raw,file.filename=a.img,offset=512,size=1024",
    "-f raw odd.img", "-f raw empty.img", "--object secret,id=s,data=x -f raw a.img",
    "-v -r -f raw a.img", "-f qcow2 over.qcow2", "-A -f qcow2 over.qcow2", "-s -A over.qcow2",
]


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """A directory of the images that are served."""
    directory = tmp_path_factory.mktemp("images") / "images"
    directory.mkdir()
    (directory / "a.img").write_bytes(b"\x07" * SIZE)
    (directory / "odd.img").write_bytes(b"\x07" * 1000)
    (directory / "empty.img").write_bytes(b"")
    for line in ("img create -q -f qcow2 q.qcow2 1M", "io -c 'write -P 3 0 128k' q.qcow2",
                 "img snapshot -c s1 q.qcow2", "img bitmap --add q.qcow2 b",
                 "img bitmap --add q.qcow2 c", "io -c 'write -P 4 64k 128k' q.qcow2",
                 "img create -q -f qcow2 -b q.qcow2 -F qcow2 over.qcow2",
                 "io -c 'write -P 9 512k 64k' over.qcow2"):
        run(*shlex.split(f"qemu-{line}"), cwd=directory)
    return directory


def what_is_seen(directory, name):
    """All that clients can find out about an export, and what comes of writing to it."""
    uri_here = f"nbd+unix:///{name}?socket={directory}/sock"
    info = nbdinfo(uri_here, "--list")
    for export in info["exports"]:
        del export["uri"]
    seen = [info, run("qemu-nbd", "-L", "-k", directory / "sock").stdout]
    words = run("qemu-img", "map", "--output=json", uri_here).stdout
    commands = ("read 0 64k", "write -P 0 0 64k", "write -z 64k 64k", "discard 256k 64k",
                "write -z -u 320k 64k", "write -P 5 128k 64k", "read -P 5 128k 64k", "flush",
                "read 1M 512")
    reads_only = ["-r"] if all(export["is_read_only"] for export in info["exports"]) else []
    words += run("qemu-io", *reads_only, "-f", "raw", *(f"-c{command}" for command in commands),
                 uri_here, check=False).stdout
    words = re.sub(r"[\d.]+ [a-zA-Z]*, [\d.]+ ops; .*|\d+ ops; .*", "", words)
    return seen + [words.replace(str(directory), "DIRECTORY")]


@pytest.mark.parametrize("line", SERVED)
def test_is_served_as_qemu_nbd_serves_it(template, tmp_path, serve_in, line):
    results = []
    name = "n" if "-x" in line else ""
    for program in (OURS, shutil.which("qemu-nbd")):
        directory = Path(shutil.copytree(template, tmp_path / Path(program).parent.name))
        process = serve_in(directory, "-t", *shlex.split(line), program=program)
        seen = what_is_seen(directory, name)
        process.terminate()
        assert process.wait(30 * slow_factor()) == 0
        run("qemu-img", "convert", "-O", "raw", "q.qcow2", "q.raw", cwd=directory)
        results.append((seen, [(directory / name).read_bytes() for name in
                               ("a.img", "odd.img", "empty.img", "q.raw")],
                        process.stderr.read().replace(program.encode(), b"qemu-nbd")))
    assert results[0][0] == results[1][0]
    assert results[0][1:] == results[1][1:]


def test_traces(place, serve):
    process = serve("-T", "blk_co_preadv", "--trace", f"nosuch,file={place}/log", "-f", "raw",
                    "a.img")
    qemu_io(uri(place), "read -P 7 0 1M")
    assert process.wait(30 * slow_factor()) == 0
    warning = b"warning: trace event 'nosuch' does not exist\n"
    assert process.stderr.read().endswith(warning)
    assert "blk_co_preadv" in (place / "log").read_text(encoding="utf-8")


def test_a_trace_points_names_are_told():
    assert "blk_co_preadv" in run(OURS, "--trace", "help").stdout.split()


def test_ends_with_its_only_client(place, serve):
    process = serve("-f", "raw", "a.img")
    qemu_io(uri(place), "read -P 7 0 1M", "write -P 8 0 64k")
    assert process.wait(30 * slow_factor()) == 0
    assert (place / "a.img").read_bytes()[:65536] == b"\x08" * 65536
    assert not (place / "sock").exists()


def test_port_scan_does_not_end_a_server_for_one_client(place, serve):
    process = serve("-f", "raw", "a.img")
    for turn in range(200):
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(place / "sock"))
            sock.sendall((b"", b"GET / HTTP/1.1\r\n\r\n", b"\0" * 4)[turn % 3])
    assert process.poll() is None
    qemu_io(uri(place), "read -P 7 0 1M")
    assert process.wait(30 * slow_factor()) == 0


def test_persistent_server_stays_until_it_is_told(place, serve):
    process = serve("-t", "-e", "2", "-f", "raw", "a.img")
    for _ in range(3):
        qemu_io(uri(place), "read -P 7 0 1M")
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert process.wait(30 * slow_factor()) == 0


def test_export_has_name_description_and_depth(place, serve):
    serve("-t", "-r", "-x", "disk", "-D", "about it", "-A", "-f", "raw", "a.img")
    (export,) = nbdinfo(uri(place, "disk"))["exports"]
    assert export["description"] == "about it" and export["is_read_only"] is True
    assert sorted(export["contexts"]) == ["base:allocation", "qemu:allocation-depth"]


def test_list_is_what_qemu_nbd_lists(place, serve):
    serve("-t", "-e", "3", "-x", "disk", "-D", "about it", "-A", "-f", "raw", "a.img",
          program="qemu-nbd")
    ours, theirs = (run(program, "-L", "-k", place / "sock").stdout
                    for program in (OURS, "qemu-nbd"))
    assert [line for line in ours.splitlines() if "transaction size" not in line] == (
        theirs.splitlines())


def test_offset_shows_a_window(place, serve):
    (place / "a.img").write_bytes(b"\x01" * 65536 + b"\x02" * (SIZE - 65536))
    serve("-o", "65536", "-f", "raw", "a.img")
    qemu_io(uri(place), f"read -P 2 0 {SIZE - 65536}")


def test_snapshot_inside_the_image(place, serve):
    run("qemu-img", "create", "-f", "qcow2", "b.qcow2", "1M", cwd=place)
    run("qemu-io", "-c", "write -P 1 0 64k", "b.qcow2", cwd=place)
    run("qemu-img", "snapshot", "-c", "before", "b.qcow2", cwd=place)
    run("qemu-io", "-c", "write -P 2 0 64k", "b.qcow2", cwd=place)
    serve("-l", "before", "-f", "qcow2", "b.qcow2")
    done = run("qemu-io", "-r", "-f", "raw", "-c", "read -P 1 0 64k", uri(place))
    assert "failed" not in done.stdout


def test_fork_returns_when_the_server_listens(place):
    pid_file = place / "pid"
    run(OURS, "--fork", f"--pid-file={pid_file}", "-t", "-k", place / "sock", "-f", "raw",
        "a.img", cwd=place)
    pid = int(pid_file.read_text())
    try:
        qemu_io(uri(place), "read -P 7 0 1M")
    finally:
        os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + 30 * slow_factor()
    while (place / "sock").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert pid_file.exists()  # whoever reads it to end the server may remove it


def test_fork_that_fails_says_so_before_it_returns(place):
    for _ in range(30):
        with open(place / "said", "wb") as said:
            done = subprocess.run([OURS, "--fork", "-k", place / "sock", "-f", "raw", "nofile"],
                                  cwd=place, stdin=subprocess.DEVNULL, stderr=said, check=False)
        assert done.returncode == 1
        assert "Could not open 'nofile'" in (place / "said").read_text(encoding="utf-8")


def test_socket_of_systemd(place):
    command = ["systemd-socket-activate", "-l", str(place / "sock"), OURS, "-f", "raw",
               str(place / "a.img")]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: is_listening(place / "sock"), "the socket")
        qemu_io(uri(place), "read -P 7 0 1M")
        assert process.wait(30 * slow_factor()) == 0
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("image", ["a.img", "q.qcow2"])
@pytest.mark.parametrize("options", ["", "-r"])
def test_guessed_format_is_served_in_the_same_blocks(images, image, options):
    sizes = []
    for program in (OURS, "qemu-nbd"):
        process = subprocess.Popen([program, "-t", "-k", str(images / "sock"), *options.split(),
                                    str(images / image)], stdin=subprocess.DEVNULL,
                                   stderr=subprocess.DEVNULL)
        try:
            wait_until(lambda: is_listening(images / "sock"), "the socket")
            found = nbdinfo(uri(images))["exports"][0]
            sizes.append({key: found[key] for key in found if key.startswith("block_size")})
        finally:
            process.terminate()
            assert process.wait(30 * slow_factor()) == 0
    assert sizes[0] == sizes[1]


OBJECTS = ["secret", "tls-creds-anon", "tls-creds-psk", "tls-creds-x509", "authz-simple",
           "authz-list"]


@pytest.mark.parametrize("program", ["nbd", "img", "io"])
def test_objects_say_what_they_take(program):
    ours = str(Path(OURS).with_name(f"qemu-{program}"))
    words = ["info"] if program == "img" else []
    for kind in OBJECTS:
        asked = run(ours, *words, "--object", f"{kind},help").stdout
        assert asked == run("qemu-nbd", "--object", f"{kind},help").stdout
    # QEMU has more, for other users than tools, and calls a list in a file otherwise.
    ours_listed = run(ours, *words, "--object", "help").stdout.splitlines()
    theirs = run("qemu-nbd", "--object", "help").stdout.splitlines()
    assert ours_listed[0] == theirs[0]
    assert {f"  {kind}" for kind in OBJECTS} <= set(ours_listed)
    assert set(ours_listed) - set(theirs) == {"  authz-listfile", "  authz-pam"}
    assert run(ours, *words, "--object", "nosuch,help").stdout.splitlines() == ours_listed


def test_missing_file_of_events_is_named(images):
    done = run(OURS, "-T", "events=nofile", images / "a.img", check=False, cwd=images)
    assert (done.returncode, done.stdout) == (1, "qemu-nbd:nofile: No such file or directory\n")


def test_what_is_no_device_of_nbd_is_refused(images):
    done = run(OURS, "-f", "raw", "-c", "/dev/null", images / "a.img", check=False)
    assert done.returncode == 1 and "qemu-nbd: Failed to set NBD socket\n" in done.stdout
