# SPDX-License-Identifier: GPL-2.0-or-later
"""'if' conditions as C preprocessor expressions."""

from __future__ import annotations

from typing import Union

Condition = Union[str, dict, None]


def to_preprocessor(condition: Condition, nested: bool = False) -> str:
    """The operand of #if; "" where there is no condition."""
    if condition is None:
        return ""
    if isinstance(condition, str):
        return f"defined({condition})"
    (key, operand), = condition.items()
    if key == "not":
        return "!" + to_preprocessor(operand, nested=True)
    joined = (" && " if key == "all" else " || ").join(
        to_preprocessor(part, nested=True) for part in operand)
    return f"({joined})" if nested and len(operand) > 1 else joined


def both(first: Condition, second: Condition) -> Condition:
    """The condition that holds where both hold."""
    if first is None or first == second:
        return second
    return first if second is None else {"all": [first, second]}
