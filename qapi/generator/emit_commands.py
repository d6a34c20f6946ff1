# SPDX-License-Identifier: GPL-2.0-or-later
"""commands_<module>.h/.cc and events_<module>.h/.cc: a descriptor for each, with the arguments.

interface.h/.cc list them all.
"""

from __future__ import annotations

from typing import Union

from .cxx import BANNER, Writer, file_stem, identifier, pascal, string, type_name
from .emit_types import emit_features, emit_members, features_name
from .emit_visitors import emit_object_tables, type_info
from .layout import Layout
from .schema import Module, Schema
from .entities import Command, Event, ObjectType

Definition = Union[Command, Event]


def descriptor(definition: Definition) -> str:
    space = "cmd" if isinstance(definition, Command) else "event"
    return f"{space}::{pascal(definition.name)}"


def schema_order(schema: Schema) -> dict[str, int]:
    """The place of each command and event in the schema."""
    both = [d for m in schema.modules.values() for d in m.definitions
            if isinstance(d, (Command, Event))]
    return {d.name: i for i, d in enumerate(both)}


def own_arguments(definition: Definition) -> bool:
    return bool(definition.argument) and definition.argument.implicit


def bool_text(value: bool) -> str:
    return "true" if value else "false"


class _Emitter:
    kind = ""

    def __init__(self, layout: Layout, module: Module, needed: list[str], order: dict[str, int]):
        self.layout = layout
        self.module = module
        self.needed = needed
        self.order = order
        self.stem = file_stem(module.name)

    def definitions(self) -> list:
        raise NotImplementedError

    def _includes(self, out: Writer) -> None:
        modules = set(self.needed)
        if any(not isinstance(d, (Command, Event)) for d in self.module.definitions):
            modules.add(self.module.name)
        for name in sorted(modules):
            out(f'#include "qapi/visit_{file_stem(name)}.h"')
        out('#include "qapi/runtime/command.h"')

    def header(self) -> str:
        out = Writer()
        out(BANNER + "#pragma once\n")
        for name in ("cstdint", "optional", "string", "vector"):
            out(f"#include <{name}>")
        out()
        self._includes(out)
        out(f"\nnamespace strata::qapi {{\n\nnamespace {self.space} {{\n")
        for definition in self.definitions():
            with out.when(definition.condition):
                self._declare(out, definition)
            out()
        out(f"}}  // namespace {self.space}\n")
        for definition in self.definitions():
            if own_arguments(definition):
                with out.when(definition.condition):
                    out("template <>")
                    out(f"const TypeInfo& type_info<{self._argument_name(definition)}>() noexcept;")
        out("\n}  // namespace strata::qapi")
        return out.text()

    def source(self) -> str:
        out = Writer()
        out(BANNER)
        out(f'#include "qapi/{self.kind}_{self.stem}.h"\n')
        out("#include <cstddef>\n")
        out('#include "qapi/runtime/type_access.h"\n')
        out('#pragma GCC diagnostic ignored "-Winvalid-offsetof"\n')
        out("namespace strata::qapi {\n")
        for definition in self.definitions():
            with out.when(definition.condition):
                self._define(out, definition)
            out()
        out("}  // namespace strata::qapi")
        return out.text()

    def _argument_table(self, out: Writer, definition: Definition, obj: ObjectType) -> None:
        name = self._argument_name(definition)
        out(f"template <>\nconst TypeInfo& type_info<{name}>() noexcept {{")
        with out.indented():
            initialiser = emit_object_tables(out, self.layout, obj, name)
            out(f"static constexpr ObjectInfo object{{{initialiser}}};")
            out(f"static constexpr TypeInfo info{{Kind::object, {string(definition.name)}, "
                "nullptr, nullptr, &object};")
            out("return info;")
        out("}")


class CommandsEmitter(_Emitter):
    kind = "commands"
    space = "cmd"

    def definitions(self) -> list[Command]:
        return [d for d in self.module.definitions if isinstance(d, Command)]

    def _argument_name(self, command: Command) -> str:
        return descriptor(command) + "::Arguments"

    def _declare(self, out: Writer, command: Command) -> None:
        out(f"struct {pascal(command.name)} {{")
        with out.indented():
            out(f"static constexpr std::string_view name = {string(command.name)};")
            for flag in ("allow_oob", "coroutine"):
                out(f"static constexpr bool {flag} = {bool_text(getattr(command, flag))};")
            if own_arguments(command):
                out("struct Arguments {")
                with out.indented():
                    emit_members(out, self.layout, command.argument, "qapi::")
                    out("bool operator==(const Arguments&) const;")
                out("};")
            elif command.argument:
                out(f"using Arguments = {type_name(command.argument, 'qapi::')};")
            else:
                out("using Arguments = NoArguments;")
            returns = type_name(command.returns, "qapi::") if command.returns else "void"
            out(f"using Return = {returns};")
            out("static const CommandDescription& info() noexcept;")
        out("};")

    def _define(self, out: Writer, command: Command) -> None:
        name = descriptor(command)
        if own_arguments(command):
            self._argument_table(out, command, command.argument)
            out(f"bool {name}::Arguments::operator==(const Arguments&) const = default;")
        out(f"const CommandDescription& {name}::info() noexcept {{")
        with out.indented():
            emit_features(out, "features", command.features)
            returns = type_info(command.returns, "qapi::") if command.returns else "nullptr"
            flags = ", ".join(bool_text(f) for f in (
                command.allow_oob, command.allow_preconfig, command.coroutine,
                command.success_response))
            out("static constexpr CommandDescription command{name, type_info<Arguments>, "
                f"{returns}, {flags}, {features_name('features', command.features)}, "
                f"{self.order[command.name]}}};")
            out("return command;")
        out("}")


class EventsEmitter(_Emitter):
    kind = "events"
    space = "event"

    def definitions(self) -> list[Event]:
        return [d for d in self.module.definitions if isinstance(d, Event)]

    def _argument_name(self, event: Event) -> str:
        return descriptor(event)

    def _declare(self, out: Writer, event: Event) -> None:
        name = pascal(event.name)
        named = event.argument and not event.argument.implicit
        base = f" : {type_name(event.argument, 'qapi::')}" if named else ""
        out(f"struct {name}{base} {{")
        with out.indented():
            out(f"static constexpr std::string_view kName = {string(event.name)};")
            if own_arguments(event):
                emit_members(out, self.layout, event.argument, "qapi::")
            out("static const EventDescription& info() noexcept;")
            if event.argument:
                out(f"bool operator==(const {name}&) const;")
        out("};")

    def _define(self, out: Writer, event: Event) -> None:
        name = descriptor(event)
        if own_arguments(event):
            self._argument_table(out, event, event.argument)
        if event.argument:
            out(f"bool {name}::operator==(const {pascal(event.name)}&) const = default;")
        out(f"const EventDescription& {name}::info() noexcept {{")
        with out.indented():
            emit_features(out, "features", event.features)
            data = "NoArguments" if not event.argument else (
                pascal(event.name) if event.argument.implicit
                else type_name(event.argument, "qapi::"))
            out(f"static constexpr EventDescription event{{kName, type_info<{data}>, "
                f"{features_name('features', event.features)}, {self.order[event.name]}}};")
            out("return event;")
        out("}")


def interface_header() -> str:
    return (BANNER + """#pragma once

#include <span>

#include "qapi/runtime/command.h"

namespace strata::qapi {

// Everything the schema defines, served or not, in its order.
std::span<const CommandDescription* const> all_commands();
std::span<const EventDescription* const> all_events();

}  // namespace strata::qapi
""")


def interface_source(schema: Schema, with_commands: list[str], with_events: list[str]) -> str:
    out = Writer()
    out(BANNER)
    out('#include "qapi/interface.h"\n')
    for kind, modules in (("commands", with_commands), ("events", with_events)):
        for module in sorted(modules):
            out(f'#include "qapi/{kind}_{file_stem(module)}.h"')
    out("\nnamespace strata::qapi {\n")
    for function, info, definitions in (("all_commands", "CommandDescription", schema.commands()),
                                        ("all_events", "EventDescription", schema.events())):
        order = schema_order(schema)
        out(f"std::span<const {info}* const> {function}() {{")
        out(f"  static const {info}* const list[] = {{")
        with out.indented(), out.indented():
            for definition in sorted(definitions, key=lambda d: order[d.name]):
                with out.when(definition.condition):
                    out(f"&{descriptor(definition)}::info(),")
            out("nullptr,")
        out("  };")
        out("  return {list, std::size(list) - 1};\n}\n")
    out("}  // namespace strata::qapi")
    return out.text()
