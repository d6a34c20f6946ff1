# SPDX-License-Identifier: GPL-2.0-or-later
"""Where a piece of schema text came from, and the one exception a bad schema raises."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Optional


@dataclass
class Pragmas:
    """Switches of the whole schema; every file shares one object."""

    doc_required: bool = False
    command_name_exceptions: list[str] = field(default_factory=list)
    command_returns_exceptions: list[str] = field(default_factory=list)
    documentation_exceptions: list[str] = field(default_factory=list)
    member_name_exceptions: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Place:
    """A line of a schema file, how it was included, and the definition it belongs to."""

    file: str
    line: int
    pragmas: Pragmas
    included_from: Optional["Place"] = None
    definition: str = ""  # "command 'x'", once that is known

    def at(self, line: int) -> "Place":
        return replace(self, line=line)

    def inside(self, definition: str) -> "Place":
        return replace(self, definition=definition)

    def prefix(self, column: Optional[int] = None) -> str:
        """What precedes a message: the chain of includes, the definition, FILE:LINE[:COL]."""
        chain = ""
        parent = self.included_from
        while parent:
            chain = f"In file included from {parent.file}:{parent.line}:\n" + chain
            parent = parent.included_from
        inside = f"{self.file}: In {self.definition}:\n" if self.definition else ""
        where = f"{self.file}:{self.line}"
        if column is not None:
            where += f":{column}"
        return f"{chain}{inside}{where}: "


class SchemaError(Exception):
    """The schema is wrong. The text says file, line and reason."""

    def __init__(self, place: Optional[Place], reason: str, column: Optional[int] = None):
        super().__init__((place.prefix(column) if place else "") + reason)
