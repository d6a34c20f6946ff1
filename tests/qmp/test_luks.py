# SPDX-License-Identifier: GPL-2.0-or-later
"""LUKS volumes: made by blockdev-create, their keys changed by x-blockdev-amend while in use."""

import os
import subprocess

import pytest

from support.tools import qemu_io

CREATE, AMEND = "blockdev-create", "x-blockdev-amend"
SECRETS = {"s0": "foo", "s1": "bar", "s2": "baz"}
MIB = 1 << 20


@pytest.fixture
def keys(daemon):
    """A daemon that knows some passwords."""
    for ident, data in SECRETS.items():
        daemon.qmp.cmd("object-add", {"qom-type": "secret", "id": ident, "data": data})
    return daemon


def run_job(daemon, command, **arguments):
    """Runs the job to its end; its error, or None."""
    daemon.qmp.cmd(command, {"job-id": "job0", **arguments})
    while daemon.qmp.event("JOB_STATUS_CHANGE", timeout=60)["data"]["status"] != "concluded":
        pass
    job = daemon.qmp.cmd("query-jobs")[0]
    assert job["type"] == {CREATE: "create", AMEND: "amend"}[command]
    assert (job["current-progress"], job["total-progress"]) == (1, 1)
    daemon.qmp.cmd("job-dismiss", {"id": "job0"})
    return job.get("error")


def create(daemon, **options):
    return run_job(daemon, CREATE, options={"driver": "luks", "key-secret": "s0", "iter-time": 10,
                                            "size": MIB, **options})


def amend(daemon, node, force=None, **options):
    more = {} if force is None else {"force": force}
    return run_job(daemon, AMEND, **{"node-name": node}, options=options, **more)


def add_luks(daemon, path, node="disk", secret="s0", **options):
    daemon.qmp.cmd("blockdev-add", {"driver": "luks", "node-name": node, "key-secret": secret,
                                    "file": {"driver": "file", "filename": path}, **options})


@pytest.fixture
def disk(keys):
    """A volume of a MiB, open as 'disk' with the password s0."""
    path = keys.image("a.luks", 0)
    assert create(keys, file={"driver": "file", "filename": path}) is None
    add_luks(keys, path)
    return keys


def active_slots(daemon, node="disk"):
    nodes = daemon.qmp.cmd("query-named-block-nodes")
    found, = (one["image"] for one in nodes if one["node-name"] == node)
    data = found["format-specific"]["data"]
    slots = data["encrypt"]["slots"] if "encrypt" in data else data["slots"]
    return [index for index, slot in enumerate(slots) if slot["active"]]


def opens_with(daemon, path, password):
    """Whether QEMU can read the volume with that password."""
    done = subprocess.run(
        ["qemu-io", "--object", f"secret,id=s,data={password}", "-U", "-r", "-c", "read 0 512",
         "--image-opts", f"driver=luks,key-secret=s,file.filename={path}"], cwd=daemon.path,
        capture_output=True, text=True, check=False, timeout=120)
    return done.returncode == 0 and "read 512/512" in done.stdout


@pytest.mark.parametrize("options", [
    {}, {"cipher-alg": "serpent-256", "cipher-mode": "cbc", "ivgen-alg": "essiv",
         "ivgen-hash-alg": "sha256", "hash-alg": "sha512"},
    {"preallocation": "falloc"}, {"preallocation": "full"}, {"preallocation": "metadata"},
    {"size": 0}, {"size": 3 * MIB + 512}])
def test_a_volume_is_made_as_its_options_say(keys, options):
    path = keys.image("a.luks", 12345, b"old" * 1000)
    keys.qmp.cmd("blockdev-add", {"driver": "file", "node-name": "f", "filename": path})
    assert create(keys, file="f", **options) is None
    keys.qmp.cmd("blockdev-del", {"node-name": "f"})
    add_luks(keys, path)
    node, = (one for one in keys.qmp.cmd("query-named-block-nodes") if one["node-name"] == "disk")
    assert node["image"]["virtual-size"] == options.get("size", MIB)
    specific = node["image"]["format-specific"]["data"]
    for name, value in options.items():
        if name not in ("size", "preallocation"):
            assert specific[name] == value
    assert os.path.getsize(path) == specific["payload-offset"] + options.get("size", MIB)
    if options.get("preallocation") in ("falloc", "full"):
        assert os.stat(path).st_blocks * 512 >= os.path.getsize(path)
    assert opens_with(keys, path, "foo") == (options.get("size") != 0)


def test_header_and_data_may_lie_apart(keys):
    header, data = keys.image("h.luks", 0), keys.image("d.img", 0)
    file_node = [{"driver": "file", "filename": path} for path in (header, data)]
    assert create(keys, header=file_node[0], file=file_node[1], preallocation="full") is None
    assert os.path.getsize(data) == MIB
    # The header alone may be made anew, for data that are there.
    assert create(keys, header=file_node[0]) is None
    add_luks(keys, data, header=file_node[0])
    keys.serve_nbd()
    keys.export("disk", name="disk", writable=True)
    qemu_io(keys.uri("disk"), "write -P 7 0 64k", "read -P 7 0 64k")
    with open(data, "rb") as raw:
        assert raw.read(65536) not in (b"\7" * 65536, bytes(65536))
    assert os.path.getsize(data) == MIB


@pytest.mark.parametrize("options, text", [
    ({"key-secret": None}, "Parameter 'key-secret' is required for cipher"),
    ({"key-secret": "nosuch"}, "No secret with id 'nosuch'"),
    ({"file": None}, "Either the parameter 'header' or 'file' must be specified"),
    ({"file": "nosuch"}, "Cannot find device='nosuch' nor node-name='nosuch'"),
    ({"file": None, "header": "nosuch"}, "Cannot find device='nosuch' nor node-name='nosuch'"),
    ({"size": 1 << 62}, "The requested file size is too large"),
    ({"size": (1 << 63) - 512}, "The requested file size is too large"),
    ({"iter-time": -1}, "PBKDF iterations "),
    ({"cipher-alg": "cast5-128"}, "Unsupported cipher mode xts"),
    ({"file": None, "header": "f", "preallocation": "full"},
     "Parameter 'preallocation' requires 'file' to be specified for formatting LUKS disk"),
])
def test_wrong_options_fail_the_job(keys, options, text):
    keys.add_file("f", "f.img")
    merged = {"file": "f", **options}
    every = {"driver": "luks", "key-secret": "s0", "iter-time": 10, "size": MIB, **merged}
    every = {key: value for key, value in every.items() if value is not None}
    assert run_job(keys, CREATE, options=every).startswith(text)


def test_keys_come_and_go_while_the_disk_is_in_use(disk):
    path = disk.file("a.luks")
    disk.serve_nbd()
    disk.export("disk", name="disk", writable=True)
    with subprocess.Popen(["qemu-io", "-f", "raw", disk.uri("disk")], stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE, text=True) as guest:
        guest.stdin.write("write -P 9 0 64k\n")
        guest.stdin.flush()
        assert amend(disk, "disk", driver="luks", state="active",
                     **{"new-secret": "s1", "iter-time": 10}) is None
        assert active_slots(disk) == [0, 1]
        assert opens_with(disk, path, "foo") and opens_with(disk, path, "bar")
        assert amend(disk, "disk", driver="luks", state="active",
                     **{"new-secret": "s2", "iter-time": 10, "keyslot": 5}) is None
        assert amend(disk, "disk", driver="luks", state="inactive", **{"old-secret": "s0"}) is None
        assert amend(disk, "disk", driver="luks", state="inactive", keyslot=1) is None
        assert active_slots(disk) == [5]
        assert [opens_with(disk, path, one) for one in ("foo", "bar", "baz")] == [
            False, False, True]
        output, _ = guest.communicate("read -P 9 0 64k\nwrite -P 8 64k 64k\nread -P 8 64k 64k\n",
                                      timeout=60)
    assert guest.returncode == 0 and "failed" not in output
    # What opens it now, since the node's own password does not any more.
    assert amend(disk, "disk", driver="luks", state="active", secret="s2",
                 **{"new-secret": "s0", "iter-time": 10}) is None
    assert active_slots(disk) == [0, 5]


IRREVERSIBLE = ("All the active keyslots match the (old) password that was given and erasing them "
                "will erase all the data in the image irreversibly - refusing operation")


@pytest.mark.parametrize("options, text", [
    ({"state": "active"}, "'new-secret' is required to activate a keyslot"),
    ({"state": "active", "new-secret": "s1", "old-secret": "s0"},
     "'old-secret' must not be given when activating keyslots"),
    ({"state": "active", "new-secret": "s1", "keyslot": 0},
     "Refusing to overwrite active keyslot 0 - please erase it first"),
    ({"state": "active", "new-secret": "s1", "keyslot": 9},
     "Invalid keyslot 9 specified, must be between 0 and 7"),
    ({"state": "active", "new-secret": "nosuch"}, "No secret with id 'nosuch'"),
    ({"state": "active", "new-secret": "s1", "secret": "s2"},
     "Invalid password, cannot unlock any keyslot"),
    ({"state": "inactive"}, "To erase keyslot(s), either explicit keyslot index or the password "
                            "currently contained in them must be given"),
    ({"state": "inactive", "keyslot": 4}, "Given keyslot 4 is already erased (inactive) "),
    ({"state": "inactive", "keyslot": -1}, "Invalid keyslot -1 specified, must be between 0 and 7"),
    ({"state": "inactive", "old-secret": "s2"},
     "No keyslots match given (old) password for erase operation"),
    ({"state": "inactive", "old-secret": "s0"}, IRREVERSIBLE),
    ({"state": "inactive", "keyslot": 0},
     "Attempt to erase the only active keyslot 0 which will erase all the data in the image "
     "irreversibly - refusing operation"),
])
def test_what_cannot_be_done_to_keys_fails_the_job(disk, options, text):
    assert amend(disk, "disk", driver="luks", **options) == text
    assert active_slots(disk) == [0]


def test_only_by_force_the_last_key_goes(disk):
    assert amend(disk, "disk", False, driver="luks", state="inactive", keyslot=0)
    assert amend(disk, "disk", True, driver="luks", state="inactive", keyslot=0) is None
    assert active_slots(disk) == []
    assert not opens_with(disk, disk.file("a.luks"), "foo")


def test_an_encrypted_qcow2_image_changes_its_keys(keys):
    path = keys.image("a.qcow2", 0)
    luks = {"format": "luks", "key-secret": "s0", "iter-time": 10}
    assert run_job(keys, CREATE, options={"driver": "qcow2", "size": MIB, "encrypt": luks, "file": {
        "driver": "file", "filename": path}}) is None
    keys.qmp.cmd("blockdev-add", {"driver": "qcow2", "node-name": "disk",
                                  "encrypt": {"format": "luks", "key-secret": "s0"},
                                  "file": {"driver": "file", "filename": path}})
    new = {"format": "luks", "state": "active", "new-secret": "s1", "iter-time": 10}
    assert amend(keys, "disk", driver="qcow2", encrypt=new) is None
    assert active_slots(keys) == [0, 1]
    old = {"format": "luks", "state": "inactive", "old-secret": "s0"}
    assert amend(keys, "disk", driver="qcow2", encrypt=old) is None
    assert active_slots(keys) == [1]
    assert amend(keys, "disk", driver="qcow2") is None
    assert amend(keys, "disk", driver="qcow2", encrypt={"format": "qcow"}) == (
        "Amend can't be used to change the qcow2 encryption format")
    keys.qmp.cmd("blockdev-del", {"node-name": "disk"})
    done = subprocess.run(["qemu-img", "check", "--object", "secret,id=s,data=bar", "--image-opts",
                           "driver=qcow2,encrypt.format=luks,encrypt.key-secret=s,"
                           f"file.filename={path}"], check=False, timeout=120)
    assert done.returncode == 0


@pytest.mark.parametrize("method, text", [
    (None, "image is not encrypted, can't amend"),
    ("aes", "Only LUKS encryption options can be amended for qcow2 with blockdev-amend")])
def test_an_image_without_luks_has_no_keys_to_change(keys, method, text):
    path = keys.file("a.qcow2")
    words = ["-o", "encrypt.format=aes,encrypt.key-secret=s"] if method else []
    subprocess.run(["qemu-img", "create", "-q", "--object", "secret,id=s,data=foo", "-f", "qcow2",
                    *words, path, "1M"], check=True, capture_output=True, timeout=60)
    encrypt = {"encrypt": {"format": method, "key-secret": "s0"}} if method else {}
    keys.qmp.cmd("blockdev-add", {"driver": "qcow2", "node-name": "disk", **encrypt,
                                  "file": {"driver": "file", "filename": path}})
    new = {"format": "luks", "state": "active", "new-secret": "s1", "iter-time": 10}
    assert amend(keys, "disk", driver="qcow2", encrypt=new) == text


def test_a_job_that_cannot_begin_is_refused(disk):
    add_luks(disk, disk.file("a.luks"), "reader", **{"read-only": True, "file": {
        "driver": "file", "filename": disk.file("a.luks"), "locking": "off"}})
    disk.add_null("null")
    new = {"driver": "luks", "state": "active", "new-secret": "s1", "iter-time": 10}

    def refusal(node, options, ident="job0"):
        return disk.qmp.error(AMEND, {"job-id": ident, "node-name": node, "options": options})

    assert refusal("reader", new) == "Block node is read-only"
    assert refusal("nosuch", new) == "Cannot find device='' nor node-name='nosuch'"
    assert refusal("disk", {"driver": "qcow2"}) == (
        "x-blockdev-amend doesn't support changing the block driver")
    assert refusal("null", {"driver": "null-co"}) == "Driver does not support x-blockdev-amend"
    assert refusal("disk", new, "9") == "Invalid job ID '9'"
    assert disk.qmp.cmd("query-jobs") == []
    assert active_slots(disk) == [0]


def test_a_node_stays_while_its_keys_are_changed(disk):
    disk.qmp.cmd(AMEND, {"job-id": "job0", "node-name": "disk", "options": {
        "driver": "luks", "state": "active", "new-secret": "s1", "iter-time": 2000}})
    assert disk.qmp.error("blockdev-del", {"node-name": "disk"}) == "Node disk is in use"
    assert "Permission conflict" in disk.qmp.error(AMEND, {
        "job-id": "job1", "node-name": "disk",
        "options": {"driver": "luks", "state": "inactive", "keyslot": 0}})
    disk.qmp.event("JOB_STATUS_CHANGE", timeout=60, match={"status": "concluded"})
    assert active_slots(disk) == [0, 1]
    disk.qmp.cmd("blockdev-del", {"node-name": "disk"})
