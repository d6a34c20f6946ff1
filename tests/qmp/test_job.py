# SPDX-License-Identifier: GPL-2.0-or-later
"""Jobs, and those that make images."""

import json
import subprocess

import pytest

CREATE = "blockdev-create"


def states(daemon, count, ident="job0"):
    """The job's next `count` states."""
    return [daemon.qmp.event("JOB_STATUS_CHANGE", match={"id": ident})["data"]["status"]
            for _ in range(count)]


def create(daemon, options, ident="job0"):
    """Runs the job to its end; its error, or None."""
    daemon.qmp.cmd(CREATE, {"job-id": ident, "options": options})
    while states(daemon, 1, ident) != ["concluded"]:
        pass
    job = daemon.qmp.cmd("query-jobs")[0]
    daemon.qmp.cmd("job-dismiss", {"id": ident})
    return job.get("error")


def info(path):
    out = subprocess.run(["qemu-img", "info", "--output=json", path], check=True,
                         capture_output=True, text=True, timeout=60).stdout
    return json.loads(out)


def test_a_job_tells_of_its_life_and_waits_to_be_dismissed(daemon):
    path = daemon.file("a.raw")
    daemon.qmp.cmd(CREATE, {"job-id": "job0", "options": {"driver": "file", "filename": path,
                                                          "size": 1 << 20}})
    assert states(daemon, 5) == ["created", "running", "waiting", "pending", "concluded"]
    assert daemon.qmp.cmd("query-jobs") == [
        {"id": "job0", "type": "create", "status": "concluded", "current-progress": 1,
         "total-progress": 1}]
    assert daemon.qmp.error(CREATE, {"job-id": "job0", "options": {
        "driver": "file", "filename": path, "size": 0}}) == "Job ID 'job0' already in use"
    for verb in ("cancel", "pause", "complete", "finalize"):
        assert daemon.qmp.error(f"job-{verb}", {"id": "job0"}) == (
            f"Job 'job0' in state 'concluded' cannot accept command verb '{verb}'")
    daemon.qmp.cmd("job-dismiss", {"id": "job0"})
    assert states(daemon, 1) == ["null"]
    assert daemon.qmp.error("job-dismiss", {"id": "job0"}) == "Job not found"
    assert daemon.qmp.cmd("query-jobs") == []


def test_the_error_of_a_job_is_told_when_it_is_asked_for(daemon):
    options = {"driver": "file", "filename": daemon.file("no/such"), "size": 0}
    daemon.qmp.cmd(CREATE, {"job-id": "job0", "options": options})
    assert states(daemon, 4) == ["created", "running", "aborting", "concluded"]
    job = daemon.qmp.cmd("query-jobs")[0]
    assert job["error"] == f"Could not create '{options['filename']}': No such file or directory"
    assert (job["current-progress"], job["total-progress"]) == (1, 1)


def test_images_are_made_on_nodes_and_on_files(daemon):
    path = daemon.file("a.qcow2")
    assert create(daemon, {"driver": "file", "filename": path, "size": 0}) is None
    daemon.qmp.cmd("blockdev-add", {"driver": "file", "node-name": "imgfile", "filename": path})
    assert create(daemon, {"driver": "qcow2", "file": "imgfile", "size": 1 << 27}) is None
    daemon.qmp.cmd("blockdev-del", {"node-name": "imgfile"})
    assert info(path)["virtual-size"] == 1 << 27
    options = {"driver": "qcow2", "file": {"driver": "file", "filename": path}, "size": 1 << 25,
               "cluster-size": 2 << 20, "refcount-bits": 1, "preallocation": "metadata",
               "version": "v3"}
    assert create(daemon, options) is None
    found = info(path)
    assert (found["virtual-size"], found["cluster-size"]) == (1 << 25, 2 << 20)
    assert found["format-specific"]["data"]["refcount-bits"] == 1


@pytest.mark.parametrize("options, text", [
    ({"file": "nosuch"}, "Cannot find device='nosuch' nor node-name='nosuch'"),
    ({"cluster-size": 1234}, "Cluster size must be a power of two between 512 and 2048k"),
    ({"cluster-size": 4 << 20}, "Cluster size must be a power of two between 512 and 2048k"),
    ({"refcount-bits": 7},
     "Refcount width must be a power of two and may not exceed 64 bits"),
    ({"version": "v2", "refcount-bits": 8},
     "Different refcount widths than 16 bits require compatibility level 1.1 or above (use "
     "version=v3 or greater)"),
    ({"backing-fmt": "qcow2"}, "Backing format cannot be used without backing file"),
    ({"backing-file": "b", "preallocation": "full"},
     "Backing file and preallocation can only be used at the same time if extended_l2 is on"),
    ({"size": 1234}, "Image size must be a multiple of 512 bytes"),
], ids=lambda value: "".join(value) if isinstance(value, dict) else "")
def test_what_qcow2_refuses(daemon, options, text):
    path = daemon.image("a.qcow2", size=0)
    daemon.qmp.cmd("blockdev-add", {"driver": "file", "node-name": "imgfile", "filename": path})
    assert create(daemon, {"driver": "qcow2", "file": "imgfile", "size": 1 << 20, **options}) == (
        text)


def test_what_cannot_be_made_is_refused_at_once(daemon):
    assert daemon.qmp.error(CREATE, {"job-id": "0", "options": {
        "driver": "file", "filename": "a", "size": 0}}) == "Invalid job ID '0'"


def test_a_backing_file_gets_another_name(daemon):
    for words in (["a.qcow2", "1M"], ["-b", "a.qcow2", "-F", "qcow2", "b.qcow2"]):
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *words], check=True,
                       cwd=daemon.path, timeout=60)
    daemon.qmp.cmd("blockdev-add", {"driver": "qcow2", "node-name": "top",
                                    "file": {"driver": "file", "filename": daemon.file("b.qcow2")},
                                    "backing": {"driver": "qcow2", "node-name": "base", "file": {
                                        "driver": "file", "filename": daemon.file("a.qcow2")}}})

    def change(device, image):
        return {"device": device, "image-node-name": image, "backing-file": "other.qcow2"}

    command = "change-backing-file"
    assert daemon.qmp.error(command, change("top", "none")) == "image file not found"
    assert daemon.qmp.error(command, change("top", "base")) == (
        "not allowing backing file change on an image without a backing file")
    assert daemon.qmp.error(command, change("base", "top")) == (
        "'base' and image file are not in the same chain")
    daemon.qmp.cmd(command, change("top", "top"))
    daemon.quit()
    assert info(daemon.file("b.qcow2"))["backing-filename"] == "other.qcow2"


@pytest.mark.parametrize("inline", [True, False])
def test_a_read_only_image_gets_another_backing_file(daemon, inline):
    """It is opened for writing as long as that takes."""
    for words in (["a.qcow2", "1M"], ["-b", "a.qcow2", "-F", "qcow2", "b.qcow2"],
                  ["-b", "b.qcow2", "-F", "qcow2", "c.qcow2"]):
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *words], check=True,
                       cwd=daemon.path, timeout=60)

    def node(name, **more):
        file = {"driver": "file", "node-name": name + "-file",
                "filename": daemon.file(name + ".qcow2")}
        if not inline:
            daemon.qmp.cmd("blockdev-add", file)
            file = name + "-file"
        options = {"driver": "qcow2", "node-name": name, "read-only": True, "file": file, **more}
        daemon.qmp.cmd("blockdev-add", options)
    node("a")
    node("b", backing="a")
    node("c", backing="b")
    for image in ("b", "c"):
        daemon.qmp.cmd("change-backing-file", {"device": "c", "image-node-name": image,
                                               "backing-file": "other"})
        named = {n["node-name"]: n for n in daemon.qmp.cmd("query-named-block-nodes")}
        assert named[image]["ro"] is True
    daemon.quit()
    for image in ("b", "c"):
        assert info(daemon.file(f"{image}.qcow2"))["backing-filename"] == "other"
