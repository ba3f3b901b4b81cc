"""The field's terms for what is stored under other names.

Columns, values and labels of stored tables keep the names under which they were written, so that old runs are read;
what a reader sees, in figures, the explorer and printed tables, is translated here. The glossary defines the terms.
"""

from __future__ import annotations

import re
from typing import Any, TypeVar

import pandas as pd

Table = TypeVar("Table", bound=pd.DataFrame)

COT_RATE = "CoT rate"
STRENGTH = "relative strength"

MEASURES = {
    "accuracy": "accuracy",
    "correct": "accuracy",
    "reasoned": COT_RATE,
    "adopted": "share in the style",
    "same_style": "share whose style is kept",
    "tokens": "mean tokens",
    "truncated": "share cut off",
    "loops": "share that loops",
    "repetition": "repeated 4-grams",
    "changed": "share that differs from the baseline",
    "kl": "total KL, nats",
}
"""What is measured, by its column."""

_IN_COLUMNS = {"reasoned": COT_RATE, "dose": STRENGTH}
_IN_LABELS = re.compile(
    r"(?P<quoted>'[^']*'|\"[^\"]*\")"
    r"|(?:^|(?<= \+ ))(?:(?P<prefix>forced(?: prefix$|(?= ['\"])))|(?P<hidden>slot (?P<at>-?\d+ )?hidden(?= |$))"
    r"|(?P<other>slot(?= -?\d+ for )))"
    r"|(?<=, )(?P<dose>dose)(?= [\d.e+-]+$)"
)


def measure_name(column: str) -> str:
    """A measure's name, by its column; one that isn't known keeps its own.

    >>> measure_name("reasoned"), measure_name("connectives")
    ('CoT rate', 'connectives')
    """
    return MEASURES.get(column, column)


def column_name(column: str) -> str:
    """A column's name as it is printed, as far as the field has another one.

    >>> column_name("dose"), column_name("p_random_reasoned"), column_name("p_holm")
    ('relative strength', 'p random CoT rate', 'p_holm')
    """
    parts = column.split("_")
    if not _IN_COLUMNS.keys() & set(parts):
        return column
    return " ".join(_IN_COLUMNS.get(part, part) for part in parts)


def label_name(label: str) -> str:
    """An intervention's label as it is shown; words in quotation marks stay as they are.

    >>> label_name("CoT prompt + forced 'Step'"), label_name("slot -3 hidden from step 1")
    ("CoT prompt + response prefill 'Step'", 'attention knockout of position -3 from step 1')
    >>> label_name("stepwise, dose 0.8"), label_name("a dose of 2")
    ('stepwise, relative strength 0.8', 'a dose of 2')
    """

    def translate(found: re.Match[str]) -> str:
        if found["quoted"]:
            return found["quoted"]
        if found["prefix"]:
            return "response prefill"
        if found["dose"]:
            return STRENGTH
        if found["other"]:
            return "position"
        return f"attention knockout of position {found['at'].strip()}" if found["at"] else "attention knockout"

    return _IN_LABELS.sub(translate, label)


def in_terms(table: Table) -> Table:
    """A table as it is printed: its columns and labels in the field's terms, its cells as they were.

    >>> table = pd.DataFrame({"reasoned": [0.5], "tokens": [9]}, index=["forced 'Step'"])
    >>> in_terms(table).columns.tolist(), in_terms(table).index.tolist()
    (['CoT rate', 'tokens'], ["response prefill 'Step'"])
    """
    return table.rename(index=_row, columns=_column).rename_axis(index=_column, columns=_column)


def _row(label: Any) -> Any:
    return _IN_COLUMNS.get(label, label_name(label)) if isinstance(label, str) else label


def _column(label: Any) -> Any:
    return column_name(label) if isinstance(label, str) else label
