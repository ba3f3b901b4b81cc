"""Values for the variables of the chapters' cells of parameters, as they are typed: CV=6."""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping, Sequence
from typing import Any

from .chapters import Chapter

OWN = {"MODEL": "--model", "TASK": "--task", "FIGURES": "--out"}
"""What the command sets by itself, and how."""


def read_parameters(given: Sequence[str]) -> dict[str, Any]:
    """`NAME=VALUE` texts as names and values: numbers, quoted text, lists, true, false and null, written as in Python
    or JSON.

    Raises:
        ValueError: no `NAME=`, a name given twice, or a value that is none of these.

    >>> read_parameters(["CV=6", "DOSES=[0.5, 1]"])
    {'CV': 6, 'DOSES': [0.5, 1]}
    """
    found: dict[str, Any] = {}
    for text in given:
        name, sign, value = text.partition("=")
        if not sign or not name.isidentifier():
            raise ValueError(f"{text!r} sets nothing; write NAME=VALUE, as in CV=6.")
        if name in found:
            raise ValueError(f"{name} is set twice; give it one value.")
        found[name] = _value(name, value)
    return found


def check_parameters(given: Mapping[str, Any], chapters: Sequence[Chapter]) -> None:
    """Refuse what no chapter has, or what is set in another way.

    Raises:
        ValueError: such a name.
    """
    known = {name for chapter in chapters for name in chapter.parameters} - OWN.keys()
    for name in given:
        if name in OWN:
            raise ValueError(f"{name} is set by {OWN[name]}; use that.")
        if name not in known:
            raise ValueError(
                f"No notebook that is to run has a parameter {name!r}; there are {', '.join(sorted(known)) or 'none'}."
            )


def _value(name: str, text: str) -> Any:
    for read in (json.loads, ast.literal_eval):
        try:
            # as it comes back from a record: a tuple is a list there
            return json.loads(json.dumps(read(text), allow_nan=False))
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            continue
    raise ValueError(
        f"The value of {name}, {text!r}, can't be read; write a number, a list as [1, 2], or a text in quotes."
    )
