# SPDX-License-Identifier: GPL-2.0-or-later
"""scripts/tidy.py catches what it is for, and is quiet otherwise."""

import pytest

import tidy

CXX = "// SPDX-License-Identifier: GPL-2.0-or-later\n"
PY = "# SPDX-License-Identifier: GPL-2.0-or-later\n"


def complaints(path, text):
    return list(tidy.check_file(path, text))


def test_clean_file_is_fine():
    text = CXX + '#pragma once\nint f() {\n  return 0;\n}\n'
    assert complaints("block/base/a.h", text) == []


@pytest.mark.parametrize("path, text, expected", [
    ("a.cc", "int x;\n", "a.cc: no licence line"),
    ("a.py", "x = 1\n", "a.py: no licence line"),
    ("tests/meson.build", "x = 1\n", "tests/meson.build: no licence line"),
    ("a.cc", CXX + "int x;\n" * 801, "a.cc: 802 lines"),
    ("a.cc", CXX + "//" + "x" * 99 + "\n", "a.cc:2: 101 columns"),
    ("a.cc", CXX + "int x; \n", "a.cc:2: space at the end"),
    ("a.cc", CXX + "\tint x;\n", "a.cc:2: tab"),
    ("a.cc", CXX + "int x;", "a.cc: no newline at the end"),
    ("a.cc", CXX + "// FIXME: wrong\n", "a.cc:2: FIXME without"),
    ("a.cc", CXX + "// TODO: make it better\n", "a.cc:2: TODO without"),
    ("a.h", CXX, "a.h: no '#pragma once'"),
    ("a.cc", CXX + "std::this_thread::sleep_for(x);\n", "a.cc:2: a sleeping thread"),
    ("a.cc", CXX + "using namespace std;\n", "a.cc:2: using namespace std"),
    ("a.sh", "#!/bin/bash\n" + PY + "set -e\n", "a.sh: no 'set -euo pipefail'"),
    ("scripts/x", "#!/usr/bin/env bash\n" + PY, "scripts/x: no 'set -euo pipefail'"),
    ("a.py", PY + "def f(:\n", "a.py:2: "),
])
def test_violation_is_caught(path, text, expected):
    (complaint,) = complaints(path, text)
    assert complaint.startswith(expected)


def test_promise_with_its_end_is_fine():
    assert complaints("a.cc", CXX + "// TODO: drop once Asio offers it\n") == []


@pytest.mark.parametrize("line", [
    "sprintf(buf, x);", "std::sprintf(buf, x);", "::strcpy(a, b);", "int n = atoi(s);",
    "x = rand();", "if (system(cmd)) {}", "thread.detach();", "usleep(10);",
])
def test_banned_call_is_caught(line):
    (complaint,) = complaints("a.cc", CXX + line + "\n")
    assert "is banned; use " in complaint


@pytest.mark.parametrize("line", [
    "snprintf(buf, 3, x);", '// sprintf(buf)', 'call("system(x)");', "loop.system(x);",
    "operand(3);", "int file_system(3);", "co_await timer_->sleep(x);",
])
def test_similar_name_is_no_banned_call(line):
    assert complaints("a.cc", CXX + line + "\n") == []


BODY = "  g();\n" * 100


@pytest.mark.parametrize("text", [
    "int f() {\n%s}\n", "namespace a {\nint f(int x) {\n%s}\n}\n",
    "class A {\n  A() : x_(0) {\n%s  }\n};\n", "Task<int> A::f(int x) const noexcept {\n%s}\n",
    'TEST_CASE("x") {\n%s}\n',
])
def test_long_function_is_caught(text):
    (complaint,) = complaints("a.cc", CXX + text % BODY)
    assert "102 lines (at most 100)" in complaint


@pytest.mark.parametrize("text", [
    "namespace a {\nvoid f();\n%s}\n", "class A {\n%s};\n", "int table[] = {\n%s};\n",
    "void f() {\n}\nnamespace {\n%s}\n",
])
def test_other_long_blocks_are_fine(text):
    assert complaints("a.cc", CXX + text % BODY) == []


def test_long_python_function_is_caught():
    (complaint,) = complaints("a.py", PY + "def f():\n" + "    x = 1\n" * 100)
    assert complaint == "a.py:2: f has 101 lines (at most 100)"


def test_digit_separators_and_quotes_do_not_hide_code():
    (complaint,) = complaints("a.cc", CXX + "int x = 1'000; char c = '\"'; gets(s);\n")
    assert "gets() is banned" in complaint


def test_tree_without_git(tmp_path):
    (tmp_path / "a.cc").write_text("int x;\n")
    (tmp_path / "build").mkdir()
    (tmp_path / "build/b.cc").write_text("int x;\n")
    assert [c.split(":")[0] for c in tidy.check_tree(tmp_path)] == ["a.cc"]
