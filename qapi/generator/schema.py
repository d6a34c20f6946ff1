# SPDX-License-Identifier: GPL-2.0-or-later
"""The checked schema: builds definitions from expressions, resolves names, and applies every rule
that needs more than one definition."""

from __future__ import annotations

import os
from typing import Optional, Union

from . import shape
from .entities import (BUILTINS, QTYPE_VALUES, AlternateType, ArrayType, Branch, BuiltinType,
                       Command, Definition, EnumType, EnumValue, Event, Feature, Member,
                       ObjectType, Type)
from .parser import Expression, SchemaReader
from .source import Place, SchemaError

MAX_FEATURES = 64
SPECIAL_FEATURES = ("deprecated", "unstable")


def _features(value: dict) -> list[Feature]:
    return [Feature(f["name"], f.get("if")) for f in value.get("features", [])]


def _members(data: dict, owner: str) -> list[Member]:
    return [Member(key.removeprefix("*"), value["type"], key.startswith("*"), value.get("if"),
                   _features(value), owner=owner) for key, value in data.items()]


def _branches(data: dict) -> list[Branch]:
    return [Branch(name, value["type"], value.get("if")) for name, value in data.items()]


def normalized(name: str) -> str:
    """Two names that differ only in punctuation would be one name in C++."""
    return name.replace("-", "_").replace(".", "_").lower()


class Module:
    """A schema file: its definitions in source order and the files it includes."""

    def __init__(self, path: str):
        self.path = path
        self.name = os.path.splitext(os.path.basename(path))[0]
        self.definitions: list[Definition] = []
        self.includes: list[str] = []


class Schema:
    def __init__(self, path: str):
        reader = SchemaReader()
        reader.read_main(path)
        self.docs = reader.docs
        self.files = reader.files
        self.pragmas = reader.pragmas
        self.types: dict[str, Type] = {}
        self.definitions: dict[str, Definition] = {}
        self.modules = {file: Module(file) for file in reader.files}
        for file, includes in reader.includes.items():
            self.modules[file].includes = [os.path.splitext(os.path.basename(i))[0]
                                           for i in includes]
        self._features_seen = set(SPECIAL_FEATURES)
        self._add_builtins()
        for expression in reader.expressions:
            self._define(expression)
        for definition in list(self.definitions.values()):
            if definition.place:
                self._check(definition)
        self._check_docs()

    def commands(self) -> list[Command]:
        return [d for d in self.definitions.values() if isinstance(d, Command)]

    def events(self) -> list[Event]:
        return [d for d in self.definitions.values() if isinstance(d, Event)]

    # Building

    def _add_builtins(self) -> None:
        for name, json_type in BUILTINS.items():
            self.types[name] = self.definitions[name] = BuiltinType(name, json_type=json_type)
        qtype = EnumType("QType", values=[EnumValue(v) for v in QTYPE_VALUES])
        self.types["QType"] = self.definitions["QType"] = qtype

    def _define(self, expression: Expression) -> None:
        kind = shape.check(expression)
        value = expression.value
        name = value[kind]
        definition = getattr(self, "_make_" + kind)(name, value)
        place = definition.place = expression.place
        definition.condition = value.get("if")
        definition.features = _features(value)
        definition.doc = expression.doc
        previous = self.definitions.get(name)
        if previous:
            if not previous.place:
                raise SchemaError(place, f"{previous.describe()} is already defined")
            raise SchemaError(place, f"'{name}' is already defined\n"
                                     f"{previous.place.prefix()}previous definition")
        self.definitions[name] = definition
        if not isinstance(definition, (Command, Event)):
            self.types[name] = definition
        module = self.modules[place.file]
        definition.module = module.name
        module.definitions.append(definition)

    @staticmethod
    def _make_enum(name: str, value: dict) -> EnumType:
        return EnumType(name, prefix=value.get("prefix", ""),
                        values=[EnumValue(v["name"], v.get("if"), _features(v))
                                for v in value["data"]])

    @staticmethod
    def _make_struct(name: str, value: dict) -> ObjectType:
        return ObjectType(name, base_name=value.get("base", ""),
                          own_members=_members(value["data"], name))

    @staticmethod
    def _make_union(name: str, value: dict) -> ObjectType:
        base = value["base"]
        inline = isinstance(base, dict)
        return ObjectType(name, base_name="" if inline else base,
                          own_members=_members(base, "") if inline else [],
                          tag_name=value["discriminator"], branches=_branches(value["data"]))

    @staticmethod
    def _make_alternate(name: str, value: dict) -> AlternateType:
        return AlternateType(name, branches=_branches(value["data"]))

    @staticmethod
    def _implicit_argument(name: str, value: dict) -> tuple[Optional[ObjectType], str]:
        data = value.get("data")
        if isinstance(data, str):
            return None, data
        if not data:
            return None, ""
        return ObjectType(name, own_members=_members(data, ""), implicit=True), ""

    def _make_command(self, name: str, value: dict) -> Command:
        argument, argument_ref = self._implicit_argument(name, value)
        return Command(name, argument=argument, argument_ref=argument_ref,
                       returns_ref=value.get("returns"), boxed=value.get("boxed", False),
                       gen=value.get("gen", True),
                       success_response=value.get("success-response", True),
                       allow_oob=value.get("allow-oob", False),
                       allow_preconfig=value.get("allow-preconfig", False),
                       coroutine=value.get("coroutine", False))

    def _make_event(self, name: str, value: dict) -> Event:
        argument, argument_ref = self._implicit_argument(name, value)
        return Event(name, argument=argument, argument_ref=argument_ref,
                     boxed=value.get("boxed", False))

    # Checking

    def resolve(self, ref: Union[str, list[str]], place: Place, what: str) -> Type:
        name = ref[0] if isinstance(ref, list) else ref
        found = self.types.get(name)
        if not found:
            raise SchemaError(place, f"{what} uses unknown type '{name}'")
        return ArrayType(f"{name}List", element=found) if isinstance(ref, list) else found

    def _check(self, definition: Definition) -> None:
        place = definition.place
        self._check_features(definition.features, place)
        if isinstance(definition, EnumType):
            self._check_enum(definition)
        elif isinstance(definition, ObjectType):
            self._check_object(definition, place)
        elif isinstance(definition, AlternateType):
            self._check_alternate(definition)
        elif isinstance(definition, (Command, Event)):
            self._check_arguments(definition)
        if not isinstance(definition, (Command, Event)):
            for feature in definition.features:
                if feature.name in SPECIAL_FEATURES:
                    raise SchemaError(
                        place, f"feature '{feature.name}' is not supported for types")
        if isinstance(definition, Command):
            self._check_returns(definition)

    def _check_features(self, features: list[Feature], place: Place) -> None:
        self._check_distinct([f.name for f in features], "feature", place)
        self._features_seen.update(f.name for f in features)
        if len(self._features_seen) > MAX_FEATURES:
            raise SchemaError(place, f"Maximum of {MAX_FEATURES} schema features is permitted")

    @staticmethod
    def _check_distinct(names: list[str], what: str, place: Place) -> None:
        seen: dict[str, str] = {}
        for name in names:
            key = normalized(name)
            if key in seen:
                raise SchemaError(place, f"{what} '{name}' collides with {what} '{seen[key]}'")
            seen[key] = name

    def _check_enum(self, enum: EnumType) -> None:
        self._check_distinct([v.name for v in enum.values], "value", enum.place)
        for value in enum.values:
            self._check_features(value.features, enum.place)

    def _check_object(self, obj: ObjectType, place: Place) -> None:
        if obj.checked == 2:
            return
        if obj.checked == 1:
            raise SchemaError(place, f"object {obj.name} contains itself")
        obj.checked = 1
        if obj.base_name:
            base = self.types.get(obj.base_name)
            if base is None:
                raise SchemaError(place, f"'base' uses unknown type '{obj.base_name}'")
            if not isinstance(base, ObjectType) or base.tag_name:
                raise SchemaError(
                    place, f"'base' requires a struct type, {base.describe()} isn't")
            self._check_object(base, base.place)
            obj.base = base
        what = "parameter" if obj.implicit else "member"
        for member in obj.own_members:
            member.type = self.resolve(member.type_ref, place, f"{what} '{member.name}'")
            self._check_features(member.features, place)
        if obj.tag_name:
            self._check_tag(obj)
        self._check_collisions(obj, place, what)
        obj.checked = 2

    def _check_tag(self, union: ObjectType) -> None:
        place = union.place
        tag = next((m for m in union.members() if m.name == union.tag_name), None)
        where = f"base type '{union.base_name}'" if union.base_name else "'base'"
        if not tag:
            raise SchemaError(place, f"discriminator '{union.tag_name}' is not a member of 'base'")
        what = f"discriminator member '{tag.name}' of {where}"
        if not isinstance(tag.type, EnumType):
            raise SchemaError(place, f"{what} must be of enum type")
        if tag.optional:
            raise SchemaError(place, f"{what} must not be optional")
        if tag.condition is not None:
            raise SchemaError(place, f"{what} must not be conditional")
        union.tag = tag
        if not tag.type.values:
            raise SchemaError(place, "union has no branches")
        values = {v.name for v in tag.type.values}
        for branch in union.branches:
            if branch.name not in values:
                raise SchemaError(
                    place, f"branch '{branch.name}' is not a value of {tag.type.describe()}")
            branch.type = self.types.get(branch.type_ref)
            if branch.type is None:
                raise SchemaError(
                    place, f"branch '{branch.name}' uses unknown type '{branch.type_ref}'")
            if not isinstance(branch.type, ObjectType):
                raise SchemaError(
                    place, f"branch '{branch.name}' cannot use {branch.type.describe()}")
            self._check_object(branch.type, branch.type.place)

    def _check_collisions(self, obj: ObjectType, place: Place, what: str) -> None:
        """No member name may occur twice on the wire."""

        def label(member: Member, in_branch: Optional[ObjectType] = None) -> str:
            if in_branch:
                kind = "base member" if not member.owner else "member"
                return f"{kind} '{member.name}' of type '{member.owner or in_branch.name}'"
            if obj.tag_name and not member.owner:
                return f"base member '{member.name}'"
            if member.owner and member.owner != obj.name:
                return f"member '{member.name}' of type '{member.owner}'"
            return f"{what} '{member.name}'"

        seen: dict[str, str] = {}
        for member in obj.members():
            key = normalized(member.name)
            if key in seen:
                raise SchemaError(place, f"{label(member)} collides with {seen[key]}")
            seen[key] = label(member)
        for branch in obj.branches:
            inner = branch.type
            groups = [inner.members()] + [b.type.members() for b in inner.branches]
            for group in groups:
                for member in group:
                    key = normalized(member.name)
                    if key in seen:
                        raise SchemaError(
                            place, f"{label(member, inner)} collides with {seen[key]}")

    def _check_alternate(self, alternate: AlternateType) -> None:
        place = alternate.place
        self._check_distinct([b.name for b in alternate.branches], "branch", place)
        taken: dict[str, str] = {}
        for branch in alternate.branches:
            what = f"branch '{branch.name}'"
            branch.type = self.resolve(branch.type_ref, place, what)
            wire = _wire_kind(branch.type)
            if not wire:
                raise SchemaError(place, f"{what} cannot use {branch.type.describe()}")
            # Options given as text (keyval) must tell the branches apart as well.
            wires = {wire}
            if wire == "string":
                if isinstance(branch.type, EnumType):
                    names = [v.name for v in branch.type.values]
                    if any(n in ("on", "off") for n in names):
                        wires.add("boolean")
                    if any(n[0] in "-+0123456789." for n in names):
                        wires.add("number")
                else:
                    wires |= {"number", "boolean", "null"}
            for kind in wires:
                if kind in taken:
                    raise SchemaError(
                        place, f"{what} can't be distinguished from '{taken[kind]}'")
            # 'null' is an empty string in keyval, which the string branch of StrOrNull cannot be.
            taken.update((kind, branch.name) for kind in wires if kind != "null" or wire == "null")

    def _check_arguments(self, definition: Union[Command, Event]) -> None:
        place, kind = definition.place, definition.meta
        if definition.argument:
            self._check_object(definition.argument, place)
        elif definition.argument_ref:
            found = self.types.get(definition.argument_ref)
            if not found:
                raise SchemaError(
                    place, f"{kind}'s 'data' uses unknown type '{definition.argument_ref}'")
            if not isinstance(found, ObjectType):
                raise SchemaError(place, f"{kind}'s 'data' cannot take {found.describe()}")
            if found.tag_name and not definition.boxed:
                raise SchemaError(place, f"{kind}'s 'data' can take {found.describe()} "
                                         "only with 'boxed': true")
            self._check_object(found, found.place)
            definition.argument = found
        argument = definition.argument
        if argument and not definition.boxed and any(m.condition for m in argument.members()):
            if kind == "event":
                raise SchemaError(place, "event's 'data' members may have 'if' conditions only "
                                         "with 'boxed': true")
            raise SchemaError(place, "conditional command arguments require 'boxed': true")

    def _check_returns(self, command: Command) -> None:
        if command.returns_ref is None:
            return
        place = command.place
        returns = command.returns = self.resolve(command.returns_ref, place, "command's 'returns'")
        if command.name in place.pragmas.command_returns_exceptions:
            return
        inner = returns.element if isinstance(returns, ArrayType) else returns
        if not isinstance(inner, ObjectType):
            raise SchemaError(place, f"command's 'returns' cannot take {returns.describe()}")

    def _check_docs(self) -> None:
        for definition in self.definitions.values():
            if not definition.doc:
                continue
            known: list[str] = []
            features = [f.name for f in definition.features]
            documented: list = []
            if isinstance(definition, EnumType):
                documented = definition.values
            elif isinstance(definition, AlternateType):
                documented = definition.branches
            elif isinstance(definition, ObjectType):
                documented = definition.own_members
            elif definition.argument and definition.argument.implicit:
                documented = definition.argument.own_members
            for item in documented:
                known.append(item.name)
                features += [f.name for f in getattr(item, "features", [])]
            definition.doc.check(definition.place, definition.meta, known,
                                 list(dict.fromkeys(features)),
                                 bool(getattr(definition, "returns", None)))


def _wire_kind(found: Type) -> str:
    """The JSON type an alternate tells this branch by; "" where there is none."""
    if isinstance(found, BuiltinType):
        return {"string": "string", "number": "number", "int": "number", "boolean": "boolean",
                "null": "null"}.get(found.json_type, "")
    if isinstance(found, EnumType):
        return "string"
    if isinstance(found, ArrayType):
        return "array"
    return "object" if isinstance(found, ObjectType) else ""
