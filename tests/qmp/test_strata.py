# SPDX-License-Identifier: GPL-2.0-or-later
"""What Strata adds: --config and --metrics."""

import contextlib
import json
import re
import socket

import pytest

from support.daemon import run_daemon
from support.nbd_wire import NBD
from support.program import program_name

pytestmark = pytest.mark.strata_only("not in QEMU")

CHARDEV = {"id": "c", "backend": {"type": "null", "data": {}}}
NULL = {"driver": "null-co", "node-name": "n", "size": 4096}


# --config

def configured(start, config):
    prepared = start.prepare("--config", "config.json")
    with open(prepared.file("config.json"), "w") as text:
        text.write(config if isinstance(config, str) else json.dumps(config))
    return prepared.start()


def refused(tmp_path, config):
    path = tmp_path / "config.json"
    path.write_text(config if isinstance(config, str) else json.dumps(config))
    run = run_daemon("--config", str(path))
    assert run.returncode == 1 and run.stdout == ""
    start = f"{program_name()}: --config {path}: "
    assert run.stderr.startswith(start), run.stderr
    return run.stderr[len(start):].rstrip("\n")


def test_whole_disk_from_a_file(start):
    daemon = configured(start, {
        "object": [{"qom-type": "iothread", "id": "t0"}],
        "chardev": [CHARDEV],
        "blockdev": [NULL],
        "nbd-server": [{"addr": {"type": "unix", "path": "nbd.sock"}}],
        "export": [{"type": "nbd", "id": "e", "node-name": "n", "iothread": "t0"}],
        "monitor": [{"chardev": "c"}],
        "pidfile": "pid"})
    with NBD(daemon.nbd_path) as client:
        client.open("n")
        assert client.size == 4096
    with open(daemon.file("pid")) as text:
        assert int(text.read()) == daemon.pid


def test_empty_object_configures_nothing(start):
    assert configured(start, {}).qmp.cmd("query-named-block-nodes") == []


def test_options_and_file_together(start):
    prepared = start.prepare("--blockdev", "null-co,node-name=a", "--config", "config.json")
    with open(prepared.file("config.json"), "w") as text:
        json.dump({"blockdev": [{"driver": "raw", "node-name": "b", "file": "a"}]}, text)
    names = {n["node-name"] for n in prepared.start().qmp.cmd("query-named-block-nodes")}
    assert names == {"a", "b"}


@pytest.mark.parametrize("config, text", [
    ({"x": 1}, "Parameter 'x' is unexpected"),
    ({"blockdev": [{"driver": "foo"}]}, "Parameter 'driver' does not accept value 'foo'"),
    ({"blockdev": [{"driver": "null-co"}]}, "'node-name' must be specified for the root node"),
    ({"blockdev": 1}, "Invalid parameter type for 'blockdev', expected: array"),
    ({"object": [{"qom-type": "iothread"}]}, "Parameter 'object[0].id' is missing"),
    ('{"x":', "JSON parse error, premature EOI"),
])
def test_config_refused(tmp_path, config, text):
    assert refused(tmp_path, config) == text


@pytest.mark.parametrize("text", ["", "[]", "1", "x", "{}{}", "\0"])
def test_no_json_object_is_refused(tmp_path, text):
    assert refused(tmp_path, text)


def test_missing_config():
    run = run_daemon("--config", "/nonexistent")
    assert run.returncode == 1
    assert run.stderr == (f"{program_name()}: --config /nonexistent: "
                          "Could not open '/nonexistent': No such file or directory\n")


# --metrics

def get(path, target="/metrics", method="GET"):
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(20)
        sock.connect(path)
        sock.sendall(f"{method} {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        data = b""
        while True:
            part = sock.recv(65536)
            if not part:
                break
            data += part
    head, body = data.decode().split("\r\n\r\n", 1)
    return head.split("\r\n")[0], head, body


def samples(body):
    """{'name{labels}': value}; every line must be a comment or a sample."""
    found = {}
    for line in body.split("\n"):
        if line and not line.startswith("#"):
            match = re.fullmatch(r"([a-zA-Z_:][\w:]*(?:\{.*\})?) ([-+.\deE]+|[+-]?Inf|NaN)", line)
            assert match, line
            found[match.group(1)] = float(match.group(2))
    return found


@pytest.fixture
def metered(start):
    daemon = start("--metrics", "unix:metrics.sock", "--nbd-server",
                   "addr.type=unix,addr.path=nbd.sock", "--blockdev", NULL,
                   "--export", "nbd,id=e,node-name=n,writable=on")
    daemon.metrics = daemon.file("metrics.sock")
    return daemon


def test_metrics_are_text_for_prometheus(metered):
    status, head, body = get(metered.metrics)
    assert " 200 " in status
    assert "text/plain" in head and "version=0.0.4" in head
    assert samples(body)
    for name in {re.match(r"[\w:]+", s).group(0) for s in samples(body)}:
        family = re.sub(r"_(bucket|sum|count)$", "", name)
        assert f"# TYPE {family} " in body or f"# TYPE {name} " in body, name


def total(values, *words):
    return sum(v for k, v in values.items() if all(w in k for w in words))


def test_requests_of_an_export_are_counted(metered):
    before = samples(get(metered.metrics)[2])
    with NBD(metered.nbd_path) as client:
        client.open("n")
        for _ in range(5):
            client.read(0, 512)
        client.write(0, bytes(1024))
    after = samples(get(metered.metrics)[2])
    requests = [k for k in after if "export" in k and "requests_total" in k]
    assert requests
    assert total(after, "export", "requests_total", "read") - total(
        before, "export", "requests_total", "read") == 5
    assert total(after, "export", "bytes_total", "write") - total(
        before, "export", "bytes_total", "write") == 1024


def test_buckets_of_a_histogram_grow_up_to_the_count(metered):
    with NBD(metered.nbd_path) as client:
        client.open("n")
        client.read(0, 512)
    values = samples(get(metered.metrics)[2])
    buckets = [k for k in values if "export" in k and "_bucket{" in k and "read" in k]
    assert buckets
    bounds = sorted(buckets, key=lambda k: float(re.search(r'le="([^"]*)"', k).group(1)))
    counts = [values[k] for k in bounds]
    assert counts == sorted(counts)
    assert re.search(r'le="\+Inf"', bounds[-1]) and counts[-1] >= 1


def test_unknown_page_is_not_found(metered):
    assert " 404 " in get(metered.metrics, "/x")[0]


def test_only_get_is_served(metered):
    assert " 405 " in get(metered.metrics, method="POST")[0]


def test_garbage_and_silence_stop_nobody(metered):
    idle = [socket.socket(socket.AF_UNIX) for _ in range(6)]
    for sock in idle:
        sock.connect(metered.metrics)
    idle[0].sendall(b"\0" * 1000)
    with contextlib.suppress(BrokenPipeError):
        idle[1].sendall(b"GET /" + b"x" * 100000)
    assert metered.qmp.cmd("query-version")
    with NBD(metered.nbd_path) as client:
        client.open("n")
        assert client.read(0, 512) == bytes(512)
    for sock in idle:
        sock.close()
    assert " 200 " in get(metered.metrics)[0]


def test_metrics_leave_no_descriptor(metered):
    get(metered.metrics)
    before = metered.fds()
    for _ in range(20):
        get(metered.metrics)
    metered.wait_fds(before)


@pytest.mark.parametrize("address", ["unix:/nonexistent/x/m.sock", "metrics.sock",
                                     "127.0.0.1:99999", "x:y"])
def test_wrong_address_of_metrics(address):
    run = run_daemon("--metrics", address)
    assert run.returncode == 1
    assert run.stderr.startswith(f"{program_name()}: --metrics {address}: ")
