# SPDX-License-Identifier: GPL-2.0-or-later
"""scripts/check_headers.py and scripts/check_format.sh catch what they are for."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


@pytest.fixture
def tree(tmp_path):
    (tmp_path / "block").mkdir()
    (tmp_path / "build").mkdir()
    (tmp_path / "build/compile_commands.json").write_text(json.dumps([{
        "directory": str(tmp_path / "build"),
        "command": "ccache clang++-19 -I. -I.. -std=c++20 -c ../block/a.cc", "file": "a.cc"}]))
    return tmp_path


def check(tree):
    return subprocess.run([SCRIPTS / "check_headers.py", tree], capture_output=True, text=True)


def test_header_that_needs_another_is_caught(tree):
    (tree / "block/a.h").write_text("#pragma once\nstd::string f();\n")
    run = check(tree)
    assert run.returncode == 1
    assert run.stdout.startswith("block/a.h: does not compile alone")


def test_header_is_checked_again_when_what_it_includes_changes(tree):
    (tree / "block/a.h").write_text('#pragma once\n#include "block/b.h"\nB f();\n')
    (tree / "block/b.h").write_text("#pragma once\nstruct B {};\n")
    assert (check(tree).returncode, check(tree).stdout) == (0, "")
    (tree / "block/b.h").write_text("#pragma once\nstruct C {};\n")
    assert check(tree).returncode == 1


def test_include_left_to_the_user_of_a_header(tree):
    (tree / "block/a.h").write_text(
        '#pragma once\n// Include first: "block/b.h"\nstruct B;\nB f();\nint g = sizeof(B);\n')
    (tree / "block/b.h").write_text("#pragma once\nstruct B {};\n")
    assert (check(tree).returncode, check(tree).stdout) == (0, "")


def test_unconfigured_build_is_an_error(tree):
    (tree / "build/compile_commands.json").unlink()
    run = check(tree)
    assert run.returncode == 1
    assert "is not configured" in run.stdout


@pytest.mark.parametrize("text, status", [("int x;\n", 0), ("int   x ;\n", 1)])
def test_format(tmp_path, text, status):
    root = SCRIPTS.parent
    (tmp_path / "scripts").mkdir()
    shutil.copy(SCRIPTS / "check_format.sh", tmp_path / "scripts")
    shutil.copy(root / ".clang-format", tmp_path)
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    (tmp_path / "a.cc").write_text(text)
    run = subprocess.run([tmp_path / "scripts/check_format.sh"], capture_output=True, text=True)
    assert (run.returncode != 0) == (status != 0)
