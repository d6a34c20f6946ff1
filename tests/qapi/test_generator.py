# SPDX-License-Identifier: GPL-2.0-or-later
"""The generator: what it refuses and why, and what it writes."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

import golden_cases  # noqa: E402
from qapi.generator import main as generator  # noqa: E402
from qapi.generator.emit_manual import man_page, markdown  # noqa: E402
from qapi.generator.schema import Schema  # noqa: E402

SCHEMA = golden_cases.ROOT / "qapi/schema/schema.json"
CASES = [pytest.param(text, expected, id=f"{path.stem}-{name}")
         for path in sorted(golden_cases.GOLDEN.glob("*.txt"))
         for name, text, expected in golden_cases.read(path)]


@pytest.fixture(scope="module")
def schema():
    return Schema(str(SCHEMA))


@pytest.mark.parametrize("text, expected", CASES)
def test_a_schema_is_judged_as_expected(text, expected):
    assert golden_cases.judge(text) == expected


def test_bad_schemas_are_refused_and_good_ones_are_not():
    for path in golden_cases.GOLDEN.glob("*.txt"):
        for name, _, expected in golden_cases.read(path):
            assert bool(expected) == path.stem.startswith("bad"), f"{path.stem}: {name}"


def test_the_schema_holds_the_whole_interface(schema):
    assert len(schema.commands()) == 83
    assert len(schema.events()) == 13
    assert schema.pragmas.doc_required


def test_a_bad_schema_ends_the_program_with_its_reason(tmp_path, monkeypatch, capsys):
    path = tmp_path / "bad.json"
    path.write_text("{ 'command': 'Go' }\n", encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["main.py", "--output", str(tmp_path), str(path)])
    assert generator.main() == 1
    assert "name of command must not use uppercase" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["bad.json"]


def test_unchanged_files_are_not_written_again(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["main.py", "--output", str(tmp_path), str(SCHEMA)])
    assert generator.main() == 0
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    changed = tmp_path / "types_job.h"
    changed.write_text("// changed\n", encoding="utf-8")
    assert generator.main() == 0
    assert "enum class JobStatus" in changed.read_text(encoding="utf-8")
    for path in tmp_path.iterdir():
        if path != changed:
            assert path.stat().st_mtime_ns == before[path.name]


def test_the_manual_describes_every_definition(schema):
    manual = markdown(schema)
    page = man_page(schema, "strata-qmp-ref", "1.2.3")
    for definition in schema.definitions.values():
        if definition.place:
            assert f" `{definition.name}`\n" in manual
            assert f" {definition.name}\n".replace("-", "\\-") in page
    assert "Strata 1.2.3" in page
    assert "- Returns: array of BlockExportInfo: one element an export" in manual


def test_modules_do_not_need_one_another_in_a_circle(schema):
    from qapi.generator.layout import Layout
    layout = Layout(schema)
    needs = {module.name: set(layout.modules_needed(module.name, module.definitions))
             for module in schema.modules.values()}
    while needs:
        free = [name for name, others in needs.items() if not others & set(needs)]
        assert free, f"a circle among {sorted(needs)}"
        for name in free:
            del needs[name]
