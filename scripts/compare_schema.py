#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Compares two answers of query-qmp-schema and counts what they hold.

Usage: compare_schema.py [--subset] OURS REFERENCE

Each file holds the array itself or a QMP reply with it. Names of types are not compared, because
they mean nothing: types are compared by what they contain, along the commands and events that use
them.
With --subset only what OURS shows is compared, so that commands not served yet are no difference.
What Strata adds on purpose (ADDITIONS, WIDENED) is no difference either.
Exit status 1 if there is a difference.
"""

import argparse
import json
import sys

# Members of ours beside the reference's, by where they are.
ADDITIONS = {
    "blockdev-add (arg-type)/luks": {"unlock-time"},
    "blockdev-add (arg-type)/qcow2.encrypt/luks": {"unlock-time"},
    "block-export-add (arg-type)/nbd": {"nbd-server"},
    "block-export-add (arg-type)/vhost-user-blk": {"iothread-vq-mapping"},
    "nbd-server-start (arg-type)": {"id", "tls-required"},
    "nbd-server-stop (arg-type)": {"id"},
}
# What QEMU has too, but the reference was built without.
NOT_IN_REFERENCE = {"vduse-blk"}
# Where we take an alternate of which the reference's type is one choice.
WIDENED = {"block-export-add (arg-type).iothread"}


class Schema:
    def __init__(self, path):
        with open(path, encoding="utf-8") as file:
            entries = json.load(file)
        if isinstance(entries, dict):
            entries = entries["return"]
        self.by_name = {entry["name"]: entry for entry in entries}

    def interfaces(self, kind):
        return {name: entry for name, entry in self.by_name.items() if entry["meta-type"] == kind}

    def count(self):
        counts = {"command": 0, "event": 0, "type": 0, "member": 0, "enum value": 0, "variant": 0}
        for entry in self.by_name.values():
            kind = entry["meta-type"]
            counts[kind if kind in ("command", "event") else "type"] += 1
            if kind == "object":
                counts["member"] += len(entry["members"])
                counts["variant"] += len(entry.get("variants", []))
            elif kind == "enum":
                counts["enum value"] += len(entry["members"])
        return counts


# Commands and events that Strata adds, and those that QEMU's emulator has.
OURS_ALONE = "x-strata-"
OF_THE_EMULATOR = {"getfd", "closefd", "add-fd", "remove-fd", "query-fdsets"}


class Comparison:
    def __init__(self, ours, reference, subset):
        self.ours = ours
        self.reference = reference
        self.subset = subset
        self.differences = []
        self.seen = set()

    def differ(self, where, text):
        self.differences.append(f"{where}: {text}")

    def run(self):
        for kind in ("command", "event"):
            ours, reference = self.ours.interfaces(kind), self.reference.interfaces(kind)
            self.names(kind + "s", ours, reference)
            for name in ours:
                if name not in reference:
                    continue
                one, other = ours[name], reference[name]
                self.features(name, one, other)
                if one.get("allow-oob", False) != other.get("allow-oob", False):
                    self.differ(name, "allow-oob differs")
                for key in ("arg-type", "ret-type"):
                    if key in one or key in other:
                        self.type(f"{name} ({key})", one[key], other[key])
        return self.differences

    def names(self, where, ours, reference):
        extra = [name for name in ours
                 if name not in reference and name not in ADDITIONS.get(where, ())
                 and name not in NOT_IN_REFERENCE and name not in OF_THE_EMULATOR
                 and not name.startswith(OURS_ALONE)]
        missing = [] if self.subset else [name for name in reference if name not in ours]
        if extra:
            self.differ(where, "extra " + ", ".join(extra))
        if missing:
            self.differ(where, "missing " + ", ".join(missing))

    def features(self, where, one, other):
        ours, reference = sorted(one.get("features", [])), sorted(other.get("features", []))
        if ours != reference:
            self.differ(where, f"features {ours}, reference has {reference}")

    def type(self, where, ours, reference):
        if (ours, reference) in self.seen:
            return
        self.seen.add((ours, reference))
        one, other = self.ours.by_name[ours], self.reference.by_name[reference]
        kind = one["meta-type"]
        if where in WIDENED and kind == "alternate" and other["meta-type"] != kind:
            if not any(self.ours.by_name[m["type"]].get("json-type") == other.get("json-type")
                       for m in one["members"]):
                self.differ(where, f"no choice is {other.get('json-type')}")
            return
        if kind != other["meta-type"]:
            self.differ(where, f"is {kind}, reference has {other['meta-type']}")
            return
        self.features(where, one, other)
        if kind == "builtin":
            if one["json-type"] != other["json-type"]:
                self.differ(where, f"is {one['json-type']}, reference has {other['json-type']}")
        elif kind == "array":
            self.type(where + "[]", one["element-type"], other["element-type"])
        elif kind == "enum":
            self.enum(where, one, other)
        elif kind == "alternate":
            self.alternate(where, one, other)
        else:
            self.object(where, one, other)

    def enum(self, where, one, other):
        ours = {member["name"]: member for member in one["members"]}
        reference = {member["name"]: member for member in other["members"]}
        self.names(where, ours, reference)
        common = [name for name in ours if name in reference]
        if common != [name for name in reference if name in ours]:
            self.differ(where, "values stand in another order")
        for name in common:
            self.features(f"{where} value {name}", ours[name], reference[name])

    def alternate(self, where, one, other):
        if len(one["members"]) != len(other["members"]):
            self.differ(where, "has another number of alternatives")
            return
        for number, pair in enumerate(zip(one["members"], other["members"])):
            self.type(f"{where} alternative {number}", pair[0]["type"], pair[1]["type"])

    def object(self, where, one, other):
        ours = {member["name"]: member for member in one["members"]}
        reference = {member["name"]: member for member in other["members"]}
        self.names(where, ours, reference)
        for name in ours:
            if name not in reference:
                continue
            here = f"{where}.{name}"
            self.features(here, ours[name], reference[name])
            if ("default" in ours[name]) != ("default" in reference[name]):
                self.differ(here, "is optional in one of the two only")
            self.type(here, ours[name]["type"], reference[name]["type"])
        if one.get("tag") != other.get("tag"):
            self.differ(where, f"tag {one.get('tag')}, reference has {other.get('tag')}")
        ours = {variant["case"]: variant["type"] for variant in one.get("variants", [])}
        reference = {variant["case"]: variant["type"] for variant in other.get("variants", [])}
        self.names(f"{where} cases", ours, reference)
        for name in ours:
            if name in reference:
                self.type(f"{where}/{name}", ours[name], reference[name])


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--subset", action="store_true", help="compare only what OURS shows")
    parser.add_argument("ours")
    parser.add_argument("reference")
    arguments = parser.parse_args()
    ours, reference = Schema(arguments.ours), Schema(arguments.reference)
    counts, reference_counts = ours.count(), reference.count()
    for name in counts:
        print(f"{name + 's':12} {counts[name]:5}  reference {reference_counts[name]:5}")
    differences = Comparison(ours, reference, arguments.subset).run()
    for difference in differences:
        print(difference)
    print(f"{len(differences)} differences")
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(main())
