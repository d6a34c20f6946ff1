# SPDX-License-Identifier: GPL-2.0-or-later
"""In which order types are defined, which module needs which, and where a cycle needs a Box.

A member of a C++ struct must be complete. Types that contain each other (a node's options contain
references that contain options) are untied at alternates first, because a reference is where people
expect an indirection, and then at direct members.
"""

from __future__ import annotations

from typing import Iterator

from .schema import Schema
from .entities import AlternateType, ArrayType, Command, Event, ObjectType, Type

Edge = tuple[str, bool]  # the type needed, and whether it sits in an array


def _strip(found: Type) -> tuple[Type, bool]:
    return (found.element, True) if isinstance(found, ArrayType) else (found, False)


def direct_types(owner: Type) -> Iterator[tuple[Type, bool]]:
    """The types whose values a value of `owner` holds; True for those it holds in an array."""
    if isinstance(owner, ObjectType):
        if owner.base:
            yield owner.base, False
        for member in owner.own_members:
            yield _strip(member.type)
    if isinstance(owner, (ObjectType, AlternateType)):
        for branch in owner.branches:
            yield _strip(branch.type)


class Layout:
    def __init__(self, schema: Schema):
        self.schema = schema
        self._component = self._components()
        self.boxed: set[tuple[str, str]] = set()  # (owner, held) pairs that go through a Box
        self._find_boxes()

    def needs_box(self, owner: Type, held: Type) -> bool:
        return (owner.name, held.name) in self.boxed

    def _composites(self) -> list[Type]:
        return [t for t in self.schema.types.values() if isinstance(t, (ObjectType, AlternateType))]

    def _components(self) -> dict[str, int]:
        """Strongly connected components (Tarjan)."""
        index: dict[str, int] = {}
        low: dict[str, int] = {}
        stack: list[str] = []
        result: dict[str, int] = {}

        def visit(found: Type) -> None:
            name = found.name
            index[name] = low[name] = len(index)
            stack.append(name)
            for held, _ in direct_types(found):
                if not isinstance(held, (ObjectType, AlternateType)):
                    continue
                if held.name not in index:
                    visit(held)
                    low[name] = min(low[name], low[held.name])
                elif held.name not in result:
                    low[name] = min(low[name], index[held.name])
            if low[name] == index[name]:
                while True:
                    member = stack.pop()
                    result[member] = index[name]
                    if member == name:
                        break

        for found in self._composites():
            if found.name not in index:
                visit(found)
        return result

    def _same(self, one: Type, other: Type) -> bool:
        mine = self._component.get(one.name)
        return mine is not None and mine == self._component.get(other.name)

    def _find_boxes(self) -> None:
        for owner in self._composites():
            if isinstance(owner, AlternateType):
                for held, in_array in direct_types(owner):
                    if not in_array and self._same(owner, held):
                        self.boxed.add((owner.name, held.name))
        # What is still a cycle after that: cut where a depth-first walk comes back.
        done: set[str] = set()
        path: set[str] = set()

        def walk(owner: Type) -> None:
            path.add(owner.name)
            for held, in_array in direct_types(owner):
                if in_array or not self._same(owner, held) or self.needs_box(owner, held):
                    continue
                if held.name in path:
                    self.boxed.add((owner.name, held.name))
                elif held.name not in done:
                    walk(held)
            path.remove(owner.name)
            done.add(owner.name)

        for owner in self._composites():
            if owner.name not in done:
                walk(owner)

    def ordered(self, module: str) -> list[Type]:
        """The objects and alternates of a module, each after all it must see complete."""
        result: list[Type] = []
        done: set[str] = set()

        def visit(found: Type) -> None:
            if found.name in done or found.module != module:
                return
            done.add(found.name)
            for held, in_array in direct_types(found):
                if not isinstance(held, (ObjectType, AlternateType)):
                    continue
                if self.needs_box(found, held) or (in_array and self._same(found, held)):
                    continue
                visit(held)
            result.append(found)

        for found in self._composites():
            visit(found)
        return result

    def modules_needed(self, module: str, definitions: list) -> list[str]:
        """Modules whose types the given definitions of `module` name, in order of first use."""
        needed: dict[str, None] = {}
        for definition in definitions:
            held = list(direct_types(definition))
            if isinstance(definition, (Command, Event)):
                held = [(definition.argument, False)] if definition.argument else []
                if definition.argument and definition.argument.implicit:
                    held = list(direct_types(definition.argument))
                if isinstance(definition, Command) and definition.returns:
                    held.append(_strip(definition.returns))
            for found, _ in held:
                if found.module and found.module != module:
                    needed[found.module] = None
        return list(needed)
