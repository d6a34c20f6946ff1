# SPDX-License-Identifier: GPL-2.0-or-later
"""The table of attacks names tests that are there."""

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]
TABLE = TESTS / "interop/attacks.md"
NAMED = sorted(set(re.findall(r"`([\w/.-]+\.\w+)::([^`]+)`", TABLE.read_text())))


def test_the_table_names_tests():
    assert len(NAMED) > 90


@pytest.mark.parametrize("file, name", NAMED, ids="::".join)
def test_a_named_test_is_there(file, name):
    text = (TESTS / file).read_text()
    if file.endswith(".py"):
        assert re.search(rf"^def {re.escape(name)}", text, re.MULTILINE)
    else:
        assert name in text
