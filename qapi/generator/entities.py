# SPDX-License-Identifier: GPL-2.0-or-later
"""What a checked schema is made of. schema.py builds these and checks them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Optional, Union

from .conditions import Condition
from .doc import Doc
from .source import Place


@dataclass
class Feature:
    name: str
    condition: Condition = None


@dataclass
class EnumValue:
    name: str
    condition: Condition = None
    features: list[Feature] = field(default_factory=list)


@dataclass
class Member:
    name: str
    type_ref: Union[str, list[str]]
    optional: bool = False
    condition: Condition = None
    features: list[Feature] = field(default_factory=list)
    type: "Type" = None  # resolved
    owner: str = ""  # the type whose 'data' or 'base' holds it; "" for a definition's own list


@dataclass
class Branch:
    name: str
    type_ref: Union[str, list[str]]
    condition: Condition = None
    type: "Type" = None


@dataclass
class Definition:
    """Anything with a name: types, commands and events."""

    name: str
    place: Optional[Place] = None  # None for what is built in
    condition: Condition = None
    features: list[Feature] = field(default_factory=list)
    doc: Optional[Doc] = None
    module: str = ""

    meta = "?"

    def describe(self) -> str:
        return f"{self.meta} type '{self.name}'"


@dataclass
class BuiltinType(Definition):
    json_type: str = ""
    meta = "built-in"


@dataclass
class EnumType(Definition):
    values: list[EnumValue] = field(default_factory=list)
    prefix: str = ""
    meta = "enum"


@dataclass
class ArrayType(Definition):
    element: "Type" = None
    meta = "array"

    def describe(self) -> str:
        return f"array type ['{self.element.name}']"


@dataclass
class ObjectType(Definition):
    """A struct, or a union when `tag_name` is set."""

    base_name: str = ""
    base: Optional["ObjectType"] = None
    own_members: list[Member] = field(default_factory=list)  # of a union: the inline base
    tag_name: str = ""
    tag: Optional[Member] = None
    branches: list[Branch] = field(default_factory=list)
    implicit: bool = False  # the arguments of a command or event
    checked: int = 0  # 0 not yet, 1 under way, 2 done

    @property
    def meta(self) -> str:  # type: ignore[override]
        return "union" if self.tag_name else "struct"

    def members(self) -> list[Member]:
        """All common members, those of the base first."""
        return (self.base.members() if self.base else []) + self.own_members


@dataclass
class AlternateType(Definition):
    branches: list[Branch] = field(default_factory=list)
    meta = "alternate"


Type = Union[BuiltinType, EnumType, ArrayType, ObjectType, AlternateType]


@dataclass
class Command(Definition):
    argument: Optional[ObjectType] = None
    argument_ref: str = ""
    returns: Optional[Type] = None
    returns_ref: Union[str, list[str], None] = None
    boxed: bool = False
    gen: bool = True
    success_response: bool = True
    allow_oob: bool = False
    allow_preconfig: bool = False
    coroutine: bool = False
    meta = "command"


@dataclass
class Event(Definition):
    argument: Optional[ObjectType] = None
    argument_ref: str = ""
    boxed: bool = False
    meta = "event"


BUILTINS = {  # name: JSON type
    "str": "string", "number": "number", "int": "int", "int8": "int", "int16": "int",
    "int32": "int", "int64": "int", "uint8": "int", "uint16": "int", "uint32": "int",
    "uint64": "int", "size": "int", "bool": "boolean", "null": "null", "any": "value",
}
QTYPE_VALUES = ("none", "qnull", "qnum", "qstring", "qdict", "qlist", "qbool")
