# SPDX-License-Identifier: GPL-2.0-or-later
"""Certificates and keys for TLS tests, made by GnuTLS's own tools."""

import os

from support.tools import run

SERVER = """cn = server
dns_name = localhost
ip_address = 127.0.0.1
tls_www_server
encryption_key
signing_key
expiration_days = 30
"""
CLIENT = """cn = {name}
organization = Strata
tls_www_client
encryption_key
signing_key
expiration_days = 30
"""
AUTHORITY = "cn = {name}\nca\ncert_signing_key\nexpiration_days = 30\n"


def make_key(path):
    run("certtool", "--generate-privkey", "--key-type", "ecdsa", "--outfile", path)


class Authority:
    """A certificate authority in `directory`; its own certificate is ca-cert.pem there."""

    def __init__(self, directory, name="CA"):
        self.directory = str(directory)
        os.makedirs(directory, exist_ok=True)
        self.key = self.file("ca-key.pem")
        self.certificate = self.file("ca-cert.pem")
        make_key(self.key)
        run("certtool", "--generate-self-signed", "--load-privkey", self.key, "--template",
            self.template("ca.cfg", AUTHORITY.format(name=name)), "--outfile", self.certificate)

    def file(self, name):
        return os.path.join(self.directory, name)

    def template(self, name, text):
        with open(self.file(name), "w") as template:
            template.write(text)
        return self.file(name)

    def issue(self, role, text, directory=None):
        """ROLE-cert.pem and ROLE-key.pem, with the authority's certificate beside them."""
        directory = str(directory or self.directory)
        os.makedirs(directory, exist_ok=True)
        key = os.path.join(directory, f"{role}-key.pem")
        make_key(key)
        run("certtool", "--generate-certificate", "--load-ca-privkey", self.key,
            "--load-ca-certificate", self.certificate, "--load-privkey", key, "--template",
            self.template("one.cfg", text), "--outfile",
            os.path.join(directory, f"{role}-cert.pem"))
        beside = os.path.join(directory, "ca-cert.pem")
        if beside != self.certificate:
            with open(self.certificate) as ours, open(beside, "w") as theirs:
                theirs.write(ours.read())
        return directory


def make_psk(directory, user):
    os.makedirs(directory, exist_ok=True)
    run("psktool", "-u", user, "-p", os.path.join(str(directory), "keys.psk"))
    return str(directory)
