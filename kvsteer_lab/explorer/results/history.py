"""Comparisons that were made, one row each, and the differences between two texts."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from typing import Literal

from ..._util.terms import label_name
from .comparison import Comparison

MOST = 50
"""How many comparisons are kept."""
Piece = tuple[Literal["same", "first", "second"], str]
"""Words of both texts, of the first alone, or of the second alone."""


def describe(comparison: Comparison) -> str:
    """One line: strength, where, and what the steered text came to; or the arm that is not the baseline."""
    state = comparison.state
    own = next((own for own in comparison.arms if own.arm != "baseline"), comparison.arms[0])
    where = "" if state.layers is None else f", layers {','.join(map(str, state.layers))}"
    where += "" if state.slot == -1 else f", position {state.slot}"
    nats = f", total KL {own.measured.nats():.2f}" if own.measured is not None and own.reader is None else ""
    answer = f", answer {own.verdict['answer']}" if own.verdict.get("answer") is not None else ""
    asked = f"{state.task} {state.split} {state.question}" if state.task is not None else repr(state.prompt[:24])
    setting = f"{label_name(own.arm)}, ck {state.ck:g}, cv {state.cv:g}{where}"
    return f"{asked}: {setting}{nats}, {own.verdict['tokens']} tokens{answer}"


def added(history: Sequence[Comparison], comparison: Comparison) -> tuple[Comparison, ...]:
    """The history with one more comparison, the newest last; the same setting again takes the place of the older."""
    kept = [own for own in history if own.state.difference(comparison.state)]
    return (*kept, comparison)[-MOST:]


def difference(first: str, second: str) -> list[Piece]:
    """Two texts word by word.

    >>> difference("It is 3.", "It is 4.")
    [('same', 'It is '), ('first', '3.'), ('second', '4.')]
    """
    one, two = (re.findall(r"\S+\s*|\s+", text) for text in (first, second))
    pieces: list[Piece] = []
    for kind, i, j, k, m in difflib.SequenceMatcher(None, one, two, autojunk=False).get_opcodes():
        if kind == "equal":
            pieces.append(("same", "".join(one[i:j])))
            continue
        pieces += [("first", "".join(one[i:j]))] if j > i else []
        pieces += [("second", "".join(two[k:m]))] if m > k else []
    return pieces
