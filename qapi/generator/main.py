# SPDX-License-Identifier: GPL-2.0-or-later
"""Usage: main.py [--output DIRECTORY] [--manual DIRECTORY --version VERSION] SCHEMA

Without options the schema is only checked. --output writes the C++ of every module there, --manual
the reference manual (qmp-reference.md, strata-qmp-ref.7). A file whose contents would not change is
left alone, so that nothing is compiled again for nothing.
"""

from __future__ import annotations

import argparse
import os
import sys

if __package__ in (None, ""):
    sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", ".."))
    __package__ = "qapi.generator"

from .cxx import file_stem
from .emit_commands import (CommandsEmitter, EventsEmitter, interface_header, interface_source,
                            schema_order)
from .emit_manual import man_page, markdown
from .emit_types import TypesEmitter
from .emit_visitors import VisitorsEmitter
from .layout import Layout
from .schema import Schema
from .source import SchemaError
from .entities import Command, Event


def generate(schema: Schema) -> dict[str, str]:
    """All generated files by name."""
    files: dict[str, str] = {}
    layout = Layout(schema)
    for module in schema.modules.values():
        if not module.definitions and not module.includes:
            continue
        stem = file_stem(module.name)
        types = [d for d in module.definitions if not isinstance(d, (Command, Event))]
        needed = layout.modules_needed(module.name, types)
        for kind, emitter in (("types", TypesEmitter), ("visit", VisitorsEmitter)):
            emitted = emitter(layout, module, needed)
            files[f"{kind}_{stem}.h"] = emitted.header()
            files[f"{kind}_{stem}.cc"] = emitted.source()
    files.update(generate_interface(schema, layout))
    return files


def generate_interface(schema: Schema, layout: Layout) -> dict[str, str]:
    """The files of commands and events, for the modules that have any."""
    files: dict[str, str] = {}
    order = schema_order(schema)
    found: dict[str, list[str]] = {}
    for kind, emitter, wanted in (("commands", CommandsEmitter, Command),
                                  ("events", EventsEmitter, Event)):
        found[kind] = []
        for module in schema.modules.values():
            definitions = [d for d in module.definitions if isinstance(d, wanted)]
            if not definitions:
                continue
            found[kind].append(module.name)
            needed = layout.modules_needed(module.name, definitions)
            emitted = emitter(layout, module, needed, order)
            stem = file_stem(module.name)
            files[f"{kind}_{stem}.h"] = emitted.header()
            files[f"{kind}_{stem}.cc"] = emitted.source()
    files["interface.h"] = interface_header()
    files["interface.cc"] = interface_source(schema, found["commands"], found["events"])
    return files


def write_if_changed(path: str, text: str) -> None:
    try:
        with open(path, encoding="utf-8") as file:
            if file.read() == text:
                return
    except FileNotFoundError:
        pass
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


def main() -> int:
    parser = argparse.ArgumentParser(description="Generates the C++ of a schema.")
    parser.add_argument("--output", metavar="DIRECTORY", help="where to write the generated files")
    parser.add_argument("--manual", metavar="DIRECTORY", help="where to write the manual")
    parser.add_argument("--version", default="", help="version the man page shows")
    parser.add_argument("schema", help="the main schema file")
    arguments = parser.parse_args()
    try:
        schema = Schema(arguments.schema)
    except SchemaError as error:
        print(error, file=sys.stderr)
        return 1
    if arguments.output:
        for name, text in generate(schema).items():
            write_if_changed(os.path.join(arguments.output, name), text)
    if arguments.manual:
        name = "strata-qmp-ref"
        write_if_changed(os.path.join(arguments.manual, "qmp-reference.md"), markdown(schema))
        write_if_changed(os.path.join(arguments.manual, name + ".7"),
                         man_page(schema, name, arguments.version))
    return 0


if __name__ == "__main__":
    sys.exit(main())
