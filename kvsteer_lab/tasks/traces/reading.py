"""Traces: whole replies to questions, each in a named style, from a file of JSON lines."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from numbers import Integral
from pathlib import Path
from typing import Any

from ..base import same_text
from .journal import KEPT, is_header, lines_of

_REPLY = ("text", "trace")


@dataclass(frozen=True)
class Trace:
    """One reply to one question.

    Attributes:
        style: how it answers.
        text: the whole reply, final answer included.
        id: the question's id in its task.
        question: the question's text; a trace has it, the id, or both.
        answer: the gold answer, where it is known.

    >>> Trace("direct", "4", question="2 + 2?")
    Trace(style='direct', id=None, answer=None)
    """

    style: str
    text: str = field(repr=False)
    id: str | None = None
    question: str | None = field(default=None, repr=False)
    answer: str | None = None


@dataclass(frozen=True)
class Traces:
    """Replies in one style or several. `kv.traces.with_traces(task, traces)` makes contrastive sets of them.

    Attributes:
        rows: the traces; at most one a question and style.
        source: where they come from, for messages.
        rejected: for traces that `kv.traces.write_traces` wrote: how many were not kept, by verdict.

    >>> traces = Traces((Trace("direct", "4", question="2 + 2?"),))
    >>> traces.styles, len(traces)
    (('direct',), 1)
    """

    rows: tuple[Trace, ...] = field(repr=False)
    source: str = "memory"
    rejected: Mapping[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Trace]:
        return iter(self.rows)

    def __repr__(self) -> str:
        shares = ", ".join(f"{n} {style}" for style, n in Counter(row.style for row in self.rows).items())
        lost = ", ".join(f"{n} {verdict}" for verdict, n in self.rejected.items())
        return f"Traces({shares or 'none'}{f'; rejected: {lost}' if lost else ''}; from {self.source})"

    @property
    def styles(self) -> tuple[str, ...]:
        """The styles that occur, in order of appearance."""
        return tuple(dict.fromkeys(row.style for row in self.rows))

    @property
    def digest(self) -> str:
        """A short hash of what the traces say, whatever their order."""
        said = sorted(json.dumps([row.id, row.question, row.style, row.text]) for row in self.rows)
        return hashlib.sha256("\n".join(said).encode()).hexdigest()[:16]

    @classmethod
    def load(cls, path: str | Path, *, style: str | None = None) -> Traces:
        """Read JSON lines (or one JSON array) with `"text"` (or `"trace"`), `"style"`, and `"id"` or `"question"`;
        other columns are ignored.

        Files that `kv.traces.write_traces` wrote, finished or not, are read, too; what was rejected there is counted
        and left out.

        Args:
            path: the file.
            style: the style of rows that name none.

        Raises:
            ValueError: no such file, no traces in it, a line that isn't a trace, or a question answered twice in one
                style; names the line.

        >>> import pathlib, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder, "traces.jsonl")
        ...     _ = path.write_text('{"question": "2 + 2?", "style": "direct", "text": "4"}')
        ...     Traces.load(path).styles
        ('direct',)
        """
        lines, rejected = lines_of(path), Counter[str]()
        found: list[tuple[int, Mapping[str, Any]]] = []
        for number, row in lines:
            if is_header(row):
                continue
            if row.get("verdict", KEPT) != KEPT:
                rejected[str(row["verdict"])] += 1
            else:
                found.append((number, row))
        if not found and not rejected:
            raise ValueError(
                f"There are no traces in {path}; write one JSON object a line, with 'text', 'style', and 'id' or"
                " 'question'."
            )
        return cls(tuple(_checked(path, found, style)), str(path), dict(rejected))

    @classmethod
    def from_rows(cls, rows: Iterable[Mapping[str, Any]], *, style: str | None = None) -> Traces:
        """Traces from dictionaries with the columns that `load` reads, or from a table of them.

        Args:
            rows: dictionaries, a pandas `DataFrame`, or a `datasets.Dataset`.
            style: the style of rows that name none.

        Raises:
            ValueError: as `load`.

        >>> Traces.from_rows([{"question": "2 + 2?", "text": "4"}], style="direct")
        Traces(1 direct; from memory)
        """
        given = rows.to_dict("records") if hasattr(rows, "columns") and hasattr(rows, "to_dict") else rows
        numbered = list(enumerate(given, 1))
        if not numbered:
            raise ValueError("There are no traces; pass at least one row with 'text', 'style', and 'id' or 'question'.")
        return cls(tuple(_checked("these rows", numbered, style)))


def _checked(source: str | Path, rows: Iterable[tuple[int, Mapping[str, Any]]], style: str | None) -> Iterator[Trace]:
    seen: dict[tuple[str | None, str | None, str], int] = {}
    for number, row in rows:
        where = f"Line {number} of {source}"
        values: dict[str, str | None] = {
            "text": _string(where, row, *_REPLY),
            "style": _string(where, row, "style") or style,
            "id": _string(where, row, "id"),
            "question": _string(where, row, "question"),
        }
        if values["text"] is None:
            raise ValueError(f"{where} has no 'text'; a trace needs the whole reply there (or in 'trace').")
        if values["style"] is None:
            raise ValueError(f"{where} has no 'style'; add one, or pass style= if all these traces have the same.")
        if values["id"] is None and values["question"] is None:
            raise ValueError(
                f"{where} has neither 'id' nor 'question'; add one of them, so that the task's question can be found."
            )
        key = (values["id"], None if values["id"] else same_text(values["question"] or ""), values["style"])
        if key in seen:
            raise ValueError(
                f"{where} answers the question of line {seen[key]} in style {values['style']!r} again; keep one of the"
                " two."
            )
        seen[key] = number
        answer = row.get("answer")
        yield Trace(
            values["style"], values["text"], values["id"], values["question"], None if answer is None else str(answer)
        )


def _string(where: str, row: Mapping[str, Any], *names: str) -> str | None:
    name = next((n for n in names if not _is_missing(row.get(n))), None)
    if name is None:
        return None
    value = str(row[name]) if name == "id" and isinstance(row[name], Integral) else row[name]
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{where} has {row[name]!r} as its {name!r}; some text is needed there.")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{where} holds half of a character (a lone surrogate) in its {name!r}; mend it.") from None
    return value


def _is_missing(value: Any) -> bool:
    """Whether a cell is empty: nothing, or the NaN that a table has there."""
    return value is None or (isinstance(value, float) and math.isnan(value))
