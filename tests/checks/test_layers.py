# SPDX-License-Identifier: GPL-2.0-or-later
"""scripts/check_layers.py catches what it is for, and is quiet otherwise."""

import pytest

import check_layers


def complaints(path, *includes):
    text = "".join(f"#include {i}\n" for i in includes)
    return check_layers.check_file(path, text, lambda p: p == "block/base/error.h")


@pytest.mark.parametrize("path, target", [
    ("block/coro/task.h", "block/base/error.h"),
    ("block/io/backend.cc", "block/graph/node.h"),
    ("block/drivers/nbd_client.cc", "block/nbd/message.h"),
    ("block/export/nbd/server.cc", "block/nbd/message.h"),
    ("block/export/vhost_user/server.cc", "block/virtio/ring.h"),
    ("block/graph/open.cc", "qapi/types/block_core.h"),
    ("storage-daemon/main.cc", "qapi/commands/block_core_commands.h"),
    ("block/qcow2/open.cc", "block/crypto/luks.h"),
    ("block/drivers/builtin.cc", "block/qcow2/open.h"),
    ("tests/unit/graph/node_test.cc", "storage-daemon/monitor/monitor.h"),
    ("block/qcow2/format/header.cc", "block/base/result.h"),
])
def test_downward_include_is_fine(path, target):
    assert complaints(path, f'"{target}"') == []


@pytest.mark.parametrize("path, target", [
    ("block/base/error.h", "block/coro/task.h"),
    ("block/aio/context.cc", "block/graph/node.h"),
    ("block/aio/context.cc", "qapi/types/block_core.h"),
    ("block/graph/open.cc", "block/io/backend.h"),
    ("block/graph/open.cc", "block/drivers/raw.h"),
    ("block/drivers/raw.cc", "block/qcow2/open.h"),
    ("block/drivers/raw.cc", "block/nbd/message.h"),
    ("block/nbd/message.cc", "block/coro/task.h"),
    ("block/virtio/ring.cc", "block/aio/context.h"),
    ("block/export/nbd/server.cc", "storage-daemon/main.h"),
    ("block/export/nbd/server.cc", "block/virtio/ring.h"),
    ("block/graph/open.cc", "qapi/commands/block_core_commands.h"),
    ("storage-daemon/main.cc", "tools/img/create.h"),
    ("block/jobs/job.cc", "tests/support/disk.h"),
    ("qapi/runtime/visitor.cc", "qapi/types/block_core.h"),
    ("block/qcow2/format/header.cc", "block/coro/task.h"),
    ("block/qcow2/format/header.cc", "block/qcow2/open.h"),
])
def test_climbing_include_is_caught(path, target):
    (complaint,) = complaints(path, "<vector>", f'"{target}"')
    assert complaint.startswith(f"{path}:2: ")
    assert f'"{target}"' in complaint


def test_include_not_named_from_the_root_is_caught():
    (complaint,) = complaints("block/base/error.cc", '"error.h"')
    assert "not named from the source root" in complaint


def test_asio_in_a_header_is_caught():
    (complaint,) = complaints("block/aio/context.h", "<boost/asio/io_context.hpp>")
    assert "Asio stays in .cc files" in complaint
    assert complaints("block/aio/context.cc", "<boost/asio/io_context.hpp>") == []


def test_room_without_a_place_is_caught():
    (complaint,) = complaints("block/attic/box.cc", "<vector>")
    assert "no place in the order" in complaint


def test_tree_of_files(tmp_path):
    (tmp_path / "block/base").mkdir(parents=True)
    (tmp_path / "block/coro").mkdir()
    (tmp_path / "block/base/a.h").write_text('#include "block/coro/b.h"\n')
    (tmp_path / "block/coro/b.h").write_text('#include "block/base/a.h"\n')
    assert check_layers.check_tree(tmp_path) == [
        'block/base/a.h:1: block/base may not include "block/coro/b.h" of block/coro']
