# SPDX-License-Identifier: GPL-2.0-or-later
"""Fixtures and options of every pytest suite.

    pytest tests/qmp --shard 0/4        the first quarter of the tests
    STRATA_DAEMON=/usr/bin/qemu-storage-daemon pytest tests/qmp
"""

import signal
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

from support.daemon import Daemon  # noqa: E402
from support.program import is_oracle, slow_factor  # noqa: E402

TEST_SECONDS = 60
FAILED = []  # ids, of this run


def pytest_addoption(parser):
    parser.addoption("--shard", metavar="I/N", help="run every N-th test, starting with test I")
    parser.addoption("--failed-to", metavar="FILE", help="write the ids of failed tests there")
    parser.addoption("--only-from", metavar="FILE", help="run only the tests whose ids it holds")


def pytest_configure(config):
    config.addinivalue_line("markers", "strata_only(reason): what QEMU 7.2's daemon has not")
    config.addinivalue_line("markers", f"seconds(limit): may take longer than {TEST_SECONDS} s")


def pytest_collection_modifyitems(config, items):
    shard = config.getoption("--shard")
    if shard:
        index, count = map(int, shard.split("/"))
        chosen = items[index::count]
        config.hook.pytest_deselected(items=[i for i in items if i not in set(chosen)])
        items[:] = chosen
    only_from = config.getoption("--only-from")
    if only_from:
        wanted = set(Path(only_from).read_text().splitlines())
        items[:] = [item for item in items if item.nodeid in wanted]
    for item in items:
        mark = item.get_closest_marker("strata_only")
        if mark and is_oracle():
            reason = mark.args[0] if mark.args else "not in QEMU 7.2"
            item.add_marker(pytest.mark.skip(reason=reason))


def pytest_runtest_logreport(report):
    if report.failed:
        FAILED.append(report.nodeid)


def pytest_sessionfinish(session):
    path = session.config.getoption("--failed-to")
    if path:
        Path(path).write_text("".join(f"{nodeid}\n" for nodeid in dict.fromkeys(FAILED)))


class TookTooLong(Exception):
    pass


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_call(item):
    """No test may hang the suite."""
    mark = item.get_closest_marker("seconds")
    limit = int((mark.args[0] if mark else TEST_SECONDS) * slow_factor())

    def ring(signum, frame):
        raise TookTooLong(f"took longer than {limit} s")

    previous = signal.signal(signal.SIGALRM, ring)
    signal.alarm(limit)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, previous)


@pytest.fixture
def start():
    """Starts daemons; each must end well when the test is over."""
    daemons = []

    def start_daemon(*args, **kwargs):
        daemon = Daemon(*args, **kwargs)
        daemons.append(daemon)
        return daemon.start()

    def prepare(*args, **kwargs):
        """A daemon not started yet, so that files can be put into its directory."""
        daemon = Daemon(*args, **kwargs)
        daemons.append(daemon)
        return daemon

    start_daemon.prepare = prepare
    yield start_daemon
    failures = []
    for daemon in daemons:
        try:
            daemon.stop(status=getattr(daemon, "expected_status", 0))
        except BaseException as error:  # the others must be stopped too
            failures.append(error)
    if failures:
        raise failures[0]


@pytest.fixture
def daemon(start):
    """A daemon with nothing but a QMP monitor."""
    return start()


@pytest.fixture
def qmp(daemon):
    return daemon.qmp
