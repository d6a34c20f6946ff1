# SPDX-License-Identifier: GPL-2.0-or-later
"""visit_<module>.h and .cc: the tables by which the runtime reads and writes the types.

The tables are constants; the code that walks them is compiled once, in qapi/runtime.
"""

from __future__ import annotations

from .cxx import BANNER, Writer, file_stem, identifier, string, type_name
from .emit_types import emit_features, features_name, held_type, member_type
from .layout import Layout
from .schema import Module
from .entities import AlternateType, EnumType, ObjectType, Type


def type_info(found: Type, scope: str = "") -> str:
    """The TypeRef of a type."""
    return "size_type_info" if found.name == "size" else f"type_info<{type_name(found, scope)}>"


def emit_object_tables(out: Writer, layout: Layout, obj: ObjectType, cxx: str) -> str:
    """Static tables inside a function; returns the initialiser of its ObjectInfo."""
    for member in obj.own_members:
        with out.when(member.condition):
            emit_features(out, f"features_of_{identifier(member.name)}", member.features)
    members = "{}"
    if any(m.condition is None for m in obj.own_members) or obj.own_members:
        members = "{members, std::size(members) - 1}"
        out("static constexpr MemberInfo members[] = {")
        with out.indented():
            for member in obj.own_members:
                field = identifier(member.name)
                features = features_name(f"features_of_{field}", member.features)
                with out.when(member.condition):
                    out(f"{{{string(member.name)}, offsetof({cxx}, {field}), "
                        f"{type_info(member.type)}, "
                        f"kAccess<{member_type(layout, obj, member)}>, "
                        f"{'true' if member.optional else 'false'}, {features}}},")
            out("{},")
        out("};")
    base = f"type_info<{identifier(obj.base.name)}>" if obj.base else "nullptr"
    if not obj.tag:
        return f"{base}, {members}"
    branches = {b.name: b for b in obj.branches}
    out(f"using Branch = {cxx}::Branch;")
    out("static constexpr BranchInfo branches[] = {")
    with out.indented():
        for value in obj.tag.type.values:
            branch = branches.get(value.name)
            with out.when(value.condition):
                if not branch:
                    out("kEmptyBranch<Branch>,")
                    continue
                entry = (f"kBranch<Branch, {held_type(layout, obj, branch.type)}, "
                         f"{type_name(branch.type)}>,")
                if branch.condition is None or branch.condition == value.condition:
                    out(entry)
                else:
                    with out.when(branch.condition):
                        out(entry)
                    with out.when({"not": branch.condition}):
                        out("kEmptyBranch<Branch>,")
    out("};")
    return (f"{base}, {members}, {string(obj.tag.name)}, "
            f"offsetof({cxx}, {identifier(obj.tag.name)}), "
            f"enum_info<{identifier(obj.tag.type.name)}>, offsetof({cxx}, u), branches")


class VisitorsEmitter:
    def __init__(self, layout: Layout, module: Module, needed: list[str]):
        self.layout = layout
        self.module = module
        self.needed = needed
        self.stem = file_stem(module.name)
        self.types = [d for d in module.definitions
                      if isinstance(d, (EnumType, ObjectType, AlternateType))]

    def header(self) -> str:
        out = Writer()
        out(BANNER + "#pragma once\n")
        out(f'#include "qapi/types_{self.stem}.h"')
        for name in sorted(set(self.module.includes)):
            if name != "pragma":
                out(f'#include "qapi/visit_{file_stem(name)}.h"')
        out('#include "qapi/runtime/visitor.h"\n\nnamespace strata::qapi {\n')
        for found in self.types:
            with out.when(found.condition):
                out(f"template <>\nconst TypeInfo& type_info<{identifier(found.name)}>() noexcept;")
        out("\n}  // namespace strata::qapi")
        return out.text()

    def source(self) -> str:
        out = Writer()
        out(BANNER)
        out(f'#include "qapi/visit_{self.stem}.h"\n')
        out("#include <cstddef>\n")
        for name in sorted(self.needed):
            out(f'#include "qapi/visit_{file_stem(name)}.h"')
        out('#include "qapi/runtime/type_access.h"\n')
        # A base class does not move a member from object to object, so its offset is a constant.
        out('#pragma GCC diagnostic ignored "-Winvalid-offsetof"\n')
        out("namespace strata::qapi {\n")
        for found in self.types:
            with out.when(found.condition):
                self._type(out, found)
            out()
        out("}  // namespace strata::qapi")
        return out.text()

    def _type(self, out: Writer, found: Type) -> None:
        name = identifier(found.name)
        if isinstance(found, EnumType):
            out(f"template <>\nconst TypeInfo& type_info<{name}>() noexcept {{")
            with out.indented():
                emit_features(out, "features", found.features)
                out(f"static constexpr TypeInfo info{{Kind::enumeration, {string(found.name)}, "
                    f"enum_info<{name}>, nullptr, nullptr, nullptr, "
                    f"{features_name('features', found.features)}}};")
                out("return info;")
            out("}")
            return
        out(f"template <>\nconst TypeInfo& type_info<{name}>() noexcept {{")
        with out.indented():
            emit_features(out, "features", found.features)
            features = features_name("features", found.features)
            if isinstance(found, ObjectType):
                initialiser = emit_object_tables(out, self.layout, found, name)
                out(f"static constexpr ObjectInfo object{{{initialiser}}};")
                out(f"static constexpr TypeInfo info{{Kind::object, {string(found.name)}, nullptr, "
                    f"nullptr, &object, nullptr, {features}}};")
            else:
                self._alternatives(out, found, name)
                out(f"static constexpr TypeInfo info{{Kind::alternate, {string(found.name)}, "
                    f"nullptr, nullptr, nullptr, &alternate, {features}}};")
            out("return info;")
        out("}")
        if isinstance(found, ObjectType) and found.tag:
            out(f"void {name}::select({identifier(found.tag.type.name)} value) {{")
            out(f"  select_branch(type_info<{name}>(), this, static_cast<int>(value));\n}}")

    def _alternatives(self, out: Writer, alternate: AlternateType, name: str) -> None:
        out(f"using Branch = {name}::variant;")
        out("static constexpr BranchInfo alternatives[] = {")
        with out.indented():
            for branch in alternate.branches:
                with out.when(branch.condition):
                    out(f"kBranch<Branch, {held_type(self.layout, alternate, branch.type)}, "
                        f"{type_name(branch.type)}>,")
        out("};")
        out("static constexpr AlternateInfo alternate{alternatives};")
