# SPDX-License-Identifier: GPL-2.0-or-later
"""The command line: every option, its errors, order, pid file, daemonizing, signals."""

import json
import os
import re
import signal
import subprocess
import time

import pytest

from support.daemon import listening_socket, run_daemon
from support.nbd_wire import NBD
from support.program import daemon_program, program_name
from support.qmp import QMP

NULL = "driver=null-co,node-name=n"


def fails(*args, **kwargs):
    """The text on stderr of a start that must fail, without the program's name."""
    run = run_daemon(*args, **kwargs)
    assert run.returncode == 1, run
    assert run.stdout == ""
    (line,) = run.stderr.rstrip("\n").split("\n")[:1]
    start = re.match(rf"(\S*/)?{re.escape(program_name())}: ", line)
    assert start, line
    return line[start.end():]


# Help and version.

@pytest.mark.parametrize("option", ["-h", "--help", "--hel"])
def test_help(option):
    run = run_daemon(option)
    assert run.returncode == 0 and run.stderr == ""
    assert run.stdout.startswith(f"Usage: {program_name()} [options]\n")
    for name in ("--blockdev", "--chardev", "--daemonize", "--export", "--monitor",
                 "--nbd-server", "--object", "--pidfile", "--trace", "--version", "--help"):
        assert name in run.stdout, name


def test_help_fits_the_terminal():
    assert max(map(len, run_daemon("--help").stdout.split("\n"))) <= 80


@pytest.mark.parametrize("option", ["-V", "--version"])
def test_version(option):
    run = run_daemon(option)
    assert run.returncode == 0 and run.stderr == ""
    assert re.match(rf"{re.escape(program_name())} version \d+\.\d+\.\d+", run.stdout)


@pytest.mark.parametrize("args", [("--help", "--blockdev", "foo"), ("--blockdev", "foo", "--help"),
                                  ("-V", "x")])
def test_help_and_version_win(args):
    assert run_daemon(*args).returncode == 0


def test_object_help_lists_the_types():
    run = run_daemon("--object", "help")
    assert run.returncode == 0
    lines = run.stdout.split("\n")
    assert lines[0] == "List of user creatable objects:"
    assert {"  iothread", "  main-loop", "  secret", "  throttle-group"} <= set(lines)
    assert lines[1:-1] == sorted(lines[1:-1])


def test_object_help_lists_the_properties():
    assert run_daemon("--object", "iothread,help").stdout == (
        "iothread options:\n  aio-max-batch=<int>\n  poll-grow=<int>\n  poll-max-ns=<int>\n"
        "  poll-shrink=<int>\n  thread-pool-max=<int>\n  thread-pool-min=<int>\n")


def test_object_help_of_a_secret():
    assert run_daemon("--object", "secret,help").stdout == (
        "secret options:\n  data=<string>\n  file=<string>\n  format=<QCryptoSecretFormat>\n"
        "  iv=<string>\n  keyid=<string>\n")


def test_chardev_help_lists_the_backends():
    run = run_daemon("--chardev", "help")
    assert run.returncode == 0
    lines = run.stdout.split("\n")
    assert lines[0].rstrip() == "Available chardev backend types:"
    assert {"  socket", "  stdio", "  file", "  null", "  pty", "  ringbuf"} <= set(lines)


@pytest.mark.parametrize("option", ["--blockdev", "--export", "--monitor", "--nbd-server"])
@pytest.mark.parametrize("word", ["help", "?"])
def test_no_help_for_other_options(option, word):
    assert fails(option, word) == f"{option} {word}: Help is not available for this option"


# Errors. The text after "PROGRAM: OPTION ARGUMENT: ".

ERRORS = [
    ("--blockdev", "null-co", "'node-name' must be specified for the root node"),
    ("--blockdev", "", "Parameter 'driver' is missing"),
    ("--blockdev", "{}", "Parameter 'driver' is missing"),
    ("--blockdev", "driver=foo", "Parameter 'driver' does not accept value 'foo'"),
    ("--blockdev", "[]", "Parameter 'driver' does not accept value '[]'"),
    ("--blockdev", NULL + ",size=abc", "Parameter 'size' expects integer"),
    ("--blockdev", NULL + ",size=1k", "Parameter 'size' expects integer"),
    ("--blockdev", NULL + ",size=", "Parameter 'size' expects integer"),
    ("--blockdev", NULL + ",size=99999999999999999999", "Parameter 'size' expects integer"),
    ("--blockdev", NULL + ",read-only=maybe", "Parameter 'read-only' expects 'on' or 'off'"),
    ("--blockdev", NULL + ",0=5", "Invalid parameter '0'"),
    ("--blockdev", NULL + ",a..b=5", "Invalid parameter 'a..b'"),
    ("--blockdev", NULL + ",foo", "Expected '=' after parameter 'foo'"),
    ("--blockdev", NULL + ",foo=1", "Parameter 'foo' is unexpected"),
    ("--blockdev", "=x", "Invalid parameter ''"),
    ("--blockdev", "driver=null-co,,node-name=a",
     "Parameter 'driver' does not accept value 'null-co,node-name=a'"),
    ("--blockdev", "driver=file,filename=a,,b,node-name=a",
     "Could not open 'a,b': No such file or directory"),
    ("--blockdev", "driver=raw,file=a,file.driver=null-co,node-name=x",
     "Parameters 'file.*' used inconsistently"),
    ("--blockdev", "driver=raw,a.0.b=1,a.x=1,node-name=x",
     "Parameters 'a.*' used inconsistently"),
    ("--blockdev", "driver=file,filename.x=a,node-name=x",
     "Parameters 'filename.*' are unexpected"),
    ("--blockdev", "driver=raw,node-name=a,file.driver=null-co,file.x=1",
     "Parameter 'file.x' is unexpected"),
    ("--blockdev", "a" * 130 + "=1", f"Parameter '{'a' * 130}' is too long"),
    ("--blockdev", '{"driver":"null-co"', "JSON parse error, premature EOI"),
    ("--blockdev", '{"driver":"null-co"}', "'node-name' must be specified for the root node"),
    ("--blockdev", '{"driver":"null-co","node-name":"a","size":"1"}',
     "Invalid parameter type for 'size', expected: integer"),
    ("--object", "", "Parameter 'qom-type' is missing"),
    ("--object", "foo,id=a", "Parameter 'qom-type' does not accept value 'foo'"),
    ("--object", "iothread", "Parameter 'id' is missing"),
    ("--object", "iothread,id=a,x=1", "Parameter 'x' is unexpected"),
    ("--object", "iothread,id=a,poll-max-ns=abc", "Parameter 'poll-max-ns' expects integer"),
    ("--object", "iothread,id=a,poll-max-ns=-1",
     "poll-max-ns value must be in range [0, 9223372036854775807]"),
    ("--object", '{"qom-type":"iothread","id":"a","poll-max-ns":"5"}',
     "Invalid parameter type for 'poll-max-ns', expected: integer"),
    ("--object", "secret,id=s,data=a,file=b", "'file' and 'data' are mutually exclusive"),
    ("--object", "throttle-group,id=a,limits.iops-total=x",
     "Parameter 'limits.iops-total' expects integer"),
    ("--chardev", "", "chardev: no id specified"),
    ("--chardev", "null", "chardev: no id specified"),
    ("--chardev", "foo,id=a", "'foo' is not a valid char driver name"),
    ("--chardev", "null,id=a,x=1", "Invalid parameter 'x'"),
    ("--chardev", "null,id=1a", "Parameter 'id' expects an identifier"),
    ("--chardev", "file,id=a", "chardev: file: no filename given"),
    ("--chardev", "ringbuf,id=a,size=3", "size of ringbuf chardev must be power of two"),
    ("--chardev", "socket,id=a,path=/nonexistent/x,server=on,wait=off",
     "Failed to bind socket to /nonexistent/x: No such file or directory"),
    ("--chardev", "socket,id=a,path=/nonexistent/y",
     "Failed to connect to '/nonexistent/y': No such file or directory"),
    ("--chardev", "socket,id=a,fd=77,server=on,wait=off", "File descriptor '77' is not a socket"),
    ("--chardev", "socket,id=a,path=x,server=on,wait=maybe",
     "Parameter 'wait' expects 'on' or 'off'"),
    ("--chardev", "socket,id=a,host=1,server=on", "chardev: socket: no port given"),
    ("--chardev", "socket,id=a,path=x,reconnect=1,server=on,wait=off",
     "'reconnect' option is incompatible with socket in server listen mode"),
    ("--monitor", "", "Parameter 'chardev' is missing"),
    ("--monitor", "id=x", "Parameter 'chardev' is missing"),
    ("--monitor", "nosuch", 'chardev "nosuch" not found'),
    ("--monitor", "chardev=nosuch", 'chardev "nosuch" not found'),
    ("--monitor", '{"chardev":1}', "Invalid parameter type for 'chardev', expected: string"),
    ("--nbd-server", "", "Parameter 'addr' is missing"),
    ("--nbd-server", "unix", "Expected '=' after parameter 'unix'"),
    ("--nbd-server", "addr.type=unix", "Parameter 'addr.path' is missing"),
    ("--nbd-server", "addr.type=foo", "Parameter 'type' does not accept value 'foo'"),
    ("--nbd-server", "addr.type=unix,addr.path=/nonexistent/x",
     "Failed to bind socket to /nonexistent/x: No such file or directory"),
    ("--nbd-server", "addr.type=fd,addr.str=77", "File descriptor '77' is not a socket"),
    ("--nbd-server", "addr.type=unix,addr.path=x,max-connections=abc",
     "Parameter 'max-connections' expects integer"),
    ("--nbd-server", "addr.type=inet,addr.host=127.0.0.1,addr.port=0,tls-creds=foo",
     "No TLS credentials with id 'foo'"),
    ("--nbd-server", '{"addr":{"type":"inet","host":"127.0.0.1","port":"0"},"x":1}',
     "Parameter 'x' is unexpected"),
    ("--export", "", "Parameter 'type' is missing"),
    ("--export", "nbd", "Parameter 'id' is missing"),
    ("--export", "foo,id=a", "Parameter 'type' does not accept value 'foo'"),
    ("--export", "nbd,id=a,node-name=b", "Cannot find device='' nor node-name='b'"),
    ("--export", "type=nbd,id=a,node-name=b,writable=x",
     "Parameter 'writable' expects 'on' or 'off'"),
    ("--export", '{"type":"nbd"}', "Parameter 'id' is missing"),
    ("--trace", "nosuch=1", "Invalid parameter 'nosuch'"),
]


@pytest.mark.parametrize("option, argument, text", ERRORS,
                         ids=[f"{o[2:]} {a[:50]}" for o, a, _ in ERRORS])
def test_error(option, argument, text, tmp_path):
    assert fails(option, argument, cwd=tmp_path) == f"{option} {argument}: {text}"


CHAR = ("--chardev", "null,id=a")


@pytest.mark.parametrize("before, option, argument, text", [
    (CHAR, "--monitor", "a,mode=readline", "Only QMP is supported"),
    (CHAR, "--monitor", "a,mode=foo", "Parameter 'mode' does not accept value 'foo'"),
    (CHAR, "--monitor", "a,x=y", "Parameter 'x' is unexpected"),
    (CHAR + ("--monitor", "a"), "--monitor", "a", "Device 'a' is in use"),
    (CHAR, "--chardev", "null,id=a",
     "attempt to add duplicate property 'a' to object (type 'container')"),
    (("--chardev", "stdio,id=a"), "--chardev", "stdio,id=b",
     "cannot use stdio by multiple character devices"),
    (("--object", '{"qom-type":"iothread","id":"a"}'), "--object", "iothread,id=a",
     "attempt to add duplicate property 'a' to object (type 'container')"),
    (("--blockdev", NULL), "--blockdev", NULL, "Duplicate nodes with node-name='n'"),
    (("--blockdev", NULL), "--export", "nbd,id=a,node-name=n", "NBD server not running"),
    (("--nbd-server", "addr.type=inet,addr.host=127.0.0.1,addr.port=0"), "--nbd-server",
     "addr.type=inet,addr.host=127.0.0.1,addr.port=0", "NBD server already running"),
    (("--daemonize",), "--chardev", "stdio,id=a", "cannot use stdio with -daemonize"),
])
def test_error_after_another_option(before, option, argument, text):
    assert fails(*before, option, argument) == f"{option} {argument}: {text}"


@pytest.mark.parametrize("args, text", [
    (("--foo",), "unrecognized option '--foo'"),
    (("-x",), "invalid option -- 'x'"),
    (("--blockdev",), "option '--blockdev' requires an argument"),
    (("--pidfile",), "option '--pidfile' requires an argument"),
    (("--version=1",), "option '--version' doesn't allow an argument"),
    (("--daemonize=1",), "option '--daemonize' doesn't allow an argument"),
    (("extra",), "extra: Unexpected argument"),
    (("--blockdev", NULL, "extra", "more"), "extra: Unexpected argument"),
])
def test_wrong_use(args, text):
    assert fails(*args) == text


# Order.

def test_options_are_processed_in_their_order():
    assert fails("--export", "nbd,id=e,node-name=n", "--nbd-server",
                 "addr.type=inet,addr.host=127.0.0.1,addr.port=0", "--blockdev", NULL) == (
        "--export nbd,id=e,node-name=n: Cannot find device='' nor node-name='n'")


def test_object_after_its_user_is_too_late():
    assert fails("--blockdev", NULL, "--nbd-server",
                 "addr.type=inet,addr.host=127.0.0.1,addr.port=0",
                 "--export", "nbd,id=e,node-name=n,iothread=t", "--object", "iothread,id=t") == (
        '--export nbd,id=e,node-name=n,iothread=t: iothread "t" not found')


def test_long_option_may_be_shortened(start):
    start("--blockd", NULL)


def test_last_of_a_repeated_key_wins(start):
    daemon = start("--blockdev", "driver=null-co,node-name=a,node-name=b")
    assert [n["node-name"] for n in daemon.qmp.cmd("query-named-block-nodes")] == ["b"]


@pytest.mark.parametrize("text, size", [("0x200", 512), ("1024", 1024)])
def test_sizes(start, text, size):
    daemon = start("--blockdev", f"{NULL},size={text}")
    assert daemon.qmp.cmd("query-named-block-nodes")[0]["image"]["virtual-size"] == size


@pytest.mark.parametrize("word, value", [("on", True), ("off", False), ("yes", True),
                                         ("no", False), ("true", True), ("false", False),
                                         ("y", True), ("n", False)])
def test_booleans(start, word, value):
    daemon = start("--blockdev", f"{NULL},read-only={word}")
    assert daemon.qmp.cmd("query-named-block-nodes")[0]["ro"] is value


def test_nested_keys(start):
    daemon = start("--blockdev", "raw,node-name=r,file.driver=null-co,file.size=4096")
    assert {n["image"]["virtual-size"] for n in daemon.qmp.cmd("query-named-block-nodes")} == {4096}


def test_json_arguments(start):
    daemon = start("--object", {"qom-type": "iothread", "id": "t"},
                   "--blockdev", {"driver": "null-co", "node-name": "n", "size": 4096},
                   "--nbd-server", {"addr": {"type": "unix", "path": "nbd.sock"}},
                   "--export", {"type": "nbd", "id": "e", "node-name": "n"})
    with NBD(daemon.nbd_path) as client:
        client.open("n")
        assert client.size == 4096


def test_whole_disk_from_the_command_line(start):
    prepared = start.prepare(
        "--blockdev", "driver=file,node-name=disk,filename=disk.img",
        "--nbd-server", "addr.type=unix,addr.path=nbd.sock",
        "--export", "type=nbd,id=export,node-name=disk,writable=on")
    prepared.image(data=b"hello")
    prepared.start()
    with NBD(prepared.nbd_path) as client:
        client.open("disk")
        assert client.read(0, 5) == b"hello"


# Monitors on stdio.

def stdio(*args, text='{"execute":"qmp_capabilities"}{"execute":"quit"}'):
    run = run_daemon("--chardev", "stdio,id=a", "--monitor", *args, stdin=text)
    assert run.returncode == 0 and run.stderr == ""
    return run.stdout


def test_qmp_on_stdio():
    greeting, *replies = [json.loads(line) for line in stdio("a").split("\n") if line]
    assert "QMP" in greeting
    assert replies == [{"return": {}}, {"return": {}}]


def test_pretty_qmp_on_stdio():
    assert stdio("a,pretty=on").startswith('{\n    "QMP": {\n        "version": {')


# Pid file.

def test_pid_file(start):
    daemon = start("--pidfile", "pid")
    daemon.wait_for(lambda: os.path.exists(daemon.file("pid")), "the pid file")
    with open(daemon.file("pid")) as text:
        assert text.read() == f"{daemon.pid}\n"
    daemon.quit()
    assert not os.path.exists(daemon.file("pid"))


def test_pid_file_is_locked(start):
    daemon = start("--pidfile", "pid")
    path = daemon.file("pid")
    text = fails("--pidfile", path)
    assert text.startswith("cannot create PID file: Cannot lock pid file: ")
    assert os.path.exists(path)


def test_pid_file_in_no_directory():
    assert fails("--pidfile", "/nonexistent/p") == (
        "cannot create PID file: Could not create '/nonexistent/p': No such file or directory")


def test_stale_pid_file_is_taken_over(start):
    prepared = start.prepare("--pidfile", "pid")
    with open(prepared.file("pid"), "w") as text:
        text.write("99999999999\n")
    prepared.start()
    with open(prepared.file("pid")) as text:
        assert text.read() == f"{prepared.pid}\n"


def test_pid_file_comes_after_all_options(tmp_path):
    fails("--pidfile", "pid", "--blockdev", "foo", cwd=tmp_path)
    assert not (tmp_path / "pid").exists()


def test_pid_file_mode_is_for_the_owner_only(start):
    daemon = start("--pidfile", "pid")
    assert os.stat(daemon.file("pid")).st_mode & 0o077 == 0


# Daemonizing.

def daemonize(directory, *args):
    run = subprocess.run([daemon_program(), "--daemonize", *args], cwd=directory, text=True,
                         capture_output=True, timeout=30, stdin=subprocess.DEVNULL)
    return run


def test_daemonized(tmp_path):
    run = daemonize(tmp_path, "--pidfile", str(tmp_path / "pid"), "--chardev",
                    f"socket,id=m,path={tmp_path}/q,server=on,wait=off", "--monitor", "m")
    assert run.returncode == 0, run
    # Started means ready: the files are there when the parent has ended.
    pid = int((tmp_path / "pid").read_text())
    client = QMP.connect(str(tmp_path / "q"))
    assert os.getsid(pid) != os.getsid(0)
    assert os.readlink(f"/proc/{pid}/fd/0") == "/dev/null"
    assert os.readlink(f"/proc/{pid}/cwd") == "/"
    client.cmd("quit")
    client.closed()
    client.close()
    deadline = time.monotonic() + 10
    while (tmp_path / "pid").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_daemonized_failure_is_told(tmp_path):
    run = daemonize(tmp_path, "--blockdev", "foo")
    assert run.returncode == 1
    assert "--blockdev foo: Parameter 'driver' does not accept value 'foo'" in run.stderr


def test_daemonized_failure_of_the_pid_file_is_told(tmp_path):
    run = daemonize(tmp_path, "--pidfile", "/nonexistent/p")
    assert run.returncode == 1
    assert "cannot create PID file" in run.stderr


# Descriptors.

def test_nbd_server_on_a_passed_socket(start):
    prepared = start.prepare("--blockdev", NULL)
    with listening_socket(prepared.nbd_path) as sock:
        prepared.args += ["--nbd-server", f"addr.type=fd,addr.str={sock.fileno()}",
                          "--export", "nbd,id=e,node-name=n"]
        prepared.pass_fds = [sock.fileno()]
        prepared.start()
    with NBD(prepared.nbd_path) as client:
        client.open("n")


def test_file_is_no_socket(tmp_path):
    with open(tmp_path / "f", "w") as file:
        assert fails("--nbd-server", f"addr.type=fd,addr.str={file.fileno()}",
                     pass_fds=[file.fileno()]).endswith(
            f"File descriptor '{file.fileno()}' is not a socket")


# Signals.

@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signal_ends_well(start, number):
    daemon = start("--pidfile", "pid", "--nbd-server", "addr.type=unix,addr.path=nbd.sock",
                   "--blockdev", NULL, "--export", "nbd,id=e,node-name=n")
    daemon.signal(number)
    assert daemon.wait() == 0
    assert not os.path.exists(daemon.file("pid"))


def test_signal_with_a_client_connected(start):
    daemon = start("--nbd-server", "addr.type=unix,addr.path=nbd.sock",
                   "--blockdev", NULL, "--export", "nbd,id=e,node-name=n")
    with NBD(daemon.nbd_path) as client:
        client.open("n")
        daemon.signal(signal.SIGTERM)
        assert daemon.wait() == 0
        client.expect_closed()


def test_sigpipe_is_no_end(start):
    daemon = start()
    daemon.signal(signal.SIGPIPE)
    assert daemon.qmp.cmd("query-version")


def test_socket_of_the_monitor_is_removed(start):
    daemon = start()
    daemon.quit()
    assert not os.path.exists(daemon.qmp_path)


def test_unknown_trace_event_is_a_warning(start):
    daemon = start("--trace", "enable=nosuch")
    assert "warning: trace event 'nosuch' does not exist" in daemon.stderr
