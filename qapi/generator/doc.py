# SPDX-License-Identifier: GPL-2.0-or-later
"""Documentation comments: split into overview, members, features and sections, and checked."""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass, field

from .source import Place, SchemaError

_ENTRY = re.compile(r"@([^:]*):(?:\s+(.*))?$")
_TAG = re.compile(r"(Returns|Errors|Since|TO[D]O):(?:\s+(.*))?$")


@dataclass
class Doc:
    place: Place
    symbol: str = ""  # "" for free-form text
    body: str = ""
    members: dict[str, str] = field(default_factory=dict)
    features: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    lines: dict[tuple[str, str], int] = field(default_factory=dict)  # of each entry

    def check(self, place: Place, kind: str, members: list[str], features: list[str],
              returns: bool) -> None:
        """Compares what is described with what exists. `kind` is the definition's key word."""
        self._reject_unknown("member", self.members, members)
        self._reject_unknown("feature", self.features, features)
        if "Returns" in self.tags:
            if kind != "command":
                raise SchemaError(self._place_of("tag", "Returns"),
                                  "'Returns' section is only valid for commands")
            if not returns:
                raise SchemaError(self._place_of("tag", "Returns"),
                                  "'Returns' section, but command doesn't return anything")
        if "Errors" in self.tags and kind != "command":
            raise SchemaError(self._place_of("tag", "Errors"),
                              "'Errors' section is only valid for commands")
        for name in features:
            if name not in self.features:
                raise SchemaError(place, f"feature '{name}' lacks documentation")
        if place.pragmas.doc_required and self.symbol not in place.pragmas.documentation_exceptions:
            for name in members:
                if name not in self.members:
                    raise SchemaError(place, f"member '{name}' lacks documentation")


    def _place_of(self, where: str, name: str) -> Place:
        return self.place.at(self.lines[where, name])

    def _reject_unknown(self, what: str, described: dict[str, str], known: list[str]) -> None:
        bogus = [name for name in described if name not in known]
        if bogus:
            names = ", ".join(f"'{name}'" for name in bogus)
            verb, plural = ("do", "s") if len(bogus) > 1 else ("does", "")
            raise SchemaError(self._place_of(what, bogus[0]),
                              f"documented {what}{plural} {names} {verb} not exist")


class DocParser:
    """Reads the lines of one comment. A section is a list of lines that is joined at its end."""

    def __init__(self, lines: list[tuple[int, str]], place: Place):
        self.lines = lines
        self.place = place
        self.doc = Doc(place)
        self.body: list[str] = []
        self.current = self.body
        self.entries: list[tuple[str, str, list[str]]] = []  # (where, name, lines)
        self.seen_tag = False

    def fail(self, line: int, reason: str, column: int | None = None) -> None:
        raise SchemaError(self.place.at(line), reason, column)

    def parse(self) -> Doc:
        lines = self.lines
        if lines and lines[0][1].startswith("@"):
            self._symbol(*lines[0])
            self._definition(lines[1:])
        else:
            for number, text in lines:
                if _ENTRY.match(text):
                    self.fail(number, f"'{text.split()[0]}' not allowed in free-form documentation",
                              1)
                self.body.append(text)
        self.doc.body = "\n".join(self.body).strip("\n")
        for where, name, text_lines in self.entries:
            text = _join(text_lines)
            {"member": self.doc.members, "feature": self.doc.features,
             "tag": self.doc.tags}[where][name] = text
        return self.doc

    def _symbol(self, number: int, text: str) -> None:
        if not text.endswith(":"):
            self.fail(number, "line should end with ':'", 1)
        self.doc.symbol = text[1:-1]
        if not self.doc.symbol:
            self.fail(number, "name required after '@'", 1)

    def _definition(self, lines: list[tuple[int, str]]) -> None:
        in_features = False
        after_blank = True
        for number, text in lines:
            if text == "Features:" and after_blank:
                if in_features:
                    self.fail(number, "duplicated 'Features:' line", 1)
                in_features = True
                self.current = []
            elif match := _ENTRY.match(text):
                self._entry(number, match, in_features)
            elif (match := _TAG.match(text)) and after_blank:
                self._tag(number, match)
            elif text == "":
                self.current.append("")
            elif self.current is not self.body:
                self._continuation(number, text, in_features)
            else:
                self.body.append(text)
            after_blank = text == "" or text == "Features:"
        if in_features and not any(where == "feature" for where, _, _ in self.entries):
            self.fail(self.lines[-1][0] + 1, "feature descriptions expected", 1)
        for where, name, text_lines in self.entries:
            if where == "tag" and not any(text_lines):
                self.fail(self.doc.lines[where, name], f"text required after '{name}:'")

    def _entry(self, number: int, match: re.Match, in_features: bool) -> None:
        name = match.group(1)
        if not name or " " in name:
            self.fail(number, "invalid parameter name")
        if self.seen_tag:
            self.fail(number, f"description of '@{name}:' follows a section", 1)
        where = "feature" if in_features else "member"
        if any(entry[:2] == (where, name) for entry in self.entries):
            self.fail(number, f"'{name}' parameter name duplicated")
        self.current = [match.group(2) or ""]
        self.entries.append((where, name, self.current))
        self.doc.lines[where, name] = number

    def _tag(self, number: int, match: re.Match) -> None:
        name = match.group(1)
        if any(entry[:2] == ("tag", name) for entry in self.entries):
            self.fail(number, f"duplicated '{name}' section")
        self.seen_tag = True
        self.current = [match.group(2) or ""]
        self.entries.append(("tag", name, self.current))
        self.doc.lines["tag", name] = number

    def _continuation(self, number: int, text: str, in_features: bool) -> None:
        """A further line of an entry stays indented as its first one; others return to prose."""
        indent = len(text) - len(text.lstrip())
        if indent == 0:
            if in_features and not self.entries:
                self.fail(number, "feature descriptions expected", 1)
            if self.current and self.current[-1] != "":
                expected = next((len(line) - len(line.lstrip()) for line in self.current[1:]
                                 if line), 1)
                self.fail(number, f"unexpected de-indent (expected at least {expected} spaces)", 1)
            # A paragraph at the margin belongs to the definition as a whole again.
            self.current = self.body
            self.body.append("")
            self.body.append(text)
            return
        first = next((line for line in self.current[1:] if line), None)
        if first is not None:
            expected = len(first) - len(first.lstrip())
            if indent < expected:
                self.fail(number, f"unexpected de-indent (expected at least {expected} spaces)", 1)
        self.current.append(text)


def _join(lines: list[str]) -> str:
    rest = textwrap.dedent("\n".join(lines[1:]))
    return (lines[0] + ("\n" + rest if rest else "")).strip("\n")
