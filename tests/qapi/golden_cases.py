# SPDX-License-Identifier: GPL-2.0-or-later
"""Cases of schema texts with what the generator says about them.

A file of cases:

    == name of the case
    text of the schema, schema.json
    ++ other.json
    text of another file
    --
    the expected output

golden_cases.py --update FILE... writes what the generator says now; read the difference before you
commit it.
"""

import os
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from qapi.generator.schema import Schema  # noqa: E402
from qapi.generator.source import SchemaError  # noqa: E402

GOLDEN = Path(__file__).resolve().parent / "golden"


def read(path):
    """Yields (name, text of the files, expected output)."""
    for case in path.read_text(encoding="utf-8").split("\n== "):
        name, _, body = case.removeprefix("== ").partition("\n")
        if name:
            text, _, expected = (body + "\n").replace("\n\n--\n", "\n--\n").partition("--\n")
            yield name, text, expected.rstrip("\n")


def judge(text):
    """What the generator says about a schema: "" if it is fine."""
    before = os.getcwd()
    with tempfile.TemporaryDirectory() as directory:
        os.chdir(directory)
        try:
            parts = ("++ schema.json\n" + text).split("++ ")
            for part in parts[1:]:
                name, _, content = part.partition("\n")
                if content.strip():
                    Path(name).write_text(content, encoding="utf-8")
            Schema("schema.json")
        except SchemaError as error:
            return str(error)
        finally:
            os.chdir(before)
    return ""


def update(path):
    cases = [f"== {name}\n{text}--\n{judge(text)}\n" for name, text, _ in read(path)]
    path.write_text("".join(cases), encoding="utf-8")


if __name__ == "__main__":
    if sys.argv[1:2] != ["--update"]:
        sys.exit(__doc__)
    for argument in sys.argv[2:]:
        update(Path(argument))
