# SPDX-License-Identifier: GPL-2.0-or-later
import pytest

from support.program import daemon_program


def pytest_report_header():
    return f"daemon: {daemon_program()}"


@pytest.fixture
def served(daemon):
    """A daemon with a Unix NBD server and a writable null node 'disk' of 1 MiB."""
    daemon.add_null()
    daemon.serve_nbd()
    return daemon
