"""Two prompts of a contrastive pair side by side, the words marked that only one of them has."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from .html import CELL
from .text import for_html

_ONLY_HERE = "background:#e69f0055;"  # legible on light and dark pages
_EXTRACTED = "outline:2px solid #0072b2;"
_MOST = 4_000_000
"""Pairs of equal words that are looked at: about a second of work. Beyond, lines are compared before words."""

Opcode = tuple[str, int, int, int, int]
"""As `difflib` gives them: what became of a stretch, and where it begins and ends on both sides."""


def pair_html(positive: str, negative: str, last_token: str | None) -> str:
    """Two prompts as an HTML table: words that only one has are marked, the extracted token is framed.

    The time does not grow with the square of the prompts' length: very long ones are compared line by line first.

    Args:
        positive, negative: the rendered prompts.
        last_token: the text of their last token, where it is known; else the last character is framed.

    >>> shown = pair_html("Why? Because. A:", "Why? A:", ":")
    >>> "Why? <span style='background:#e69f0055;'>Because. </span>A" in shown
    True
    """
    sides = [re.findall(r"\s+|\w+|[^\w\s]", text) for text in (positive, negative)]
    marked: list[list[tuple[bool, str]]] = [[], []]  # whether it is on this side alone, and the text
    for kind, a0, a1, b0, b1 in _opcodes(sides[0], sides[1], _MOST):
        for own, words in zip(marked, (sides[0][a0:a1], sides[1][b0:b1]), strict=True):
            if words:
                own.append((kind != "equal", "".join(words)))
    cells = ""
    for own, full in zip(marked, (positive, negative), strict=True):
        token = last_token if last_token and full.endswith(last_token) else full[-1:]
        cells += f"<td style='{CELL}'>{_side_html(own, token)}</td>"
    key = (
        f"<span style='{_ONLY_HERE}'>only on this side</span> &nbsp; <span style='{_EXTRACTED}'>token whose keys and"
        " values are extracted</span>"
    )
    head = "<tr><th style='text-align:left'>positive</th><th style='text-align:left'>negative</th></tr>"
    return f"<p>{key}</p><table style='width:100%'>{head}<tr>{cells}</tr></table>"


def _side_html(stretches: Sequence[tuple[bool, str]], token: str) -> str:
    """One side: the stretches, the last of which ends in the extracted token."""
    shown = ""
    for number, (alone, text) in enumerate(stretches):
        last = number == len(stretches) - 1 and text.endswith(token) and token != ""
        body = for_html(text.removesuffix(token) if last else text)
        if last:
            body += f"<span style='{_EXTRACTED}' title='extracted'>{for_html(token).replace(chr(10), '↵')}</span>"
        shown += f"<span style='{_ONLY_HERE}'>{body}</span>" if alone else body
    return shown


# --- differences --------------------------------------------------------------------------------------------------


def _opcodes(a: Sequence[str], b: Sequence[str], most: int) -> Iterator[Opcode]:
    """The stretches that two sequences of words share or don't, after at most `most` comparisons or so."""
    if _comparisons(a, b) <= most:
        yield from difflib.SequenceMatcher(None, a, b, autojunk=False).get_opcodes()
        return
    lines = [_lines(side) for side in (a, b)]
    starts = [[0, *_running(map(len, side))] for side in lines]
    hunks = [part for hunk in _trimmed(lines[0], lines[1], most) for part in _line_by_line(hunk)]
    each = most // max(1, sum(kind == "replace" for kind, *_ in hunks))
    for kind, i0, i1, j0, j1 in hunks:
        a0, a1, b0, b1 = starts[0][i0], starts[0][i1], starts[1][j0], starts[1][j1]
        if kind == "replace":
            for inner, p0, p1, q0, q1 in _trimmed(a[a0:a1], b[b0:b1], each):
                yield inner, a0 + p0, a0 + p1, b0 + q0, b0 + q1
        else:
            yield kind, a0, a1, b0, b1


def _line_by_line(hunk: Opcode) -> Iterator[Opcode]:
    """Of lines that took the place of as many others, each with its own."""
    kind, i0, i1, j0, j1 = hunk
    if kind != "replace" or i1 - i0 != j1 - j0:
        yield hunk
    else:
        yield from ((kind, i, i + 1, j, j + 1) for i, j in zip(range(i0, i1), range(j0, j1), strict=True))


def _trimmed(a: Sequence[Any], b: Sequence[Any], most: int) -> Iterator[Opcode]:
    """The stretches between the common beginning and the common end; as one, where there is too much to compare."""
    shorter = min(len(a), len(b))
    head = next((i for i in range(shorter) if a[i] != b[i]), shorter)
    tail = next((i for i in range(shorter - head) if a[-1 - i] != b[-1 - i]), shorter - head)
    a_end, b_end = len(a) - tail, len(b) - tail
    if head:
        yield "equal", 0, head, 0, head
    middle = a[head:a_end], b[head:b_end]
    if _comparisons(*middle) <= most:
        for kind, i0, i1, j0, j1 in difflib.SequenceMatcher(None, *middle, autojunk=False).get_opcodes():
            yield kind, head + i0, head + i1, head + j0, head + j1
    else:
        yield "replace", head, a_end, head, b_end
    if tail:
        yield "equal", a_end, len(a), b_end, len(b)


def _comparisons(a: Sequence[Any], b: Sequence[Any]) -> int:
    """How many pairs of equal items there are: what `difflib` looks at, at least once."""
    other = Counter(b)
    return sum(count * other[item] for item, count in Counter(a).items())


def _lines(words: Sequence[str]) -> list[tuple[str, ...]]:
    """Words by lines; a line ends with the word that holds its line break."""
    lines: list[tuple[str, ...]] = []
    start = 0
    for end, word in enumerate(words, 1):
        if "\n" in word or end == len(words):
            lines.append(tuple(words[start:end]))
            start = end
    return lines


def _running(lengths: Iterable[int]) -> Iterator[int]:
    total = 0
    for length in lengths:
        total += length
        yield total
