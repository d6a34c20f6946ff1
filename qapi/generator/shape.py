# SPDX-License-Identifier: GPL-2.0-or-later
"""Checks that each expression has the shape of a definition, and brings it into the long form.

Nothing here looks at another definition; what needs the whole schema is checked in schema.py.
"""

from __future__ import annotations

import re
from typing import Iterable, Optional

from .parser import Expression
from .source import Place, SchemaError

META_TYPES = ("enum", "struct", "union", "alternate", "command", "event")

_NAME = re.compile(r"(__[a-z0-9.-]+_)?(x-)?([a-z][a-z0-9_-]*)$", re.IGNORECASE)
_CONDITION = re.compile(r"[A-Z][A-Z0-9_]*$")

_KEYS = {  # required, optional
    "enum": (("data",), ("prefix",)),
    "struct": (("data",), ("base",)),
    "union": (("base", "discriminator", "data"), ()),
    "alternate": (("data",), ()),
    "command": ((), ("data", "returns", "boxed", "gen", "success-response", "allow-oob",
                     "allow-preconfig", "coroutine")),
    "event": ((), ("data", "boxed")),
}


def check(expression: Expression) -> str:
    """Raises SchemaError, or returns the kind of definition (one of META_TYPES)."""
    value, place = expression.value, expression.place
    kinds = [key for key in value if key in META_TYPES]
    if len(kinds) != 1:
        names = ", ".join(f"'{kind}'" for kind in META_TYPES)
        raise SchemaError(place, f"expression must have exactly one key {names}")
    kind = kinds[0]
    name = value[kind]
    if not isinstance(name, str):
        raise SchemaError(place, f"'{kind}' requires a string name")
    place = expression.place = place.inside(f"{kind} '{name}'")
    _check_definition_name(name, kind, place)
    if expression.doc:
        if expression.doc.symbol != name:
            raise SchemaError(place, f"documentation comment is for '{expression.doc.symbol}'")
    elif place.pragmas.doc_required:
        raise SchemaError(place, "documentation comment required")
    required, optional = _KEYS[kind]
    _check_keys(value, kind, (kind,) + required, optional + ("if", "features"), place)
    _check_condition(value.get("if"), kind, place)
    _check_flags(value, place)
    _CHECKERS[kind](value, name, place)
    _check_features(value, place)
    return kind


# Pieces


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(f"'{name}'" for name in sorted(names))


def _check_keys(value: dict, what: str, required: Iterable[str], optional: Iterable[str],
                place: Place) -> None:
    missing = set(required) - set(value)
    if missing:
        plural = "s" if len(missing) > 1 else ""
        raise SchemaError(place, f"{what} misses key{plural} {_quoted(missing)}")
    allowed = set(required) | set(optional)
    unknown = set(value) - allowed
    if unknown:
        plural = "s" if len(unknown) > 1 else ""
        raise SchemaError(place, f"{what} has unknown key{plural} {_quoted(unknown)}\n"
                                 f"Valid keys are {_quoted(allowed)}.")


def _check_name(name: object, what: str, place: Place, digits: bool = False) -> str:
    """Returns the name without downstream and experimental prefixes."""
    if not isinstance(name, str):
        raise SchemaError(place, f"{what} requires a string name")
    probe = "d" + name if digits and name[:1].isdigit() else name
    match = _NAME.match(probe)
    if not match or re.match(r"q[_-]", match.group(3), re.IGNORECASE):
        raise SchemaError(place, f"{what} has an invalid name" if what in META_TYPES
                          else f"{what} '{name}' has an invalid name")
    return match.group(3)


def _check_definition_name(name: str, kind: str, place: Place) -> None:
    stem = _check_name(name, kind, place)
    if kind == "event":
        if re.search(r"[a-z-]", stem):
            raise SchemaError(place, "name of event must not use lowercase or '-'")
    elif kind == "command":
        bad = r"[A-Z]" if name in place.pragmas.command_name_exceptions else r"[A-Z_]"
        if re.search(bad, stem):
            raise SchemaError(place, "name of command must not use uppercase or '_'")
    else:
        if not re.match(r"[A-Z][A-Za-z0-9]*[a-z][A-Za-z0-9]*$", stem):
            raise SchemaError(place, f"name of {kind} must use CamelCase")
        if name.endswith("List"):
            raise SchemaError(place, f"{kind} name should not end in 'List'")


def _check_member_name(name: object, what: str, place: Place, permit_upper: bool,
                       digits: bool = False) -> None:
    stem = _check_name(name, what, place, digits)
    if not permit_upper and re.search(r"[A-Z_]", stem):
        raise SchemaError(place, f"name of {what} '{name}' must not use uppercase or '_'")


def _check_condition(condition: object, what: str, place: Place) -> None:
    if condition is None:
        return
    if isinstance(condition, str):
        if not _CONDITION.match(condition):
            raise SchemaError(
                place, f"'if' condition '{condition}' of {what} is not a valid identifier")
        return
    if not isinstance(condition, dict):
        raise SchemaError(place, f"'if' condition of {what} must be a string or an object")
    _check_keys(condition, f"'if' condition of {what}", (), ("all", "any", "not"), place)
    if len(condition) != 1:
        raise SchemaError(place, f"'if' condition of {what} has conflicting keys")
    (key, operand), = condition.items()
    if key == "not":
        _check_condition(operand, what, place)
        return
    if not isinstance(operand, list):
        raise SchemaError(place, f"'{key}' condition of {what} must be an array")
    if not operand:
        raise SchemaError(place, f"'if' condition {operand} of {what} is useless")
    for part in operand:
        _check_condition(part, what, place)


def _check_flags(value: dict, place: Place) -> None:
    for key in ("gen", "success-response"):
        if key in value and value[key] is not False:
            raise SchemaError(place, f"flag '{key}' may only use false value")
    for key in ("boxed", "allow-oob", "allow-preconfig", "coroutine"):
        if key in value and value[key] is not True:
            raise SchemaError(place, f"flag '{key}' may only use true value")
    if "allow-oob" in value and "coroutine" in value:
        raise SchemaError(place, "flags 'allow-oob' and 'coroutine' are incompatible")


def _check_features(owner: dict, place: Place) -> None:
    features = owner.get("features")
    if features is None:
        return
    if not isinstance(features, list):
        raise SchemaError(place, "'features' must be an array")
    owner["features"] = [f if isinstance(f, dict) else {"name": f} for f in features]
    what = "'features' member"
    for feature in owner["features"]:
        _check_keys(feature, what, ("name",), ("if",), place)
        _check_member_name(feature["name"], what, place, permit_upper=False)
        _check_condition(feature.get("if"), f"{what} '{feature['name']}'", place)


def _check_type_name(value: object, what: str, place: Place) -> None:
    if not isinstance(value, str):
        raise SchemaError(place, f"{what} should be a type name")


def _check_type_ref(value: object, what: str, place: Place) -> None:
    if isinstance(value, list):
        if len(value) != 1 or not isinstance(value[0], str):
            raise SchemaError(place, f"{what}: array type must contain single type name")
    elif not isinstance(value, str):
        raise SchemaError(place, f"{what} should be a type name or array")


def _check_members(value: object, what: str, place: Place, owner: str) -> None:
    if not isinstance(value, dict):
        raise SchemaError(place, f"{what} should be an object or type name")
    permit_upper = owner in place.pragmas.member_name_exceptions
    for key, member in value.items():
        where = f"{what} member '{key}'"
        optional = key.startswith("*")
        name = key[1:] if optional else key
        label = f"{what} member"
        stem = name
        if not isinstance(name, str) or not _NAME.match(stem) \
                or re.match(r"q[_-]", _NAME.match(stem).group(3), re.IGNORECASE):
            raise SchemaError(place, f"{where} has an invalid name")
        if re.match(r"(u$|has[-_])", stem, re.IGNORECASE):
            raise SchemaError(place, f"{where} uses reserved name")
        _check_member_name(name, label, place, permit_upper)
        if not isinstance(member, dict):
            member = value[key] = {"type": member}
        _check_keys(member, where, ("type",), ("if", "features"), place)
        _check_type_ref(member["type"], where, place)
        _check_condition(member.get("if"), where, place)
        _check_features(member, place)


# Definitions


def _check_enum(value: dict, name: str, place: Place) -> None:
    if not isinstance(value["data"], list):
        raise SchemaError(place, "'data' must be an array")
    prefix = value.get("prefix")
    if prefix is not None and not isinstance(prefix, str):
        raise SchemaError(place, "'prefix' must be a string")
    permit_upper = name in place.pragmas.member_name_exceptions
    value["data"] = [m if isinstance(m, dict) else {"name": m} for m in value["data"]]
    what = "'data' member"
    for member in value["data"]:
        _check_keys(member, what, ("name",), ("if", "features"), place)
        _check_member_name(member["name"], what, place, permit_upper, digits=True)
        _check_condition(member.get("if"), f"{what} '{member['name']}'", place)
        _check_features(member, place)


def _check_struct(value: dict, name: str, place: Place) -> None:
    _check_members(value["data"], "'data'", place, name)
    if "base" in value:
        _check_type_name(value["base"], "'base'", place)


def _check_branches(value: dict, kind: str, place: Place) -> None:
    data = value["data"]
    if not isinstance(data, dict):
        raise SchemaError(place, "'data' must be an object")
    if kind == "alternate" and not data:
        raise SchemaError(place, "'data' must not be empty")
    for key, branch in data.items():
        where = f"'data' member '{key}'"
        if kind == "alternate":
            _check_member_name(key, "'data' member", place, permit_upper=False)
        if not isinstance(branch, dict):
            branch = data[key] = {"type": branch}
        _check_keys(branch, where, ("type",), ("if",), place)
        _check_condition(branch.get("if"), where, place)
        if kind == "alternate":
            _check_type_ref(branch["type"], where, place)
        else:
            _check_type_name(branch["type"], where, place)


def _check_union(value: dict, name: str, place: Place) -> None:
    base = value["base"]
    if isinstance(base, dict):
        _check_members(base, "'base'", place, name)
    else:
        _check_type_name(base, "'base'", place)
    if not isinstance(value["discriminator"], str):
        raise SchemaError(place, "'discriminator' requires a string name")
    _check_branches(value, "union", place)


def _check_alternate(value: dict, name: str, place: Place) -> None:
    _check_branches(value, "alternate", place)


def _check_arguments(value: dict, name: str, place: Place) -> None:
    data: Optional[object] = value.get("data")
    if value.get("boxed"):
        if data is None:
            raise SchemaError(place, "'boxed': true requires 'data'")
        _check_type_name(data, "'data'", place)
    elif data is not None and not isinstance(data, str):
        _check_members(data, "'data'", place, name)


def _check_command(value: dict, name: str, place: Place) -> None:
    _check_arguments(value, name, place)
    if "returns" in value:
        _check_type_ref(value["returns"], "'returns'", place)


_CHECKERS = {
    "enum": _check_enum,
    "struct": _check_struct,
    "union": _check_union,
    "alternate": _check_alternate,
    "command": _check_command,
    "event": _check_arguments,
}
