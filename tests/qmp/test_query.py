# SPDX-License-Identifier: GPL-2.0-or-later
"""The shapes of what queries return, and that introspection never lies."""

import json

import pytest

from support import nbd_wire as wire
from support.nbd_wire import NBD
from support.program import is_oracle

# What must be served now; the commands of later steps join as they come.
SERVED = {
    "qmp_capabilities", "query-commands", "query-version", "query-qmp-schema", "quit",
    "blockdev-add", "blockdev-del", "query-named-block-nodes", "x-debug-query-block-graph",
    "query-block", "query-blockstats", "block_resize", "block-export-add", "block-export-del",
    "query-block-exports", "nbd-server-start", "nbd-server-add", "nbd-server-remove",
    "nbd-server-stop", "chardev-add", "chardev-change", "chardev-remove", "chardev-send-break",
    "query-chardev", "query-chardev-backends", "ringbuf-read", "ringbuf-write", "object-add",
    "object-del", "qom-list", "qom-get", "qom-set", "qom-list-types", "qom-list-properties",
    "block-set-write-threshold", "x-blockdev-set-iothread",
}
SERVED_SINCE_7_2 = {"qom-list-get", "blockdev-set-active"}


@pytest.fixture
def schema(qmp):
    return {entity["name"]: entity for entity in qmp.cmd("query-qmp-schema")}


def commands_of(schema):
    return {n for n, e in schema.items() if e["meta-type"] == "command"}


def test_commands_are_those_promised(qmp):
    found = {c["name"] for c in qmp.cmd("query-commands")}
    assert SERVED <= found
    if not is_oracle():
        assert SERVED_SINCE_7_2 <= found


def test_no_command_is_listed_twice(qmp):
    found = [c["name"] for c in qmp.cmd("query-commands")]
    assert len(found) == len(set(found))


def test_commands_are_those_of_the_schema(qmp, schema):
    assert {c["name"] for c in qmp.cmd("query-commands")} == commands_of(schema)


def test_every_listed_command_is_served(qmp, schema):
    for name in sorted(commands_of(schema) - {"quit", "qmp_capabilities"}):
        reply = qmp.reply(name, {"no-such-member": 1})
        assert reply["error"]["class"] != "CommandNotFound", name


def test_every_reference_of_the_schema_resolves(schema):
    for entity in schema.values():
        kind = entity["meta-type"]
        used = []
        if kind in ("command", "event"):
            used.append(entity["arg-type"])
        if kind == "command":
            used.append(entity["ret-type"])
        if kind == "object":
            used += [m["type"] for m in entity["members"]]
            used += [v["type"] for v in entity.get("variants", [])]
        if kind == "alternate":
            used += [m["type"] for m in entity["members"]]
        if kind == "array":
            used.append(entity["element-type"])
        for name in used:
            assert name in schema, (entity["name"], name)


def test_every_type_of_the_schema_is_used(schema):
    text = json.dumps([{k: v for k, v in e.items() if k != "name"} for e in schema.values()])
    for name, entity in schema.items():
        if entity["meta-type"] not in ("command", "event"):
            assert json.dumps(name) in text, name


def test_arrays_are_named_by_their_element(schema):
    for name, entity in schema.items():
        if entity["meta-type"] == "array":
            assert name == f"[{entity['element-type']}]"


def test_builtin_types(schema):
    expected = {"str": "string", "int": "int", "bool": "boolean", "any": "value"}
    for name, kind in expected.items():
        assert schema[name]["meta-type"] == "builtin"
        assert schema[name]["json-type"] == kind


def test_other_names_of_types_are_hidden(schema):
    for name, entity in schema.items():
        if entity["meta-type"] in ("object", "enum", "alternate"):
            assert name.isdigit(), name


def test_tag_of_a_union_is_an_enum(schema):
    for entity in schema.values():
        if entity["meta-type"] == "object" and "tag" in entity:
            (tag,) = [m for m in entity["members"] if m["name"] == entity["tag"]]
            values = {m["name"] for m in schema[tag["type"]]["members"]}
            assert {v["case"] for v in entity["variants"]} <= values


def arguments_of(schema, command):
    return {m["name"]: m for m in schema[schema[command]["arg-type"]]["members"]}


def test_optional_members_have_a_default(schema):
    members = arguments_of(schema, "block-export-del")
    assert "default" not in members["id"]
    assert members["mode"]["default"] is None


def test_events_are_in_the_schema(schema):
    assert schema["BLOCK_EXPORT_DELETED"]["meta-type"] == "event"
    assert schema["BLOCK_WRITE_THRESHOLD"]["meta-type"] == "event"


@pytest.mark.strata_only()
@pytest.mark.parametrize("command, member", [
    ("nbd-server-start", "handshake-max-seconds"), ("block-export-add", "allow-inactive"),
    ("blockdev-set-active", "node-name"), ("qom-list-get", "paths")])
def test_members_newer_than_7_2(schema, command, member):
    assert member in arguments_of(schema, command)


# query-version

@pytest.mark.strata_only()
def test_version_is_qemus_interface_and_our_name(qmp):
    version = qmp.cmd("query-version")
    assert (version["qemu"]["major"], version["qemu"]["minor"]) == (10, 2)
    assert "strata" in version["package"].lower()


# query-block and query-blockstats

def test_query_block_without_devices(qmp):
    assert qmp.cmd("query-block") == []


def test_nodes_are_no_devices(served):
    served.export("disk")
    assert served.qmp.cmd("query-block") == []
    assert served.qmp.cmd("query-blockstats") == []


STATS = {
    "rd_bytes", "wr_bytes", "unmap_bytes", "rd_operations", "wr_operations", "flush_operations",
    "unmap_operations", "rd_total_time_ns", "wr_total_time_ns", "flush_total_time_ns",
    "unmap_total_time_ns", "wr_highest_offset", "rd_merged", "wr_merged", "unmap_merged",
    "failed_rd_operations", "failed_wr_operations", "failed_flush_operations",
    "failed_unmap_operations", "invalid_rd_operations", "invalid_wr_operations",
    "invalid_flush_operations", "invalid_unmap_operations", "account_invalid", "account_failed",
    "timed_stats"}


def test_stats_of_a_node(daemon):
    daemon.add_file()
    (node,) = daemon.qmp.cmd("query-blockstats", query_nodes=True)
    assert node["node-name"] == "disk"
    assert STATS <= set(node["stats"])
    assert node["driver-specific"] == {"driver": "file", "discard-nb-ok": 0,
                                       "discard-nb-failed": 0, "discard-bytes-ok": 0}


def test_stats_of_a_child_are_nested(daemon):
    daemon.add_file()
    daemon.qmp.cmd("blockdev-add", {"driver": "raw", "node-name": "r", "file": "disk"})
    nodes = {n["node-name"]: n for n in daemon.qmp.cmd("query-blockstats", query_nodes=True)}
    assert nodes["r"]["parent"]["node-name"] == "disk"


def test_highest_written_offset(served):
    served.add_file("f")
    served.export("f", writable=True)
    with NBD(served.nbd_path) as client:
        client.open("f")
        client.write(8192, bytes(4096))
    nodes = {n["node-name"]: n for n in served.qmp.cmd("query-blockstats", query_nodes=True)}
    assert nodes["f"]["stats"]["wr_highest_offset"] == 12288


def test_discards_are_counted(served):
    served.add_file("f", discard="unmap", data=b"x" * 65536)
    served.export("f", writable=True)
    with NBD(served.nbd_path) as client:
        client.open("f")
        assert client.request(wire.CMD_TRIM, 0, 65536)[0] == 0
    nodes = {n["node-name"]: n for n in served.qmp.cmd("query-blockstats", query_nodes=True)}
    assert nodes["f"]["driver-specific"]["discard-bytes-ok"] == 65536


@pytest.mark.strata_only("QEMU counts no requests of exports")
def test_requests_of_a_node_are_counted(served):
    served.add_file("f")
    served.export("f", writable=True)
    with NBD(served.nbd_path) as client:
        client.open("f")
        client.write(0, bytes(4096))
        client.read(0, 1024)
        client.request(wire.CMD_FLUSH)
    nodes = {n["node-name"]: n for n in served.qmp.cmd("query-blockstats", query_nodes=True)}
    stats = nodes["f"]["stats"]
    assert (stats["wr_bytes"], stats["wr_operations"]) == (4096, 1)
    assert (stats["rd_bytes"], stats["rd_operations"]) == (1024, 1)
    assert stats["flush_operations"] == 1


# x-debug-query-block-graph

def test_graph_of_nodes_and_edges(served):
    served.qmp.cmd("blockdev-add", {"driver": "raw", "node-name": "r", "file": "disk"})
    served.export("r")
    graph = served.qmp.cmd("x-debug-query-block-graph")
    by_name = {n["name"]: n for n in graph["nodes"]}
    assert by_name["r"]["type"] == by_name["disk"]["type"] == "block-driver"
    edges = {(e["parent"], e["child"]): e for e in graph["edges"]}
    edge = edges[(by_name["r"]["id"], by_name["disk"]["id"])]
    assert edge["name"] == "file"
    assert "consistent-read" in edge["perm"]
    backends = [n for n in graph["nodes"] if n["type"] == "block-backend"]
    assert len(backends) == 1
    root = edges[(backends[0]["id"], by_name["r"]["id"])]
    assert root["name"] == "root"
    assert "resize" not in root["shared-perm"]


def test_unused_nodes_take_no_permissions(daemon):
    daemon.add_null()
    daemon.qmp.cmd("blockdev-add", {"driver": "raw", "node-name": "r", "file": "disk"})
    (edge,) = daemon.qmp.cmd("x-debug-query-block-graph")["edges"]
    assert edge["perm"] == []
    assert set(edge["shared-perm"]) == {"consistent-read", "write", "write-unchanged", "resize"}
