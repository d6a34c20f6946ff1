# SPDX-License-Identifier: GPL-2.0-or-later
"""The QMP protocol itself: greeting, negotiation, ids, malformed input, limits."""

import json
import socket

import pytest

from support.qmp import QMPClosed


SECOND = ("--chardev", "socket,id=two,path=two.sock,server=on,wait=off", "--monitor", "two")


def raw(daemon):
    """A client that has not negotiated."""
    daemon.qmp.close()
    client = daemon.client(negotiate=False)
    client.greeting = client.recv()
    return client


def replies_until(client, ident):
    """The replies before that of a command sent as a mark."""
    client.send_text(json.dumps({"execute": "query-version", "id": ident}) + "\n")
    found = []
    while True:
        reply = client.recv_reply()
        if reply.get("id") == ident:
            return found
        found.append(reply)


def error_of(reply):
    assert set(reply) <= {"error", "id"}, reply
    assert set(reply["error"]) == {"class", "desc"}
    return reply["error"]["class"], reply["error"]["desc"]


# Greeting and negotiation.

def test_greeting_shape(daemon):
    greeting = raw(daemon).greeting
    assert set(greeting) == {"QMP"}
    assert set(greeting["QMP"]) == {"version", "capabilities"}
    version = greeting["QMP"]["version"]
    assert set(version) == {"qemu", "package"}
    assert set(version["qemu"]) == {"major", "minor", "micro"}
    assert greeting["QMP"]["capabilities"] == ["oob"]


def test_greeting_version_is_that_of_query_version(daemon):
    assert daemon.qmp.greeting["QMP"]["version"] == daemon.qmp.cmd("query-version")


def test_lines_end_in_cr_lf(daemon):
    daemon.qmp.close()
    client = daemon.client(negotiate=False)
    client.sock.settimeout(5)
    data = b""
    while not data.endswith(b"\n"):
        data += client.sock.recv(4096)
    assert data.endswith(b"}\r\n")


def test_command_before_negotiation_is_refused(daemon):
    client = raw(daemon)
    client.send("query-version")
    assert error_of(client.recv()) == (
        "CommandNotFound", "Expecting capabilities negotiation with 'qmp_capabilities'")


def test_unknown_command_before_negotiation_says_the_same(daemon):
    client = raw(daemon)
    client.send("nosuch")
    assert error_of(client.recv())[0] == "CommandNotFound"


def test_unknown_capability_is_refused(daemon):
    client = raw(daemon)
    client.send("qmp_capabilities", {"enable": ["foo"]})
    kind, text = error_of(client.recv())
    assert kind == "GenericError"
    assert text.endswith("does not accept value 'foo'")


def test_refused_negotiation_can_be_repeated(daemon):
    client = raw(daemon)
    client.send("qmp_capabilities", {"enable": ["foo"]})
    client.recv()
    client.send("qmp_capabilities")
    assert client.recv() == {"return": {}}


def test_capability_named_twice_is_fine(daemon):
    client = raw(daemon)
    client.send("qmp_capabilities", {"enable": ["oob", "oob"]})
    assert client.recv() == {"return": {}}


def test_empty_list_of_capabilities_is_fine(daemon):
    client = raw(daemon)
    client.send("qmp_capabilities", {"enable": []})
    assert client.recv() == {"return": {}}


def test_second_negotiation_is_refused(qmp):
    reply = qmp.reply("qmp_capabilities")
    assert error_of(reply) == (
        "CommandNotFound", "Capabilities negotiation is already complete, command ignored")


def test_new_connection_negotiates_anew(daemon):
    client = raw(daemon)
    client.send("query-version")
    assert "error" in client.recv()


def test_new_connection_is_greeted_after_an_unfinished_command(daemon):
    daemon.qmp.send_text('{"execute": "query-ver')
    assert "QMP" in raw(daemon).greeting


# Out of band.

def test_exec_oob_needs_the_capability(qmp):
    qmp.send("query-version", oob=True)
    assert error_of(qmp.recv()) == ("GenericError", "QMP input member 'exec-oob' is unexpected")


def test_command_that_does_not_allow_oob_is_refused(start):
    qmp = start(oob=True).qmp
    qmp.send("query-version", oob=True, ident=1)
    reply = qmp.recv()
    assert reply["id"] == 1
    assert error_of(reply) == (
        "GenericError", "The command query-version does not support OOB")


def test_unknown_oob_command_is_not_found(start):
    qmp = start(oob=True).qmp
    qmp.send("nosuch", oob=True, ident=1)
    assert error_of(qmp.recv()) == (
        "CommandNotFound", "The command nosuch has not been found")


def test_execute_and_exec_oob_together_are_refused(start):
    qmp = start(oob=True).qmp
    qmp.send_text('{"execute": "query-version", "exec-oob": "query-version"}')
    assert error_of(qmp.recv()) == (
        "GenericError", "QMP input member 'execute' clashes with 'exec-oob'")


def test_commands_in_band_still_work_with_oob(start):
    qmp = start(oob=True).qmp
    qmp.send("query-version", ident="a")
    assert qmp.recv()["id"] == "a"


# Ids.

@pytest.mark.parametrize("ident", [
    0, 1, -5, 1.5, "text", "é", True, None, [], [1, [2]], {}, {"a": {"b": None}}, 2**64 - 1, -2**63,
])
def test_id_is_echoed(qmp, ident):
    qmp.send_text(json.dumps({"execute": "query-commands", "id": ident}))
    reply = qmp.recv()
    assert "return" in reply
    assert reply["id"] == ident and isinstance(reply["id"], type(ident))


def test_no_id_no_echo(qmp):
    assert set(qmp.reply("query-version")) == {"return"}


def test_id_is_echoed_with_an_error(qmp):
    qmp.send("nosuch", ident=7)
    assert qmp.recv() == {"id": 7, "error": {
        "class": "CommandNotFound", "desc": "The command nosuch has not been found"}}


def test_id_is_echoed_when_the_members_are_wrong(qmp):
    qmp.send_text('{"id": 5, "execute": "query-version", "x": 1}')
    reply = qmp.recv()
    assert reply["id"] == 5
    assert error_of(reply)[1] == "QMP input member 'x' is unexpected"


def test_pipelined_commands_are_answered_in_order(qmp):
    count = 200
    qmp.send_text("".join(json.dumps({"execute": "query-version", "id": i}) for i in range(count)))
    assert [qmp.recv()["id"] for _ in range(count)] == list(range(count))


def test_command_split_into_bytes(qmp):
    for byte in '{"execute": "query-version", "id": "slow"}':
        qmp.send_text(byte)
    assert qmp.recv()["id"] == "slow"


@pytest.mark.parametrize("text", [
    "{'execute': 'query-version', 'id': 1}",
    '{"execute"\n:\t"query-version" ,\r\n"id":1}',
    '\n\n  {"execute": "query-version", "id": 1}',
    '{"execute": "query-\\u0076ersion", "id": 1}',
    '{"id": 1, "execute": "query-version", "arguments": {}}',
], ids=["single quotes", "spaces", "blank lines", "escape", "empty arguments"])
def test_accepted_spelling(qmp, text):
    qmp.send_text(text)
    assert "return" in qmp.recv()


# Malformed input. Each is followed by a command that must work.

EXPECTING = "JSON parse error, expecting value"
MALFORMED = [
    ('}', [EXPECTING]),
    (']', [EXPECTING]),
    (':', [EXPECTING]),
    (',', [EXPECTING]),
    ('{"a" 1}', ["JSON parse error, missing : in object pair"]),
    ('{"a":}', [EXPECTING]),
    ('{1:2}', ["JSON parse error, key is not a string in object"]),
    ('[1 2]', ["JSON parse error, expected separator in list"]),
    ('[1,]', [EXPECTING]),
    ('{"a":1,}', [EXPECTING]),
    ('{"a":1 "b":2}', ["JSON parse error, expected separator in dict"]),
    ('{"a":1,"a":2}', ["JSON parse error, duplicate key"]),
    ('{]', [EXPECTING]),
    ('[}', [EXPECTING]),
    ('nul ', ["JSON parse error, invalid keyword 'nul'"]),
    ('truex ', ["JSON parse error, invalid keyword 'truex'"]),
    ('tru e ', ["JSON parse error, invalid keyword 'tru'",
                "JSON parse error, invalid keyword 'e'"]),
    ('"abc\\x"', ["JSON parse error, invalid escape sequence in string"]),
    ('"\\q"', ["JSON parse error, invalid escape sequence in string"]),
    ('"abc\\u12g4"', ["JSON parse error, \\u12g4 is not a valid Unicode character"]),
    ('"\\ud800"', ["JSON parse error, \\ud800 is not a valid Unicode character"]),
    ('"\\udc00\\ud800"', ["JSON parse error, \\udc00 is not a valid Unicode character"]),
    (b'"\xed\xa0\x80"', ["JSON parse error, invalid UTF-8 sequence in string"]),
    ('\\', ["JSON parse error, stray '\\'"]),
    ('@', ["JSON parse error, stray '@'"]),
    ('%d ', ["JSON parse error, stray '%'"]),
    ('{"execute":%s}', None),
    ('01 ', ["JSON parse error, stray '01'"]),
    ('1.e ', None),
    ('- ', None),
    ('+1 ', None),
    ('.5 ', None),
    ('# ', ["JSON parse error, stray '#'"]),
    ('//', None),
    (b'\xff', None),
    (b'\x00', None),
    ('"a\n', None),
]


@pytest.mark.parametrize("text, expected", MALFORMED, ids=[repr(t) for t, _ in MALFORMED])
def test_recovery_after_malformed_text(qmp, text, expected):
    qmp.send_text(text)
    errors = [error_of(r) for r in replies_until(qmp, "mark")]
    assert errors
    assert all(kind == "GenericError" for kind, _ in errors)
    assert all(t.startswith(("JSON parse error, ", "QMP input ")) for _, t in errors)
    if expected is not None:
        assert [t for _, t in errors] == expected


MEMBERS = [
    ('[]', "QMP input must be a JSON object"),
    ('1 ', "QMP input must be a JSON object"),
    ('1.5 ', "QMP input must be a JSON object"),
    ('"str"', "QMP input must be a JSON object"),
    ('null ', "QMP input must be a JSON object"),
    ('true ', "QMP input must be a JSON object"),
    ('{}', "QMP input lacks member 'execute'"),
    ('{"arguments": {}}', "QMP input lacks member 'execute'"),
    ('{"execute": 1}', "QMP input member 'execute' must be a string"),
    ('{"execute": "query-version", "arguments": 1}',
     "QMP input member 'arguments' must be an object"),
    ('{"execute": "query-version", "arguments": []}',
     "QMP input member 'arguments' must be an object"),
    ('{"execute": "query-version", "foo": 1}', "QMP input member 'foo' is unexpected"),
    ('{"execute": "query-version", "control": {}}', "QMP input member 'control' is unexpected"),
    ('{"foo": 1}', "QMP input member 'foo' is unexpected"),
    ('{"execute": "query-version", "arguments": {"a": 1}}', "Parameter 'a' is unexpected"),
]


@pytest.mark.parametrize("text, expected", MEMBERS, ids=[t for t, _ in MEMBERS])
def test_wrong_members(qmp, text, expected):
    qmp.send_text(text)
    (reply,) = replies_until(qmp, "mark")
    assert error_of(reply) == ("GenericError", expected)


def test_unknown_command_names_itself(qmp):
    assert error_of(qmp.reply("x\ny")) == (
        "CommandNotFound", "The command x\ny has not been found")


# Limits.

def test_nesting_is_limited(qmp):
    qmp.send_text("[" * 1025)
    assert error_of(qmp.recv()) == ("GenericError", "JSON nesting depth limit exceeded")
    # What follows is read as a new text; a few stray brackets may each be an error.
    qmp.send_text("\n")
    assert all("error" in r for r in replies_until(qmp, "mark"))


def test_nesting_below_the_limit_is_parsed(qmp):
    depth = 500
    qmp.send_text('{"execute": "query-version", "id": ' + "[" * depth + "]" * depth + "}")
    assert "return" in qmp.recv()


def test_long_string_is_no_problem(qmp):
    ident = "x" * (1 << 20)
    qmp.send("query-version", ident=ident)
    assert qmp.recv()["id"] == ident


@pytest.mark.strata_only("QEMU needs minutes for it")
def test_endless_token_is_refused_with_bounded_memory(daemon):
    daemon.qmp.close()
    client = daemon.client()
    client.sock.settimeout(60)
    block = b"x" * (1 << 20)
    client.send_text('{"execute": "')
    try:
        for _ in range(80):
            client.send_text(block)
        client.send_text('"}\n')
        reply = client.recv()
    except (BrokenPipeError, ConnectionError, QMPClosed):
        pass  # closing is an answer too
    else:
        assert "error" in reply
    client.close()
    assert daemon.status("VmHWM") < 400 * 1024
    assert daemon.client().cmd("query-version")


@pytest.mark.strata_only("QEMU queues replies without bound")
def test_client_that_does_not_read_costs_bounded_memory(start):
    daemon = start(*SECOND)
    deaf = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    deaf.connect(daemon.file("two.sock"))
    deaf.settimeout(0.5)
    deaf.sendall(b'{"execute": "qmp_capabilities"}')
    before = daemon.status("VmRSS")
    block = b'{"execute": "query-qmp-schema"}' * 100
    try:
        for _ in range(2000):
            deaf.sendall(block)
        pytest.fail("the daemon reads on without being read")
    except socket.timeout:
        pass
    assert daemon.qmp.cmd("query-version")
    assert daemon.status("VmRSS") - before < 64 * 1024
    deaf.close()
    assert daemon.qmp.cmd("query-version")


def test_client_that_does_not_read_does_not_stall_the_other_monitor(start):
    daemon = start(*SECOND)
    deaf = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    deaf.connect(daemon.file("two.sock"))
    deaf.setblocking(False)
    try:
        deaf.send(b'{"execute": "qmp_capabilities"}' + b'{"execute": "query-qmp-schema"}' * 20)
    except BlockingIOError:
        pass
    for _ in range(20):
        assert daemon.qmp.cmd("query-version")
    deaf.close()


def test_client_that_vanishes_before_its_reply(daemon):
    daemon.qmp.send_text('{"execute": "query-qmp-schema"}' * 50)
    daemon.qmp.close()
    assert daemon.client().cmd("query-version")


def test_connections_leak_no_descriptor(daemon):
    before = daemon.fds()
    for _ in range(30):
        daemon.qmp.close()
        daemon.qmp = daemon.client()
    daemon.wait_fds(before)


# Several monitors, events, pretty.

def test_two_monitors_both_get_events(start):
    daemon = start(*SECOND)
    other = type(daemon.qmp).connect(daemon.file("two.sock"))
    daemon.add_null()
    daemon.serve_nbd()
    daemon.export("disk")
    daemon.qmp.cmd("block-export-del", id="exp0")
    for client in (daemon.qmp, other):
        assert client.event("BLOCK_EXPORT_DELETED")["data"] == {"id": "exp0"}
    other.close()


def test_no_event_before_negotiation(start):
    daemon = start(*SECOND)
    other = type(daemon.qmp).connect(daemon.file("two.sock"), negotiate=False)
    assert "QMP" in other.recv()
    daemon.add_null()
    daemon.serve_nbd()
    daemon.export("disk")
    daemon.qmp.cmd("block-export-del", id="exp0")
    daemon.qmp.event("BLOCK_EXPORT_DELETED")
    other.no_event("BLOCK_EXPORT_DELETED")
    other.close()


def test_event_shape(served):
    served.export("disk")
    served.qmp.cmd("block-export-del", id="exp0")
    event = served.qmp.event("BLOCK_EXPORT_DELETED")
    assert set(event) == {"timestamp", "event", "data"}
    assert set(event["timestamp"]) == {"seconds", "microseconds"}
    assert event["timestamp"]["seconds"] > 1600000000
    assert 0 <= event["timestamp"]["microseconds"] < 1000000


def test_pretty_monitor_indents_by_four(start):
    daemon = start(*SECOND[:-1], "two,pretty=on")
    client = type(daemon.qmp).connect(daemon.file("two.sock"), negotiate=False)
    assert [client.recv_line() for _ in range(3)] == ["{", '    "QMP": {', '        "version": {']
    client.close()


def test_monitor_accepts_a_second_client_after_the_first(daemon):
    daemon.qmp.close()
    assert daemon.client().cmd("query-version")


def test_second_client_waits_for_the_first(daemon):
    second = type(daemon.qmp).connect(daemon.qmp_path, negotiate=False)
    with pytest.raises(socket.timeout):
        second.recv(0.3)
    daemon.qmp.close()
    assert "QMP" in second.recv()
    second.close()


def test_quit_answers_then_closes(daemon):
    daemon.qmp.send("quit", ident=1)
    assert daemon.qmp.recv() == {"return": {}, "id": 1}
    assert all("event" in m for m in daemon.qmp.closed())
    assert daemon.wait() == 0
