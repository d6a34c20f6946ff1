#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""House rules that a tool can check.

    scripts/tidy.py [TREE]

Silent when all is well; otherwise one line a complaint, and exit status 1. The rules:

  licence    the first line (after #!) carries the SPDX licence
  file size  at most 800 lines
  functions  at most 100 lines, in C++ and in Python
  columns    at most 100
  space      no space at the end of a line, no tab but in make files, a newline at the end
  promises   no FIXME or XXX; a TODO says when, once, until or after what it is resolved
  calls      none of the functions that overflow, block the loop or start shells
  shell      scripts stop at the first error (set -euo pipefail)
  headers    '#pragma once'
"""

import ast
import re
import subprocess
import sys
from pathlib import Path

MAX_LINES = 800
MAX_FUNCTION = 100
MAX_COLUMNS = 100
LICENCE = "SPDX-License-Identifier: GPL-2.0-or-later"

CXX = (".cc", ".h")
SOURCES = CXX + (".py", ".sh", ".json", ".build", ".service", ".socket")
# Where the forbidden words are named.
SELF = ("scripts/tidy.py", "tests/checks/test_tidy.py")
# Files that carry no licence line or whose shape is not ours to choose.
EXEMPT = re.compile(r"(^|/)(COPYING|\.git[a-z]*|\.clang-format)$|/corpus/|/golden/|/data/")

BANNED = {
    "sprintf": "fmt::format", "vsprintf": "fmt::format", "strcpy": "std::string",
    "strcat": "std::string", "strncpy": "std::string", "strncat": "std::string",
    "gets": "fgets", "strtok": "std::string_view", "rand": "<random>", "srand": "<random>",
    "system": "posix_spawn", "popen": "posix_spawn", "atoi": "std::from_chars",
    "atol": "std::from_chars", "atoll": "std::from_chars", "atof": "std::from_chars",
    "alloca": "a vector", "tmpnam": "mkostemp", "mktemp": "mkostemp", "tempnam": "mkostemp",
    "usleep": "a timer", "setjmp": "a coroutine", "longjmp": "a coroutine",
    "strerror": "Error::describe_errno", "gmtime": "gmtime_r", "localtime": "localtime_r",
    "inet_ntoa": "inet_ntop", "detach": "a scope that joins",
}
BANNED_CALL = re.compile(r"(?<![\w])(%s)\s*\(" % "|".join(BANNED))
PROMISE = re.compile(r"\b(TODO|FIXME|XXX)\b(.*)")
RESOLVED = re.compile(r"\b(when|once|until|after)\b")
# A string, a character, a comment: what is not code.
NOT_CODE = re.compile(
    r'R"(\w*)\(.*?\)\1"|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])+\'|//[^\n]*|/\*.*?\*/', re.DOTALL)
NOT_A_FUNCTION = re.compile(
    r"\b(namespace|class|struct|union|enum|extern)\b[^;(){}]*$|=\s*$|\b(return|do|else|try)\s*$")
CONTROL = re.compile(r"^(if|for|while|switch|catch|constexpr)\b")


def blank(text):
    """The C++ text with strings and comments emptied, line for line."""
    def empty(match):
        found = match.group(0)
        # A separator of digits (1'000) is no character literal.
        return "\n" * found.count("\n") if found[0] == "/" else '""' + "\n" * found.count("\n")
    return NOT_CODE.sub(empty, re.sub(r"(?<=[0-9a-fA-F])'(?=[0-9a-fA-F])", "", text))


def cxx_functions(code):
    """(first line, length, name) of every outermost function of blanked C++ text."""
    found = []
    stack = []  # per brace: (is a function, line, name)
    start = 0   # where the text that leads up to the next brace begins
    line = 1
    for position, char in enumerate(code):
        if char == "\n":
            line += 1
        elif char in ";}" or char == "{":
            lead = code[start:position].strip()
            start = position + 1
            if char == "{":
                inside = any(entry[0] for entry in stack)
                name = re.search(r"([~\w:]+|operator\W+)\s*\(", lead)
                is_function = (not inside and name is not None and ")" in lead
                               and not NOT_A_FUNCTION.search(lead) and not CONTROL.match(lead))
                stack.append((is_function, line - lead.count("\n"), name and name.group(1)))
            elif char == "}" and stack:
                is_function, first, name = stack.pop()
                if is_function:
                    found.append((first, line - first + 1, name))
    return found


def python_functions(text):
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node.lineno, node.end_lineno - node.lineno + 1, node.name


def kind_of(path, text):
    """'cc', 'py', 'sh' or '' (only the general rules)."""
    if path.endswith(CXX):
        return "cc"
    first = text.split("\n", 1)[0]
    if path.endswith(".py") or (first.startswith("#!") and "python" in first):
        return "py"
    if path.endswith(".sh") or (first.startswith("#!") and re.search(r"\b(ba)?sh\b", first)):
        return "sh"
    return ""


def check_lines(path, text):
    markdown = path.endswith(".md")
    for number, line in enumerate(text.split("\n"), 1):
        if line != line.rstrip():
            yield f"{path}:{number}: space at the end of the line"
        if "\t" in line:
            yield f"{path}:{number}: tab"
        if len(line) > MAX_COLUMNS and not markdown:
            yield f"{path}:{number}: {len(line)} columns (at most {MAX_COLUMNS})"
        promise = PROMISE.search(line)
        if promise and path not in SELF and not (
                promise.group(1) == "TODO" and RESOLVED.search(promise.group(2))):
            yield f"{path}:{number}: {promise.group(1)} without what resolves it"
    if text and not text.endswith("\n"):
        yield f"{path}: no newline at the end"


def check_cxx(path, text):
    code = blank(text)
    for number, line in enumerate(code.split("\n"), 1):
        for call in BANNED_CALL.finditer(line):
            before = line[:call.start()]
            # Another's member or a name of our own that happens to be the same is no libc call.
            if before.endswith((".", "->")) and call.group(1) != "detach":
                continue
            if re.search(r"\w::$", before) and not before.endswith("std::"):
                continue
            name = call.group(1)
            yield f"{path}:{number}: {name}() is banned; use {BANNED[name]}"
        if "this_thread::sleep" in line and not path.startswith("tests/"):
            yield f"{path}:{number}: a sleeping thread; use a timer"
        if re.search(r"\busing\s+namespace\s+std\b", line):
            yield f"{path}:{number}: using namespace std"
    if path.endswith(".h") and "#pragma once" not in text:
        yield f"{path}: no '#pragma once'"
    yield from check_sizes(path, cxx_functions(code))


def check_sizes(path, functions):
    for first, length, name in functions:
        if length > MAX_FUNCTION:
            yield f"{path}:{first}: {name} has {length} lines (at most {MAX_FUNCTION})"


def check_file(path, text):
    if EXEMPT.search(path):
        return
    kind = kind_of(path, text)
    if kind or path.endswith(SOURCES):
        if LICENCE not in "\n".join(text.split("\n")[:2]):
            yield f"{path}: no licence line ({LICENCE})"
    if text.count("\n") > MAX_LINES:
        yield f"{path}: {text.count(chr(10))} lines (at most {MAX_LINES})"
    yield from check_lines(path, text)
    if kind == "cc":
        yield from check_cxx(path, text)
    elif kind == "py":
        try:
            yield from check_sizes(path, python_functions(text))
        except SyntaxError as error:
            yield f"{path}:{error.lineno}: {error.msg}"
    elif kind == "sh" and "set -euo pipefail" not in text:
        yield f"{path}: no 'set -euo pipefail'"


def files_of(tree):
    """What git tracks or would track; without git, every file outside build directories."""
    listed = subprocess.run(["git", "-C", str(tree), "ls-files", "-co", "--exclude-standard"],
                            capture_output=True, text=True)
    if listed.returncode == 0:
        names = listed.stdout.splitlines()
    else:
        names = [p.relative_to(tree).as_posix() for p in tree.rglob("*") if p.is_file()]
        names = [n for n in names if not re.match(r"\.git/|\.cache/|build[^/]*/", n)]
    return sorted(n for n in set(names) if (tree / n).is_file())


def check_tree(tree):
    for path in files_of(tree):
        if EXEMPT.search(path):
            continue
        data = (tree / path).read_bytes()
        if b"\0" in data[:8192]:
            continue
        yield from check_file(path, data.decode(errors="replace"))


def main():
    tree = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parent.parent
    complaints = list(check_tree(tree))
    for complaint in complaints:
        print(complaint)
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
