# SPDX-License-Identifier: GPL-2.0-or-later
"""getfd, closefd, and sets of descriptors: texts and answers are those of QEMU's emulator."""

import os
import socket

import pytest

NONE_CAME = "No file descriptor supplied via SCM_RIGHTS"


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "disk.img"
    path.write_bytes(b"x" * 512 + bytes(1 << 20))
    return path


@pytest.fixture
def opened(image):
    """Descriptors of the image, by their flags."""
    fds = {flags: os.open(image, flags) for flags in (os.O_RDONLY, os.O_RDWR)}
    yield fds
    for fd in fds.values():
        os.close(fd)


def add(qmp, fd, **arguments):
    return qmp.with_fds(fd).cmd("add-fd", **arguments)["fdset-id"]


def test_sets_are_numbered_from_the_lowest_free(qmp, opened):
    fd = opened[os.O_RDONLY]
    assert add(qmp, fd) == 0
    assert add(qmp, fd, opaque="one") == 1
    assert add(qmp, fd, fdset_id=7, opaque="seven") == 7
    assert add(qmp, fd, fdset_id=3) == 3
    assert add(qmp, fd) == 2
    assert add(qmp, fd, fdset_id=1, opaque="one more") == 1
    sets = qmp.cmd("query-fdsets")
    assert [(s["fdset-id"], [f.get("opaque") for f in s["fds"]]) for s in sets] == [
        (7, ["seven"]), (3, [None]), (2, [None]), (1, ["one", "one more"]), (0, [None])]


def test_a_descriptor_serves_one_command(qmp, opened):
    fd = opened[os.O_RDONLY]
    assert qmp.error("add-fd") == NONE_CAME
    assert (qmp.with_fds(fd).error("add-fd", fdset_id=-1)
            == "Parameter 'fdset-id' expects a non-negative value")
    assert qmp.error("add-fd") == NONE_CAME
    qmp.with_fds(fd, fd).cmd("add-fd")  # of several, the first
    assert qmp.error("add-fd") == NONE_CAME
    assert len(qmp.cmd("query-fdsets")) == 1


def test_removal(daemon, opened):
    qmp = daemon.qmp
    before = daemon.fds()
    first = qmp.with_fds(opened[os.O_RDONLY]).cmd("add-fd", fdset_id=1)["fd"]
    second = qmp.with_fds(opened[os.O_RDWR]).cmd("add-fd", fdset_id=1)["fd"]
    assert (qmp.error("remove-fd", fdset_id=1, fd=999)
            == "File descriptor named 'fdset-id:1, fd:999' not found")
    assert qmp.error("remove-fd", fdset_id=9) == "File descriptor named 'fdset-id:9' not found"
    qmp.cmd("remove-fd", fdset_id=1, fd=first)
    assert qmp.cmd("query-fdsets") == [{"fdset-id": 1, "fds": [{"fd": second}]}]
    qmp.cmd("remove-fd", fdset_id=1)
    assert qmp.cmd("query-fdsets") == []
    daemon.wait_fds(before)


def test_a_set_is_a_file_in_the_modes_that_it_has(qmp, opened):
    add(qmp, opened[os.O_RDONLY], fdset_id=5)
    disk = {"driver": "file", "filename": "/dev/fdset/5", "node-name": "disk"}
    assert (qmp.error("blockdev-add", disk)
            == "Could not dup FD for /dev/fdset/5 flags 2: Permission denied")
    qmp.cmd("blockdev-add", disk, read_only=True)
    qmp.cmd("blockdev-del", node_name="disk")
    add(qmp, opened[os.O_RDWR], fdset_id=5)
    qmp.cmd("blockdev-add", disk)
    assert qmp.cmd("query-named-block-nodes")[0]["file"] == "/dev/fdset/5"


@pytest.mark.parametrize("name, text", [
    ("/dev/fdset/99", "Could not dup FD for /dev/fdset/99 flags 2: No such file or directory"),
    ("/dev/fdset/-3", "Could not parse fdset /dev/fdset/-3"),
    ("/dev/fdset/3x", "Could not parse fdset /dev/fdset/3x"),
    ("/dev/fdset/", "Could not parse fdset /dev/fdset/"),
])
def test_what_is_no_set(qmp, name, text):
    assert qmp.error("blockdev-add", driver="file", filename=name, node_name="disk") == text


def test_who_has_opened_a_set_needs_it_no_more(daemon, image, opened):
    qmp = daemon.qmp
    add(qmp, opened[os.O_RDWR])
    qmp.cmd("blockdev-add", driver="file", filename="/dev/fdset/0", node_name="disk")
    qmp.cmd("remove-fd", fdset_id=0)
    qmp.cmd("block_resize", node_name="disk", size=4 << 20)
    assert str(image) in daemon.fds()
    qmp.cmd("blockdev-del", node_name="disk")
    assert str(image) not in daemon.fds()


def test_auto_read_only_takes_the_one_for_writing_when_somebody_writes(daemon, opened):
    qmp = daemon.qmp
    add(qmp, opened[os.O_RDONLY])
    disk = {"driver": "file", "filename": "/dev/fdset/0", "node-name": "disk",
            "read-only": True, "auto-read-only": True}
    qmp.cmd("blockdev-add", disk)
    qmp.cmd("blockdev-del", node_name="disk")
    qmp.cmd("blockdev-add", dict(disk, **{"read-only": False}))
    qmp.cmd("nbd-server-start",
            addr={"type": "unix", "data": {"path": daemon.nbd_path}})
    export = {"type": "nbd", "id": "e", "node-name": "disk", "writable": True}
    assert "Permission denied" in qmp.error("block-export-add", export)
    add(qmp, opened[os.O_RDWR], fdset_id=0)
    qmp.cmd("block-export-add", export)


def test_a_name_may_not_begin_with_a_digit(qmp, opened):
    fd = opened[os.O_RDONLY]
    assert qmp.error("getfd", fdname="1x") == NONE_CAME
    assert (qmp.with_fds(fd).error("getfd", fdname="1x")
            == "Parameter 'fdname' expects a name not starting with a digit")
    assert qmp.error("closefd", fdname="x") == "File descriptor named 'x' not found"


def test_a_name_means_the_last_of_its_descriptors(daemon, opened):
    qmp = daemon.qmp
    before = daemon.fds()
    for fd in opened.values():
        qmp.with_fds(fd).cmd("getfd", fdname="x")
    assert len(daemon.fds()) == len(before) + 1
    qmp.cmd("closefd", fdname="x")
    assert qmp.error("closefd", fdname="x") == "File descriptor named 'x' not found"
    daemon.wait_fds(before)


def test_a_server_on_a_socket_that_was_handed_over(daemon):
    qmp = daemon.qmp
    path = daemon.file("elsewhere.sock")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        qmp.with_fds(listener.fileno()).cmd("getfd", fdname="door")
    qmp.cmd("nbd-server-start", addr={"type": "fd", "data": {"str": "door"}})
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
        assert client.recv(8) == b"NBDMAGIC"
    assert qmp.error("closefd", fdname="door") == "File descriptor named 'door' not found"


def test_a_name_that_was_used_leads_to_no_later_descriptor(daemon, opened):
    qmp = daemon.qmp
    with socket.socket(socket.AF_UNIX) as first, socket.socket(socket.AF_UNIX) as second:
        for name, listener in (("first", first), ("second", second)):
            listener.bind(daemon.file(name))
            listener.listen()
        qmp.with_fds(first.fileno()).cmd("getfd", fdname="first")
        qmp.cmd("closefd", fdname="first")
        qmp.with_fds(second.fileno()).cmd("getfd", fdname="second")  # gets the same number
        assert "first" in qmp.error("nbd-server-start",
                                    addr={"type": "fd", "data": {"str": "first"}})
        qmp.cmd("nbd-server-start", addr={"type": "fd", "data": {"str": "second"}})


def test_descriptors_nobody_asked_for_do_not_pile_up(daemon, opened):
    before = daemon.fds()
    for _ in range(40):
        daemon.qmp.with_fds(*[opened[os.O_RDONLY]] * 10).cmd("query-version")
    assert len(daemon.fds()) == len(before) + 1
