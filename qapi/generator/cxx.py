# SPDX-License-Identifier: GPL-2.0-or-later
"""Names, types and layout of the generated C++."""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import Iterator

from .conditions import Condition, to_preprocessor
from .entities import ArrayType, BuiltinType, Type

KEYWORDS = frozenset("""
alignas alignof and and_eq asm auto bitand bitor bool break case catch char char8_t char16_t
char32_t class compl concept const consteval constexpr constinit const_cast continue co_await
co_return co_yield decltype default delete do double dynamic_cast else enum explicit export extern
false float for friend goto if inline int long mutable namespace new noexcept not not_eq nullptr
operator or or_eq private protected public register reinterpret_cast requires return short signed
sizeof static static_assert static_cast struct switch template this thread_local throw true try
typedef typeid typename union unsigned using virtual void volatile wchar_t while xor xor_eq
linux unix errno stdin stdout stderr
""".split())

BUILTIN_CXX = {
    "str": "std::string", "number": "double", "int": "std::int64_t", "int8": "std::int8_t",
    "int16": "std::int16_t", "int32": "std::int32_t", "int64": "std::int64_t",
    "uint8": "std::uint8_t", "uint16": "std::uint16_t", "uint32": "std::uint32_t",
    "uint64": "std::uint64_t", "size": "std::uint64_t", "bool": "bool", "null": "Null",
    "any": "boost::json::value",
}

BANNER = ("// SPDX-License-Identifier: GPL-2.0-or-later\n"
          "// Generated from the schema; do not edit.\n")


def identifier(name: str) -> str:
    """A member, enumerator or type name."""
    name = re.sub(r"[^A-Za-z0-9_]", "_", name)
    if name[0].isdigit():
        name = "_" + name
    return name + "_" if name in KEYWORDS else name


def pascal(name: str) -> str:
    """A command or event name as a type name: block_resize and block-resize are BlockResize."""
    words = re.split(r"[^A-Za-z0-9]+", name)
    shout = name.upper() == name
    return "".join(w.capitalize() if shout else w[:1].upper() + w[1:] for w in words if w)


def file_stem(module: str) -> str:
    return module.replace("-", "_")


def type_name(found: Type, scope: str = "") -> str:
    """The C++ type that holds a value of a schema type.

    `scope` is "qapi::" where a command may have the same name as the type.
    """
    if isinstance(found, BuiltinType):
        return BUILTIN_CXX[found.name]
    if isinstance(found, ArrayType):
        return f"std::vector<{type_name(found.element, scope)}>"
    return scope + identifier(found.name)


def string(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


class Writer:
    """Collects lines; knows indentation and preprocessor conditions."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._indent = 0
        self.has_conditions = False

    def __call__(self, text: str = "") -> None:
        for line in text.split("\n"):
            self.lines.append("  " * self._indent + line if line else "")

    @contextmanager
    def indented(self) -> Iterator[None]:
        self._indent += 1
        yield
        self._indent -= 1

    @contextmanager
    def when(self, *conditions: Condition) -> Iterator[None]:
        """Whatever is written inside exists only where all conditions hold."""
        tests = [to_preprocessor(c) for c in conditions if c is not None]
        self.has_conditions = self.has_conditions or bool(tests)
        for test in tests:
            self.lines.append(f"#if {test}")
        yield
        for test in reversed(tests):
            self.lines.append(f"#endif  // {test}")

    def text(self) -> str:
        return "\n".join(self.lines) + "\n"
