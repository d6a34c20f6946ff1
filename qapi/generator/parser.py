# SPDX-License-Identifier: GPL-2.0-or-later
"""Reads schema files: JSON-like expressions, include and pragma directives.

The result is a list of `Expression`s in source order; an included file stands where it is first
mentioned.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Optional

from .doc import Doc, DocParser
from .lexer import Lexer, Token
from .source import Place, Pragmas, SchemaError


@dataclass
class Expression:
    """One definition as it stands in the file, and the comment in front of it."""

    value: dict
    place: Place
    doc: Optional[Doc]


class SchemaReader:
    """Collects the expressions of a main file and all it includes."""

    def __init__(self) -> None:
        self.pragmas = Pragmas()
        self.expressions: list[Expression] = []
        self.docs: list[Doc] = []
        self.files: list[str] = []  # in the order met; the main file first
        self.includes: dict[str, list[str]] = {}
        self._visited: set[str] = set()

    def read_main(self, path: str) -> None:
        self._read(path, None, path, [])

    def _read(self, path: str, parent: Optional[Place], shown: str, stack: list[str]) -> None:
        try:
            with open(path, encoding="utf-8") as file:
                text = file.read()
        except OSError as error:
            what = "include" if parent else "schema"
            raise SchemaError(
                parent, f"can't read {what} file '{shown}': {error.strerror}") from None
        self._visited.add(os.path.abspath(path))
        self.files.append(path)
        self.includes[path] = []
        _FileParser(self, text, Place(path, 1, self.pragmas, parent), stack + [path]).parse()

    def include(self, name: str, place: Place, stack: list[str]) -> None:
        path = os.path.join(os.path.dirname(place.file), name)
        absolute = os.path.abspath(path)
        if any(os.path.abspath(other) == absolute for other in stack):
            raise SchemaError(place, f"inclusion loop for {name}")
        self.includes[place.file].append(path)
        if absolute not in self._visited:
            self._read(path, place, path, stack)


class _FileParser:
    def __init__(self, reader: SchemaReader, text: str, place: Place, stack: list[str]):
        self.reader = reader
        self.place = place
        self.stack = stack
        self.tokens = Lexer(text, place).tokens()
        self.token: Token = next(self.tokens)

    def _next(self) -> None:
        self.token = next(self.tokens)
        # Comments inside an expression have no meaning.
        while self._depth and self.token.kind == "doc":
            self.token = next(self.tokens)

    def _expected(self, what: str) -> SchemaError:
        return SchemaError(self.place.at(self.token.line), f"expected {what}", self.token.column)

    def parse(self) -> None:
        self._depth = 0
        doc: Optional[Doc] = None
        while self.token.kind != "end":
            place = self.place.at(self.token.line)
            if self.token.kind == "doc":
                self._reject_orphan(doc)
                doc = DocParser(self.token.value, place).parse()
                self.reader.docs.append(doc)
                self._next()
                continue
            value = self._value("'{', '[', string, or boolean", at_top=True)
            if not isinstance(value, dict):
                raise SchemaError(place, "top-level expression must be an object")
            if "include" in value or "pragma" in value:
                self._reject_orphan(doc)
                self._directive(value, place)
            elif doc and not doc.symbol:
                raise SchemaError(doc.place, "definition documentation required")
            else:
                self.reader.expressions.append(Expression(value, place, doc))
            doc = None
        self._reject_orphan(doc)

    def _reject_orphan(self, doc: Optional[Doc]) -> None:
        if doc and doc.symbol:
            raise SchemaError(doc.place,
                              f"documentation for '{doc.symbol}' is not followed by the definition")

    def _directive(self, value: dict, place: Place) -> None:
        key = "include" if "include" in value else "pragma"
        if len(value) != 1:
            raise SchemaError(place, f"invalid '{key}' directive")
        if key == "include":
            if not isinstance(value[key], str):
                raise SchemaError(place, "value of 'include' must be a string")
            self.reader.include(value[key], place, self.stack)
        else:
            if not isinstance(value[key], dict):
                raise SchemaError(place, "value of 'pragma' must be an object")
            for name, setting in value[key].items():
                self._pragma(name, setting, place)

    def _pragma(self, name: str, setting: object, place: Place) -> None:
        pragmas = self.reader.pragmas
        if name == "doc-required":
            if not isinstance(setting, bool):
                raise SchemaError(place, "pragma 'doc-required' must be boolean")
            pragmas.doc_required = setting
        elif name in ("command-name-exceptions", "command-returns-exceptions",
                      "documentation-exceptions", "member-name-exceptions"):
            if not isinstance(setting, list) or not all(isinstance(s, str) for s in setting):
                raise SchemaError(place, f"pragma {name} must be a list of strings")
            getattr(pragmas, name.replace("-", "_")).extend(setting)
        else:
            raise SchemaError(place, f"unknown pragma '{name}'")

    # Expressions

    def _value(self, expected: str, at_top: bool = False) -> object:
        token = self.token
        if token.kind == "{":
            return self._object()
        if token.kind == "[":
            return self._list()
        if token.kind in ("string", "bool"):
            self._next()
            return token.value
        raise self._expected(expected)

    def _object(self) -> dict:
        self._depth += 1
        self._next()
        result: dict = {}
        if self.token.kind == "}":
            self._close()
            return result
        expected = "string or '}'"
        while True:
            key = self.token
            if key.kind != "string":
                raise self._expected(expected)
            self._next()
            if self.token.kind != ":":
                raise self._expected("':'")
            self._next()
            if key.value in result:
                raise SchemaError(self.place.at(self.token.line), f"duplicate key '{key.value}'",
                                  self.token.column)
            result[key.value] = self._value("'{', '[', string, or boolean")
            if self.token.kind == "}":
                self._close()
                return result
            if self.token.kind != ",":
                raise self._expected("',' or '}'")
            self._next()
            expected = "string"

    def _list(self) -> list:
        self._depth += 1
        self._next()
        result: list = []
        if self.token.kind == "]":
            self._close()
            return result
        expected = "'{', '[', ']', string, or boolean"
        while True:
            result.append(self._value(expected))
            if self.token.kind == "]":
                self._close()
                return result
            if self.token.kind != ",":
                raise self._expected("',' or ']'")
            self._next()
            expected = "'{', '[', string, or boolean"

    def _close(self) -> None:
        self._depth -= 1
        self._next()
