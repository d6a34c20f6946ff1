# SPDX-License-Identifier: GPL-2.0-or-later
"""The vduse-blk export where the kernel has no VDUSE: everything before it is checked, and the
error says what is missing. What it does with a kernel that has it is tested in
tests/unit/export_vduse."""

import os

import pytest

from support.daemon import run_daemon

pytestmark = pytest.mark.skipif(os.path.exists("/dev/vduse/control"), reason="VDUSE is here")
strata_only = pytest.mark.strata_only


@pytest.fixture
def added(daemon):
    """Call it with options to add an export; returns the error's text."""
    daemon.add_null()

    def add(**options):
        options = {"type": "vduse-blk", "id": "e0", "node-name": "disk", "name": "vdev",
                   **{key.replace("_", "-"): value for key, value in options.items()}}
        return daemon.qmp.error("block-export-add", options)
    return add


def test_a_kernel_without_vduse_is_an_error(daemon, added):
    assert added().startswith("failed to create vduse device")
    assert daemon.qmp.cmd("query-block-exports") == []
    daemon.qmp.cmd("blockdev-del", {"node-name": "disk"})


@strata_only
def test_the_error_names_what_is_missing(added):
    assert added() == ("failed to create vduse device: the kernel has no vduse, or its module is "
                       "not loaded: Failed to open /dev/vduse/control: No such file or directory")


@pytest.mark.parametrize("options, text", [
    ({"num_queues": 0}, "num-queues must be greater than 0"),
    ({"queue_size": 1}, "queue-size is invalid"),
    ({"queue_size": 3}, "queue-size is invalid"),
    ({"queue_size": 2048}, "queue-size is invalid"),
    ({"logical_block_size": 3},
     "Property e0.logical-block-size doesn't take value 3 (minimum: 512, maximum: 2097152)"),
    ({"logical_block_size": 1536},
     "Property e0.logical-block-size doesn't take value '1536', it's not a power of 2"),
    ({"iothread": "t9"}, "iothread \"t9\" not found"),
])
def test_bad_options_are_refused(added, options, text):
    assert added(**options) == text


def test_a_name_is_needed(daemon):
    daemon.add_null()
    error = daemon.qmp.error("block-export-add",
                             {"type": "vduse-blk", "id": "e0", "node-name": "disk"})
    assert error == "Parameter 'name' is missing"


@strata_only
@pytest.mark.parametrize("name", ["", ".", "..", "control", "a/b", "n" * 256])
def test_bad_names_are_refused(added, name):
    assert added(name=name) == f"failed to create vduse device: '{name}' cannot be its name"


def test_a_start_with_such_an_export_fails(tmp_path):
    result = run_daemon("--blockdev", "null-co,node-name=disk",
                        "--export", "vduse-blk,id=e0,node-name=disk,name=vdev,num-queues=2,"
                        "queue-size=128,serial=s1,writable=on", cwd=tmp_path)
    assert result.returncode == 1
    assert "failed to create vduse device" in result.stderr
    assert not list(tmp_path.iterdir())


def test_the_schema_lists_the_export(daemon):
    enums = [entry for entry in daemon.qmp.cmd("query-qmp-schema") if entry["meta-type"] == "enum"]
    kinds = [entry["values"] for entry in enums if "vhost-user-blk" in entry["values"]]
    assert kinds and all("vduse-blk" in values for values in kinds)
