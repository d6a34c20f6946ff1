# SPDX-License-Identifier: GPL-2.0-or-later
"""The benchmark runs and writes its figures; what they are is no matter of passing."""

import json
import os

import pytest

from support.program import ROOT, daemon_program
from support.tools import run

BENCH = ROOT / "tests/bench/run"
IMG = ROOT / os.environ.get("STRATA_BUILD", "build") / "bin/strata-img"


def test_figures_of_both_sides(tmp_path):
    report = tmp_path / "figures.json"
    run(BENCH, "--strata", daemon_program(), "--seconds", "1", "--rounds", "1", "--loads",
        "null-randread-4k-qd64,start", "--json", report, "--directory", tmp_path)
    loads = json.loads(report.read_text())["loads"]
    for side in ("strata", "qemu"):
        figures = loads["null-randread-4k-qd64"][side]
        assert set(figures) == {"cpu_us", "iops", "mb_s", "p50_us", "p99_us"}
        assert all(value >= 0 for value in figures.values()) and figures["iops"] > 0
        assert set(loads["start"][side]) == {"start_ms", "memory_kb"}
    assert loads["null-randread-4k-qd64"]["ratio"]["iops"] > 0


def test_loads_are_listed():
    assert "null-read-1m-qd8" in run(BENCH, "--list").stdout


@pytest.mark.parametrize("arguments", [["--loads", "nosuch"], ["--strata", "/nonexistent/x"]])
def test_wrong_use_fails(arguments):
    assert run(BENCH, *arguments, check=False).returncode == 2


def test_the_tools_figures_of_both_sides(tmp_path):
    report = tmp_path / "figures.json"
    run(ROOT / "tests/bench/img", "--ours", IMG, "--megabytes", "8", "--rounds", "1",
        "--json", report, "--directory", tmp_path)
    loads = json.loads(report.read_text())
    assert set(loads) == {"raw-to-qcow2", "qcow2-to-raw", "compress", "decompress", "compare",
                          "map", "check", "chain"}
    assert all(load["ratio"]["cpu"] > 0 for load in loads.values())
