# SPDX-License-Identifier: GPL-2.0-or-later
"""Who of those with a certificate may use an NBD server: the four kinds of authz objects."""

import json
import os
import uuid
from pathlib import Path

import pytest

from support.pki import CLIENT, SERVER, Authority
from support.program import is_oracle
from support.tools import run

PEOPLE = ("alice", "mallory")
more_than_debian = pytest.mark.skipif(
    is_oracle(), reason="Debian's daemon is built without PAM and authz-listfile")


@pytest.fixture(scope="module")
def pki(tmp_path_factory):
    base = tmp_path_factory.mktemp("authz-pki")
    authority = Authority(base / "ca")
    authority.issue("server", SERVER, base / "server")
    for name in PEOPLE:
        authority.issue("client", CLIENT.format(name=name), base / name)
    return base


@pytest.fixture
def allowed(daemon, pki):
    """Makes the authz object; whom of the two a server that asks it lets in."""
    def find(**options):
        options = {key.replace("_", "-"): value for key, value in options.items()}
        daemon.qmp.cmd("object-add", {"id": "who", **options})
        daemon.qmp.cmd("object-add", {"qom-type": "tls-creds-x509", "id": "tls",
                                      "dir": str(pki / "server"), "endpoint": "server"})
        daemon.add_null()
        daemon.serve_nbd(tls_creds="tls", tls_authz="who")
        daemon.export("disk")
        return [name for name in PEOPLE if enters(daemon, pki, name)]
    return find


def enters(daemon, pki, name):
    done = run("qemu-img", "info", "--object",
               f"tls-creds-x509,id=tls,dir={pki / name},endpoint=client", "--image-opts",
               f"driver=nbd,path={daemon.nbd_path},export=disk,tls-creds=tls,"
               "tls-hostname=localhost", check=False)
    return done.returncode == 0


def name_of(pki, who):
    """The distinguished name in the certificate, as servers write it."""
    subject = run("openssl", "x509", "-noout", "-subject", "-nameopt",
                  "sname,sep_comma_plus", "-in", pki / who / "client-cert.pem").stdout
    return subject.removeprefix("subject=").strip()


def rule(match, policy, **more):
    return {"match": match, "policy": policy, **more}


def test_simple(allowed, pki):
    assert allowed(qom_type="authz-simple", identity=name_of(pki, "alice")) == ["alice"]


def test_simple_takes_the_whole_name(allowed):
    assert allowed(qom_type="authz-simple", identity="CN=alice") == []


@pytest.mark.parametrize("policy, rules, who", [
    ("allow", None, ["alice", "mallory"]),
    ("deny", [], []),
    (None, [], []),
    ("deny", [rule("*CN=a*", "allow", format="glob")], ["alice"]),
    ("allow", [rule("*CN=?lic?*", "deny", format="glob")], ["mallory"]),
    ("deny", [rule("*CN=a*", "allow")], []),                      # exact, unless it says glob
    ("deny", [rule("*CN=a*", "allow", format="exact")], []),
    ("deny", [rule("*", "allow", format="glob"), rule("*mallory*", "deny", format="glob")],
     ["alice", "mallory"]),                                       # the first that matches decides
    ("allow", [rule("*mallory*", "deny", format="glob"), rule("*", "allow", format="glob")],
     ["alice"]),
])
def test_list(allowed, policy, rules, who):
    options = {} if policy is None else {"policy": policy}
    if rules is not None:
        options["rules"] = rules
    assert allowed(qom_type="authz-list", **options) == who


def write_list(path, *rules, policy="deny"):
    """As an administrator does: another file takes its place."""
    fresh = f"{path}.new"
    Path(fresh).write_text(json.dumps({"rules": list(rules), "policy": policy}))
    os.rename(fresh, path)


@more_than_debian
def test_list_file_is_read_again_when_it_changes(daemon, allowed, pki):
    path = daemon.file("who.json")
    write_list(path, rule("*CN=alice*", "allow", format="glob"))
    assert allowed(qom_type="authz-listfile", filename=path, refresh=True) == ["alice"]
    write_list(path, rule("*CN=mallory*", "allow", format="glob"))
    daemon.wait_for(lambda: enters(daemon, pki, "mallory"), "the new list")
    assert not enters(daemon, pki, "alice")


@more_than_debian
def test_list_file_that_is_not_to_be_read_again(daemon, allowed, pki):
    path = daemon.file("who.json")
    write_list(path, rule("*CN=alice*", "allow", format="glob"))
    assert allowed(qom_type="authz-listfile", filename=path, refresh=False) == ["alice"]
    write_list(path, policy="allow")
    assert not enters(daemon, pki, "mallory")


@more_than_debian
def test_list_file_that_becomes_nonsense_lets_nobody_in(daemon, allowed, pki):
    path = daemon.file("who.json")
    write_list(path, policy="allow")
    assert allowed(qom_type="authz-listfile", filename=path, refresh=True) == list(PEOPLE)
    Path(path + ".new").write_text("{ 'policy': ")
    os.rename(path + ".new", path)
    daemon.wait_for(lambda: not enters(daemon, pki, "alice"), "the refusal")
    write_list(path, policy="allow")
    daemon.wait_for(lambda: enters(daemon, pki, "alice"), "the list that is whole again")


@pytest.fixture
def pam_service():
    """Writes a service for PAM; its name."""
    paths = []

    def make(*lines):
        path = Path(f"/etc/pam.d/strata-test-{uuid.uuid4().hex[:12]}")
        paths.append(path)
        path.write_text("".join(f"account {line}\n" for line in lines))
        return path.name
    if os.geteuid() != 0 or not Path("/etc/pam.d").is_dir():
        pytest.skip("only root gives PAM a service")
    yield make
    for path in paths:
        path.unlink()



@more_than_debian
def test_pam_permits(allowed, pam_service):
    assert allowed(qom_type="authz-pam", service=pam_service("required pam_permit.so")) == [
        "alice", "mallory"]


@more_than_debian
def test_pam_denies(allowed, pam_service):
    assert allowed(qom_type="authz-pam", service=pam_service("required pam_deny.so")) == []


@more_than_debian
def test_pam_is_asked_for_the_name_in_the_certificate(daemon, allowed, pam_service, pki):
    names = daemon.file("names")
    Path(names).write_text(name_of(pki, "alice") + "\n")
    service = pam_service(f"required pam_listfile.so item=user sense=allow file={names}")
    assert allowed(qom_type="authz-pam", service=service) == ["alice"]


@more_than_debian
def test_objects_that_cannot_be(daemon):
    path = daemon.file("who.json")
    error = daemon.qmp.error("object-add", {"qom-type": "authz-listfile", "id": "who",
                                            "filename": path})
    assert error == (f"Unable to read '{path}': Failed to open file “{path}”: No such file or "
                     "directory")
    Path(path).write_text("[]")
    assert daemon.qmp.error("object-add", {"qom-type": "authz-listfile", "id": "who",
                                           "filename": path}) == (
        f"File '{path}' must contain a JSON object")
    assert daemon.qmp.error("object-add", {"qom-type": "authz-simple", "id": "who"}) == (
        "Parameter 'identity' is missing")
