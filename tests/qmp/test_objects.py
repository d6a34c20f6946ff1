# SPDX-License-Identifier: GPL-2.0-or-later
"""object-add, object-del and the qom-* commands."""

import pytest

from support.nbd_wire import NBD


def thread(ident="t0", **more):
    return dict({"qom-type": "iothread", "id": ident},
                **{k.replace("_", "-"): v for k, v in more.items()})


def secret(ident="s0", **more):
    return dict({"qom-type": "secret", "id": ident}, **more)


def group(**limits):
    return {"qom-type": "throttle-group", "id": "g0",
            "limits": {k.replace("_", "-"): v for k, v in limits.items()}}


RANGE = "value must be in range [0, 9223372036854775807]"
REFUSED = [
    ("no type", {}, "Parameter 'qom-type' is missing"),
    ("unknown type", {"qom-type": "foo", "id": "x"},
     "Parameter 'qom-type' does not accept value 'foo'"),
    ("no id", {"qom-type": "iothread"}, "Parameter 'id' is missing"),
    ("id digit first", thread("1x"), "Parameter 'id' expects an identifier"),
    ("id empty", thread(""), "Parameter 'id' expects an identifier"),
    ("unknown member", thread(foo=1), "Parameter 'foo' is unexpected"),
    ("poll negative", thread(poll_max_ns=-1), f"poll-max-ns {RANGE}"),
    ("poll a string", thread(poll_max_ns="1"),
     "Invalid parameter type for 'poll-max-ns', expected: integer"),
    ("batch negative", thread(aio_max_batch=-1), f"aio-max-batch {RANGE}"),
    ("pool crossed", thread(thread_pool_min=9, thread_pool_max=3),
     "bad thread-pool-min/thread-pool-max values"),
    ("pool of none", thread(thread_pool_max=0), "bad thread-pool-min/thread-pool-max values"),
    ("secret of nothing", secret(), "Either 'file' or 'data' must be provided"),
    ("secret of both", secret(data="x", file="y"), "'file' and 'data' are mutually exclusive"),
    ("secret with unknown key", secret(data="aGVsbG8=", keyid="nosuch"),
     "No secret with id 'nosuch'"),
    ("secret of unknown format", secret(data="x", format="foo"),
     "Parameter 'format' does not accept value 'foo'"),
    ("limits total and read", group(iops_total=100, iops_read=10),
     "bps/iops/max total values and read/write values cannot be used at the same time"),
    ("limits negative", group(iops_total=-1),
     "bps/iops/max values must be within [0, 1000000000000000]"),
    ("limits too large", group(bps_total=10**15 + 1),
     "bps/iops/max values must be within [0, 1000000000000000]"),
    ("limits unknown", group(foo=1), "Parameter 'limits.foo' is unexpected"),
    ("limits max below", group(bps_total=100, bps_total_max=10),
     "bps_max/iops_max cannot be lower than bps/iops"),
    ("limits max alone", group(bps_total_max=10),
     "bps_max/iops_max require corresponding bps/iops values"),
    ("limits no length", group(bps_total=10, bps_total_max_length=0),
     "the burst length cannot be 0"),
    ("limits length alone", group(bps_total=10, bps_total_max_length=10),
     "burst length set without burst rate"),
    ("limits size alone", group(iops_size=10), "iops size requires an iops value to be set"),
]


@pytest.mark.parametrize("arguments, text", [c[1:] for c in REFUSED], ids=[c[0] for c in REFUSED])
def test_refused(daemon, arguments, text):
    threads = daemon.threads()
    assert daemon.qmp.error("object-add", arguments) == text
    path = f"/objects/{arguments.get('id') or 'x'}"
    assert daemon.qmp.error("qom-get", path=path, property="type")
    assert daemon.threads() == threads


def test_secret_of_a_missing_file(qmp):
    text = qmp.error("object-add", secret(file="/nonexistent"))
    assert text.startswith("Unable to read /nonexistent: ")
    assert text.endswith("No such file or directory")


def test_secret_whose_key_is_too_short(qmp):
    qmp.cmd("object-add", secret("key", data="aGVsbG8=", format="base64"))
    assert qmp.error("object-add", secret(data="aGVsbG8=", keyid="key")) == (
        "Key should be 32 bytes in length")


def test_duplicate_id_is_refused(qmp):
    qmp.cmd("object-add", thread())
    assert qmp.error("object-add", thread()) == (
        "attempt to add duplicate property 't0' to object (type 'container')")


def test_duplicate_id_of_another_type_is_refused(qmp):
    qmp.cmd("object-add", thread())
    assert qmp.error("object-add", secret("t0", data="x")) == (
        "attempt to add duplicate property 't0' to object (type 'container')")


def test_iothread_is_a_thread(daemon):
    before = daemon.threads()
    daemon.qmp.cmd("object-add", thread())
    assert daemon.threads() == before + 1
    daemon.qmp.cmd("object-del", id="t0")
    daemon.wait_for(lambda: daemon.threads() == before, "the end of the thread")


def test_iothreads_leave_no_descriptor(daemon):
    daemon.qmp.cmd("object-add", thread())
    daemon.qmp.cmd("object-del", id="t0")
    before = daemon.fds()
    for _ in range(10):
        daemon.qmp.cmd("object-add", thread())
        daemon.qmp.cmd("object-del", id="t0")
    daemon.wait_fds(before)


def test_only_one_main_loop(qmp):
    qmp.cmd("object-add", {"qom-type": "main-loop", "id": "ml"})
    assert qmp.error("object-add", {"qom-type": "main-loop", "id": "ml2"}) == (
        "only one main-loop instance allowed")


def test_main_loop_is_not_deleted(qmp):
    qmp.cmd("object-add", {"qom-type": "main-loop", "id": "ml"})
    assert qmp.error("object-del", id="ml") == "object 'ml' is in use, can not be deleted"


def test_delete_needs_an_id(qmp):
    assert qmp.error("object-del") == "Parameter 'id' is missing"


def test_deleting_what_is_not_there(qmp):
    assert qmp.error("object-del", id="nosuch") == "object 'nosuch' not found"


@pytest.mark.parametrize("arguments", [
    thread(), secret("t0", data="x"), group() | {"id": "t0"},
], ids=["iothread", "secret", "throttle-group"])
def test_deleted_object_is_gone(qmp, arguments):
    qmp.cmd("object-add", arguments)
    qmp.cmd("object-del", id="t0")
    assert qmp.error("object-del", id="t0") == "object 't0' not found"


@pytest.mark.strata_only("7.2 deletes it and crashes")
def test_used_iothread_is_not_deleted(served):
    served.qmp.cmd("object-add", thread())
    served.export("disk", iothread="t0")
    with NBD(served.nbd_path) as client:
        client.open("disk")
        reply = served.qmp.reply("object-del", id="t0")
        assert client.read(0, 512) == bytes(512)
    assert reply["error"]["desc"] == "object 't0' is in use, can not be deleted"


# Looking at objects.

def names(entries):
    return {(e["name"], e["type"]) for e in entries}


THREAD_PROPERTIES = {
    ("type", "string"), ("poll-max-ns", "int"), ("poll-grow", "int"), ("poll-shrink", "int"),
    ("aio-max-batch", "int"), ("thread-pool-min", "int"), ("thread-pool-max", "int")}


def test_root(qmp):
    qmp.cmd("object-add", thread())
    assert {("type", "string"), ("objects", "child<container>")} <= names(
        qmp.cmd("qom-list", path="/"))


@pytest.mark.parametrize("path", ["/objects", "objects"])
def test_objects_are_listed(qmp, path):
    qmp.cmd("object-add", thread())
    qmp.cmd("object-add", secret(data="x"))
    assert names(qmp.cmd("qom-list", path=path)) == {
        ("type", "string"), ("t0", "child<iothread>"), ("s0", "child<secret>")}


@pytest.mark.parametrize("path", ["/objects/t0", "t0", "objects/t0"])
def test_properties_of_an_object_are_listed(qmp, path):
    qmp.cmd("object-add", thread())
    assert names(qmp.cmd("qom-list", path=path)) == THREAD_PROPERTIES


def test_chardevs_are_listed(qmp):
    assert names(qmp.cmd("qom-list", path="/chardevs")) == {
        ("type", "string"), ("test-qmp", "child<chardev-socket>")}


def test_unknown_path(qmp):
    reply = qmp.reply("qom-list", path="/nosuch")
    assert reply["error"] == {"class": "DeviceNotFound", "desc": "Device '/nosuch' not found"}


@pytest.mark.parametrize("arguments, error", [
    ({}, ("GenericError", "Parameter 'path' is missing")),
    ({"path": "/objects/t0"}, ("GenericError", "Parameter 'property' is missing")),
    ({"path": "/objects/t0", "property": "x"},
     ("GenericError", "Property 'iothread.x' not found")),
    ({"path": "/objects/x", "property": "x"},
     ("DeviceNotFound", "Device '/objects/x' not found")),
])
def test_get_refused(qmp, arguments, error):
    qmp.cmd("object-add", thread())
    found = qmp.reply("qom-get", arguments)["error"]
    assert (found["class"], found["desc"]) == error


@pytest.mark.parametrize("prop, default", [
    ("poll-max-ns", 32768), ("poll-grow", 0), ("poll-shrink", 0), ("aio-max-batch", 0),
    ("thread-pool-min", 0), ("thread-pool-max", 64), ("type", "iothread")])
def test_default_of_an_iothread(qmp, prop, default):
    qmp.cmd("object-add", thread())
    assert qmp.cmd("qom-get", path="/objects/t0", property=prop) == default


@pytest.mark.parametrize("prop", ["poll-max-ns", "poll-grow", "poll-shrink", "aio-max-batch"])
def test_property_given_at_creation(qmp, prop):
    qmp.cmd("object-add", thread(**{prop: 77}))
    assert qmp.cmd("qom-get", path="/objects/t0", property=prop) == 77


@pytest.mark.parametrize("prop, value", [
    ("poll-max-ns", 5), ("poll-max-ns", 0), ("poll-grow", 3), ("poll-shrink", 4),
    ("aio-max-batch", 8), ("thread-pool-min", 2), ("thread-pool-max", 8)])
def test_property_is_set(qmp, prop, value):
    qmp.cmd("object-add", thread())
    qmp.cmd("qom-set", path="/objects/t0", property=prop, value=value)
    assert qmp.cmd("qom-get", path="/objects/t0", property=prop) == value


@pytest.mark.parametrize("arguments, text", [
    ({}, "Parameter 'path' is missing"),
    ({"path": "/objects/t0", "property": "poll-max-ns"}, "Parameter 'value' is missing"),
    ({"path": "/objects/t0", "property": "poll-max-ns", "value": "x"},
     "Invalid parameter type for 'poll-max-ns', expected: integer"),
    ({"path": "/objects/t0", "property": "poll-max-ns", "value": -1}, f"poll-max-ns {RANGE}"),
    ({"path": "/objects/t0", "property": "x", "value": 1}, "Property 'iothread.x' not found"),
    ({"path": "/objects/t0", "property": "type", "value": "x"},
     "Property 'iothread.type' is not writable"),
    ({"path": "/nosuch", "property": "x", "value": 1}, "Device '/nosuch' not found"),
])
def test_set_refused(qmp, arguments, text):
    qmp.cmd("object-add", thread())
    assert qmp.error("qom-set", arguments) == text


def test_child_property_is_its_path(qmp):
    qmp.cmd("object-add", thread())
    assert qmp.cmd("qom-get", path="/objects", property="t0") == "/objects/t0"


@pytest.mark.parametrize("prop, value", [("data", "abc"), ("format", "raw")])
def test_property_of_a_secret(qmp, prop, value):
    qmp.cmd("object-add", secret(data="abc"))
    assert qmp.cmd("qom-get", path="/objects/s0", property=prop) == value


NO_LIMITS = {f"{unit}-{what}{kind}": 1 if kind == "-max-length" else 0
             for unit in ("bps", "iops") for what in ("total", "read", "write")
             for kind in ("", "-max", "-max-length")} | {"iops-size": 0}


def test_limits_of_a_group(qmp):
    qmp.cmd("object-add", group(iops_total=100))
    assert qmp.cmd("qom-get", path="/objects/g0", property="limits") == (
        NO_LIMITS | {"iops-total": 100})


def test_limits_are_set(qmp):
    qmp.cmd("object-add", group(iops_total=100))
    qmp.cmd("qom-set", path="/objects/g0", property="limits", value={"bps-read": 7})
    assert qmp.cmd("qom-get", path="/objects/g0", property="limits")["bps-read"] == 7


def test_wrong_limits_change_nothing(qmp):
    qmp.cmd("object-add", group(iops_total=100))
    assert qmp.error("qom-set", path="/objects/g0", property="limits", value={
        "iops-total": 5, "iops-read": 5})
    assert qmp.cmd("qom-get", path="/objects/g0", property="limits")["iops-total"] == 100


def test_old_limit_is_not_set_later(qmp):
    qmp.cmd("object-add", group())
    assert qmp.error("qom-set", path="/objects/g0", property="x-iops-total", value=1) == (
        "Property cannot be set after initialization")


# Types.

def test_user_creatable_types(qmp):
    found = {t["name"]: t.get("parent") for t in qmp.cmd("qom-list-types",
                                                        implements="user-creatable")}
    assert {"iothread": "event-loop-base", "main-loop": "event-loop-base",
            "secret": "secret_common", "throttle-group": "object"}.items() <= found.items()


def test_type_implements_itself(qmp):
    assert qmp.cmd("qom-list-types", implements="iothread") == [
        {"name": "iothread", "parent": "event-loop-base"}]


def test_unknown_interface_has_no_types(qmp):
    assert qmp.cmd("qom-list-types", implements="nosuch") == []


def test_abstract_types_only_when_asked(qmp):
    plain = qmp.cmd("qom-list-types")
    every = qmp.cmd("qom-list-types", abstract=True)
    assert not any(t.get("abstract") for t in plain)
    assert {"name": "object", "abstract": True} in every
    assert len(every) > len(plain)


def test_properties_of_a_type(qmp):
    assert names(qmp.cmd("qom-list-properties", typename="iothread")) == THREAD_PROPERTIES


@pytest.mark.parametrize("typename, expected", [
    ("secret", {("data", "string"), ("file", "string"), ("format", "QCryptoSecretFormat"),
                ("keyid", "string"), ("iv", "string")}),
    ("main-loop", {("aio-max-batch", "int"), ("thread-pool-min", "int"),
                   ("thread-pool-max", "int")}),
    ("throttle-group", {("limits", "ThrottleLimits"), ("x-iops-total", "int")}),
])
def test_properties_of_other_types(qmp, typename, expected):
    assert expected <= names(qmp.cmd("qom-list-properties", typename=typename))


def test_unknown_type_has_no_properties(qmp):
    reply = qmp.reply("qom-list-properties", typename="nosuch")
    assert reply["error"] == {"class": "DeviceNotFound", "desc": "Class 'nosuch' not found"}


@pytest.mark.strata_only()
def test_many_objects_at_once(qmp):
    qmp.cmd("object-add", thread())
    qmp.cmd("object-add", thread("t1"))
    found = qmp.cmd("qom-list-get", paths=["/objects/t0", "/objects/t1"])
    assert len(found) == 2
    values = {p["name"]: p.get("value") for p in found[0]["properties"]}
    assert values["poll-max-ns"] == 32768
    assert {(p["name"], p["type"]) for p in found[0]["properties"]} == THREAD_PROPERTIES
