# SPDX-License-Identifier: GPL-2.0-or-later
"""What meson installs, without the programs themselves: manual, units, completion."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MAN = ROOT / "docs/man/strata-storage-daemon.1"


@pytest.mark.parametrize("manual", sorted(MAN.parent.glob("*.1")), ids=lambda path: path.name)
def test_manual_has_no_formatting_warnings(manual):
    run = subprocess.run(["man", "--warnings", "-E", "UTF-8", "-l", manual], capture_output=True,
                         text=True, env={"MANWIDTH": "100", "PATH": "/usr/bin:/bin"})
    warnings = [w for w in run.stderr.split("\n") if w and "cannot adjust" not in w]
    assert run.returncode == 0 and not warnings, run.stderr


def test_manual_names_every_option_of_the_completion():
    text = MAN.read_text().replace("\\-", "-")
    completion = (ROOT / "docs/completion/strata-storage-daemon").read_text()
    options = set(re.findall(r"--[a-z]{3}[a-z-]+", completion))
    assert len(options) > 10
    for option in options:
        assert option in text, option


def test_completion_completes():
    script = f"""
        source {ROOT}/docs/completion/strata-storage-daemon
        COMP_WORDS=(strata-storage-daemon --blo); COMP_CWORD=1
        _strata_storage_daemon; echo "${{COMPREPLY[@]}}"
        COMP_WORDS=(strata-storage-daemon --object io); COMP_CWORD=2
        _strata_storage_daemon; echo "${{COMPREPLY[@]}}"
    """
    run = subprocess.run(["bash", "-c", script], capture_output=True, text=True)
    assert run.stdout.split("\n")[:2] == ["--blockdev", "iothread,"], run


def test_completion_of_the_image_tool_completes():
    script = f"""
        source {ROOT}/docs/completion/strata-img
        COMP_WORDS=(strata-img conv); COMP_CWORD=1
        _strata_img; echo "${{COMPREPLY[@]}}"
        COMP_WORDS=(strata-img create -f q); COMP_CWORD=3
        _strata_img; echo "${{COMPREPLY[@]}}"
    """
    run = subprocess.run(["bash", "-c", script], capture_output=True, text=True)
    assert run.stdout.split("\n")[:2] == ["convert", "qcow2"], run


def test_completion_of_the_nbd_server_completes():
    script = f"""
        source {ROOT}/docs/completion/strata-nbd
        COMP_WORDS=(strata-nbd --pers); COMP_CWORD=1
        _strata_nbd; echo "${{COMPREPLY[@]}}"
        COMP_WORDS=(strata-nbd --cache = writet); COMP_CWORD=3
        _strata_nbd; echo "${{COMPREPLY[@]}}"
        COMP_WORDS=(strata-nbd -f q); COMP_CWORD=2
        _strata_nbd; echo "${{COMPREPLY[@]}}"
    """
    run = subprocess.run(["bash", "-c", script], capture_output=True, text=True)
    assert run.stdout.split("\n")[:3] == ["--persistent", "writethrough", "qcow2"], run


def test_manual_of_the_nbd_server_names_every_option_of_its_completion():
    text = (MAN.parent / "strata-nbd.1").read_text().replace("\\-", "-")
    completion = (ROOT / "docs/completion/strata-nbd").read_text()
    for option in set(re.findall(r"--[a-z]{3}[a-z-]+", completion)):
        assert option in text, option
