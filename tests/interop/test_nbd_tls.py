# SPDX-License-Identifier: GPL-2.0-or-later
"""TLS between our NBD server and client, QEMU's tools and libnbd."""

import os
import socket
import ssl
import struct

import pytest

from support import nbd_wire as wire
from support.nbd_wire import NBD
from support.pki import CLIENT, SERVER, Authority, make_psk
from support.program import ROOT, is_oracle
from support.tools import run

pytestmark = pytest.mark.skipif(is_oracle(), reason="compares with QEMU's tools already")

TOOLS = ROOT / os.environ.get("STRATA_BUILD", "build") / "bin"
SIZE = 4 << 20


@pytest.fixture(scope="module")
def pki(tmp_path_factory):
    """Directories by name: an authority's server and clients, a stranger, keys."""
    base = tmp_path_factory.mktemp("pki")
    ours = Authority(base / "ca")
    ours.issue("server", SERVER, base / "server")
    ours.issue("client", CLIENT.format(name="alice"), base / "alice")
    ours.issue("client", CLIENT.format(name="mallory"), base / "mallory")
    Authority(base / "ca2", "Another").issue("client", CLIENT.format(name="eve"), base / "eve")
    make_psk(base / "psk", "bob")
    make_psk(base / "psk2", "bob")
    return base


def credentials(kind, directory, endpoint="client", ident="tls", **more):
    words = [f"tls-creds-{kind}", f"id={ident}", f"dir={directory}", f"endpoint={endpoint}"]
    return ",".join(words + [f"{key}={value}" for key, value in more.items()])


def image_options(daemon, **more):
    options = {"driver": "nbd", "path": daemon.nbd_path, "export": "disk", "tls-creds": "tls"}
    options.update({key.replace("_", "-"): value for key, value in more.items()})
    return ",".join(f"{key}={value}" for key, value in options.items())


def serve(daemon, pki, kind="x509", directory="server", **server):
    daemon.qmp.cmd("object-add", {"qom-type": f"tls-creds-{kind}", "id": "tls",
                                  "dir": str(pki / directory), "endpoint": "server"})
    daemon.add_file(size=SIZE, data=b"\x07" * 65536)
    daemon.serve_nbd(tls_creds="tls", **server)
    daemon.export("disk", writable=True)
    return daemon


@pytest.fixture(params=["qemu", "strata"])
def tool(request):
    """Runs img or io, QEMU's or ours."""
    def run_tool(name, *arguments, check=True):
        program = f"qemu-{name}" if request.param == "qemu" else TOOLS / f"strata-{name}"
        return run(program, *arguments, check=check)
    return run_tool


def test_reads_and_writes_over_certificates(daemon, pki, tool):
    serve(daemon, pki)
    done = tool("io", "--object", credentials("x509", pki / "alice"), "-c", "read -P 7 0 64k",
                "-c", "write -P 9 100k 3M", "-c", "read -P 9 100k 3M", "-c", "flush",
                "--image-opts", image_options(daemon, tls_hostname="localhost"))
    assert "failed" not in done.stdout


def test_reads_and_writes_over_a_shared_key(daemon, pki, tool):
    serve(daemon, pki, "psk", "psk")
    done = tool("io", "--object", credentials("psk", pki / "psk", username="bob"), "-c",
                "write -P 3 0 1M", "-c", "read -P 3 0 1M", "--image-opts", image_options(daemon))
    assert "failed" not in done.stdout


def test_reads_and_writes_without_certificates(daemon, tool):
    """Anonymous: private, and from nobody in particular."""
    daemon.qmp.cmd("object-add", {"qom-type": "tls-creds-anon", "id": "tls", "endpoint": "server"})
    daemon.add_file(size=SIZE)
    daemon.serve_nbd(tls_creds="tls")
    daemon.export("disk", writable=True)
    done = tool("io", "--object", "tls-creds-anon,id=tls,endpoint=client", "-c",
                "write -P 3 0 1M", "-c", "read -P 3 0 1M", "--image-opts", image_options(daemon))
    assert "failed" not in done.stdout
    plain = tool("img", "info", daemon.uri("disk"), check=False)
    assert plain.returncode == 1 and "TLS negotiation required" in plain.stdout


@pytest.mark.parametrize("who,more,text", [
    ("alice", {"tls_hostname": "elsewhere"}, "Certificate does not match the hostname elsewhere"),
    ("alice", {}, "No hostname for certificate validation"),
    ("eve", {"tls_hostname": "localhost"}, "The certificate hasn't got a known issuer"),
])
def test_client_refuses_a_server_it_cannot_verify(daemon, pki, tool, who, more, text):
    serve(daemon, pki)
    done = tool("img", "info", "--object", credentials("x509", pki / who), "--image-opts",
                image_options(daemon, **more), check=False)
    assert done.returncode == 1 and text in done.stdout


def test_wrong_shared_key_is_refused(daemon, pki, tool):
    serve(daemon, pki, "psk", "psk")
    done = tool("img", "info", "--object", credentials("psk", pki / "psk2", username="bob"),
                "--image-opts", image_options(daemon), check=False)
    assert done.returncode == 1 and "TLS handshake failed" in done.stdout


def test_plain_client_is_told_to_use_tls(daemon, pki, tool):
    serve(daemon, pki)
    done = tool("img", "info", daemon.uri("disk"), check=False)
    assert done.returncode == 1
    assert "TLS negotiation required before option 7 (go)" in done.stdout
    assert "Did you forget a valid tls-creds?" in done.stdout


def test_authorization_goes_by_the_name_in_the_certificate(daemon, pki, tool):
    alice = {"match": "*CN=alice*", "policy": "allow", "format": "glob"}
    daemon.qmp.cmd("object-add", {"qom-type": "authz-list", "id": "who", "policy": "deny",
                                  "rules": [alice]})
    serve(daemon, pki, tls_authz="who")
    for who, status in (("alice", 0), ("mallory", 1)):
        done = tool("img", "info", "--object", credentials("x509", pki / who), "--image-opts",
                    image_options(daemon, tls_hostname="localhost"), check=False)
        assert done.returncode == status, done.stdout
    daemon.wait_for(lambda: "TLS x509 authz check for" in daemon.stderr, "the denial")


def test_libnbd_over_certificates(daemon, pki):
    serve(daemon, pki)
    uri = (f"nbds+unix://alice@localhost/disk?socket={daemon.nbd_path}"
           f"&tls-certificates={pki / 'alice'}")
    done = run("nbdinfo", "--size", uri, check=False)
    if done.returncode != 0 and "hostname" in done.stdout.lower():
        done = run("nbdinfo", "--size", uri + "&tls-verify-peer=false")
    assert done.stdout.strip() == str(SIZE)


def test_libnbd_over_a_shared_key(daemon, pki):
    serve(daemon, pki, "psk", "psk")
    uri = f"nbds+unix://bob@/disk?socket={daemon.nbd_path}&tls-psk-file={pki / 'psk/keys.psk'}"
    assert run("nbdinfo", "--size", uri).stdout.strip() == str(SIZE)
    copy = daemon.file("copy")
    run("nbdcopy", uri, copy)
    with open(copy, "rb") as got, open(daemon.file("disk.img"), "rb") as expected:
        assert got.read() == expected.read()


def test_starttls_forgets_what_was_agreed_on_in_plain_text(daemon, pki):
    """CVE-2021-3716: what came before TLS may be somebody else's."""
    serve(daemon, pki)
    with NBD(daemon.nbd_path) as client:
        client.hello()
        assert client.option(wire.OPT_STRUCTURED_REPLY)[-1][0] == wire.REP_ERR_TLS_REQD
        assert client.option(wire.OPT_STARTTLS) == [(wire.REP_ACK, b"")]
        # Anything but a handshake ends the connection.
        client.send_option(wire.OPT_GO, client.info_data("disk"))
        client.expect_closed()
    daemon.wait_for(lambda: "TLS handshake failed" in daemon.stderr, "the failure")


@pytest.mark.parametrize("option", [wire.OPT_LIST, wire.OPT_GO, wire.OPT_INFO, wire.OPT_SET_META])
def test_option_before_tls_is_refused(daemon, pki, option):
    serve(daemon, pki)
    with NBD(daemon.nbd_path) as client:
        client.hello()
        (kind, text), = client.option(option, client.info_data("disk"))
        assert kind == wire.REP_ERR_TLS_REQD
        assert text == f"Option 0x{option:x} not permitted before TLS".encode()


def test_export_name_before_tls_is_dropped(daemon, pki):
    serve(daemon, pki)
    with NBD(daemon.nbd_path) as client:
        client.hello()
        client.send_option(wire.OPT_EXPORT_NAME, b"disk")
        client.expect_closed()


def client_hello():
    """The first words of a client that means it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    out = ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), out).do_handshake()
    return out.read()


def test_ten_thousand_half_way_handshakes_leave_nothing(daemon, pki):
    serve(daemon, pki, max_connections=0)
    starts = [b"", b"\x16\x03\x01\x02\x00\x01", client_hello(), client_hello()[:100]]

    def half_way(count):
        for turn in range(count):
            with socket.socket(socket.AF_UNIX) as sock:
                sock.connect(daemon.nbd_path)
                sock.sendall(struct.pack(">I", 3) + b"IHAVEOPT" + struct.pack(">II", 5, 0))
                sock.sendall(starts[turn % len(starts)])
                if turn % 8 == 2:  # the server has answered, and waits for more
                    sock.settimeout(20)
                    sock.recv(18 + 20 + 1, socket.MSG_WAITALL)

    def settled():
        with NBD(daemon.nbd_path) as client:
            client.hello()
            client.option(wire.OPT_ABORT)

    sockets = daemon.fds().count("socket")
    half_way(200)
    settled()
    daemon.wait_for(lambda: daemon.fds().count("socket") == sockets, "the first ones' end")
    fds, memory = daemon.fds(), daemon.status("VmRSS")
    half_way(10000)
    settled()
    daemon.wait_fds(fds, timeout=20)
    after = daemon.status("VmRSS")
    print(f"{len(fds)} descriptors before, {len(daemon.fds())} after; {memory} kB, {after} kB")
    assert after - memory < 32 * 1024


@pytest.mark.parametrize("arguments,text", [
    ({"tls-creds": "nosuch"}, "No TLS credentials with id 'nosuch'"),
    ({"tls-creds": "client"}, "Expected TLS credentials for a server endpoint"),
    ({"tls-creds": "tls", "tls-authz": "nosuch"}, "Cannot find QAuthZ object ID nosuch"),
])
def test_server_with_wrong_objects_is_refused(daemon, pki, arguments, text):
    for ident, directory, endpoint in (("tls", "server", "server"), ("client", "alice", "client")):
        daemon.qmp.cmd("object-add", {"qom-type": "tls-creds-x509", "id": ident,
                                      "dir": str(pki / directory), "endpoint": endpoint})
    arguments = dict(arguments, addr={"type": "unix", "data": {"path": daemon.nbd_path}})
    assert text in daemon.qmp.error("nbd-server-start", arguments)


class Tls:
    """TLS over a client's socket, for more of the handshake by hand."""

    def __init__(self, client, directory, ciphers=None):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        if ciphers:
            context.maximum_version = ssl.TLSVersion.TLSv1_2
            context.set_ciphers(ciphers)
        context.check_hostname = False
        context.load_verify_locations(directory / "ca-cert.pem")
        context.load_cert_chain(directory / "client-cert.pem", directory / "client-key.pem")
        client.sock = context.wrap_socket(client.sock)


def has_fast_aes():
    with open("/proc/cpuinfo") as info:
        return " aes" in info.read()


@pytest.mark.skipif(not has_fast_aes(), reason="the processor does not know AES")
def test_the_server_chooses_the_cipher_that_the_processor_knows(daemon, pki):
    serve(daemon, pki)
    with NBD(daemon.nbd_path) as client:
        client.hello()
        assert client.option(wire.OPT_STARTTLS) == [(wire.REP_ACK, b"")]
        Tls(client, pki / "alice",
            ciphers="ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-ECDSA-AES128-GCM-SHA256")
        assert client.sock.cipher()[0] == "ECDHE-ECDSA-AES128-GCM-SHA256"


@pytest.fixture
def optional(daemon, pki):
    return serve(daemon, pki, tls_required=False)


def test_optional_tls_serves_plain_and_secure_clients(optional, pki, tool):
    plain = image_options(optional).replace(",tls-creds=tls", "")
    done = tool("io", "-c", "read -P 7 0 64k", "-c", "write -P 5 1M 64k", "--image-opts", plain)
    assert "failed" not in done.stdout
    done = tool("io", "--object", credentials("x509", pki / "alice"), "-c", "read -P 5 1M 64k",
                "--image-opts", image_options(optional, tls_hostname="localhost"))
    assert "failed" not in done.stdout


def test_optional_tls_forgets_what_was_agreed_on_in_plain_text(optional, pki):
    with NBD(optional.nbd_path) as client:
        client.hello()
        client.negotiate_extended()
        assert client.meta("disk", ["base:allocation"]) == {"base:allocation": 0}
        assert client.option(wire.OPT_STARTTLS) == [(wire.REP_ACK, b"")]
        Tls(client, pki / "alice")
        # Neither headers nor contexts are left.
        assert client.meta("disk", ["base:allocation"]) == wire.REP_ERR_INVALID
        client.structured = client.extended = False
        assert client.option(wire.OPT_STARTTLS)[0][0] == wire.REP_ERR_INVALID
        client.go("disk")
        assert client.read(0, 65536) == b"\x07" * 65536
        assert client.request(wire.CMD_BLOCK_STATUS, 0, 4096)[0] == wire.EINVAL


def test_options_sent_along_with_starttls_are_not_heard_as_if_they_were_secure(optional):
    """What somebody adds to the plain text must not be answered within TLS (CVE-2011-0411)."""
    with NBD(optional.nbd_path) as client:
        client.hello()
        go = client.info_data("disk")
        client.send(wire.IHAVEOPT + struct.pack(">II", wire.OPT_STARTTLS, 0) +
                    wire.IHAVEOPT + struct.pack(">II", wire.OPT_GO, len(go)) + go)
        assert client.option_reply()[:2] == (wire.OPT_STARTTLS, wire.REP_ACK)
        client.expect_closed()


def test_a_failed_attempt_at_optional_tls_does_not_lead_back_to_plain_text(optional, pki):
    with NBD(optional.nbd_path) as client:
        client.hello()
        assert client.option(wire.OPT_STARTTLS) == [(wire.REP_ACK, b"")]
        with pytest.raises(ssl.SSLError):
            Tls(client, pki / "eve")
    with NBD(optional.nbd_path) as client:
        client.hello()
        assert client.option(wire.OPT_STARTTLS) == [(wire.REP_ACK, b"")]
        # An alert: the handshake has failed. In one, since the server closes when it has that.
        client.send(b"\x15\x03\x03\x00\x02\x02\x28" +
                    wire.IHAVEOPT + struct.pack(">II", wire.OPT_LIST, 0))
        client.expect_closed()


def test_client_with_credentials_insists_on_tls(daemon, pki, tool):
    daemon.add_file(size=SIZE)
    daemon.serve_nbd()
    daemon.export("disk")
    done = tool("img", "info", "--object", credentials("x509", pki / "alice"), "--image-opts",
                image_options(daemon, tls_hostname="localhost"), check=False)
    assert done.returncode == 1 and "TLS not configured" in done.stdout


@pytest.mark.parametrize("more, text", [
    ({"tls_required": False}, "Parameter 'tls-required' needs 'tls-creds'"),
    ({"tls_required": True}, "Parameter 'tls-required' needs 'tls-creds'"),
    ({"tls_creds": "tls", "tls_authz": "who", "tls_required": False},
     "TLS authorization is of no use where TLS is not required"),
])
def test_settings_that_promise_too_much_are_refused(daemon, pki, more, text):
    daemon.qmp.cmd("object-add", {"qom-type": "tls-creds-x509", "id": "tls",
                                  "dir": str(pki / "server"), "endpoint": "server"})
    daemon.qmp.cmd("object-add", {"qom-type": "authz-simple", "id": "who", "identity": "x"})
    arguments = {key.replace("_", "-"): value for key, value in more.items()}
    assert daemon.qmp.error("nbd-server-start", {"addr": {
        "type": "unix", "data": {"path": daemon.nbd_path}}, **arguments}) == text
    assert not os.path.exists(daemon.nbd_path)
