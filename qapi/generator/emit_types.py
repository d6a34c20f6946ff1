# SPDX-License-Identifier: GPL-2.0-or-later
"""types_<module>.h and .cc: enums, structs, unions and alternates as plain C++ values."""

from __future__ import annotations

from .cxx import BANNER, Writer, file_stem, identifier, string, type_name
from .layout import Layout
from .schema import Module
from .entities import AlternateType, ArrayType, BuiltinType, EnumType, Member, ObjectType, Type


def held_type(layout: Layout, owner: Type, found: Type, scope: str = "") -> str:
    name = type_name(found, scope)
    return f"Box<{name}>" if layout.needs_box(owner, found) else name


def member_type(layout: Layout, owner: Type, member: Member, scope: str = "") -> str:
    name = held_type(layout, owner, member.type, scope)
    return f"std::optional<{name}>" if member.optional else name


def branch_types(layout: Layout, owner: Type) -> list[tuple[str, object]]:
    """The alternatives of a union's variant: each type once, with the condition it exists under."""
    seen: dict[str, object] = {}
    for branch in owner.branches:
        name = held_type(layout, owner, branch.type)
        if name in seen and seen[name] != branch.condition:
            seen[name] = None
        else:
            seen.setdefault(name, branch.condition)
    return list(seen.items())


def emit_variant(out: Writer, opening: str, layout: Layout, owner: Type, first: str,
                 closing: str) -> None:
    out(opening)
    with out.indented(), out.indented():
        separator = "  "
        if first:
            out(first)
            separator = ", "
        for name, condition in branch_types(layout, owner):
            with out.when(condition):
                out(separator + name)
            separator = ", "
    out(closing)


def emit_members(out: Writer, layout: Layout, obj: ObjectType, scope: str = "") -> None:
    """The own members of a struct, initialised."""
    for member in obj.own_members:
        with out.when(member.condition):
            scalar = not member.optional and (
                isinstance(member.type, EnumType) or
                isinstance(member.type, BuiltinType) and member.type.json_type in
                ("int", "number", "boolean"))
            initial = "{}" if scalar else ""
            out(f"{member_type(layout, obj, member, scope)} {identifier(member.name)}{initial};")


class TypesEmitter:
    def __init__(self, layout: Layout, module: Module, needed: list[str]):
        self.layout = layout
        self.module = module
        self.needed = needed
        self.enums = [d for d in module.definitions if isinstance(d, EnumType)]
        self.composites = layout.ordered(module.name)

    def header(self) -> str:
        out = Writer()
        out(BANNER + "#pragma once\n")
        for name in ("cstdint", "optional", "string", "variant", "vector"):
            out(f"#include <{name}>")
        out()
        if self._uses_any():
            out("#include <boost/json/value.hpp>\n")
        for name in sorted(set(self.needed) | set(self.module.includes)):
            if name != "pragma":
                out(f'#include "qapi/types_{file_stem(name)}.h"')
        place = len(out.lines)
        out('#include "qapi/runtime/types.h"\n\nnamespace strata::qapi {\n')
        for enum in self.enums:
            self._enum(out, enum)
        for composite in self.composites:
            out(f"struct {identifier(composite.name)};")
        out()
        for composite in self.composites:
            with out.when(composite.condition):
                if isinstance(composite, AlternateType):
                    self._alternate(out, composite)
                else:
                    self._object(out, composite)
            out()
        out("}  // namespace strata::qapi")
        if out.has_conditions:
            out.lines.insert(place, '#include "qapi/built_with.h"')
        return out.text()

    def _uses_any(self) -> bool:
        def is_any(found: Type) -> bool:
            inner = found.element if isinstance(found, ArrayType) else found
            return inner.name == "any"

        return any(is_any(m.type) for c in self.composites if isinstance(c, ObjectType)
                   for m in c.own_members)

    def _enum(self, out: Writer, enum: EnumType) -> None:
        name = identifier(enum.name)
        with out.when(enum.condition):
            out(f"enum class {name} {{")
            with out.indented():
                for value in enum.values:
                    with out.when(value.condition):
                        out(identifier(value.name) + ",")
            out("};")
            out(f"template <>\nconst EnumInfo& enum_info<{name}>() noexcept;")
        out()

    def _object(self, out: Writer, obj: ObjectType) -> None:
        name = identifier(obj.name)
        base = f" : {identifier(obj.base.name)}" if obj.base else ""
        out(f"struct {name}{base} {{")
        with out.indented():
            emit_members(out, self.layout, obj)
            if obj.tag:
                tag = identifier(obj.tag.name)
                enum = identifier(obj.tag.type.name)
                out(f"// The members that '{obj.tag.name}' selects; its index follows `{tag}`.")
                emit_variant(out, "using Branch = std::variant<", self.layout, obj,
                             "std::monostate", ">;")
                out("Branch u;\n")
                out(f"// Sets `{tag}` and makes `u` the fresh branch that belongs to it.")
                out(f"void select({enum} value);")
                out("template <class T>\nT* get_if() noexcept {\n  return std::get_if<T>(&u);\n}")
                out("template <class T>\nconst T* get_if() const noexcept {\n"
                    "  return std::get_if<T>(&u);\n}")
            out(f"bool operator==(const {name}&) const;")
        out("};")

    def _alternate(self, out: Writer, alternate: AlternateType) -> None:
        name = identifier(alternate.name)
        emit_variant(out, f"struct {name} : std::variant<", self.layout, alternate, "", "> {")
        with out.indented():
            out("using variant::variant;")
            out(f"bool operator==(const {name}&) const;")
        out("};")

    def source(self) -> str:
        out = Writer()
        out(BANNER)
        out(f'#include "qapi/types_{file_stem(self.module.name)}.h"\n')
        out('#include "qapi/runtime/type_info.h"\n')
        out("namespace strata::qapi {\n")
        for enum in self.enums:
            with out.when(enum.condition):
                self._enum_table(out, enum)
            out()
        for composite in self.composites:
            name = identifier(composite.name)
            with out.when(composite.condition):
                if isinstance(composite, AlternateType):
                    out(f"bool {name}::operator==(const {name}& other) const {{")
                    out("  return static_cast<const variant&>(*this) == "
                        "static_cast<const variant&>(other);\n}")
                else:
                    out(f"bool {name}::operator==(const {name}&) const = default;")
        out("\n}  // namespace strata::qapi")
        return out.text()

    def _enum_table(self, out: Writer, enum: EnumType) -> None:
        name = identifier(enum.name)
        out(f"template <>\nconst EnumInfo& enum_info<{name}>() noexcept {{")
        with out.indented():
            for value in enum.values:
                emit_features(out, f"features_of_{identifier(value.name)}", value.features)
            entries = bool(enum.values)
            if entries:
                out("static constexpr EnumValueInfo values[] = {")
                with out.indented():
                    for value in enum.values:
                        features = features_name(f"features_of_{identifier(value.name)}",
                                                 value.features)
                        with out.when(value.condition):
                            out(f"{{{string(value.name)}, {features}}},")
                out("};")
            out(f"static constexpr EnumInfo info{{{string(enum.name)}, "
                f"{'values' if entries else '{}'}}};")
            out("return info;")
        out("}")


def emit_features(out: Writer, name: str, features: list) -> None:
    if not features:
        return
    if any(f.condition is not None for f in features):
        # An array may not be empty, so conditional features are counted by a terminator.
        out(f"static constexpr std::string_view {name}_all[] = {{")
        with out.indented():
            for feature in features:
                with out.when(feature.condition):
                    out(string(feature.name) + ",")
            out('"",')
        out("};")
        out(f"static constexpr std::span<const std::string_view> {name}{{{name}_all, "
            f"std::size({name}_all) - 1}};")
    else:
        names = ", ".join(string(f.name) for f in features)
        out(f"static constexpr std::string_view {name}[] = {{{names}}};")


def features_name(name: str, features: list) -> str:
    return name if features else "{}"
