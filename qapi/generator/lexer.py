# SPDX-License-Identifier: GPL-2.0-or-later
"""Turns schema text into tokens. Documentation comments are tokens too; other comments vanish."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Iterator

from .source import Place, SchemaError

STRUCTURAL = "{}[]:,"
_BLANK = re.compile(r"[ \t\r\n]+")
_COMMENT = re.compile(r"#[^\n]*")
_WORD = re.compile(r"[^\s{}\[\]:,'\"#]+")


@dataclass
class Token:
    kind: str  # a structural character, "string", "bool", "doc" or "end"
    value: object
    line: int
    column: int


class Lexer:
    def __init__(self, text: str, place: Place):
        self.text = text
        self.place = place
        self.position = 0
        self.line = 1
        self.line_start = 0

    def fail(self, reason: str, line: int, column: int) -> None:
        raise SchemaError(self.place.at(line), reason, column)

    def _column(self, position: int) -> int:
        return position - self.line_start + 1

    def _advance(self, end: int) -> None:
        newlines = self.text.count("\n", self.position, end)
        if newlines:
            self.line += newlines
            self.line_start = self.text.rindex("\n", self.position, end) + 1
        self.position = end

    def tokens(self) -> Iterator[Token]:
        text = self.text
        while self.position < len(text):
            char = text[self.position]
            line, column = self.line, self._column(self.position)
            if match := _BLANK.match(text, self.position):
                self._advance(match.end())
            elif char == "#":
                if text.startswith("##", self.position) and column == 1:
                    yield Token("doc", self._doc_lines(), line, column)
                else:
                    self._advance(_COMMENT.match(text, self.position).end())
            elif char in STRUCTURAL:
                self.position += 1
                yield Token(char, char, line, column)
            elif char == "'":
                yield Token("string", self._string(), line, column)
            else:
                match = _WORD.match(text, self.position)
                word = match.group() if match else char
                if word not in ("true", "false"):
                    self.fail(f"stray '{word}'", line, column)
                self.position += len(word)
                yield Token("bool", word == "true", line, column)
        end = len(text) - 1 if text.endswith("\n") else len(text)
        line_start = text.rfind("\n", 0, end) + 1
        yield Token("end", None, text.count("\n", 0, end) + 1, end - line_start + 1)

    def _string(self) -> str:
        line, column = self.line, self._column(self.position)
        result = ""
        escaped = False
        for position in range(self.position + 1, len(self.text)):
            char = self.text[position]
            if char == "\n":
                break
            if escaped:
                if char != "\\":
                    self.fail(f"unknown escape \\{char}", line, column)
                result += char
                escaped = False
            elif char == "\\":
                escaped = True
            elif char == "'":
                self.position = position + 1
                return result
            elif not " " <= char <= "~":
                self.fail("funny character in string", line, column)
            else:
                result += char
        self.fail('missing terminating "\'"', line, column)
        raise AssertionError

    def _doc_lines(self) -> list[tuple[int, str]]:
        """The lines of a documentation comment without the leading '# ', each with its number."""
        lines: list[tuple[int, str]] = []
        first = True
        while self.position < len(self.text):
            end = self.text.find("\n", self.position)
            end = len(self.text) if end < 0 else end
            raw = self.text[self.position:end]
            line = self.line
            if not raw.startswith("#"):
                self.fail("documentation comment must end with '##'", line, len(raw) + 1)
            self._advance(min(end + 1, len(self.text)))
            if raw.startswith("##"):
                if raw.rstrip() != "##":
                    edge = "start" if first else "end"
                    self.fail(f"junk after '##' at {edge} of documentation comment", line, 1)
                if not first:
                    return lines
            elif raw != "#" and not raw.startswith("# "):
                self.fail("missing space after #", line, 1)
            elif len(raw) > 70 and not raw.startswith("#         "):  # examples may be wide
                self.fail("documentation line longer than 70 characters", line, 1)
            else:
                lines.append((line, raw[2:].rstrip()))
            first = False
        self.fail("documentation comment must end with '##'", self.line, 1)
        raise AssertionError
