# SPDX-License-Identifier: GPL-2.0-or-later
"""The reference manual of the interface, as Markdown and as a man page."""

from __future__ import annotations

import re
from typing import Iterator

from .schema import Schema
from .entities import (AlternateType, ArrayType, Command, Definition, EnumType, Event, ObjectType,
                    Type)

_TITLES = {"command": "Command", "event": "Event", "enum": "Enum", "struct": "Object",
           "union": "Object", "alternate": "Alternate"}
Row = tuple[str, str, str]  # name, type, text


def type_text(found: Type) -> str:
    return f"array of {found.element.name}" if isinstance(found, ArrayType) else found.name


def _one_line(text: str) -> str:
    return " ".join(text.split())


class Entry:
    """What the manual says about a definition, without mark-up."""

    def __init__(self, definition: Definition):
        self.definition = definition
        self.doc = definition.doc
        self.title = _TITLES[definition.meta]

    def overview(self) -> list[str]:
        body = self.doc.body if self.doc else ""
        return [_one_line(paragraph) for paragraph in re.split(r"\n\s*\n", body) if paragraph]

    def rows(self) -> tuple[str, list[Row]]:
        """A heading and the members, values or alternatives."""
        definition = self.definition
        if isinstance(definition, EnumType):
            return "Values", [self._row(value.name, "", value) for value in definition.values]
        if isinstance(definition, AlternateType):
            return "One of", [self._row(branch.name, type_text(branch.type), branch)
                              for branch in definition.branches]
        if isinstance(definition, ObjectType):
            return "Members", [self._member(member) for member in definition.own_members]
        heading = "Arguments" if isinstance(definition, Command) else "Data"
        if definition.argument and definition.argument.implicit:
            return heading, [self._member(m) for m in definition.argument.own_members]
        return heading, []

    def _row(self, name: str, kind: str, item: object) -> Row:
        text = _one_line(self.doc.members.get(name, "")) if self.doc else ""
        marks = [feature.name for feature in getattr(item, "features", [])]
        if marks:
            text = f"{text} [{', '.join(marks)}]".strip()
        return name, kind, text

    def _member(self, member) -> Row:
        kind = type_text(member.type) + (", optional" if member.optional else "")
        return self._row(member.name, kind, member)

    def notes(self) -> list[tuple[str, str]]:
        """Further facts as (label, text)."""
        definition = self.definition
        found: list[tuple[str, str]] = []
        if isinstance(definition, ObjectType):
            if definition.base:
                found.append(("Also", f"the members of {definition.base.name}"))
            for branch in definition.branches:
                found.append((f"If {definition.tag_name} is {branch.name}",
                              f"the members of {branch.type.name}"))
        if isinstance(definition, (Command, Event)) and definition.argument_ref:
            heading = "Arguments" if isinstance(definition, Command) else "Data"
            found.append((heading, f"the members of {definition.argument_ref}"))
        if isinstance(definition, Command):
            found += self._command_notes(definition)
        for name, text in (self.doc.features.items() if self.doc else ()):
            found.append((f"Feature {name}", _one_line(text)))
        return found

    def _command_notes(self, command: Command) -> Iterator[tuple[str, str]]:
        tags = self.doc.tags if self.doc else {}
        if command.returns:
            text = _one_line(tags.get("Returns", ""))
            kind = type_text(command.returns)
            yield "Returns", f"{kind}: {text}" if text else kind
        if "Errors" in tags:
            yield "Errors", _one_line(tags["Errors"])
        if command.allow_oob:
            yield "Out of band", "may be run with exec-oob"


def _sections(schema: Schema) -> Iterator[tuple[str, list[Definition]]]:
    """The modules with their headings; a heading is a free-form comment between lines of stars."""
    headings: dict[str, str] = {}
    for doc in schema.docs:
        match = re.match(r"\*+\n(.*)\n\*+$", doc.body) if not doc.symbol else None
        if match:
            headings.setdefault(doc.place.file, match.group(1))
    for path, module in schema.modules.items():
        if module.definitions:
            order = {"command": 0, "event": 1}
            yield (headings.get(path, module.name),
                   sorted(module.definitions, key=lambda d: order.get(d.meta, 2)))


def markdown(schema: Schema) -> str:
    lines = ["# QMP reference", "",
             "Commands, events and types of the storage daemon's QMP interface. Which of them a "
             "program serves, `query-qmp-schema` tells.", ""]
    for heading, definitions in _sections(schema):
        lines += [f"## {heading}", ""]
        for definition in definitions:
            lines += _markdown_entry(Entry(definition))
    return "\n".join(lines).rstrip("\n") + "\n"


def _markdown_text(text: str) -> str:
    return re.sub(r"@([A-Za-z][A-Za-z0-9_-]*)", r"`\1`", text).replace("|", "\\|")


def _markdown_entry(entry: Entry) -> list[str]:
    lines = [f"### {entry.title} `{entry.definition.name}`", ""]
    for paragraph in entry.overview():
        lines += [_markdown_text(paragraph), ""]
    heading, rows = entry.rows()
    if rows:
        typed = any(kind for _, kind, _ in rows)
        lines += ([f"| {heading} | Type | |", "|---|---|---|"] if typed
                  else [f"| {heading} | |", "|---|---|"])
        for name, kind, text in rows:
            cells = [f"`{name}`"] + ([kind] if typed else []) + [_markdown_text(text)]
            lines.append("| " + " | ".join(cells) + " |")
        lines.append("")
    for label, text in entry.notes():
        lines += [f"- {label}: {_markdown_text(text)}"]
    if lines[-1]:
        lines.append("")
    return lines


def man_page(schema: Schema, name: str, version: str) -> str:
    lines = [f'.TH {name.upper()} 7 "" "Strata {version}" "QMP reference"', ".SH NAME",
             f"{name} \\- commands, events and types of the storage daemon's QMP interface",
             ".SH DESCRIPTION",
             "Which of the following a program serves,", ".B query\\-qmp\\-schema", "tells."]
    for heading, definitions in _sections(schema):
        lines.append(f".SH {_man_text(heading).upper()}")
        for definition in definitions:
            lines += _man_entry(Entry(definition))
    return "\n".join(lines) + "\n"


def _man_text(text: str) -> str:
    text = text.replace("\\", "\\e").replace("-", "\\-")
    text = re.sub(r"@([A-Za-z](?:[A-Za-z0-9_]|\\-)*)", r"\\fI\1\\fP", text)
    return "\\&" + text if text[:1] in (".", "'") else text


def _man_entry(entry: Entry) -> list[str]:
    lines = [f".SS {entry.title} {_man_text(entry.definition.name)}"]
    for paragraph in entry.overview():
        lines += [_man_text(paragraph), ".PP"]
    heading, rows = entry.rows()
    if rows:
        lines += [f"{heading}:"]
        for name, kind, text in rows:
            suffix = f" ({_man_text(kind)})" if kind else ""
            lines += [".TP", f"\\fB{_man_text(name)}\\fP{suffix}", _man_text(text) or "\\&"]
    for label, text in entry.notes():
        lines += [".TP", f"{_man_text(label)}:", _man_text(text)]
    return lines
